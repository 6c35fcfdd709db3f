"""The sections of a report, in the order in which they are read: figures, tables and texts of each. Used by report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report import pictures, tables
from pipeline.report.contents import coloured_pieces
from pipeline.report.readable import shortened
from pipeline.report.tables import Table

_SYMBOLS = ("●", "■", "▲", "♦\ufe0e", "▼", "►")  # of pictures.MARKERS, in plain fonts too; \ufe0e: no emoji
_SAME_TEXTS = "The dashed line is the accuracy on all texts; a bar is the 95 % interval (Wilson)."


@dataclass(frozen=True)
class Picture:
    """A figure with its caption, and the table that says the same."""

    svg: str
    caption: str
    table: Table | None = None


@dataclass(frozen=True)
class ToldText:
    """A text with its answer, the part of each word in it, and the training texts nearest to it."""

    said: Mapping[str, Any]
    coloured: Mapping[str, Any] | None
    nearest: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Section:
    """One heading of the page, and what stands below it."""

    id: str
    heading: str
    lead: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[ToldText] = ()
    legend: Sequence[tuple[str, str]] = ()  # symbol and class, in the order of the colours
    wide: bool = False  # whether a figure needs the width for itself


def sections_of(contents: Mapping[str, Any]) -> list[Section]:
    """Return the sections that there is something to say in.

    Parameters
    ----------
    contents : mapping
        From `pipeline.report.contents.report_contents`.
    """
    scores = contents["scores"]
    found = [
        Section("scores", "Scores", tables=[tables.scores_table(scores)]),
        _comparison(contents["comparison"]),
        _classes(scores),
        _curves(scores.get("curves") or []),
        _calibration(scores),
        _slices(scores),
        _layers(contents["layers"]),
        _texts("examples", "Why: right answers", scores.get("examples") or [], "The surest right answers of each class."),
        _texts("mistakes", "Where it is wrong", scores["mistakes"], "The wrong answers it was surest of, the surest first."),
        _map(scores),
        _duplicates(scores.get("duplicates")),
        _provenance(contents["provenance"]),
    ]
    return [section for section in found if section is not None]


def _comparison(rows: Sequence[Mapping[str, Any]] | None) -> Section | None:
    if not rows:
        return None
    best = max(row["accuracy"] or 0.0 for row in rows)
    shown = []
    for row in rows:
        value, spread = row["accuracy"], row.get("accuracy_sd")
        if value is not None:
            low, high = (None, None) if spread is None else (value - spread, value + spread)
            shown.append({"name": row["model"], "value": value, "low": low, "high": high, "best": value == best})
    spread_out = any(row["low"] is not None for row in shown)
    axis = "accuracy, mean ± sd of the folds" if spread_out else "accuracy"
    svg = pictures.interval_figure(shown, key="comparison", label="Accuracy of the models", axis=axis)
    caption = "Accuracy of every model on the same texts. The best is the orange diamond."
    lead = "A model is worth its cost where it beats simple ones that were tuned as well."
    return Section(
        "comparison", "Beside the baselines", lead, [Picture(svg, caption)], [tables.comparison_table(rows)], wide=True
    )


def _classes(scores: Mapping[str, Any]) -> Section:
    matrix, classes = scores["confusion_matrix"], scores["classes"]
    figure = pictures.confusion_figure(matrix, classes)
    written = tables.confusion_table(matrix, classes)
    caption = "Confusion matrix. Rows are true classes; the fuller the colour, the larger the share of the row."
    below = [tables.class_table(scores)]
    if len(classes) > 4:
        below.insert(0, tables.confusions_table(matrix, classes))
    shown = [Picture(figure, caption, written)] if figure else []
    n_others = scores.get("n_not_most_probable", 0)
    lead = (
        f"{n_others:,} of {scores['n_texts']:,} labels are not the most probable class: the model's own predict decides, as with "
        "a tuned threshold."
        if n_others
        else ""
    )
    return Section("classes", "Class by class", lead, shown, below, wide=len(classes) > 4)


def _curves(curves: Sequence[Mapping[str, Any]]) -> Section | None:
    if not curves:
        return None
    many = len(curves) > pictures.MOST_NAMED
    of = "each class against the rest; the best and the worst stand out" if many else "each class against the rest"
    of = f"the class {curves[0]['class']}" if len(curves) == 1 else of
    shown = [
        Picture(pictures.roc_figure(curves), f"ROC curves of {of}, with the area below. The dashed line is guessing."),
        Picture(pictures.precision_recall_figure(curves), f"Precision and recall of {of}, with the average precision."),
    ]
    return Section("curves", "At every threshold", "What other thresholds of the probability would give.", shown)


def _calibration(scores: Mapping[str, Any]) -> Section | None:
    rows = scores["calibration"]
    if not rows:
        return None
    caption = (
        "A point is a bin of texts, the larger the more of them. On the dashed line the model is as often right as it says; "
        "below it, it is too sure."
    )
    picture = Picture(pictures.calibration_figure(rows), caption, tables.calibration_table(rows))
    return Section("calibration", "Is it as sure as it should be?", "", [picture])


def _slices(scores: Mapping[str, Any]) -> Section | None:
    shown = []
    for i, (name, groups) in enumerate(scores["slices"].items()):
        if len(groups) > 1:
            rows = [
                {"name": f"{group['value']} ({group['n_texts']:,})", "value": group["accuracy"], "low": group["interval"][0],
                 "high": group["interval"][1]}
                for group in groups
            ]  # fmt: skip
            overall = ("the accuracy on all texts", scores["accuracy"])
            svg = pictures.interval_figure(rows, key=f"slice-{i}", label=f"Accuracy {name}", axis="accuracy", reference=overall)
            shown.append(Picture(svg, f"Accuracy {name}; in brackets the number of texts.", tables.slice_table(name, groups)))
    return Section("slices", "Where it is better and worse", _SAME_TEXTS, shown) if shown else None


def _layers(layers: Mapping[str, Any] | None) -> Section | None:
    if layers is None:
        return None
    figure = pictures.layers_figure(layers)
    caption = "Score of every layer by every pooling, in cross-validation. The best is bold; the text enters below."
    nested = layers.get("nested")
    lead = "The best of many scores is too good."
    if nested:
        lead += f" The honest score of taking the best is {nested['score']:.3f} ± {nested['score_sd']:.3f}."
    whole = tables.layers_table(layers["rows"], layers, "Every layer and combination, the best first")
    combined = [row for row in layers["rows"] if row["kind"] != "layer"]
    below = [tables.layers_table(combined, layers, "Combinations of layers, the best first")] if combined else []
    if figure is None:
        return Section("layers", "Layers", lead, tables=[whole])
    return Section("layers", "Layers", lead, [Picture(figure, caption, whole)], below)


def _texts(key: str, heading: str, told: Sequence[Mapping[str, Any]], lead: str) -> Section | None:
    if not told:
        return None
    texts = []
    for one in told:
        words = (one.get("explanation") or {}).get("words")
        coloured = None if words is None else coloured_pieces(one["text"], words)
        texts.append(
            ToldText(one, coloured, [{**near, "text": shortened(near["text"], 240)} for near in one.get("nearest") or ()])
        )
    reasons = {str(one["explanation"]["refused"]) for one in told if "refused" in (one.get("explanation") or {})}
    if reasons:
        lead += f" Not explained: {' '.join(sorted(reasons))}"
    return Section(key, heading, lead, texts=texts)


def _map(scores: Mapping[str, Any]) -> Section | None:
    found = scores.get("map")
    if found is None:
        return None
    heading = "A map of the texts"
    if "refused" in found:
        return Section("map", heading, f"No map: {found['refused']}")
    points = found["points"]
    frequent = sorted(scores["by_class"], key=lambda one: -one["n_texts"])[: pictures.MOST_NAMED]
    named = [one["class"] for one in scores["by_class"] if one in frequent]
    first, second = found["explained_variance"]
    wrong = sum(str(point["true"]) != str(point["predicted"]) for point in points)
    label = (
        f"Map of {len(points)} texts by {found['method']}, of which {wrong} were taken for another class; the table below holds "
        "them."
    )
    caption = (
        f"{len(points):,} of {scores['n_texts']:,} texts by what the classifier sees of them, drawn flat by {found['method']}: "
        f"the axes hold {100 * first:.0f} and {100 * second:.0f} % of the variance. Colour and shape are the true class; hollow "
        "points were taken for another. Point at one to read it."
    )
    legend = [(_SYMBOLS[i], str(name)) for i, name in enumerate(named)]
    if len(scores["by_class"]) > len(named):
        legend.append(("●", "other classes"))
    picture = Picture(pictures.map_figure(points, named, label), caption, tables.points_table(points))
    return Section("map", heading, "", [picture], legend=legend, wide=True)


def _duplicates(found: Mapping[str, Any] | None) -> Section | None:
    if found is None:
        return None
    n, other = found["n_texts"], found["other_label"]
    if not n:
        return Section("duplicates", "Seen in training", "None of the texts is in the training set.")
    lead = (
        f"{n:,} of the texts ({100 * found['share']:.1f} %) {'is' if n == 1 else 'are'} in the training set too, {other:,} of "
        "them with another label there. A score on them says nothing about new texts."
    )
    rows = [[shortened(text, 240)] for text in found["examples"]]
    return Section("duplicates", "Seen in training", lead, tables=[Table("Some of them", ("Text",), rows)])


def _provenance(provenance: Mapping[str, Any]) -> Section | None:
    if not provenance:
        return None
    lead = "With this, the same numbers can be made again."
    return Section("provenance", "Provenance", lead, tables=[tables.provenance_table(provenance)])
