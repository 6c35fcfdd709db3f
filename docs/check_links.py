"""Check each link between the pages of the site, with its anchor: a folder of HTML, no network."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the anchor and the links of a tag."""
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            if name in ("href", "src") and value:
                self.links.add(value)


def broken_links(folder: Path) -> list[str]:
    """Return a line for each link that leads nowhere."""
    folder = folder.resolve()
    pages = {path: Page(path) for path in folder.rglob("*.html") if "_static" not in path.parts}
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme == "file":
                broken.append(f"{path.relative_to(folder)}: {link}: only on this machine")
            if parts.scheme or parts.netloc:
                continue
            anchor = unquote(parts.fragment.partition(":~:")[0])  # what follows marks words
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                broken.append(f"{path.relative_to(folder)}: {link}: no such file")
            elif target in pages and anchor not in pages[target].anchors:
                broken.append(f"{path.relative_to(folder)}: {link}: no such anchor")
    return broken


if __name__ == "__main__":
    sys.exit("\n".join(broken_links(Path(sys.argv[1]))) or 0)
