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
    GroupColumn,
    Groups,
    ItsLabel,
    ItsText,
    Separator,
    TestData,
    Trusted,
    columns_by,
    its_columns,
    read_data,
    read_labelled,
    rows_for,
)
from pipeline.commands.printing import plain_console

if TYPE_CHECKING:
    import pandas as pd


def report(
    model: ArtifactPath = DEFAULT_ARTIFACT,
    trusted: Trusted = None,
    data: TestData = None,
    text: ItsText = None,
    label: ItsLabel = None,
    by: Groups = None,
    train_data: Annotated[
        str | None, typer.Option(help="What it was trained on: for the texts nearest to mistakes.")
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Cross-validate it and the baselines on the training texts."
        ),
    ] = False,
    group_column: GroupColumn = None,
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
    """Write a page about a saved pipeline: scores, figures, explained mistakes; and its JSON."""
    from pipeline.evaluation.compare import compare as cross_validate
    from pipeline.evaluation.evaluate import evaluate as score_texts
    from pipeline.files import check_writable, where, with_ending
    from pipeline.report.page import check_page_name, check_report_extra
    from pipeline.saved.artifact import load_pipeline

    check_report_extra()
    page = check_page_name(with_ending(where(model), ".html") if out is None else out)
    check_writable(page)
    origin = where(data) if data else "the held-out shipped reviews"
    text, label = its_columns(model, text, label)
    shipped, table, text, label = read_labelled(data, text, label, encoding, sep, by=by)
    if data is None:
        by = by or ["domain", "trait"]
    tables = {"data": (origin, table)}
    train_set = None
    if train_data is not None:
        columns = [text, label, *([group_column] if group_column else [])]
        train_set = read_data(train_data, columns, encoding, sep)
        tables["training_data"] = (where(train_data), train_set)
    to_study = shipped if train_set is None and data is None else train_set
    if to_study is None and (compare or layers == "run"):
        raise ValueError(
            f"{'--compare' if compare else '--layers run'} needs texts to train on; give "
            "--train-data."
        )
    fitted = load_pipeline(model, trusted=trusted or ())
    groups = None
    if group_column is not None and to_study is not None:
        groups = to_study[group_column]
    train = None
    if train_set is not None:
        train = rows_for(fitted, train_set, text), train_set[label]
    scores = score_texts(fitted, rows_for(fitted, table, text), table[label],
                         by=columns_by(table, by), n_mistakes=mistakes, train=train)  # fmt: skip
    comparison = study = None
    if compare and to_study is not None:
        rows = ("majority", "tfidf", "static", "cls", "default", "ngrams")
        comparison = cross_validate(
            rows_for(fitted, to_study, text),
            to_study[label],
            model=_unfitted(fitted),
            models=rows,
            text=text,
            groups=groups,
        )
    if layers is not None:
        study = _study(layers, fitted, to_study, text, label, groups)
    heading = title or f"{PurePath(model).name} on {PurePath(data).name if data else origin}"
    write_page(plain_console(), scores, page, fitted, where(model), tables, heading,
               comparison=comparison, layers=study)  # fmt: skip


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
    """Write the page and its JSON, with where the numbers come from, and say so."""
    from pipeline.report.lineage import trace_lineage
    from pipeline.report.page import write_report

    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    provenance = trace_lineage(fitted, artifact=artifact, tables=tables, command=command)
    write_report(
        scores, page, comparison=comparison, layers=layers, provenance=provenance, title=title
    )
    plain = PurePath(page).with_suffix(".json").name
    console.print(f"Wrote {page}, a report for the browser, and {plain}, the same numbers.")


def _unfitted(fitted: Any) -> Any:
    """Return an unfitted copy, with the cache that a loaded pipeline has not."""
    from sklearn.base import clone

    pipeline = clone(fitted)
    names = [name for name in pipeline.get_params() if name.endswith("__cache")]
    return pipeline.set_params(**dict.fromkeys(names, "memory"))


def _study(
    layers: str,
    fitted: Any,
    table: "pd.DataFrame | None",
    text: str,
    label: str,
    groups: "pd.Series | None",
) -> "pd.DataFrame":
    """Return the layer study: run now, or read from its table."""
    from pipeline.datasets import read_table
    from pipeline.evaluation.baselines import vectorizers_of
    from pipeline.evaluation.layer_study import layer_study

    if layers != "run" or table is None:
        return read_table(layers, columns=["kind", "features", "pooling"])
    found = vectorizers_of(_unfitted(fitted))
    if not found:
        first = type(fitted.steps[0][1]).__name__
        raise ValueError(
            f"--layers run: the pipeline begins with a {first}, which has no layers to study."
        )
    return layer_study(table[text], table[label], vectorizer=found[0], groups=groups, nested=True,
                       n_jobs=-1)  # fmt: skip
