"""The tables of a report: captions, headers and cells as text. Used by report."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.report.readable import shortened

# score -> how it is called, and what it says
SCORES = {
    "accuracy": ("Accuracy", "share of the texts that are labelled rightly"),
    "balanced_accuracy": (
        "Balanced accuracy",
        "mean recall of the classes: each counts the same, however rare",
    ),
    "f1": ("F1", "of the second of two classes, else the mean over the classes"),
    "macro_f1": ("Macro F1", "mean over the classes of the harmonic mean of precision and recall"),
    "roc_auc": (
        "ROC-AUC",
        "how often a text of the class scores higher than one that is not of it",
    ),
    "average_precision": ("Average precision", "precision averaged over the recalls"),
    "log_loss": (
        "Log loss",
        "minus the mean logarithm of the true class's probability; lower is better",
    ),
    "brier": ("Brier score", "mean squared error of the probabilities; lower is better"),
    "calibration_error": (
        "Calibration error",
        "mean gap between how sure and how right; lower is better",
    ),
}
# columns of a comparison -> header and format
_COMPARED = {
    "accuracy": (SCORES["accuracy"][0], "{:.3f}"),
    "difference": ("Difference to TF-IDF (95 %)", "{:+.3f}"),
    "verdict": ("Verdict", "{}"),
    **{name: (label, "{:.3f}") for name, (label, _) in SCORES.items() if name != "accuracy"},
    "fit_seconds": ("Fit, s", "{:,.1f}"),
    "predict_seconds": ("Predict 1,000 texts, s", "{:,.2f}"),
    "artifact_mb": ("File, MB", "{:,.1f}"),
}
_MOST_CELLS = 1600  # of a confusion matrix that is written out


class Table(NamedTuple):
    """A table: what it holds, its columns, and its rows, whose first cell names them.

    ``text_columns`` are those, but for the first, that hold words; the others are numbers, and stand on the right.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: Sequence[int] = ()


def number(value: Any, form: str = "{:.3f}") -> str:
    """Return a number's text; a dash for None."""
    return "-" if value is None else form.format(value)


def scores_table(scores: Mapping[str, Any]) -> Table:
    """Return every score with its interval and its meaning."""
    rows = []
    for name, (label, meaning) in SCORES.items():
        if name in scores:
            low, high = scores["intervals"].get(name) or (None, None)
            rows.append([label, number(scores[name]), number(low), number(high), meaning])
    caption = f"Scores on {scores['n_texts']:,} texts, with 95 % intervals over resampled texts"
    return Table(caption, ("Score", "Value", "From", "To", "What it says"), rows, (4,))


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the models beside each other: the columns that are known in their order, then the others."""
    there = list(
        dict.fromkeys(
            name
            for row in rows
            for name, value in row.items()
            if name != "model" and value is not None
        )
    )
    told_with = {f"{name}_sd" for name in there} | {"difference_low", "difference_high"}
    columns = [name for name in _COMPARED if name in there]
    columns += [name for name in there if name not in columns and name not in told_with]
    header = ["Model", *(_COMPARED.get(name, (name.replace("_", " "),))[0] for name in columns)]
    cells = [[str(row["model"]), *(_compared(row, name) for name in columns)] for row in rows]
    words = [
        i
        for i, name in enumerate(columns, start=1)
        if any(isinstance(row.get(name), str) for row in rows)
    ]
    spread = any(
        value is not None for row in rows for name, value in row.items() if name.endswith("_sd")
    )
    caption = "The models on the same texts" + (
        "; ± is the standard deviation over the folds" if spread else ""
    )
    return Table(caption, header, cells, words)


def _compared(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if name == "difference" and row.get("verdict") == "baseline":  # to itself
        return "-"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "-" if value is None else str(value)
    shown = number(value, _COMPARED.get(name, ("", "{:.4g}"))[1])
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is not None and high is not None:
        return f"{shown} ({low:+.3f} to {high:+.3f})"
    spread = row.get(f"{name}_sd")
    return shown if spread is None else f"{shown} ± {spread:.3f}"


def class_table(scores: Mapping[str, Any]) -> Table:
    """Return the scores of each class, with the areas where its curves are known."""
    curves = {str(curve["class"]): curve for curve in scores.get("curves", ())}
    rows = []
    for one in scores["by_class"]:
        areas = curves.get(str(one["class"]), {})
        values = (
            one["precision"],
            one["recall"],
            one["f1"],
            areas.get("roc_auc"),
            areas.get("average_precision"),
        )
        rows.append([str(one["class"]), f"{one['n_texts']:,}", *map(number, values)])
    header = ("Class", "Texts", "Precision", "Recall", "F1", "ROC-AUC", "Average precision")
    return Table("Scores of each class", header, rows)


def confusion_table(matrix: Sequence[Sequence[int]], classes: Sequence[Any]) -> Table | None:
    """Return the whole matrix; None where nobody would read it."""
    if len(classes) ** 2 > _MOST_CELLS:
        return None
    header = ["True class", *(f"taken for {one}" for one in classes)]
    rows = [
        [str(one), *(f"{count:,}" for count in row)]
        for one, row in zip(classes, matrix, strict=True)
    ]
    return Table(
        "Confusion matrix: how many texts of each class were taken for which", header, rows
    )


def confusions_table(
    matrix: Sequence[Sequence[int]], classes: Sequence[Any], most: int = 10
) -> Table:
    """Return the pairs of classes that are taken for each other most often."""
    pairs = [
        (count, i, j)
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    ]
    pairs = sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:most]
    rows = [
        [str(classes[i]), str(classes[j]), f"{n:,}", f"{100 * n / sum(matrix[i]):.0f} %"]
        for n, i, j in pairs
    ]
    return Table(
        "The most frequent confusions",
        ("True class", "Taken for", "Texts", "Of the class"),
        rows,
        (1,),
    )


def calibration_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the bins of the calibration figure."""
    cells = [
        [
            f"{row['low']:.1f} to {row['high']:.1f}",
            f"{row['n_texts']:,}",
            number(row["confidence"]),
            number(row["accuracy"]),
        ]
        for row in rows
    ]
    return Table(
        "How sure, and how right", ("Probability", "Texts", "Confidence", "Accuracy"), cells
    )


def slice_table(name: str, groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return the groups of texts of one slice."""
    rows = [
        [
            str(group["value"]),
            f"{group['n_texts']:,}",
            number(group["accuracy"]),
            *map(number, group["interval"]),
        ]
        for group in groups
    ]
    return Table(
        f"Accuracy {name}",
        (name.removeprefix("by ").capitalize(), "Texts", "Accuracy", "From", "To"),
        rows,
    )


def layers_table(
    rows: Sequence[Mapping[str, Any]], study: Mapping[str, Any], caption: str
) -> Table:
    """Return rows of a layer study, the best first."""
    rows = sorted(rows, key=lambda row: -(row["score"] or 0.0))
    cells = [
        [
            row["features"],
            row["pooling"],
            _spread(row),
            number(row.get("dimension"), "{:,}"),
            number(row.get("C"), "{:g}"),
        ]
        for row in rows
    ]
    metric = str(study.get("scoring", "score")).replace("_", " ").capitalize()
    return Table(caption, ("Features", "Pooling", metric, "Dimension", "C"), cells, (1,))


def _spread(row: Mapping[str, Any]) -> str:
    spread = row.get("score_sd")
    return number(row["score"]) + ("" if spread is None else f" ± {spread:.3f}")


def points_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """Return the texts on the map."""
    rows = [
        [shortened(one["text"], 120), str(one["true"]), str(one["predicted"]), number(one["probability"], "{:.2f}"),
         f"{one['x']:.2f}", f"{one['y']:.2f}"]
        for one in points
    ]  # fmt: skip
    return Table(
        "The texts on the map", ("Text", "True", "Predicted", "Probability", "x", "y"), rows, (1, 2)
    )


def provenance_table(provenance: Mapping[str, Any]) -> Table:
    """Return where everything comes from, a line each; names of nested values are joined."""
    return Table("Where the numbers come from", ("What", "Value"), _lines(provenance, ""), (1,))


def _lines(value: Any, name: str) -> list[list[str]]:
    if isinstance(value, Mapping):
        parts = [(str(key).replace("_", " "), one) for key, one in value.items()]
    elif isinstance(value, list) and any(isinstance(one, Mapping | list) for one in value):
        name = name.removesuffix("s")  # the first of the models is model 1, the only one the model
        parts = [(str(i) if len(value) > 1 else "", one) for i, one in enumerate(value, start=1)]
    else:
        shown = (
            ", ".join(map(str, value))
            if isinstance(value, list)
            else "not known"
            if value is None
            else str(value)
        )
        return [[name, shown]]
    return [line for key, one in parts for line in _lines(one, f"{name} {key}".strip())]
