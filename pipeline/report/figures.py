"""Figures of a report as SVG that follows the page's theme."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from pipeline.answers import most_confused
from pipeline.tables import columns, readable, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib draws in placeholder colours; the page replaces them by its theme's
_NAMES = ("ink", "muted", "rule", "page", "for", "against", *(f"series{i}" for i in range(1, 7)))
COLOURS = {name: f"#01010{i:x}" for i, name in enumerate(_NAMES)}
POINTS_PER_INCH = 72
# comes with matplotlib, and is wider than most fonts of a page
_FONT = "DejaVu Sans"
_COLUMN = 0.6  # of the font size: a wide monospaced letter
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
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
    "axes.axisbelow": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
_STAND_IN = re.compile(r"Q(\d{4})n*")
# not needed in HTML, or set by the page: font and style
_UNWANTED = re.compile(
    r' xmlns(:xlink)?="[^"]*"|xlink:(?=href)| font-family: [^;]*;|<style.*?/style>'
)


def text_columns(text: str) -> float:
    """Return the most columns that a text takes."""
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=_FONT, size=1)
    glyphs = get_font(findfont(font))
    known = "".join(c for c in text if glyphs.get_char_index(ord(c)))
    width, _, _ = text_to_path.get_text_width_height_descent(known, font, False)
    return max(columns(text), columns(text) - columns(known) + width / _COLUMN)


class Words:
    """Placeholders for user words, which matplotlib might misread or lack letters for."""

    def __init__(self) -> None:
        self._words: list[str] = []

    def __call__(self, text: object, most: int = 18) -> str:
        """Return a placeholder as wide as the text."""
        cuts = (shortened(text, fewer) for fewer in range(most, 0, -1))
        word = next((cut for cut in cuts if text_columns(cut) <= most), "")
        self._words.append(word)
        # an n is 1.06 columns wide
        return f"Q{len(self._words) - 1:04d}".ljust(math.ceil(0.95 * text_columns(word)), "n")

    def put_back(self, text: str) -> str:
        """Replace the placeholders by the words."""
        return _STAND_IN.sub(lambda match: self._words[int(match[1])], text)


Draw = Callable[["Figure", Words], None]


def figure_svg(
    draw: Draw,
    *,
    key: str,  # its name on the page, for ids
    size: tuple[float, float],
    label: str,  # for screen readers
    titles: Mapping[str, Sequence[str]] | None = None,  # gid of a scatter -> text per point
) -> str:
    """Draw a figure as one ``<svg>`` element, equal for equal figures."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    words, file = Words(), io.StringIO()
    with rc_context(_STYLE | {"svg.hashsalt": key}):
        inches = (size[0] / POINTS_PER_INCH, size[1] / POINTS_PER_INCH)
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure, words)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=metadata)
    svg = _UNWANTED.sub("", file.getvalue())
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    root = ElementTree.fromstring(svg)
    for gid, texts in (titles or {}).items():
        points = root.findall(f".//g[@id='{gid}']//use")
        # few points are drawn without a shared marker
        points = points or root.findall(f".//g[@id='{gid}']//path")
        for point, text in zip(points, texts, strict=True):
            ElementTree.SubElement(point, "title").text = readable(text)
    for group in root.iter("g"):  # not unique, and nothing refers to them
        group.attrib.pop("id", None)
    for element in root.iter("text"):
        element.text = words.put_back(element.text or "")
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "chart",
        "role": "img",
        "aria-label": readable(label),
        "style": f"--width:{size[0]:g}",
    }
    return ElementTree.tostring(root, encoding="unicode")


_WIDTH = 340  # points: a phone shows it unscaled
_NAME_BESIDE = 26  # most columns of a name beside its row
_NAME_ABOVE = 44  # on its own line
MOST_IN_MATRIX = 12  # classes, on a phone
MOST_NAMED = 6  # classes with a colour, line or marker of their own
MARKERS = ("o", "s", "^", "D", "v", ">")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1.5, 2)), (0, (3, 1.2)), (0, (8, 3)))
_REFERENCE: Any = {"color": COLOURS["muted"], "linestyle": (0, (4, 3)), "linewidth": 1}


def interval_figure(
    rows: Sequence[tuple[str, float, Sequence[float] | None]],  # name, value, its interval
    *,
    key: str,
    label: str,
    axis: str,
    best: float | None = None,
    reference: tuple[str, float] | None = None,
) -> str:
    """Draw a value with its interval per row, the best as a diamond."""
    names = [name for name, _, _ in rows]
    above = max(text_columns(shortened(name, _NAME_ABOVE)) for name in names) > _NAME_BESIDE

    def draw(figure: "Figure", words: Words) -> None:
        axes = figure.add_subplot()
        beside: Any = {"transform": axes.get_yaxis_transform(), "va": "center"}  # x: 0 to 1 across
        for i, (name, value, interval) in enumerate(rows):
            is_best = value == best
            colour = COLOURS["against" if is_best else "for"]
            weight = "bold" if is_best else "normal"
            if interval is not None:
                axes.plot(interval, [i, i], color=colour, linewidth=2, alpha=0.6,
                          solid_capstyle="round")  # fmt: skip
            axes.plot([value], [i], marker="D" if is_best else "o", markersize=7, color=colour)
            axes.text(1.02, i, f"{value:.3f}", fontweight=weight, **beside)
            if above:
                axes.text(0.0, i - 0.38, words(name, _NAME_ABOVE), fontweight=weight, **beside)
        if reference is not None:
            axes.axvline(reference[1], **_REFERENCE)
        ticks = ["" if above else words(name, _NAME_BESIDE) for name in names]
        axes.set_yticks(range(len(rows)), ticks)
        axes.set_ylim(len(rows) - 0.5, -0.7 if above else -0.5)
        axes.set_xlabel(axis)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)

    values = "; ".join(
        f"{shortened(name, 60)} {value:.3f}"
        + ("" if interval is None else " ({:.3f} to {:.3f})".format(*interval))
        for name, value, interval in rows
    )
    dashed = "" if reference is None else f" The dashed line is {reference[0]}, {reference[1]:.3f}."
    size = (_WIDTH, 62 + (40 if above else 25) * len(rows))
    return figure_svg(draw, key=key, size=size, label=f"{label}: {values}.{dashed}")


def roc_figure(curves: Sequence[Mapping[str, Any]]) -> str:
    """Draw the ROC curves."""
    x, y, areas = "false_positive_rate", "true_positive_rate", []
    for curve in curves[:MOST_NAMED]:
        false, true = (np.asarray(curve["roc"][rate]) for rate in (x, y))
        areas.append(
            f"{shortened(curve['class'], 40)}: area {curve['roc_auc']:.3f}, "
            f"{100 * true[false <= 0.1].max():.0f} % found at 10 % false alarms"
        )
    label = f"ROC curves. {'; '.join(areas)}."
    return _curves_figure(curves, "roc", x, y, "roc_auc", label)


def precision_recall_figure(curves: Sequence[Mapping[str, Any]]) -> str:
    """Draw the precision-recall curves."""
    kind, area, areas = "precision_recall", "average_precision", []
    for curve in curves[:MOST_NAMED]:
        recall, precision = (np.asarray(curve[kind][name]) for name in ("recall", "precision"))
        areas.append(
            f"{shortened(curve['class'], 40)}: average precision {curve[area]:.3f}, precision "
            f"{precision[recall >= 0.8].max():.2f} at recall 0.8"
        )
    label = f"Precision-recall curves. {'; '.join(areas)}."
    return _curves_figure(curves, kind, "recall", "precision", area, label)


def _curves_figure(
    curves: Sequence[Mapping[str, Any]], kind: str, x: str, y: str, area: str, label: str
) -> str:
    """Draw a curve per class, highlighting the best and worst."""
    named, others = curves, []
    if len(curves) > MOST_NAMED:
        best, *others, worst = sorted(curves, key=lambda curve: -curve[area])
        named = [best, worst]
    is_roc = kind == "roc"
    drawstyle: Any = "default" if is_roc else "steps-pre"

    def draw(figure: "Figure", words: Words) -> None:
        axes = figure.add_subplot()
        if is_roc:
            axes.plot([0, 1], [0, 1], **_REFERENCE)
        for curve in others:
            axes.plot(curve[kind][x], curve[kind][y], color=COLOURS["muted"], linewidth=0.8,
                      alpha=0.5, drawstyle=drawstyle)  # fmt: skip
        for number, curve in enumerate(named, start=1 if len(named) == 1 else 0):
            axes.plot(curve[kind][x], curve[kind][y], color=COLOURS[f"series{number + 1}"],
                      linewidth=2, linestyle=_DASHES[number] if len(named) > 1 else "-",
                      drawstyle=drawstyle,
                      label=f"{words(curve['class'])} {curve[area]:.3f}")  # fmt: skip
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")
        axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.grid()
        figure.legend(loc="outside lower left", handlelength=2.6)
        figure.draw_without_rendering()  # beside a tall legend, the square needs a second layout

    size = (_WIDTH, 320 + 17 * len(named))
    return figure_svg(draw, key=kind, size=size, label=label)


def calibration_figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw accuracy against confidence, a point per bin."""
    confidence, accuracy, n_texts = (
        np.array([row[name] for row in rows]) for name in ("confidence", "accuracy", "n_texts")
    )

    def draw(figure: "Figure", _: Words) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], **_REFERENCE)
        axes.vlines(confidence, confidence, accuracy, color=COLOURS["against"], linewidth=1.5)
        sizes = 25 + 160 * n_texts / n_texts.max()
        axes.scatter(confidence, accuracy, s=sizes, color=COLOURS["for"], zorder=3)
        low = max(-0.06, min(0.4, confidence.min() - 0.08, accuracy.min() - 0.08))
        axes.set(xlim=(low, 1.06), ylim=(low, 1.06), aspect="equal")
        axes.set(xlabel="confidence (mean probability)", ylabel="accuracy")
        axes.locator_params(nbins=6)
        axes.grid()

    bins = "; ".join(
        f"{row['n_texts']} texts, confidence {row['confidence']:.2f}, "
        f"accuracy {row['accuracy']:.2f}"
        for row in rows
    )
    return figure_svg(draw, key="calibration", size=(_WIDTH, 320), label=f"Calibration: {bins}.")


def confusion_figure(matrix: Sequence[Sequence[int]], classes: Sequence[Any]) -> str:
    """Draw the shares of each true class."""
    counts, shown = np.asarray(matrix), most_confused(matrix, MOST_IN_MATRIX)
    shares = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[np.ix_(shown, shown)]
    correct = "; ".join(
        f"{shortened(classes[i], 30)} {counts[i, i]} of {counts[i].sum()}" for i in shown
    )
    percent = "\u2009%" if len(shown) <= 6 else ""
    texts = [[f"{100 * share:.0f}{percent}" if share else "" for share in row] for row in shares]
    label = (
        f"Confusion matrix, rows are true and columns predicted classes. Rightly found: {correct}."
    )
    n, names = len(shown), [str(classes[i]) for i in shown]
    height = 92 + (46 if n <= 4 else 28) * n
    return _grid_figure("confusion", height, shares, names, names, ("predicted", "true"), texts,
                        label)  # fmt: skip


def layers_figure(layers: Mapping[str, Any]) -> str | None:
    """Draw the score of every layer and pooling, if there are any."""
    rows = [row for row in layers["rows"] if row["layer"] is not None]
    if not rows:
        return None
    numbers = sorted({row["layer"] for row in rows}, reverse=True)
    poolings = list(dict.fromkeys(row["pooling"] for row in rows))
    values = np.full((len(numbers), len(poolings)), np.nan)
    for row in rows:
        if row["score"] is not None:
            values[numbers.index(row["layer"]), poolings.index(row["pooling"])] = row["score"]
    low, high = np.nanmin(values), np.nanmax(values)
    shares = np.nan_to_num((values - low) / max(high - low, 1e-12))
    texts = [["" if np.isnan(value) else f"{value:.3f}" for value in row] for row in values]
    best = max(rows, key=lambda row: row["score"] or 0.0)
    label = (
        f"{layers.get('scoring', 'score')} of layers {numbers[-1]} to {numbers[0]} by pooling "
        f"{', '.join(poolings)}: from {low:.3f} to {high:.3f}, best layer {best['layer']} with "
        f"{best['pooling']}."
    )
    names = [f"{number} (embeddings)" if number == 0 else str(number) for number in numbers]
    height, axes = 72 + 24 * len(numbers), ("pooling", "layer")
    return _grid_figure("layers", height, shares, names, poolings, axes, texts, label)


def _grid_figure(
    key: str,
    height: float,
    shares: np.ndarray,  # (n_rows, n_columns)
    row_names: Sequence[str],
    column_names: Sequence[str],
    axis_labels: tuple[str, str],
    texts: Sequence[Sequence[str]],
    label: str,
) -> str:
    """Draw cells, stronger for larger shares."""

    def draw(figure: "Figure", words: Words) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.add_subplot()
        for i, j in np.ndindex(shares.shape):
            fill: Any = {"facecolor": COLOURS["for"], "alpha": 0.05 + 0.95 * float(shares[i, j])}
            axes.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, edgecolor="none", **fill))
            weight = "bold" if shares[i, j] == shares.max() else "normal"
            ink = COLOURS["page" if shares[i, j] > 0.72 else "ink"]
            size = 9 if len(column_names) > MOST_NAMED else 10.5
            axes.text(j, i, texts[i][j], ha="center", va="center", fontweight=weight, color=ink,
                      fontsize=size)  # fmt: skip
        crowded = len(column_names) > 4
        # upright names end at their columns in any font
        upright: Any = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
        names = [words(name, 14 if crowded else 18) for name in column_names]
        axes.set_xticks(range(len(names)), names, **(upright if crowded else {}))
        n_columns = 20 if len(row_names) > MOST_NAMED else 14
        axes.set_yticks(range(len(row_names)), [words(name, n_columns) for name in row_names])
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(row_names) - 0.5, -0.5))
        axes.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return figure_svg(draw, key=key, size=(_WIDTH, height), label=label)


def map_figure(points: Sequence[Mapping[str, Any]], names: Sequence[Any], label: str) -> str:
    """Draw texts as points by class, wrong ones hollow."""
    kinds = {str(name): kind for kind, name in enumerate(names)}
    groups: dict[tuple[int, bool], list[Mapping[str, Any]]] = {}
    for point in points:
        true = str(point["true"])
        group = kinds.get(true, len(kinds)), true != str(point["predicted"])
        groups.setdefault(group, []).append(point)

    def draw(figure: "Figure", words: Words) -> None:
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        figure.set_layout_engine("none")
        for (kind, is_wrong), own in sorted(groups.items()):
            is_named = kind < len(kinds)
            colour = COLOURS[f"series{kind + 1}" if is_named else "muted"]
            axes.scatter([point["x"] for point in own], [point["y"] for point in own],
                         gid=f"{kind}-{is_wrong}", s=34, alpha=0.75, linewidths=1.4,
                         marker=MARKERS[kind] if is_named else "o", edgecolors=colour,
                         facecolors="none" if is_wrong else colour)  # fmt: skip
        axes.margins(0.04)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)

    titles = {
        f"{kind}-{is_wrong}": list(map(_title, own)) for (kind, is_wrong), own in groups.items()
    }
    return figure_svg(draw, key="map", size=(640, 440), label=label, titles=titles)


def _title(point: Mapping[str, Any]) -> str:
    probability = point["probability"]
    sure = "" if probability is None else f" ({probability:.2f})"
    return f"{point['text']}\n{point['true']}, predicted {point['predicted']}{sure}"
