"""Contents of a report as plain values, and as sections."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pipeline import tables
from pipeline.answers import most_confused
from pipeline.notebook import coloured_pieces
from pipeline.report import figures
from pipeline.tables import Table, never_predicted, shortened

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
    """Return the contents of a report as plain values."""
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"scores is a {type(scores).__name__}; expected the dict returned by evaluate(model, "
            "X, y)."
        )
    missing = [name for name in _NEEDED if name not in scores]
    if missing:
        raise ValueError(
            f"scores lacks {', '.join(missing)}; give the whole dict returned by evaluate(model, "
            "X, y)."
        )
    return {
        "title": title or "How good is this classifier?",
        "scores": plain_values(scores),
        "comparison": None if comparison is None else _plain_comparison(comparison),
        "layers": None if layers is None else _plain_layers(layers),
        "provenance": plain_values(provenance or {}),
    }


def plain_values(value: Any) -> Any:
    """Convert a value to JSON types, NaN to None."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):
        return plain_values(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain_values(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def _plain_comparison(table: pd.DataFrame) -> list[dict[str, Any]]:
    if "accuracy" not in getattr(table, "columns", ()):
        raise ValueError(
            "comparison has no column 'accuracy'; give the DataFrame returned by compare(X, y)."
        )
    return [
        {"model": str(name), **plain_values(row)}
        for name, row in zip(table.index, table.to_dict("records"), strict=True)
    ]


def _plain_layers(study: pd.DataFrame) -> dict[str, Any]:
    for name in (*_WORDS, "score"):
        if name not in getattr(study, "columns", ()):
            raise ValueError(
                f"layers has no column {name!r}; give the DataFrame of layer_study, or the table "
                "written by `layers`."
            )
    columns = study[[name for name in (*_WORDS, *_NUMBERS) if name in study.columns]]
    numbers = {name: pd.to_numeric(columns[name]) for name in _NUMBERS if name in columns}
    rows = plain_values(columns.assign(**numbers).to_dict("records"))
    for row in rows:
        match = _LAYER.fullmatch(str(row["features"]))
        row["layer"] = int(match[1]) if row["kind"] == "layer" and match else None
    attrs = {name: plain_values(study.attrs[name]) for name in _LAYER_ATTRS if name in study.attrs}
    return {"rows": rows, **attrs}


# of figures.MARKERS, also in plain fonts; \ufe0e: not an emoji
_SYMBOLS = ("●", "■", "▲", "♦\ufe0e", "▼", "►")
_SAME_TEXTS = "The dashed line is the accuracy on all texts; a bar is the 95 % interval (Wilson)."


@dataclass(frozen=True)
class Picture:
    """A figure with its caption, and the same as a table."""

    svg: str
    caption: str
    table: Table | None = None


@dataclass(frozen=True)
class Section:
    """A heading of the page, and its contents."""

    id: str
    heading: str
    lead: str = ""
    pictures: Sequence[Picture] = ()
    beside: Sequence[Table] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[Mapping[str, Any]] = ()
    legend: Sequence[tuple[str, str]] = ()  # symbol and class, in the order of the colours
    wide: bool = False  # whether a figure needs the full width
    folded: bool = False  # whether it opens on a click


def sections_of(contents: Mapping[str, Any]) -> list[Section]:
    """Return the sections that are not empty."""
    scores = contents["scores"]
    best_answers = "The most confident correct predictions of each class."
    worst_answers = "The most confident mistakes, surest first."
    sections = [
        _texts("mistakes", "Where it is wrong", scores["mistakes"], worst_answers),
        _classes(scores),
        _comparison(contents["comparison"]),
        _slices(scores),
        _calibration(scores["calibration"]),
        _curves(scores.get("curves") or []),
        _layers(contents["layers"]),
        _texts("examples", "Why: right answers", scores.get("examples") or [], best_answers),
        _label_issues(scores.get("label_issues")),
        _map(scores),
        _duplicates(scores.get("duplicates")),
        Section("scores", "All scores", tables=[tables.scores_table(scores)], folded=True),
        _provenance(contents["provenance"]),
    ]
    return [section for section in sections if section is not None]


def _comparison(rows: Sequence[Mapping[str, Any]] | None) -> Section | None:
    if not rows:
        return None
    best = max(row["accuracy"] or 0.0 for row in rows)
    points = []
    for row in rows:
        value, sd = row["accuracy"], row.get("accuracy_sd")
        if value is not None:
            low, high = (None, None) if sd is None else (value - sd, value + sd)
            points.append(
                {
                    "name": row["model"],
                    "value": value,
                    "low": low,
                    "high": high,
                    "best": value == best,
                }
            )
    has_sd = any(point["low"] is not None for point in points)
    axis = "accuracy, mean ± sd of the folds" if has_sd else "accuracy"
    label = "Accuracy of the models"
    # drawn with the others, it would hide their differences
    drawn = [point for point in points if point["name"] != "majority"]
    svg = figures.interval_figure(
        drawn if len(drawn) > 1 else points, key="comparison", label=label, axis=axis
    )
    caption = "Accuracy of every model on the same texts. The best is the orange diamond."
    lead = "A model is worth its cost if it beats simple baselines that were tuned as well."
    return Section(
        "comparison",
        "Beside the baselines",
        lead,
        [Picture(svg, caption, tables.comparison_table(rows))],
        [tables.verdicts_table(rows)],
    )


def _classes(scores: Mapping[str, Any]) -> Section:
    matrix, classes = scores["confusion_matrix"], scores["classes"]
    if "multilabel" in scores:
        unseen = scores["never_predicted"]
        written = [tables.class_table(scores), tables.marks_table(matrix, classes)]
        lead = never_predicted(unseen) if unseen else ""
        return Section("classes", "Label by label", lead, tables=written)
    caption = (
        "Confusion matrix, in per cent of the texts of each true class (rows); stronger colours "
        "mean larger shares."
    )
    n_shown = len(most_confused(matrix, figures.MOST_IN_MATRIX))
    if n_shown < len(classes):
        caption += f" The {n_shown} classes that are most confused, of {len(classes)}."
    whole = tables.confusion_table(matrix, classes)
    picture = Picture(figures.confusion_figure(matrix, classes), caption, whole)
    of_classes = [tables.class_table(scores)]
    confusions = [tables.confusions_table(matrix, classes)] if len(classes) > 2 else []
    n_others = scores.get("n_not_most_probable", 0)
    lead = (
        f"{n_others:,} of {scores['n_texts']:,} labels are not the most probable class: the "
        "model's predict decides differently, for example by a tuned threshold."
    )
    leads = [lead] if n_others else []
    if unseen := scores.get("never_predicted"):
        leads.append(never_predicted(unseen))
    return Section(
        "classes",
        "Class by class",
        " ".join(leads),
        [picture],
        confusions or of_classes,
        of_classes if confusions else (),
    )


def _curves(curves: Sequence[Mapping[str, Any]]) -> Section | None:
    if not curves:
        return None
    of = f"the class {curves[0]['class']}" if len(curves) == 1 else "each class against the rest"
    if len(curves) > figures.MOST_NAMED:
        of += "; the best and the worst are highlighted"
    roc_caption = f"ROC curves of {of}, with the area below. The dashed line is guessing."
    recall_caption = f"Precision and recall of {of}, with the average precision."
    pictures = [
        Picture(figures.roc_figure(curves), roc_caption),
        Picture(figures.precision_recall_figure(curves), recall_caption),
    ]
    lead = "Scores at other thresholds of the probability."
    return Section("curves", "At every threshold", lead, pictures)


def _calibration(rows: Sequence[Mapping[str, Any]]) -> Section | None:
    if not rows:
        return None
    caption = (
        "Each point is a bin of predictions, larger for more of them. On the dashed line, "
        "confidence equals accuracy; below it, the model is overconfident."
    )
    picture = Picture(figures.calibration_figure(rows), caption)
    remark = tables.sureness(rows)
    cure = "try another C, or CalibratedClassifierCV."
    return Section(
        "calibration",
        "Are the probabilities right?",
        f"Its probabilities are {remark}: {cure}" if remark else "",
        [picture],
        beside=[tables.calibration_table(rows)],
    )


def _slices(scores: Mapping[str, Any]) -> Section | None:
    pictures, written = [], []
    overall = ("the accuracy on all texts", scores["accuracy"])
    for i, (name, groups) in enumerate(scores["slices"].items()):
        if len(groups) > 1:
            rows = [
                {
                    "name": f"{group['value']} ({group['n_texts']:,})",
                    "value": group["accuracy"],
                    "low": group["interval"][0],
                    "high": group["interval"][1],
                }
                for group in groups
            ]
            label = f"Accuracy {name}"
            svg = figures.interval_figure(
                rows, key=f"slice-{i}", label=label, axis="accuracy", reference=overall
            )
            caption = f"{label}; in brackets the number of texts."
            written.append(tables.slice_table(name, groups))
            pictures.append(Picture(svg, caption))
    if not pictures:
        return None
    heading, said = "Where it is better and worse", _SAME_TEXTS
    if unknown := scores.get("unknown"):
        of = unknown["training"] or {}
        before = f", {of['pieces_per_word']:.2f} in training" if "pieces_per_word" in of else ""
        said += (
            f" The model reads a word in {unknown['pieces_per_word']:.2f} pieces{before}; "
            f"{unknown['share_unknown']:.1%} of the tokens are unknown to it."
        )
    if len(pictures) == 1:
        return Section("slices", heading, said, pictures, written)
    pairs = zip(pictures, written, strict=True)
    with_tables = [replace(picture, table=table) for picture, table in pairs]
    return Section("slices", heading, said, with_tables)


def _layers(layers: Mapping[str, Any] | None) -> Section | None:
    if layers is None:
        return None
    caption = (
        "Score of every layer by every pooling, in cross-validation. The best is bold; the text "
        "enters below."
    )
    lead = "Picking the best of many scores is optimistic."
    if nested := layers.get("nested"):
        score = f"{nested['score']:.3f} ± {nested['score_sd']:.3f}"
        lead += f" The unbiased score of picking the best is {score}."
    all_rows = "Every layer and combination, the best first"
    whole = tables.layers_table(layers["rows"], layers, all_rows)
    figure = figures.layers_figure(layers)
    if figure is None:
        return Section("layers", "Layers", lead, tables=[whole])
    combined = [row for row in layers["rows"] if row["kind"] != "layer"]
    best_first = "Combinations of layers, the best first"
    below = [tables.layers_table(combined, layers, best_first)] if combined else []
    return Section("layers", "Layers", lead, [Picture(figure, caption, whole)], below)


def _texts(
    key: str, heading: str, answers: Sequence[Mapping[str, Any]], lead: str
) -> Section | None:
    if not answers:
        return None
    texts, reasons = [], set()
    for answer in answers:
        explanation = answer.get("explanation") or {}
        words = explanation.get("words")
        coloured = None if words is None else coloured_pieces(answer["text"], words)
        if "refused" in explanation:
            reasons.add(str(explanation["refused"]))
        named = {key: tables.of_labels(answer[key]) for key in ("true", "predicted")}
        if "label" in answer:
            has = answer["label"] in answer["predicted"]
            named["label"] = f"{'' if has else 'not '}{answer['label']}"
        texts.append({**answer, **named, "coloured": coloured})
    if reasons:
        lead += f" Not explained: {' '.join(sorted(reasons))}"
    return Section(key, heading, lead, texts=texts)


def _map(scores: Mapping[str, Any]) -> Section | None:
    embedding = scores.get("map")
    if embedding is None:
        return None
    heading = "A map of the texts"
    if "refused" in embedding:
        return Section("map", heading, f"No map: {embedding['refused']}")
    points, method = embedding["points"], embedding["method"]
    names = embedding.get("classes")
    if names is None:  # from an older evaluate
        confused = most_confused(scores["confusion_matrix"], figures.MOST_NAMED)
        names = [scores["classes"][place] for place in confused]
    some = len(names) < len(scores["classes"])
    of_some = ", of the classes that are most confused" if some else ""
    first, second = embedding["explained_variance"]
    n_wrong = sum(str(point["true"]) != str(point["predicted"]) for point in points)
    label = (
        f"Map of {len(points)} texts by {method}, {n_wrong} of them misclassified; the table below "
        "holds them."
    )
    caption = (
        f"{len(points):,} of {scores['n_texts']:,} texts by their features, projected to a plane "
        f"by {method}{of_some}: the axes hold {100 * first:.0f} and "
        f"{100 * second:.0f} % of the variance. Colour and shape show the true class; hollow "
        "points were misclassified. "
        "Point at one to read it."
    )
    legend = [(symbol, str(name)) for symbol, name in zip(_SYMBOLS, names, strict=False)]
    if {str(point["true"]) for point in points} - set(map(str, names)):
        legend.append(("●", "other classes"))
    svg = figures.map_figure(points, names, label)
    picture = Picture(svg, caption, tables.points_table(points))
    return Section("map", heading, pictures=[picture], legend=legend, wide=True)


def _label_issues(issues: Mapping[str, Any] | None) -> Section | None:
    if not issues or not issues["rows"]:
        return None
    lead = (
        f"{issues['n_texts']:,} labels are doubtful: another class is more probable, and at least "
        "as probable as for its own texts on average (Northcutt et al. 2021). Some of these will "
        "be mistakes of the model."
    )
    rows = [
        {
            "tags": ("Labelled", "more likely"),
            "row": row["row"],
            "text": row["text"],
            "predicted": str(row["label"]),
            "true": str(row["suggested"]),
            "probability": row["probability"],
        }
        for row in issues["rows"]
    ]
    return Section("labels", "Labels to check", lead, texts=rows)


def _duplicates(duplicates: Mapping[str, Any] | None) -> Section | None:
    if duplicates is None:
        return None
    heading = "Seen in training"
    n, other = duplicates["n_texts"], duplicates["other_label"]
    if not n:
        return Section("duplicates", heading, "None of the texts is in the training set.")
    lead = (
        f"{n:,} of the texts ({100 * duplicates['share']:.1f} %) {'is' if n == 1 else 'are'} in "
        f"the training set too, {f'{other:,} of them' if other else 'none'} with another label "
        "there. A score on them says nothing about new texts."
    )
    rows = [[shortened(text, 240)] for text in duplicates["examples"]]
    return Section("duplicates", heading, lead, tables=[Table("Some of them", ("Text",), rows)])


def _provenance(provenance: Mapping[str, Any]) -> Section | None:
    if not provenance:
        return None
    lead = "Use these to reproduce the numbers."
    written = [tables.provenance_table(provenance)]
    return Section("provenance", "Provenance", lead, tables=written, folded=True)
