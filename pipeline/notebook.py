"""HTML for notebooks: coloured words, tables and score cards."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.tables import Table, number, readable, shortened, strongest

# Follows the theme of the notebook (JupyterLab, VS Code, Colab) or the system. The doubled class
# wins over the notebook's own table styles.
_STYLE = """
.bert-vectorizer { color-scheme: light dark; }
:is([data-jp-theme-light=true], .vscode-light, .vscode-high-contrast-light, [theme=light])
  .bert-vectorizer { color-scheme: light; }
:is([data-jp-theme-light=false], .vscode-dark, .vscode-high-contrast:not(
  .vscode-high-contrast-light), [theme=dark]) .bert-vectorizer { color-scheme: dark; }
.bert-vectorizer.bert-vectorizer {
  --page: light-dark(#fff, #14171a); --surface: light-dark(#f5f6f8, #1f2429);
  --ink: light-dark(#1b1f24, #e6e9ec); --muted: light-dark(#57606a, #a2abb5);
  --rule: light-dark(#d3d8de, #3a424a); --for: light-dark(#1f5fa8, #6ea8e8);
  --against: light-dark(#b35806, #f0a35a); --bad: light-dark(#a8323e, #f08c96);
  color: var(--ink); background: var(--page); max-width: 60rem; padding: .6rem .9rem;
  margin: .1rem 0; border: 1px solid var(--rule); border-radius: .4rem; box-sizing: border-box;
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans",
    Arial, sans-serif; font-variant-numeric: tabular-nums;
  & *, & *::before { box-sizing: border-box; }
  & p { margin: .2rem 0 .5rem; }
  & .muted, & caption, & thead th, & small { color: var(--muted); font-size: 12.5px; }
  & .bad { color: var(--bad); }
  & .tiles { display: flex; flex-wrap: wrap; gap: .5rem; margin: .3rem 0 .7rem; padding: 0; }
  & .tiles div { background: var(--surface); border-radius: .35rem; padding: .4rem .8rem;
    min-width: 7.5rem; margin: 0; }
  & :is(dt, dd) { width: auto; float: none; margin: 0; padding: 0; }
  & dt { color: var(--muted); font-size: 12.5px; font-weight: 400; }
  & dd { font-size: 20px; font-weight: 600; line-height: 1.3; }
  & dd + dd { color: var(--muted); font-size: 12px; font-weight: 400; }
  & .columns { display: flex; flex-wrap: wrap; gap: .2rem 2.5rem; align-items: flex-start; }
  & .scroll { overflow-x: auto; margin: 0 0 .6rem; max-width: 100%; }
  & table { border-collapse: collapse; border: 0; margin: 0; width: auto; font-size: 13.5px;
    table-layout: auto; color: inherit; }
  & caption { text-align: left; padding: 0 0 .2rem; caption-side: top; }
  & tr, & tbody tr:nth-child(n), & tbody tr:hover { background: none; }
  & th, & td { text-align: left; vertical-align: baseline; padding: .22rem 1.1rem .22rem 0;
    border: 0; border-bottom: 1px solid var(--rule); max-width: none; white-space: normal;
    color: inherit; font-weight: 400; }
  & thead th { vertical-align: bottom; }
  & tbody tr:last-child :is(th, td) { border-bottom: 0; }
  & .number { text-align: right; }
  & tbody .number, & .word, & .short, & tbody th { white-space: nowrap; }
  & .prose { min-width: 16rem; overflow-wrap: anywhere; }
  & tr.best :is(th, td) { font-weight: 600; }
  & .heat { display: inline-block; padding: .05rem .5rem; border-radius: .2rem; color: var(--ink);
    background: color-mix(in srgb, var(--for) calc(var(--w) * 45%), transparent); }
  & .heat.best { font-weight: 700; outline: 2px solid var(--for); } & small { font-weight: 400; }
  & .cut { color: var(--muted); } & :is(.hidden, wbr) { display: none; }
  & .text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.7;
    unicode-bidi: isolate; }
  & :is(.for, .against) { padding: .1em .05em; border-radius: .15em; color: var(--ink);
    background: color-mix(in srgb, var(--colour) calc(var(--w) * 50%), transparent);
    text-decoration-thickness: 1px; text-underline-offset: .25em; }
  & .for { --colour: var(--for); } & .against { --colour: var(--against); }
  & .for.strong { text-decoration: underline solid; }
  & .against.strong { text-decoration: underline dotted 2px; }
  & summary { cursor: pointer; color: var(--for); font-size: 12.5px; }
  & details { margin: .15rem 0; } & details details { margin-left: 1rem; }
  & code { font-size: 12.5px; color: inherit; background: var(--surface); padding: .1rem .3rem;
    border-radius: .2rem; }
  & > :last-child, & details > .scroll { margin-bottom: .1rem; }
  &:has(> iframe) { padding: 0; max-width: none; }
  & iframe { display: block; width: 100%; height: 36rem; border: 0; color-scheme: inherit; }
}
"""


class Html(str):
    """Markup that needs no escaping."""

    __slots__ = ()


def escaped(value: object) -> str:
    """Return a value's text as markup."""
    return value if isinstance(value, Html) else html.escape(readable(value))


def breakable(text: str) -> str:
    """Return markup with line breaks after _ and before capitals."""
    if isinstance(text, Html):
        return text
    parts = re.split("(?<=_)|(?<=[a-z])(?=[A-Z])", readable(text))
    return "<wbr>".join(map(escaped, parts)).replace("TF-IDF", "<span class=short>TF-IDF</span>")


def block(*parts: str) -> str:
    """Return one output: the style and the parts."""
    return f'<style>{_STYLE}</style><div class="bert-vectorizer">{"".join(parts)}</div>'


def paragraph(text: object, name: str = "") -> str:
    """Return a paragraph with a class, or "" without text."""
    return f'<p class="{name}">{escaped(text)}</p>' if text else ""


def tiles(cards: Iterable[tuple[str, str, str]]) -> str:
    """Return cards: a name, a value, a small line."""
    return "<dl class=tiles>{}</dl>".format(
        "".join(
            f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd><dd>{escaped(below)}</dd></div>"
            for name, value, below in cards
        )
    )


def columns_of(*parts: str) -> str:
    """Return parts side by side if there is space."""
    return f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def facts(values: Mapping[str, object]) -> str:
    """Return names and values, one per line."""
    rows = [
        [name, value if isinstance(value, str) else str(value)] for name, value in values.items()
    ]
    return table_html(Table("", (), rows, (1,)))


def folded(summary: object, content: str, *, is_open: bool = False) -> str:
    """Return content that opens on a click."""
    state = " open" if is_open else ""
    return f"<details{state}><summary>{escaped(summary)}</summary>{content}</details>"


def table_html(table: Table) -> str:
    """Return a table in a scrollable box, folded rows below."""
    caption = escaped(table.caption)
    head = "".join(
        f'<th scope="col"{_kind(table, i, "") if i else ""}><bdi>{breakable(name)}</bdi></th>'
        for i, name in enumerate(table.header)
    )
    rows = "\n".join(
        f"<tr{' class=best' if i in table.best else ''}>"
        f'<th scope="row"><bdi>{breakable(first)}</bdi></th>'
        + "".join(
            f"<td{_kind(table, j, cell)}><bdi>{breakable(cell)}</bdi></td>"
            for j, cell in enumerate(others, start=1)
        )
        + "</tr>"
        for i, (first, *others) in enumerate(table.rows[: table.shown])
    )
    above = f"<caption><span>{caption}</span></caption>\n" if caption else ""
    above += f"<thead><tr>{head}</tr></thead>\n" if head else ""
    box = (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}">\n<table>\n'
        f"{above}<tbody>\n{rows}\n</tbody>\n</table>\n</div>\n"
    )
    if (rest := table.rest) is None:
        return box
    summary = Html(f'{len(rest.rows)} more<span class="hidden">: {caption}</span>')
    return box + folded(summary, table_html(rest))


def _kind(table: Table, column: int, cell: str) -> str:
    if column not in table.text_columns:
        return ' class="number"'
    size = "prose" if len(cell) > 30 else "word" if len(cell) > 19 else "short"
    return f' class="{size}"' if cell else ""


def coloured_pieces(
    text: str,
    words: Sequence[Mapping[Any, Any]],
    *,
    most: int = 1200,
    largest: float | None = None,
) -> dict[str, Any]:
    """Cut ``most`` characters of a text into pieces with contributions."""
    inside = sorted(
        (word for word in words if word["start"] < word["end"]), key=lambda word: word["start"]
    )
    # shortly before the first explained word
    start = max(0, inside[0]["start"] - 60) if inside else 0
    end = min(len(text), start + most)
    if largest is None:
        largest = max((abs(word["contribution"]) for word in inside), default=0.0)
    pieces: list[dict[str, Any]] = []
    at = start
    for word in [*inside, {"start": end, "end": end, "contribution": None}]:
        if word["start"] < at or word["end"] > end:  # windows overlap
            continue
        between, own = text[at : word["start"]], text[word["start"] : word["end"]]
        for piece, value in ((between, None), (own, word["contribution"])):
            if piece:
                strength = abs(value or 0.0) / (largest or 1.0)
                pieces.append({"text": piece, "contribution": value, "strength": strength})
        at = word["end"]
    return {
        "pieces": pieces,
        "before": start,
        "after": len(text) - end,
        "strongest": strongest(inside, 8),
    }


def words_html(coloured: Mapping[str, Any]) -> Html:
    """Return coloured pieces, blue for the answer, orange against."""
    before, after = coloured["before"], coloured["after"]
    spans = [f'<span class="cut">[{before:,} characters before] … </span>' if before else ""]
    for piece in coloured["pieces"]:
        text, value, strength = (piece[name] for name in ("text", "contribution", "strength"))
        if value is None:
            spans.append(escaped(text))
            continue
        kinds = f"{'for' if value > 0 else 'against'}{' strong' if strength > 0.5 else ''}"
        spans.append(
            f'<span class="{kinds}" style="--w:{strength:.2f}" title="{signed(value)}">'
            f"{escaped(text)}</span>"
        )
    if after:
        spans.append(f'<span class="cut"> … [{after:,} more characters]</span>')
    return Html("".join(spans))


def signed(value: float, form: str = ".3f") -> str:
    """Return a number with its sign, and a true minus."""
    return f"{value:+{form}}".replace("-", "\u2212") if value else f"{abs(value):{form}}"


def tree(value: Any) -> str:
    """Return nested dicts and lists, each folded below its name."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    parts, plain = [], []
    for name, inner in items:
        if isinstance(inner, Mapping | list) and inner and len(str(inner)) > 100:
            parts.append(folded(f"{name} ({len(inner)})", tree(inner)))
        else:
            plain.append((str(name), shortened(number(inner, "{}"), 200)))
    return (facts(dict(plain)) if plain else "") + "".join(parts)
