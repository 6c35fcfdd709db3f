"""The figures of a report as SVG that follows the page's theme."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

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
        return f"Q{len(self._words) - 1:04d}".ljust(
            math.ceil(0.95 * room(word)), "n"
        )  # an n is 1.06 columns wide

    def back(self, text: str) -> str:
        """Put the words where their stand-ins are."""
        return _PLACE.sub(lambda found: self._words[int(found[1])], text)


Draw = Callable[["Figure", Words], None]


def figure_svg(
    draw: Draw,
    *,
    key: str,
    size: tuple[float, float],
    label: str,
    titles: Mapping[str, Sequence[str]] | None = None,
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
        figure = Figure(
            figsize=(size[0] / POINTS_PER_INCH, size[1] / POINTS_PER_INCH), layout="constrained"
        )
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
    root.attrib |= {
        "class": "chart",
        "role": "img",
        "aria-label": readable(label),
        "style": f"--width:{size[0]:g}",
    }
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
    points = list(group.iter("use")) or list(
        group.iter("path")
    )  # a handful of points is drawn without a shared marker
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
    used = [
        found
        for element in root.iter()
        for value in element.attrib.values()
        for found in reference.findall(value)
    ]
    used += [
        value[1:] for element in root.iter() if (value := element.get("href", "")).startswith("#")
    ]
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


_WIDTH = 340  # points: about a phone's width, so that letters are never scaled below their size
_NAME_BESIDE = 26  # columns of a name that leave enough room for its row
_NAME_ABOVE = 44  # columns of a name with a line of its own
_MOST_CLASSES = 40  # of a matrix that can be seen
MOST_NAMED = 6  # classes that have a colour, a line or a marker of their own
MARKERS = ("o", "s", "^", "D", "v", ">")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1.5, 2)), (0, (3, 1.2)), (0, (8, 3)))


def interval_figure(
    rows: Sequence[Mapping[str, Any]],
    *,
    key: str,
    label: str,
    axis: str,
    reference: tuple[str, float] | None = None,
) -> str:
    """Draw a value with its interval a row.

    Parameters
    ----------
    rows : sequence of mapping
        ``name``, ``value``, ``low`` and ``high`` (or None), and ``best``, whether it stands out.
    key, label
        As for `figure_svg`; the numbers are added to the label.
    axis : str
        Of the values.
    reference : (str, float), optional
        A dashed line through all rows.
    """
    above = (
        max(room(shortened(row["name"], _NAME_ABOVE)) for row in rows) > _NAME_BESIDE
    )  # long names stand above their rows

    def draw(figure: "Figure", words: Words) -> None:
        axes = figure.add_subplot()
        for i, row in enumerate(rows):
            best = bool(row.get("best"))
            colour, weight = COLOURS["against" if best else "for"], "bold" if best else "normal"
            if row["low"] is not None:
                axes.plot(
                    [row["low"], row["high"]],
                    [i, i],
                    color=colour,
                    linewidth=2,
                    alpha=0.6,
                    solid_capstyle="round",
                )
            axes.plot([row["value"]], [i], marker="D" if best else "o", markersize=7, color=colour)
            beside = axes.get_yaxis_transform()  # 0 to 1 across, rows down
            axes.text(
                1.02, i, f"{row['value']:.3f}", transform=beside, va="center", fontweight=weight
            )
            if above:
                axes.text(
                    0.0,
                    i - 0.38,
                    words(row["name"], _NAME_ABOVE),
                    transform=beside,
                    va="center",
                    fontweight=weight,
                )
        if reference is not None:
            axes.axvline(reference[1], color=COLOURS["muted"], linestyle=(0, (4, 3)), linewidth=1)
        axes.set_yticks(
            range(len(rows)),
            [""] * len(rows) if above else [words(row["name"], _NAME_BESIDE) for row in rows],
        )
        axes.set_ylim(len(rows) - 0.5, -0.7 if above else -0.5)
        axes.set_xlabel(axis)
        axes.grid(axis="x", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)

    told = "; ".join(
        f"{shortened(row['name'], 60)} {row['value']:.3f}{_between(row)}" for row in rows
    )
    dashed = "" if reference is None else f" The dashed line is {reference[0]}, {reference[1]:.3f}."
    return figure_svg(
        draw,
        key=key,
        size=(_WIDTH, 62 + (40 if above else 25) * len(rows)),
        label=f"{label}: {told}.{dashed}",
    )


def _between(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"


def roc_figure(curves: Sequence[Mapping[str, Any]]) -> str:
    """Draw the ROC curves; of more than six classes the best and the worst stand out."""
    at = "; ".join(
        f"{shortened(curve['class'], 40)}: area {curve['roc_auc']:.3f}, "
        f"{100 * _found_at(curve['roc'], 0.1):.0f} % found at 10 % false alarms"
        for curve in curves[:MOST_NAMED]
    )
    return _curves_figure(
        curves,
        "roc",
        "false_positive_rate",
        "true_positive_rate",
        "roc_auc",
        f"ROC curves. {at}.",
        diagonal=True,
    )


def precision_recall_figure(curves: Sequence[Mapping[str, Any]]) -> str:
    """Draw the precision-recall curves; of more than six classes the best and the worst stand out."""
    at = "; ".join(
        f"{shortened(curve['class'], 40)}: average precision {curve['average_precision']:.3f}, precision "
        f"{_precision_at(curve['precision_recall'], 0.8):.2f} at recall 0.8"
        for curve in curves[:MOST_NAMED]
    )
    return _curves_figure(
        curves,
        "precision_recall",
        "recall",
        "precision",
        "average_precision",
        f"Precision-recall curves. {at}.",
    )


def _found_at(curve: Mapping[str, Sequence[float]], most: float) -> float:
    return max(
        found
        for false, found in zip(
            curve["false_positive_rate"], curve["true_positive_rate"], strict=True
        )
        if false <= most
    )


def _precision_at(curve: Mapping[str, Sequence[float]], least: float) -> float:
    return max(
        precision
        for recall, precision in zip(curve["recall"], curve["precision"], strict=True)
        if recall >= least
    )


def _curves_figure(
    curves: Sequence[Mapping[str, Any]],
    kind: str,
    x: str,
    y: str,
    area: str,
    label: str,
    *,
    diagonal: bool = False,
) -> str:
    ranked = sorted(range(len(curves)), key=lambda i: (-curves[i][area], i))
    named = list(range(len(curves))) if len(curves) <= MOST_NAMED else [ranked[0], ranked[-1]]

    def draw(figure: "Figure", words: Words) -> None:
        axes = figure.add_subplot()
        if diagonal:
            axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)))
        drawstyle = "default" if diagonal else "steps-pre"
        for i, curve in enumerate(curves):
            if i not in named:
                axes.plot(
                    curve[kind][x],
                    curve[kind][y],
                    color=COLOURS["muted"],
                    linewidth=0.8,
                    alpha=0.5,
                    drawstyle=drawstyle,
                )
        for number, i in enumerate(
            named, start=1 if len(named) == 1 else 0
        ):  # alone it is the second of two classes
            name = f"{words(curves[i]['class'])} {curves[i][area]:.3f}"
            axes.plot(curves[i][kind][x], curves[i][kind][y], color=COLOURS[f"series{number + 1}"], linewidth=2,
                      linestyle=_DASHES[number] if len(named) > 1 else "-", drawstyle=drawstyle, label=name)  # fmt: skip
        axes.set(
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.02),
            xlabel=x.replace("_", " "),
            ylabel=y.replace("_", " "),
            aspect="equal",
        )
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.grid(linewidth=0.5)
        axes.legend(loc="lower right" if diagonal else "lower left", handlelength=2.6)

    return figure_svg(draw, key=kind.replace("_", "-"), size=(_WIDTH, 320), label=label)


def calibration_figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw how often the model is right against how sure it is: on the diagonal it is as right as it says."""
    most = max(row["n_texts"] for row in rows)

    def draw(figure: "Figure", _: Words) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=1, linestyle=(0, (4, 3)))
        for row in rows:
            axes.plot(
                [row["confidence"]] * 2,
                [row["confidence"], row["accuracy"]],
                color=COLOURS["against"],
                linewidth=1.5,
            )
        sizes = [25 + 160 * row["n_texts"] / most for row in rows]
        axes.scatter(
            [row["confidence"] for row in rows],
            [row["accuracy"] for row in rows],
            s=sizes,
            color=COLOURS["for"],
            zorder=3,
        )
        lowest = min(min(row["confidence"], row["accuracy"]) for row in rows)
        low = max(-0.06, min(0.4, lowest - 0.08))
        axes.set(xlim=(low, 1.06), ylim=(low, 1.06), aspect="equal")
        axes.set_xlabel("confidence (mean probability)")
        axes.set_ylabel("accuracy")
        axes.locator_params(nbins=6)
        axes.grid(linewidth=0.5)
        axes.set_axisbelow(True)

    told = "; ".join(
        f"{row['n_texts']} texts, confidence {row['confidence']:.2f}, accuracy {row['accuracy']:.2f}"
        for row in rows
    )
    return figure_svg(draw, key="calibration", size=(_WIDTH, 320), label=f"Calibration: {told}.")


def confusion_figure(matrix: Sequence[Sequence[int]], classes: Sequence[Any]) -> str | None:
    """Draw the confusion matrix, shaded by the share of the true class; None for more classes than can be seen."""
    n = len(classes)
    if n > _MOST_CLASSES:
        return None
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = "; ".join(
        f"{shortened(classes[i], 30)} {counts[i, i]} of {counts[i].sum()}" for i in range(n)
    )
    texts = [[f"{count:,}" for count in row] for row in counts.tolist()] if n <= 10 else None
    names = [str(one) for one in classes]
    label = (
        f"Confusion matrix, rows are true and columns predicted classes. Rightly found: {right}."
    )
    height = 92 + (46 if n <= 4 else max(11, 26 - n // 2)) * n
    return _grid_figure(
        "confusion", (_WIDTH, height), shares, names, names, "predicted", "true", texts, label
    )


def layers_figure(layers: Mapping[str, Any]) -> str | None:
    """Draw the score of every layer by every pooling, the best one bold; None where no row is a layer."""
    rows = [row for row in layers["rows"] if row["layer"] is not None]
    if not rows:
        return None
    numbers = sorted(
        {row["layer"] for row in rows}, reverse=True
    )  # the text enters below and rises through the layers
    poolings = list(dict.fromkeys(row["pooling"] for row in rows))
    values = np.full((len(numbers), len(poolings)), np.nan)
    for row in rows:
        score = row["score"]
        values[numbers.index(row["layer"]), poolings.index(row["pooling"])] = (
            np.nan if score is None else score
        )
    low, high = np.nanmin(values), np.nanmax(values)
    shares = np.nan_to_num((values - low) / max(high - low, 1e-12))
    texts = [["" if np.isnan(value) else f"{value:.3f}" for value in row] for row in values]
    best = max(rows, key=lambda row: row["score"] or 0.0)
    label = (
        f"{layers.get('scoring', 'score')} of layers {numbers[-1]} to {numbers[0]} by pooling {', '.join(poolings)}: "
        f"from {low:.3f} to {high:.3f}, best layer {best['layer']} with {best['pooling']}."
    )
    names = [f"{number} (embeddings)" if number == 0 else str(number) for number in numbers]
    return _grid_figure(
        "layers",
        (_WIDTH, 72 + 24 * len(numbers)),
        shares,
        names,
        poolings,
        "pooling",
        "layer",
        texts,
        label,
    )


def _grid_figure(
    key: str, size: tuple[float, float], shares: np.ndarray, rows: Sequence[str], across: Sequence[str], x: str, y: str,
    texts: Sequence[Sequence[str]] | None, label: str,
) -> str:  # fmt: skip
    """Draw cells whose fill is the fuller the larger their share, of one colour: it reads on light and on dark alike."""

    def draw(figure: "Figure", words: Words) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.add_subplot()
        for i, j in np.ndindex(shares.shape):
            fill = 0.04 + 0.5 * float(shares[i, j])
            axes.add_patch(
                Rectangle(
                    (j - 0.48, i - 0.48),
                    0.96,
                    0.96,
                    facecolor=COLOURS["for"],
                    edgecolor="none",
                    alpha=fill,
                )
            )
            if texts is not None:
                bold = shares[i, j] == shares.max()
                axes.text(
                    j,
                    i,
                    texts[i][j],
                    ha="center",
                    va="center",
                    fontweight="bold" if bold else "normal",
                )
        crowded = len(across) > 4
        # Upright names end at their columns, however long they are in the font of the page.
        upright: Any = (
            {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
            if crowded
            else {}
        )
        axes.set_xticks(
            range(len(across)), [words(name, 14 if crowded else 18) for name in across], **upright
        )
        axes.set_yticks(range(len(rows)), [words(name, 14) for name in rows])
        if len(rows) > 20:
            axes.tick_params(labelsize=7)
        axes.set(xlim=(-0.5, len(across) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel=x, ylabel=y)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return figure_svg(draw, key=key, size=size, label=label)


def map_figure(points: Sequence[Mapping[str, Any]], names: Sequence[Any], label: str) -> str:
    """Draw the texts as points: colour and shape are the true class, hollow ones were taken for another; each carries its text.

    Parameters
    ----------
    points : sequence of mapping
        Of `pipeline.evaluation.evaluate.map_embeddings`.
    names : sequence, length <= 6
        Classes with a marker of their own; the others share a grey one.
    label : str
    """
    shown = [str(name) for name in names]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        kind = shown.index(str(point["true"])) if str(point["true"]) in shown else len(shown)
        groups.setdefault(
            f"{kind}-{'right' if str(point['true']) == str(point['predicted']) else 'wrong'}", []
        ).append(point)

    def draw(figure: "Figure", words: Words) -> None:
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        figure.set_layout_engine("none")
        for gid, group in sorted(groups.items()):
            kind, _, right = gid.partition("-")
            own = int(kind) < len(shown)
            colour = COLOURS[f"series{int(kind) + 1}" if own else "muted"]
            axes.scatter([point["x"] for point in group], [point["y"] for point in group], gid=gid, s=34,
                         marker=MARKERS[int(kind)] if own else "o", alpha=0.75, linewidths=1.4, edgecolors=colour,
                         facecolors=colour if right == "right" else "none")  # fmt: skip
        axes.margins(0.04)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)

    titles = {
        gid: [
            f"{one['text']}\n{one['true']}, predicted {one['predicted']} ({_probability(one)})"
            for one in group
        ]
        for gid, group in groups.items()
    }
    return figure_svg(draw, key="map", size=(640, 440), label=label, titles=titles)


def _probability(point: Mapping[str, Any]) -> str:
    """Return the probability of a point's label; a label that is no class has none."""
    return "no class" if point["probability"] is None else f"{point['probability']:.2f}"
