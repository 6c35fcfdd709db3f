"""Results as plain text: tables, sentences, texts made safe to show."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SCORES = {
    "accuracy": ("Accuracy", "share of the texts that are classified correctly"),
    "balanced_accuracy": (
        "Balanced accuracy",
        "mean recall of the classes: each counts the same, however rare",
    ),
    "micro_f1": ("Micro F1", "F1 over all labels of all texts, each counted once"),
    "f1": ("F1", "of the second of two classes, else the mean over the classes"),
    "macro_f1": ("Macro F1", "mean over the classes of the harmonic mean of precision and recall"),
    "hamming_loss": ("Hamming loss", "share of all labels that are wrong; lower is better"),
    "roc_auc": (
        "ROC-AUC",
        "how often a text of the class scores higher than one of another class",
    ),
    "average_precision": ("Average precision", "precision averaged over the recalls"),
    "log_loss": (
        "Log loss",
        "minus the mean logarithm of the true class's probability; lower is better",
    ),
    "brier": ("Brier score", "mean squared error of the probabilities; lower is better"),
    "calibration_error": (
        "Calibration error",
        "mean gap between confidence and accuracy; lower is better",
    ),
}
_FIRST = (
    "accuracy", "micro_f1", "macro_f1", "roc_auc", "log_loss", "calibration_error", "hamming_loss",
)  # fmt: skip
_COMPARED = {
    "accuracy": (SCORES["accuracy"][0], "{:.3f}"),
    "difference": ("Difference to TF-IDF (95 %)", "{:+.3f}"),
    "verdict": ("Verdict", "{}"),
    **{name: (label, "{:.3f}") for name, (label, _) in SCORES.items() if name != "accuracy"},
    "fit_seconds": ("Fit, s", "{:,.1f}"),
    "predict_seconds": ("Predict 1,000 texts, s", "{:,.2f}"),
    "artifact_mb": ("File, MB", "{:,.1f}"),
}
_MOST_CELLS = 400  # of a confusion matrix that is shown as a table
MOST_SHOWN = 12
# controls but tab and line feed, lone surrogates, direction marks, non-characters
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]"
)


class Table(NamedTuple):
    """A table whose first cells name the rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: Sequence[int] = ()  # left-aligned, like the first; numbers align right
    shown: int | None = None  # number of rows that are not folded
    best: Sequence[int] = ()

    @property
    def rest(self) -> "Table | None":
        """The folded rows."""
        more = self.rows[self.shown :] if self.shown else []
        return self._replace(rows=more, shown=None) if more else None


def readable(text: object) -> str:
    """Escape control characters, lone surrogates and direction marks."""
    # joiners stay: emoji and Persian need them
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], str(text).replace("\r\n", "\n"))


def shortened(text: object, most: int) -> str:
    """Cut a text to one line of ``most`` columns."""
    line = " ".join(readable(str(text)[: 4 * most]).split())
    if columns(line) <= most and len(str(text)) <= 4 * most:
        return line
    while line and columns(line) > most - 1:
        line = line[:-1]
    return f"{line}…"


def columns(text: str) -> int:
    """Return the width of a text in a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def strongest(words: Sequence[Mapping[Any, Any]], most: int) -> list[Mapping[Any, Any]]:
    """Return the words with the largest contributions, without marks."""
    content = [
        word
        for word in words
        if word["start"] < word["end"]
        and not all(unicodedata.category(c)[0] == "P" for c in word["word"])
    ]
    return sorted(content, key=lambda word: -abs(word["contribution"]))[:most]


def never_predicted(classes: Sequence[Any]) -> str:
    """Name the classes that are never predicted, with advice."""
    names = ", ".join(repr(str(name)) for name in classes)
    which = f"The class {names} is" if len(classes) == 1 else f"The classes {names} are"
    return (
        f"{which} never predicted. Give rare classes more weight with class_weight='balanced' "
        "(--class-weight balanced); with two classes, TunedThresholdClassifierCV tunes the "
        "threshold."
    )


def number(value: Any, form: str = "{:.3f}") -> str:
    """Return a number as text, a dash for None."""
    return "-" if value is None else form.format(value)


def of_labels(answer: Any) -> str:
    """Return a label, or several, as text."""
    return (", ".join(answer) or "no label") if isinstance(answer, list) else str(answer)


def conclusion(
    scores: Mapping[str, Any], comparison: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """Say in a sentence how good the model is."""
    n_texts, by_class, several = scores["n_texts"], scores["by_class"], "multilabel" in scores
    found = f"{scores['accuracy'] * n_texts:,.0f} of {n_texts:,} texts"
    share, n_classes = f"{100 * scores['accuracy']:.1f} %", len(scores["classes"])
    said = [
        f"{found} ({share}) have all of their {n_classes} labels right"
        if several
        else f"{found} ({share}) are classified correctly, in {n_classes} classes"
    ]
    rivals = [row for row in comparison or [] if row.get("difference_low") is not None]
    if rivals:
        row = max(rivals, key=lambda row: row["accuracy"] or 0.0)
        gain, low, high = (100 * row[f"difference{end}"] for end in ("", "_low", "_high"))
        beside = f"{row['verdict']}: {gain:+.1f} points, {low:+.1f} to {high:+.1f}"
        beside = row["verdict"] if row["verdict"] == "baseline" else beside
        said.append(f"of the models compared, {row['model']} is the most accurate ({beside})")
    weakest = min(by_class, key=lambda row: row["f1"] or 0.0)
    if (weakest["f1"] or 0.0) < max(row["f1"] or 0.0 for row in by_class) - 0.02:
        said.append(f"it is weakest on {weakest['class']} (F1 {number(weakest['f1'])})")
    if remark := sureness(scores["calibration"]):
        said.append(f"its probabilities are {remark}")
    return "; ".join(said) + "."


def sureness(bins: Sequence[Mapping[str, Any]]) -> str | None:
    """Say how much too high or too low probabilities are, or None."""
    gaps = [row["n_texts"] * (row["confidence"] - row["accuracy"]) for row in bins]
    gap = sum(gaps) / max(1, sum(row["n_texts"] for row in bins))
    if abs(gap) <= 0.05:
        return None
    return f"too {'high' if gap > 0 else 'low'}, by {100 * abs(gap):.0f} points on average"


def scores_table(scores: Mapping[str, Any]) -> Table:
    """Return every score with its interval and explanation."""
    rows, reasons = [], scores.get("not_scored", {})
    for name, (label, meaning) in score_names(scores).items():
        low, high = scores["intervals"].get(name) or (None, None)
        said = f"absent: {reasons[name]}" if name in reasons else meaning
        rows.append([label, number(scores[name]), number(low), number(high), said])
    caption = f"Scores on {scores['n_texts']:,} texts, with 95 % intervals over resampled texts"
    return Table(caption, ("Score", "Value", "From", "To", "Meaning"), rows, (4,))


def score_names(scores: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return heading and explanation of each available score."""
    names = {name: words for name, words in SCORES.items() if name in scores}
    if "multilabel" in scores:
        names["accuracy"] = ("All labels right", "share of the texts with every label right")
        names["macro_f1"] = ("Macro F1", "mean over the labels of their F1")
    return names


def score_cards(scores: Mapping[str, Any]) -> dict[str, str]:
    """Return the few main scores and their headings."""
    names = score_names(scores)
    shown = [name for name in _FIRST if scores.get(name) is not None]
    return {name: names[name][0] for name in shown[:5]}


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the models side by side, with known columns first."""
    values = [(name, value) for row in rows for name, value in row.items() if value is not None]
    present = dict.fromkeys(name for name, _ in values if name != "model")
    in_other_cells = {f"{name}_sd" for name in present} | {"difference_low", "difference_high"}
    ordered = dict.fromkeys([*(name for name in _COMPARED if name in present), *present])
    columns = [name for name in ordered if name in _COMPARED or name not in in_other_cells]
    header = ["Model", *(_COMPARED.get(name, (name.replace("_", " "),))[0] for name in columns)]
    cells = [[str(row["model"]), *(_compared(row, name) for name in columns)] for row in rows]
    with_words = {name for name, value in values if isinstance(value, str)}
    words = [i for i, name in enumerate(columns, start=1) if name in with_words]
    caption = "Every score of the models"
    if any(name.endswith("_sd") for name in present):
        caption += "; ± is the standard deviation over the folds"
    return Table(caption, header, cells, words)


def verdicts_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return accuracy, verdict and cost of each model."""
    shown = ("accuracy", "verdict", "fit_seconds")
    names = [name for name in shown if any(row.get(name) is not None for row in rows)]
    cells = [[str(row["model"]), *(_compared(row, name) for name in names)] for row in rows]
    header = ("Model", *(_COMPARED[name][0] for name in names))
    return Table("The models on the same texts", header, cells, (2,))


def _compared(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if name == "difference" and row.get("verdict") == "baseline":
        return "-"
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "-" if value is None else str(value)
    text = number(value, _COMPARED.get(name, ("", "{:.4g}"))[1])
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    if low is not None and high is not None:
        return f"{text} ({low:+.3f} to {high:+.3f})"
    return text + _spread(row.get(f"{name}_sd"))


def _spread(sd: float | None) -> str:
    return "" if sd is None else f" ± {sd:.3f}"


def class_table(scores: Mapping[str, Any]) -> Table:
    """Return the scores of each class."""
    curves = {str(curve["class"]): curve for curve in scores.get("curves", ())}
    rows = []
    many = len(scores["by_class"]) > MOST_SHOWN
    by_class = scores["by_class"]
    for row in sorted(by_class, key=lambda row: row["f1"] or 0.0) if many else by_class:
        areas = curves.get(str(row["class"]), {})
        values = [row[name] for name in ("f1", "precision", "recall")]
        more = [areas.get(name) for name in ("roc_auc", "average_precision")]
        texts = f"{row['n_texts']:,}"
        rows.append([str(row["class"]), *map(number, values), texts, *map(number, more)])
    header = ("Class", "F1", "Precision", "Recall", "Texts", "ROC-AUC", "Average precision")
    kind = "label" if "multilabel" in scores else "class"
    caption = f"Scores of each {kind}{', the weakest first' if many else ''}"
    return Table(caption, header, rows, shown=MOST_SHOWN)


def confusion_table(matrix: Sequence[Sequence[int]], classes: Sequence[Any]) -> Table | None:
    """Return the whole matrix, or None if too large."""
    if len(classes) ** 2 > _MOST_CELLS:
        return None
    header = ["True class", *(f"taken for {name}" for name in classes)]
    rows = [
        [str(name), *(f"{count:,}" for count in row)]
        for name, row in zip(classes, matrix, strict=True)
    ]
    caption = "Confusion matrix: how many texts of each class were taken for which"
    return Table(caption, header, rows)


def confusions_table(
    matrix: Sequence[Sequence[int]], classes: Sequence[Any], most: int = 10
) -> Table:
    """Return the most frequent confusions of two classes."""
    pairs = sorted(
        (-count, i, j)
        for i, row in enumerate(matrix)
        for j, count in enumerate(row)
        if i != j and count
    )
    rows = [
        [str(classes[i]), str(classes[j]), f"{-n:,}", f"{100 * -n / sum(matrix[i]):.0f} %"]
        for n, i, j in pairs[:most]
    ]
    header = ("True class", "Taken for", "Texts", "Of the class")
    return Table("The most frequent confusions", header, rows, (1,))


def marks_table(matrices: Sequence[Sequence[Sequence[int]]], labels: Sequence[Any]) -> Table:
    """Return how often each label is found, missed and wrong."""
    rows = [
        [str(label), f"{found:,}", f"{missed:,}", f"{wrong:,}"]
        for label, ((_, wrong), (missed, found)) in zip(labels, matrices, strict=True)
    ]
    header = ("Label", "Found", "Missed", "Given wrongly")
    return Table("How many texts of each label", header, rows, shown=MOST_SHOWN)


def calibration_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the bins of the calibration figure."""
    cells = [
        [f"{row['low']:.1f} to {row['high']:.1f}", f"{row['n_texts']:,}",
         number(row["confidence"]), number(row["accuracy"])]
        for row in rows
    ]  # fmt: skip
    header = ("Probability", "Texts", "Confidence", "Accuracy")
    return Table("Confidence and accuracy", header, cells)


def slice_table(name: str, groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return the groups of texts in one slice."""
    rows = [
        [str(group["value"]), f"{group['n_texts']:,}",
         *map(number, (group["accuracy"], *group["interval"]))]
        for group in groups
    ]  # fmt: skip
    header = (name.removeprefix("by ").capitalize(), "Texts", "Accuracy", "From", "To")
    return Table(f"Accuracy {name}", header, rows)


def layers_table(
    rows: Sequence[Mapping[str, Any]],
    study: Mapping[str, Any],
    caption: str,
    *,
    in_order: bool = False,
) -> Table:
    """Return rows of a layer study, the best first or in order."""
    cells = [
        [row["features"], row["pooling"], number(row["score"]) + _spread(row.get("score_sd")),
         number(row.get("dimension"), "{:,}"), number(row.get("C"), "{:g}")]
        for row in (rows if in_order else sorted(rows, key=lambda row: -(row["score"] or 0.0)))
    ]  # fmt: skip
    metric = str(study.get("scoring", "score")).replace("_", " ").capitalize()
    return Table(caption, ("Features", "Pooling", metric, "Dimension", "C"), cells, (1,))


def points_table(points: Sequence[Mapping[str, Any]]) -> Table:
    """Return the texts on the map."""
    rows = [
        [shortened(point["text"], 120), str(point["true"]), str(point["predicted"]),
         number(point["probability"], "{:.2f}"), f"{point['x']:.2f}", f"{point['y']:.2f}"]
        for point in points
    ]  # fmt: skip
    header = ("Text", "True", "Predicted", "Probability", "x", "y")
    return Table("The texts on the map", header, rows, (1, 2))


def provenance_table(provenance: Mapping[str, Any]) -> Table:
    """Return one line per value, nested names joined."""
    return Table("Where the numbers come from", ("What", "Value"), _lines(provenance, ""), (1,))


def _lines(value: Any, name: str) -> list[list[str]]:
    if isinstance(value, Mapping):
        parts = [(str(key).replace("_", " "), inner) for key, inner in value.items()]
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        name = name.removesuffix("s")  # the first of "models" is "model 1", or "model" if alone
        parts = [
            (str(i) if len(value) > 1 else "", inner) for i, inner in enumerate(value, start=1)
        ]
    else:
        text = ", ".join(map(str, value)) if isinstance(value, list) else number(value, "{}")
        return [[name, "not known" if value is None else text]]
    return [line for key, inner in parts for line in _lines(inner, f"{name} {key}".strip())]
