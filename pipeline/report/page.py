"""Write a report as a self-contained HTML page and as JSON."""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from pipeline import tables
from pipeline.answers import most_confused
from pipeline.files import refuse_folder, where, with_ending, write_text
from pipeline.notebook import block, coloured_pieces, signed, table_html, words_html
from pipeline.report import figures
from pipeline.tables import Table, never_predicted, readable, shortened

_DOCTYPE = "<!DOCTYPE html>"
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


class ReportPage(type(Path())):  # type: ignore[misc]  # of this system
    """A path that a notebook shows as the page."""

    def _repr_html_(self) -> str | None:
        try:
            page = self.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        if not page.startswith(_DOCTYPE):
            return None
        # or links would lead to the notebook's address
        page = page.replace("<head>", '<head><base href="about:srcdoc">', 1)
        what = f'title="{escape(str(self))}" sandbox="allow-same-origin"'
        return block(f'<iframe {what} srcdoc="{escape(page)}"></iframe>')


def write_report(
    scores: Mapping[str, Any],
    out: str | os.PathLike,
    *,
    comparison: pd.DataFrame | None = None,
    layers: pd.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> Path | str:
    """Write the scores of a classifier as an HTML page and JSON.

    The page needs no network.

    Parameters
    ----------
    scores : dict
        From `pipeline.evaluate`.
    out : str or Path
        For example ``reports/sentiment.html``, creating missing folders, or an address of fsspec
        such as ``s3://bucket/sentiment.html``. The JSON gets the same name with ``.json``.
    comparison : DataFrame, optional
        From `pipeline.compare`: the model beside the baselines.
    layers : DataFrame, optional
        From `pipeline.layer_study`, or the table written by ``run_pipeline.py layers --out``.
    provenance : mapping, optional
        Origin of the numbers, for example from `pipeline.report.lineage.trace_lineage`.
    title : str, optional
        The heading.

    Returns
    -------
    Path or str
        Path of the page, shown in a notebook; a str for an address. Equal arguments give equal
        files, byte for byte.

    Raises
    ------
    ImportError
        If matplotlib or jinja2 is not installed: ``pip install '.[report]'``.
    TypeError, ValueError
        If an argument is not from these functions, or ``out`` does not end in ``.html``.

    Examples
    --------
    >>> import tempfile
    >>> from pipeline import evaluate, make_sentiment_pipeline
    >>> texts = ["A lovely film.", "A dull film.", "Great fun.", "A bore."]
    >>> model = make_sentiment_pipeline().fit(texts, [1, 0, 1, 0])
    >>> scores = evaluate(model, ["What a lovely evening.", "A dull day."], [1, 0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(scores, f"{folder}/report.html", title="Two texts")
    ...     [page.name, page.with_suffix(".json").name, page.read_text(encoding="utf-8")[:15]]
    ['report.html', 'report.json', '<!DOCTYPE html>']
    """
    check_report_extra()
    page = check_page_name(out)
    contents = report_contents(
        scores, comparison=comparison, layers=layers, provenance=provenance, title=title
    )
    html = render_page(contents)
    plain = json.dumps(contents, indent=1, allow_nan=False) + "\n"
    write_text(with_ending(page, ".json"), plain, named=page)
    write_text(page, html)
    return ReportPage(page) if isinstance(page, Path) else page


def check_page_name(out: str | os.PathLike) -> Path | str:
    """Return the place of the page, if it can be one."""
    page = where(out)
    refuse_folder(page, "report.html")
    if PurePath(page).suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"out={str(out)!r} does not end in .html; the report is a page for a browser."
        )
    return page


def check_report_extra() -> None:
    """Raise ImportError if a library of reports is missing."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"A report needs matplotlib and jinja2, and {error.name} is not installed: pip "
            "install '.[report]' in a checkout, or pip install matplotlib jinja2."
        ) from error


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
    return value if isinstance(value, str | int | None) else str(value)


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


def render_page(contents: Mapping[str, Any]) -> str:
    """Return the HTML of report contents."""
    from jinja2 import Environment
    from markupsafe import Markup

    def clean(value: Any) -> Any:
        return readable(value) if type(value) is str else value  # not Markup

    environment = Environment(autoescape=True, finalize=clean, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "svg": Markup,  # words are escaped already
        "number": tables.number,
        "shortened": shortened,
        "signed": signed,
        "table": lambda table: Markup(table_html(table)),
        "words": lambda coloured: Markup(words_html(coloured)),
    }
    source = files("pipeline.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(source).render(
        **contents,
        tiles=tables.score_cards(contents["scores"]),
        conclusion=tables.conclusion(contents["scores"], contents["comparison"]),
        sections=sections_of(contents),
    )
    return f"{html}\n"


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
    legend: Sequence[tuple[str, str]] = ()  # symbol and class, by colour
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
        _curves(scores.get("curves")),
        _layers(contents["layers"]),
        _texts("examples", "Why: right answers", scores.get("examples"), best_answers),
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
    points: list[tuple[str, float, tuple[float, float] | None]] = []
    for row in rows:
        value, sd = row["accuracy"], row.get("accuracy_sd")
        if value is not None:
            points.append((row["model"], value, None if sd is None else (value - sd, value + sd)))
    has_sd = any(interval for _, _, interval in points)
    # drawn with the others, it would hide their differences
    drawn = [point for point in points if point[0] != "majority"]
    svg = figures.interval_figure(
        drawn if len(drawn) > 1 else points,
        key="comparison",
        label="Accuracy of the models",
        axis="accuracy, mean ± sd of the folds" if has_sd else "accuracy",
        best=max(value for _, value, _ in points),
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
    unseen, n_others = scores.get("never_predicted"), scores.get("n_not_most_probable")
    leads = [never_predicted(unseen)] if unseen else []
    if "multilabel" in scores:
        written = [tables.class_table(scores), tables.marks_table(matrix, classes)]
        return Section("classes", "Label by label", " ".join(leads), tables=written)
    if n_others:
        leads.insert(
            0,
            f"{n_others:,} of {scores['n_texts']:,} labels are not the most probable class: the "
            "model's predict decides differently, for example by a tuned threshold.",
        )
    caption = (
        "Confusion matrix, in per cent of the texts of each true class (rows); stronger colours "
        "mean larger shares."
    )
    n_shown = len(most_confused(matrix, figures.MOST_IN_MATRIX))
    if n_shown < len(classes):
        caption += f" The {n_shown} classes that are most confused, of {len(classes)}."
    whole = tables.confusion_table(matrix, classes)
    picture = Picture(figures.confusion_figure(matrix, classes), caption, whole)
    written = [tables.class_table(scores)]
    if len(classes) > 2:
        written.insert(0, tables.confusions_table(matrix, classes))
    lead, beside, below = " ".join(leads), written[:1], written[1:]
    return Section("classes", "Class by class", lead, [picture], beside, below)


def _curves(curves: Sequence[Mapping[str, Any]] | None) -> Section | None:
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
    pictures: list[Picture] = []
    overall = ("the accuracy on all texts", scores["accuracy"])
    for i, (name, groups) in enumerate(scores["slices"].items()):
        if len(groups) > 1:
            label = f"Accuracy {name}"
            rows = [
                (f"{group['value']} ({group['n_texts']:,})", group["accuracy"], group["interval"])
                for group in groups
            ]
            svg = figures.interval_figure(
                rows, key=f"slice-{i}", label=label, axis="accuracy", reference=overall
            )
            caption = f"{label}; in brackets the number of texts."
            pictures.append(Picture(svg, caption, tables.slice_table(name, groups)))
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
    beside: list[Any] = []
    if len(pictures) == 1:
        beside, pictures = [pictures[0].table], [replace(pictures[0], table=None)]
    return Section("slices", heading, said, pictures, beside)


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
    key: str, heading: str, answers: Sequence[Mapping[str, Any]] | None, lead: str
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
    return Section("map", heading, pictures=[picture], legend=legend)


def _label_issues(issues: Mapping[str, Any] | None) -> Section | None:
    if not issues or not issues["rows"]:
        return None
    n = issues["n_texts"]
    lead = (
        f"{n:,} {'label is' if n == 1 else 'labels are'} doubtful: another class is more probable, "
        "and at least as probable as for its own texts on average (Northcutt et al. 2021). Some of "
        "these will be mistakes of the model."
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
