"""Command predict."""

from dataclasses import dataclass
from typing import Annotated, Any

from typer import Exit, Option

from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    ArtifactPath,
    Encoding,
    Missing,
    Separator,
    TextColumn,
    Threads,
    Trust,
    given,
    its_columns,
    limit_threads,
    texts_to_answer,
)
from pipeline.commands.printing import note, print_labels, say


@dataclass(frozen=True)
class Scoring:
    """Where and how to score a table."""

    workers: Annotated[
        int | None,
        Option(
            help="Processes for --data, with one thread each; by default one per core for a long "
            "table."
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        Option(help="Use the workers of this Dask scheduler, such as tcp://10.0.0.5:8786."),
    ] = None
    resources: Annotated[
        str | None, Option(help="Resources that these workers must have, such as GPU=1.")
    ] = None
    on_bad_row: Annotated[
        str, Option(help="For rows that cannot be labelled: error, or null to continue.")
    ] = "error"
    shard_rows: Annotated[
        int | None, Option(help="Rows per part: held in memory, and lost in a crash.")
    ] = None

    def options(self) -> dict[str, Any]:
        """Return the options of score_table."""
        executor = _executor(self.workers, self.scheduler, self.resources)
        return executor | given(on_bad_row=self.on_bad_row, shard_rows=self.shard_rows)


def predict(
    *,
    pipeline: ArtifactPath = DEFAULT_ARTIFACT,
    trust: Trust,
    text: Annotated[list[str] | None, Option(help="A text to label; can be repeated.")] = None,
    data: Annotated[
        list[str] | None,
        Option(
            help="CSV, TSV, JSON lines, Excel or Parquet to label: a file, a folder, a pattern, an "
            "address such as s3://...; can be repeated."
        ),
    ] = None,
    out: Annotated[
        str | None,
        Option(help="Write the labels to: .csv, .parquet, .jsonl, or a folder of parts."),
    ] = None,
    text_column: TextColumn = None,
    encoding: Encoding = "utf-8",
    sep: Separator = None,
    missing: Missing = "error",
    threads: Threads = None,
    scoring: Scoring,
) -> None:
    """Label texts, a table, or lines of standard input."""
    limit_threads(threads)
    from pipeline.saved.artifact import load_pipeline

    if data and text:
        raise ValueError("Give --data or --text, not both.")
    if bool(data) != (out is not None):
        raise ValueError(
            "--data and --out belong together: the table to label and where to write it."
        )
    if data and out is not None:
        column = text_column or its_columns(pipeline).get("text", "text")
        options = {"text": column, "encoding": encoding, "sep": sep, "missing": missing,
                   "threads": threads, **trust.options(), **scoring.options()}  # fmt: skip
        _predict_table(pipeline, data, out, options)
        return
    nothing = (
        'Nothing to label: give --text "...", --data FILE --out FILE, or pipe lines to standard '
        "input."
    )
    texts = texts_to_answer(text, missing, nothing)
    label_texts(load_pipeline(pipeline, **trust.options()), texts)


def label_texts(fitted: Any, texts: list[str], known: dict[str, Any] | None = None) -> None:
    """Print each text with its known values, its label and probability."""
    from pipeline import answers
    from pipeline.columns import from_texts

    X = from_texts(fitted, texts, "--text gives only texts: use --data")
    several = isinstance(getattr(fitted, "classes_", None), list)
    if not several:
        answers.check_classifier(fitted, need_probability=False)
    if not texts:  # no classifier takes zero rows
        return
    if several or answers.gives_several(fitted, X[:1]):
        each = answers.ask_each(fitted, X)
        names = (name for name, _ in answers.outputs_of(fitted))
        by_name = dict(zip(names, each.labels.T.tolist(), strict=True))
        print_labels(by_name, each.probability, texts, heading="probabilities")
        return
    labels, probability, _ = answers.ask(fitted, X, need_probability=False)
    predicted, _ = answers.positions(labels, fitted.classes_.tolist())
    most_probable = answers.is_most_probable(predicted, probability)
    answers.warn_of_other_labels(most_probable, f"the {type(fitted[-1]).__name__}")
    own = answers.label_probability(predicted, probability)[:, None]
    columns = {**(known or {}), "prediction" if known else "label": labels.tolist()}
    print_labels(columns, own, texts, named=known is not None)


def _executor(workers: int | None, scheduler: str | None, resources: str | None) -> dict[str, Any]:
    if scheduler is None:
        if resources is not None:
            raise ValueError(
                "--resources describe the workers of a Dask cluster: give --scheduler too."
            )
        executor = {None: "auto", 1: "serial"}.get(workers, "processes")
        return {"executor": executor, "workers": workers}
    if "://" not in scheduler:
        raise ValueError(
            f"--scheduler {scheduler} is not an address; `dask scheduler` prints its own, such as "
            "tcp://10.0.0.5:8786."
        )
    if workers is not None:
        raise ValueError(
            f"--workers {workers} starts processes on this machine; the cluster at {scheduler} has "
            "its own workers."
        )
    from pipeline.scoring.executors import DaskExecutor

    return {"executor": DaskExecutor(scheduler, resources=_amounts(resources or ""))}


def _amounts(resources: str) -> dict[str, float]:
    """Parse ``"GPU=1,memory=16e9"``, as `dask worker` does."""
    amounts = {}
    for resource in filter(None, resources.split(",")):
        name, _, amount = resource.partition("=")
        try:
            amounts[name.strip()] = float(amount)
        except ValueError:
            raise ValueError(
                f"--resources {resources}: {resource!r} is not NAME=NUMBER, such as GPU=1."
            ) from None
    return amounts


def _predict_table(model: str, data: list[str], out: str, options: dict[str, Any]) -> None:
    from pipeline.scoring.score_table import score_table

    try:
        scored = score_table(model, data if len(data) > 1 else data[0], out, **options)
    except KeyboardInterrupt:
        note("Interrupted. Finished parts are kept; run the same command again to resume.")
        raise Exit(130) from None
    columns = ", ".join(scored.columns)
    say(f"Wrote {scored.n_rows} rows to {scored.out}, with the new columns {columns}.")
    if scored.n_empty:
        say(f"{scored.n_empty} of them have no text and are labelled as empty texts.")
    if scored.n_skipped:
        say(f"{scored.n_skipped} of them were finished by an earlier run.")
    if scored.n_parts > 1 and scored.n_skipped < scored.n_rows:
        say(f"{scored.rows_per_second:.0f} rows per second.")
    if scored.n_bad:
        error_column = scored.columns[-1]
        say(f"{scored.n_bad} of them have no label; the column {error_column} says why.")
