"""Command report."""

import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    ArtifactPath,
    CacheFolder,
    GroupColumn,
    Groups,
    Labelled,
    Seed,
    Table,
    TestData,
    Threads,
    Trust,
    in_file,
    limit_threads,
    rows_for,
    with_cache,
    with_groups,
)
from pipeline.commands.printing import plain_console

if TYPE_CHECKING:
    import pandas as pd


@with_groups
def report(
    *,
    pipeline: ArtifactPath = DEFAULT_ARTIFACT,
    trust: Trust,
    data: TestData = None,
    table: Table,
    by: Groups = None,
    train_data: Annotated[
        str | None, typer.Option(help="The training data, for the texts nearest to mistakes.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Cross-validate it and the baselines on the training data."),
    ] = False,
    group_column: GroupColumn = None,
    layers: Annotated[
        str | None,
        typer.Option(help="A table written by `layers --out`, or `run` to study them now."),
    ] = None,
    mistakes: Annotated[int, typer.Option(help="Number of the surest mistakes to show.")] = 10,
    out: Annotated[
        str | None, typer.Option(help="Path of the page; by default beside the pipeline.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    cache: CacheFolder = None,
    threads: Threads = None,
    seed: Seed = 0,
) -> None:
    """Write a page about a saved pipeline, as HTML and JSON."""
    limit_threads(threads)
    from pipeline.evaluation.evaluate import evaluate as score_texts
    from pipeline.files import check_writable, where, with_ending
    from pipeline.report.page import check_page_name, check_report_extra
    from pipeline.saved.artifact import load_pipeline

    check_report_extra()
    page = check_page_name(with_ending(where(pipeline), ".html") if out is None else out)
    check_writable(page)
    table = table.of_pipeline(pipeline)
    tested = table.read(data, by, held_out=True)
    if data is None:
        by = by or ["domain", "trait"]
    known = None if train_data is None else table.read(train_data, group=group_column)
    study = compare or layers == "run"
    learn = table.read(None) if known is None and data is None and study else known
    if learn is None and study:
        raise ValueError(
            f"{'--compare' if compare else '--layers run'} needs training texts; give --train-data."
        )
    fitted = with_cache(load_pipeline(pipeline, **trust.options()), cache)
    tested = table.known(tested, fitted.classes_)
    known = known and table.known(known, fitted.classes_)
    learn = learn and table.known(learn, fitted.classes_)
    train = None if known is None else (rows_for(fitted, known), known.labels)
    scores = score_texts(fitted, rows_for(fitted, tested), tested.labels,
                         by=tested.table[by] if by else None, n_mistakes=mistakes,
                         train=train,
                         random_state=seed)  # fmt: skip
    origin = tested.origin() if data else ("the held-out shipped reviews", tested.table)
    heading = title or f"{PurePath(pipeline).name} on {PurePath(data).name if data else origin[0]}"
    write_page(
        plain_console(),
        in_file(scores, tested),
        page,
        fitted,
        where(pipeline),
        {"data": origin, **({} if known is None else {"training_data": known.origin()})},
        heading,
        comparison=_compare(fitted, learn, group_column, seed) if learn and compare else None,
        layers=None if layers is None else _study(layers, fitted, learn, group_column, seed),
    )


def write_page(
    console: Console,
    scores: dict[str, Any],
    page: Path | str,
    fitted: Any,
    artifact: Path | str,
    tables: "dict[str, tuple[Path | str, pd.DataFrame]]",
    title: str,
    *,
    comparison: "pd.DataFrame | None" = None,
    layers: "pd.DataFrame | None" = None,
) -> None:
    """Write the page and its JSON, with the origin of the numbers."""
    from pipeline.files import program
    from pipeline.report.lineage import trace_lineage
    from pipeline.report.page import write_report

    command = [program(), *sys.argv[1:]]
    provenance = trace_lineage(fitted, artifact=artifact, tables=tables, command=command)
    write_report(
        scores, page, comparison=comparison, layers=layers, provenance=provenance, title=title
    )
    plain = PurePath(page).with_suffix(".json").name
    console.print(f"Wrote {page}, a report for the browser, and {plain}, the same numbers.")


def _unfitted(fitted: Any) -> Any:
    """Return an unfitted copy, with the cache that a loaded pipeline lacks."""
    from sklearn.base import clone

    pipeline = clone(fitted)
    cached = any(v for k, v in pipeline.get_params().items() if k.endswith("__cache"))
    return pipeline if cached else with_cache(pipeline, "memory")


def _compare(fitted: Any, learn: Labelled, group_column: str | None, seed: int) -> "pd.DataFrame":
    from pipeline.evaluation.compare import compare

    return compare(
        rows_for(fitted, learn),
        learn.labels,
        model=_unfitted(fitted),
        models=("majority", "tfidf", "static", "cls", "default", "ngrams"),
        text=learn.text,
        groups=learn.table[group_column] if group_column else None,
        random_state=seed,
    )


def _study(
    layers: str, fitted: Any, learn: Labelled | None, group_column: str | None, seed: int
) -> "pd.DataFrame":
    from pipeline.datasets import read_table
    from pipeline.evaluation.baselines import vectorizers_of
    from pipeline.evaluation.layer_study import layer_study

    if layers != "run" or learn is None:
        return read_table(layers, columns=["kind", "features", "pooling"])
    found = vectorizers_of(_unfitted(fitted))
    if not found:
        first = type(fitted.steps[0][1]).__name__
        raise ValueError(
            f"--layers run: the pipeline starts with a {first}, which has no layers to study."
        )
    groups = learn.table[group_column] if group_column else None
    return layer_study(learn.texts, learn.labels, vectorizer=found[0], groups=groups, nested=True,
                       random_state=seed, n_jobs=-1)  # fmt: skip
