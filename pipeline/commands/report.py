"""report: write the page about a saved pipeline."""

import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    ArtifactPath,
    Encoding,
    Separator,
    columns_by,
    read_data,
    with_progress,
)

if TYPE_CHECKING:
    import pandas as pd


def report(
    model: ArtifactPath = DEFAULT_ARTIFACT,
    data: Annotated[
        str | None,
        typer.Option(help="CSV or Parquet file; the held-out shipped reviews by default."),
    ] = None,
    text: Annotated[str, typer.Option(help="Its text column.")] = "text",
    label: Annotated[str, typer.Option(help="Its label column.")] = "label",
    by: Annotated[
        list[str] | None, typer.Option(help="A column to score by; may be given several times.")
    ] = None,
    train_data: Annotated[
        str | None, typer.Option(help="What it was trained on: for the texts nearest to mistakes.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Cross-validate it and the baselines on the training texts."
        ),
    ] = False,
    layers: Annotated[
        str | None,
        typer.Option(help="A table that `layers --out` wrote, or `run` to study them now."),
    ] = None,
    mistakes: Annotated[int, typer.Option(help="How many of the surest mistakes to show.")] = 10,
    out: Annotated[
        str | None, typer.Option(help="Where the page goes; beside the model by default.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Its heading.")] = None,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Write a page about a saved pipeline: scores, baselines, curves, groups, explained mistakes, a map; and the same as JSON."""
    from pipeline.datasets import load_reviews
    from pipeline.evaluation.compare import compare as cross_validate
    from pipeline.evaluation.evaluate import evaluate as score_texts
    from pipeline.files import check_writable, where, with_ending
    from pipeline.report.page import check_page_name, check_report_extra
    from pipeline.saved.artifact import load_pipeline

    check_report_extra()
    page = check_page_name(with_ending(where(model), ".html") if out is None else out)
    check_writable(page)
    origin = where(data) if data else "the held-out shipped reviews"
    if data is None:
        reviews, table = load_reviews()
        text, label, by = "text", "label", by or ["domain", "trait"]
    else:
        reviews, table = None, read_data(data, [text, label, *(by or [])], encoding, sep)
    tables = {"data": (origin, table)}
    known = None if train_data is None else read_data(train_data, [text, label], encoding, sep)
    if train_data is not None and known is not None:
        tables["training_data"] = (where(train_data), known)
    studied = known if known is not None else reviews
    if studied is None and (compare or layers == "run"):
        raise ValueError(
            f"{'--compare' if compare else '--layers run'} needs texts to train on; give --train-data."
        )
    fitted = load_pipeline(model)
    scores = score_texts(with_progress(fitted), table[text], table[label], by=columns_by(table, by), n_mistakes=mistakes,
                         train=None if known is None else (known[text], known[label]))  # fmt: skip
    comparison = None
    if compare and studied is not None:
        rows = ("majority", "tfidf", "static", "cls", "default")
        comparison = cross_validate(
            studied[text], studied[label], model=_unfitted(fitted), models=rows
        )
    study = None if layers is None else _study(layers, fitted, studied, text, label)
    heading = title or f"{PurePath(model).name} on {PurePath(data).name if data else origin}"
    write_page(Console(soft_wrap=True, markup=False, highlight=False), scores, page, fitted, where(model), tables,
               comparison=comparison, layers=study, title=heading)  # fmt: skip


def lacks_for_report() -> str | None:
    """Return the line that says why no report can be written; None where one can."""
    from pipeline.report.page import check_report_extra

    try:
        check_report_extra()
    except ImportError as error:
        return f"No report: {error}"
    return None


def write_page(
    console: Console,
    scores: dict[str, Any],
    page: Path | str,
    fitted: Any,
    artifact: Path | str,
    tables: "dict[str, tuple[Path | str, pd.DataFrame]]",
    *,
    comparison: "pd.DataFrame | None" = None,
    layers: "pd.DataFrame | None" = None,
    title: str | None = None,
) -> None:
    """Write the page and its JSON, with where the numbers come from, and say so."""
    from pipeline.report.lineage import trace_lineage
    from pipeline.report.page import write_report

    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    provenance = trace_lineage(fitted, artifact=artifact, tables=tables, command=command)
    heading = title or f"{PurePath(artifact).name} on the held-out texts"
    write_report(
        scores, page, comparison=comparison, layers=layers, provenance=provenance, title=heading
    )
    console.print(
        f"Wrote {page}, a report for the browser, and {PurePath(page).with_suffix('.json').name}, the same numbers."
    )


def _unfitted(fitted: Any) -> Any:
    """Return a loaded pipeline to be fitted anew, with the cache that a loaded one does without."""
    from sklearn.base import clone

    pipeline = clone(fitted)
    name = f"{pipeline.steps[0][0]}__cache"
    return pipeline.set_params(**{name: "memory"}) if name in pipeline.get_params() else pipeline


def _study(
    layers: str, fitted: Any, table: "pd.DataFrame | None", text: str, label: str
) -> "pd.DataFrame":
    from pipeline.datasets import read_table
    from pipeline.evaluation.layer_study import layer_study
    from pipeline.vectorizer import BertVectorizer

    if layers != "run" or table is None:
        return read_table(layers, columns=["kind", "features", "pooling"])
    vectorizer = _unfitted(fitted).steps[0][1]
    if not isinstance(vectorizer, BertVectorizer):
        raise ValueError(
            f"--layers run: the pipeline begins with a {type(vectorizer).__name__}, which has no layers to study."
        )
    return layer_study(table[text], table[label], vectorizer=vectorizer, nested=True, n_jobs=-1)
