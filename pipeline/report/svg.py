"""Matplotlib's figures as SVG inside a page, in the page's colours, with ids of their own. Used by report."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from pipeline.report.readable import columns, readable, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Drawn in these, shown in the page's: var(--ink) is dark on a light page and light on a dark one.
_NAMES = ("ink", "muted", "rule", "page", "for", "against", *(f"series{i}" for i in range(1, 7)))
COLOURS = {name: f"#01010{i:x}" for i, name in enumerate(_NAMES)}
POINTS_PER_INCH = 72
_FONT = "DejaVu Sans"  # comes with matplotlib, and is wider than most: what it lays out has room in the font of the page too
_COLUMN = 0.6  # of the letters' size: no letter of a typewriter font is wider
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: searchable, selectable, in the font of the page
    "svg.hashsalt": "report",
    "font.family": _FONT,
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["rule"],
    "xtick.color": COLOURS["rule"],
    "ytick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": COLOURS["rule"],
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
_PLACE = re.compile(r"Q(\d{4})n*")


def room(text: str) -> float:
    """Return how many columns of a figure a text takes at most: capitals take more than one."""
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=_FONT, size=1)
    letters = get_font(findfont(font))
    known = "".join(c for c in text if letters.get_char_index(ord(c)))
    width, _, _ = text_to_path.get_text_width_height_descent(known, font, False)
    return max(columns(text), columns(text) - columns(known) + width / _COLUMN)


class Words:
    """Other people's words in a figure: matplotlib lays out stand-ins that are no narrower, the page gets the words.

    So no class name is read as mathematics, no letter is missing from a font, and no direction of writing matters.
    """

    def __init__(self) -> None:
        self._words: list[str] = []

    def __call__(self, text: object, most: int = 18) -> str:
        """Return the stand-in of a text, which is cut to the room of ``most`` columns."""
        for fewer in range(most, 0, -1):
            word = shortened(text, fewer)
            if room(word) <= most:
                break
        self._words.append(word)
        return f"Q{len(self._words) - 1:04d}".ljust(math.ceil(0.95 * room(word)), "n")  # an n is 1.06 columns wide

    def back(self, text: str) -> str:
        """Put the words where their stand-ins are."""
        return _PLACE.sub(lambda found: self._words[int(found[1])], text)


Draw = Callable[["Figure", Words], None]


def figure_svg(
    draw: Draw, *, key: str, size: tuple[float, float], label: str, titles: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Draw a figure, and return it as one ``<svg>`` element.

    Parameters
    ----------
    draw : callable
        Gets an empty figure and a `Words`.
    key : str
        Its name on the page: all its ids begin with it.
    size : (float, float)
        Width and height in points.
    label : str
        What it shows, with the numbers, for those who do not see it.
    titles : dict of str to sequence of str, optional
        By the gid of a scatter: a text for each of its points.

    Returns
    -------
    str
        Equal for equal figures.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    words, written = Words(), io.BytesIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(size[0] / POINTS_PER_INCH, size[1] / POINTS_PER_INCH), layout="constrained")
        draw(figure, words)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=metadata)
    root = ElementTree.fromstring(written.getvalue())
    _plain_names(root)
    for gid, texts in (titles or {}).items():
        _title_points(root, gid, texts)
    _drop(root, ("metadata", "style"))
    _use_page_colours(root)
    _own_ids(root, key)
    for element in root.iter("text"):
        element.text = words.back(element.text or "")
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": readable(label), "style": f"--width:{size[0]:g}"}
    return ElementTree.tostring(root, encoding="unicode")


def _plain_names(root: ElementTree.Element) -> None:
    """Take off the namespaces, which HTML does without."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None  # line ends
        element.text = element.text if element.tag == "text" else None
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}


def _title_points(root: ElementTree.Element, gid: str, texts: Sequence[str]) -> None:
    group = next(element for element in root.iter("g") if element.get("id") == gid)
    points = list(group.iter("use")) or list(group.iter("path"))  # a handful of points is drawn without a shared marker
    for point, text in zip(points, texts, strict=True):
        ElementTree.SubElement(point, "title").text = readable(text)


def _drop(root: ElementTree.Element, tags: Sequence[str]) -> None:
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in tags]:
            parent.remove(child)


def _use_page_colours(root: ElementTree.Element) -> None:
    of_page = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
    for element in root.iter():
        style = element.get("style")
        if style is None:
            continue
        style = re.sub(r"#0101[0-9a-f]{2}", lambda found: of_page[found[0]], style)
        element.set("style", re.sub(r" ?font-family: [^;]*;", "", style))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]


def _own_ids(root: ElementTree.Element, key: str) -> None:
    """Give new ids to those that something refers to, and drop the others: a page has many figures."""
    reference = re.compile(r"url\(#([^)]+)\)")
    used = [found for element in root.iter() for value in element.attrib.values() for found in reference.findall(value)]
    used += [value[1:] for element in root.iter() if (value := element.get("href", "")).startswith("#")]
    new = {old: f"{key}-{number}" for number, old in enumerate(dict.fromkeys(used))}
    for element in root.iter():
        if (old := element.get("id")) is not None:
            if old in new:
                element.set("id", new[old])
            else:
                del element.attrib["id"]
        for name, value in element.attrib.items():
            if name == "href":
                element.set(name, f"#{new[value[1:]]}")
            elif name != "id":
                element.set(name, reference.sub(lambda found: f"url(#{new[found[1]]})", value))
