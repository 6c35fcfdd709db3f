"""What a report says: its contents as plain values, then its sections."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.report import figures, tables
from pipeline.report.readable import shortened
from pipeline.report.tables import Table

_NEEDED = (
    "n_texts",
    "classes",
    "accuracy",
    "intervals",
    "confusion_matrix",
    "by_class",
    "calibration",
    "slices",
    "mistakes",
)
_LAYER = re.compile(r"layer (\d+)\b.*")
# of a layer study what the page shows, and what of its attrs
_WORDS, _NUMBERS = ("kind", "features", "pooling"), ("score", "score_sd", "dimension", "C")
_LAYER_ATTRS = ("n_folds", "scoring", "n_texts", "majority", "nested")


def report_contents(
    scores: Mapping[str, Any],
    *,
    comparison: pd.DataFrame | None = None,
    layers: pd.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> dict[str, Any]:
    """Put together everything a report says, in what JSON has: this is the file beside the page.

    Parameters
    ----------
    scores, comparison, layers, provenance, title
        As for `pipeline.write_report`.

    Returns
    -------
    dict
        ``title``; ``scores``, as they came; ``comparison``, a list with a dict per model (``model`` and the columns), or None;
        ``layers``, a dict of ``rows`` and of what is known of the study (``scoring``, ``n_folds`` and so on), or None;
        ``provenance``.

    Raises
    ------
    TypeError, ValueError
        Where ``scores`` is not what `pipeline.evaluate` returns, or ``layers`` is no layer study.
    """
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"scores is a {type(scores).__name__}; the dict that evaluate(model, X, y) returns is expected."
        )
    missing = [name for name in _NEEDED if name not in scores]
    if missing:
        raise ValueError(
            f"scores lacks {', '.join(missing)}; give the whole dict that evaluate(model, X, y) returns."
        )
    return {
        "title": title or "How good is this classifier?",
        "scores": plain_values(scores),
        "comparison": None if comparison is None else _plain_comparison(comparison),
        "layers": None if layers is None else _plain_layers(layers),
        "provenance": plain_values(provenance or {}),
    }


def plain_values(value: Any) -> Any:
    """Turn a value into what JSON has: numpy's numbers and arrays into lists and numbers, NaN and infinities into None.

    What JSON has not, such as the dates that are someone's classes, becomes its text.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_values(one) for key, one in value.items()}
    if hasattr(value, "tolist"):
        return plain_values(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain_values(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def _plain_comparison(table: pd.DataFrame) -> list[dict[str, Any]]:
    if "accuracy" not in getattr(table, "columns", ()):
        raise ValueError(
            "comparison has no column 'accuracy'; give the DataFrame that compare(X, y) returns."
        )
    return [
        {"model": str(name), **plain_values(row)}
        for name, row in zip(table.index, table.to_dict("records"), strict=True)
    ]


def _plain_layers(study: pd.DataFrame) -> dict[str, Any]:
    lacking = [name for name in (*_WORDS, "score") if name not in getattr(study, "columns", ())]
    if lacking:
        raise ValueError(
            f"layers has no column {lacking[0]!r}; give the DataFrame of layer_study, or the table that `layers` wrote."
        )
    shown = study[[name for name in (*_WORDS, *_NUMBERS) if name in study.columns]]
    numbers = {
        name: pd.to_numeric(shown[name]) for name in _NUMBERS if name in shown
    }  # of a CSV file they are text
    rows = plain_values(shown.assign(**numbers).to_dict("records"))
    for row in rows:
        numbered = _LAYER.fullmatch(str(row["features"]))
        row["layer"] = int(numbered[1]) if row["kind"] == "layer" and numbered else None
    return {
        "rows": rows,
        **{name: plain_values(study.attrs[name]) for name in _LAYER_ATTRS if name in study.attrs},
    }


def coloured_pieces(
    text: str, words: Sequence[Mapping[str, Any]], *, most: int = 1200
) -> dict[str, Any]:
    """Cut a text into pieces, each with what it adds to the decision.

    Parameters
    ----------
    text : str
    words : sequence of mapping
        ``word``, ``start``, ``end``, ``contribution``, as `pipeline.evaluate` gives them.
    most : int, default=1200
        Characters shown at most, from a little before the first explained word on.

    Returns
    -------
    dict
        ``pieces``: ``text``, ``contribution`` (None between the words) and ``strength``, the share of the strongest one;
        ``before`` and ``after``, how many characters are left out; ``strongest``, the words that add most in either direction,
        with those that stand for no characters ([CLS], [SEP]).
    """
    inside = sorted(
        (word for word in words if word["start"] < word["end"]), key=lambda word: word["start"]
    )
    first = inside[0]["start"] if inside else 0
    start = first - 60 if first > 60 else 0
    end = min(len(text), start + most)
    largest = max((abs(word["contribution"]) for word in inside), default=0.0) or 1.0
    pieces: list[dict[str, Any]] = []
    at = start
    for word in inside:
        if word["start"] < at or word["end"] > end:  # overlapping windows, or beyond what is shown
            continue
        if word["start"] > at:
            pieces.append({"text": text[at : word["start"]], "contribution": None, "strength": 0.0})
        value = word["contribution"]
        pieces.append(
            {
                "text": text[word["start"] : word["end"]],
                "contribution": value,
                "strength": abs(value) / largest,
            }
        )
        at = word["end"]
    if at < end:
        pieces.append({"text": text[at:end], "contribution": None, "strength": 0.0})
    ranked = sorted(words, key=lambda word: -abs(word["contribution"]))
    return {
        "pieces": pieces,
        "before": start,
        "after": len(text) - end,
        "strongest": [
            {"word": word["word"], "contribution": word["contribution"]} for word in ranked[:8]
        ],
    }


_SYMBOLS = (
    "●",
    "■",
    "▲",
    "♦\ufe0e",
    "▼",
    "►",
)  # of figures.MARKERS, in plain fonts too; \ufe0e: no emoji
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
        From `pipeline.report.sections.report_contents`.
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
        _texts(
            "examples",
            "Why: right answers",
            scores.get("examples") or [],
            "The surest right answers of each class.",
        ),
        _texts(
            "mistakes",
            "Where it is wrong",
            scores["mistakes"],
            "The wrong answers it was surest of, the surest first.",
        ),
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
            shown.append(
                {
                    "name": row["model"],
                    "value": value,
                    "low": low,
                    "high": high,
                    "best": value == best,
                }
            )
    spread_out = any(row["low"] is not None for row in shown)
    axis = "accuracy, mean ± sd of the folds" if spread_out else "accuracy"
    svg = figures.interval_figure(
        shown, key="comparison", label="Accuracy of the models", axis=axis
    )
    caption = "Accuracy of every model on the same texts. The best is the orange diamond."
    lead = "A model is worth its cost where it beats simple ones that were tuned as well."
    return Section(
        "comparison",
        "Beside the baselines",
        lead,
        [Picture(svg, caption)],
        [tables.comparison_table(rows)],
        wide=True,
    )


def _classes(scores: Mapping[str, Any]) -> Section:
    matrix, classes = scores["confusion_matrix"], scores["classes"]
    figure = figures.confusion_figure(matrix, classes)
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
    many = len(curves) > figures.MOST_NAMED
    of = (
        "each class against the rest; the best and the worst stand out"
        if many
        else "each class against the rest"
    )
    of = f"the class {curves[0]['class']}" if len(curves) == 1 else of
    shown = [
        Picture(
            figures.roc_figure(curves),
            f"ROC curves of {of}, with the area below. The dashed line is guessing.",
        ),
        Picture(
            figures.precision_recall_figure(curves),
            f"Precision and recall of {of}, with the average precision.",
        ),
    ]
    return Section(
        "curves",
        "At every threshold",
        "What other thresholds of the probability would give.",
        shown,
    )


def _calibration(scores: Mapping[str, Any]) -> Section | None:
    rows = scores["calibration"]
    if not rows:
        return None
    caption = (
        "A point is a bin of texts, the larger the more of them. On the dashed line the model is as often right as it says; "
        "below it, it is too sure."
    )
    picture = Picture(figures.calibration_figure(rows), caption, tables.calibration_table(rows))
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
            svg = figures.interval_figure(
                rows, key=f"slice-{i}", label=f"Accuracy {name}", axis="accuracy", reference=overall
            )
            shown.append(
                Picture(
                    svg,
                    f"Accuracy {name}; in brackets the number of texts.",
                    tables.slice_table(name, groups),
                )
            )
    return Section("slices", "Where it is better and worse", _SAME_TEXTS, shown) if shown else None


def _layers(layers: Mapping[str, Any] | None) -> Section | None:
    if layers is None:
        return None
    figure = figures.layers_figure(layers)
    caption = "Score of every layer by every pooling, in cross-validation. The best is bold; the text enters below."
    nested = layers.get("nested")
    lead = "The best of many scores is too good."
    if nested:
        lead += f" The honest score of taking the best is {nested['score']:.3f} ± {nested['score_sd']:.3f}."
    whole = tables.layers_table(
        layers["rows"], layers, "Every layer and combination, the best first"
    )
    combined = [row for row in layers["rows"] if row["kind"] != "layer"]
    below = (
        [tables.layers_table(combined, layers, "Combinations of layers, the best first")]
        if combined
        else []
    )
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
            ToldText(
                one,
                coloured,
                [
                    {**near, "text": shortened(near["text"], 240)}
                    for near in one.get("nearest") or ()
                ],
            )
        )
    reasons = {
        str(one["explanation"]["refused"])
        for one in told
        if "refused" in (one.get("explanation") or {})
    }
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
    frequent = sorted(scores["by_class"], key=lambda one: -one["n_texts"])[: figures.MOST_NAMED]
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
    picture = Picture(
        figures.map_figure(points, named, label), caption, tables.points_table(points)
    )
    return Section("map", heading, "", [picture], legend=legend, wide=True)


def _duplicates(found: Mapping[str, Any] | None) -> Section | None:
    if found is None:
        return None
    n, other = found["n_texts"], found["other_label"]
    if not n:
        return Section(
            "duplicates", "Seen in training", "None of the texts is in the training set."
        )
    lead = (
        f"{n:,} of the texts ({100 * found['share']:.1f} %) {'is' if n == 1 else 'are'} in the training set too, {other:,} of "
        "them with another label there. A score on them says nothing about new texts."
    )
    rows = [[shortened(text, 240)] for text in found["examples"]]
    return Section(
        "duplicates", "Seen in training", lead, tables=[Table("Some of them", ("Text",), rows)]
    )


def _provenance(provenance: Mapping[str, Any]) -> Section | None:
    if not provenance:
        return None
    lead = "With this, the same numbers can be made again."
    return Section("provenance", "Provenance", lead, tables=[tables.provenance_table(provenance)])
