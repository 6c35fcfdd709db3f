"""Score one shard: read its rows, predict, set bad rows aside, write its part."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from pipeline.answers import Answers, ask, is_most_probable, positions, warn_of_other_labels
from pipeline.datasets import prediction_names
from pipeline.exceptions import ArtifactWarning, BadRowError, CheckpointError
from pipeline.saved.artifact import load_pipeline
from pipeline.scoring.run_folder import Stamp, part_name, write_part


@dataclass(frozen=True)
class Shard:
    """A range of rows of one Parquet file, and its place in the output: small, picklable, enough to score it anywhere.

    Attributes
    ----------
    index : int
        Its number, and that of its part: ``part-000007.parquet``.
    path : str
        The Parquet file that holds its rows: of the user, or one that a CSV file or DataFrame was cut into.
    start, stop : int
        The rows of that file, ``start <= row < stop``.
    first_row : int
        The row of the whole table that ``start`` is; 0 is the first.
    marked : tuple of (int, str)
        Rows of the whole table that are not scored, each with the reason: they killed a worker.
    """

    index: int
    path: str
    start: int
    stop: int
    first_row: int
    marked: tuple[tuple[int, str], ...] = ()

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    def rows(self, start: int, stop: int) -> Self:
        """Return the shard of some of its rows, counted from its first one."""
        return replace(
            self, start=self.start + start, stop=self.start + stop, first_row=self.first_row + start
        )


@dataclass(frozen=True)
class BadRow:
    """A row that got no label.

    Attributes
    ----------
    row : int
        Of the whole table; 0 is the first.
    reason : str
        Why, in one line.
    """

    row: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of a shard that was scored.

    Attributes
    ----------
    index : int
        The shard's.
    n_rows : int
        Rows of its part; bad ones too.
    sha256 : str
        Of its part; empty where none was written.
    bad : tuple of BadRow
        Rows without a label.
    warnings : tuple of (type, str)
        What the model warned of, one of each category.
    """

    index: int
    n_rows: int
    sha256: str
    bad: tuple[BadRow, ...] = ()
    warnings: tuple[tuple[type[Warning], str], ...] = ()


@dataclass(frozen=True)
class Died:
    """The worker process that had a shard was lost: killed, or dead by a crash. Whose fault that was is not known.

    Attributes
    ----------
    reason : str
        Such as ``"killed by signal 9"``.
    """

    reason: str


_LONGEST_REASON = 500  # characters
# never a row's fault: the disk, the installation, the weights
_NOT_THE_ROWS = (OSError, ImportError, CheckpointError)


def predict_rows(
    predict: Callable[[pd.Series], Answers], texts: pd.Series, n_classes: int
) -> tuple[Answers, dict[int, str]]:
    """Predict on texts, and find those that the model fails on, by halves.

    Parameters
    ----------
    predict : callable
        Gives labels and probabilities, as `pipeline.answers.ask` does.
    texts : Series
    n_classes : int

    Returns
    -------
    answers : Answers
        Of the n_texts - len(failed) others.
    failed : dict of int to str
        Their places, each with what the model said.

    Raises
    ------
    Exception
        The model's own, where it fails on a plain text too: then it is no row's fault.
    """
    failed: dict[int, str] = {}
    answers = Answers(np.empty(0, dtype=object), np.empty((0, n_classes)))
    if len(texts):
        try:
            answers = predict(texts)
        except _NOT_THE_ROWS:
            raise
        except Exception as error:
            try:
                predict(pd.Series(["a plain text"], dtype="str"))
            except Exception:
                raise error from None
            failed = _failing(predict, texts)
            kept = texts.drop(texts.index[list(failed)])
            if len(
                kept
            ):  # all of them at once, whatever else was tried: so it does not matter how the bad ones were found
                answers = predict(kept)
    good = [i for i in range(len(texts)) if i not in failed]
    is_finite = np.isfinite(answers.probability).all(axis=1)
    failed.update({good[i]: "its probabilities are not finite" for i in np.flatnonzero(~is_finite)})
    return Answers(answers.labels[is_finite], answers.probability[is_finite]), failed


def _failing(predict: Callable[[pd.Series], Answers], texts: pd.Series) -> dict[int, str]:
    failed: dict[int, str] = {}
    ranges = [(0, len(texts))]
    while ranges:
        start, stop = ranges.pop()
        try:
            predict(texts.iloc[start:stop])
        except _NOT_THE_ROWS:
            raise
        except Exception as error:
            if stop - start == 1:
                failed[start] = f"{type(error).__name__}: {error}"
            else:
                middle = (start + stop) // 2
                ranges += [(start, middle), (middle, stop)]
    return failed


def in_one_line(reason: str) -> str:
    """Make one line of what a model said, however much it said."""
    line = " ".join(
        reason.encode("utf-8", "backslashreplace").decode().split()
    )  # it may quote what no file can hold
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


ERROR = "label_error"


def added_fields(
    schema: pa.Schema, classes: Sequence[Any], kind: str = "float64"
) -> list[pa.Field]:
    """Return the fields that predictions add to a schema: label, one probability per class, and why there is no label.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the table that is scored.
    classes : sequence
        The classifier's classes, of which the label has its type.
    kind : {"float32", "float64"}
        Of the model's probabilities.
    """
    names = prediction_names(schema.names, classes)
    error = ERROR
    while error in {*schema.names, *names}:
        error = f"predicted_{error}"
    fields = [
        pa.field(names[0], label_type(classes)),
        *(pa.field(name, pa.from_numpy_dtype(kind)) for name in names[1:]),
    ]
    return [*fields, pa.field(error, pa.string())]


def with_fields(schema: pa.Schema, fields: Iterable[pa.Field]) -> pa.Schema:
    """Append fields to a schema, keeping its metadata."""
    return pa.schema([*schema, *fields], metadata=schema.metadata)


def label_type(classes: Sequence[Any]) -> pa.DataType:
    """Return the type of the label's column: that of the classes."""
    return pa.array(np.asarray(classes).tolist()).type


def add_predictions(
    table: pa.Table, fields: Sequence[pa.Field], answers: Answers, bad: Mapping[int, str]
) -> pa.Table:
    """Add the columns of predictions to a table.

    Parameters
    ----------
    table : pyarrow.Table of n_rows rows
    fields : sequence of pyarrow.Field
        From `added_fields`.
    answers : Answers
        Of the n_rows - len(bad) rows that are not bad, in their order.
    bad : mapping of int to str
        Rows without a label, by their place, with the reason.

    Returns
    -------
    pyarrow.Table
    """
    is_good = np.ones(table.num_rows, bool)
    is_good[list(bad)] = False
    place = np.cumsum(is_good) - 1  # of each row among the good ones
    place = pa.array(place, mask=~is_good)
    label, *numbers, error = fields
    columns = [pa.array(answers.labels.tolist(), label.type)]
    columns += [pa.array(np.ascontiguousarray(column)) for column in answers.probability.T]
    for field, column in zip([label, *numbers], columns, strict=True):
        table = table.append_column(field, column.take(place).cast(field.type))
    return table.append_column(
        error, pa.array([bad.get(i) for i in range(table.num_rows)], error.type)
    )


OnBadRow = Literal["error", "null"]


@dataclass(frozen=True)
class Job:
    """What all shards of one run have in common; picklable.

    Attributes
    ----------
    model : str
        Path of the saved pipeline.
    sha256 : str
        Its hash: another file in its place is refused.
    trusted : tuple of str
        As for `pipeline.load_pipeline`.
    text : str
        The column of the texts.
    schema : pyarrow.Schema
        Of the source.
    probabilities : {"float32", "float64"}
        Type of the model's probabilities.
    folder : str
        Of the parts.
    plan : str
        Hash of the plan.
    on_bad_row : {"error", "null"}
    threads : int
        To compute with.
    """

    model: str
    sha256: str
    trusted: tuple[str, ...]
    text: str
    schema: pa.Schema
    probabilities: str
    folder: str
    plan: str
    on_bad_row: OnBadRow
    threads: int


@dataclass(frozen=True)
class _Scored:
    answers: Answers  # of the rows that are not bad
    bad: dict[int, str]
    warnings: tuple[tuple[type[Warning], str], ...]


@lru_cache(maxsize=1)
def load_once(model: str, sha256: str, trusted: tuple[str, ...]) -> Pipeline:
    """Open a saved pipeline, once in each process, and only if it is the file with this hash."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ArtifactWarning)  # the driver has told
        return load_pipeline(model, verify="sha256", sha256=sha256, trusted=trusted)


def score_shard(job: Job, shard: Shard) -> Outcome:
    """Score a shard and write its part.

    Parameters
    ----------
    job : Job
    shard : Shard

    Returns
    -------
    Outcome

    Raises
    ------
    BadRowError
        At a row that cannot be scored, where that is asked for.
    ArtifactError
        Where the model is another one by now.
    OSError
        Where the part cannot be written.
    """
    table = (
        pq.read_table(shard.path, memory_map=False)
        .slice(shard.start, shard.n_rows)
        .cast(job.schema)
    )
    fitted = load_once(job.model, job.sha256, job.trusted)
    scored = _score(job, shard, table, fitted)
    bad = tuple(
        BadRow(shard.first_row + place, reason) for place, reason in sorted(scored.bad.items())
    )
    if bad and job.on_bad_row == "error":
        raise BadRowError(
            f"row {bad[0].row} cannot be scored: {bad[0].reason.removesuffix('.')}. on_bad_row='null' (--on-bad-row null) "
            "goes on without its label; what is finished is kept."
        )
    fields = added_fields(job.schema, fitted.classes_, job.probabilities)
    labelled = add_predictions(table, fields, scored.answers, scored.bad)
    labelled = labelled.cast(with_fields(job.schema, fields))
    stamp = Stamp(shard.index, job.plan, job.sha256, shard.n_rows, len(bad))
    sha256 = write_part(labelled, Path(job.folder) / part_name(shard.index), stamp)
    return Outcome(shard.index, shard.n_rows, sha256, bad, scored.warnings)


def try_shard(job: Job, shard: Shard) -> Outcome:
    """Score a shard and write nothing: to see whether the process survives it. No rows at all still load the model."""
    table = (
        pq.read_table(shard.path, memory_map=False)
        .slice(shard.start, shard.n_rows)
        .cast(job.schema)
    )
    _score(job, shard, table, load_once(job.model, job.sha256, job.trusted))
    return Outcome(shard.index, shard.n_rows, "")


def _score(job: Job, shard: Shard, table: pa.Table, fitted: Pipeline) -> _Scored:
    cells = table.column(job.text).to_pylist()
    bad = {
        row - shard.first_row: reason
        for row, reason in shard.marked
        if shard.first_row <= row < shard.first_row + len(cells)
    }
    if not _takes_missing(fitted):
        bad.update(
            {
                i: "the text is missing"
                for i, cell in enumerate(cells)
                if cell is None and i not in bad
            }
        )
    rows = [i for i in range(len(cells)) if i not in bad]
    # labels of the whole table: what the model says of a row names it as the user knows it
    texts = pd.Series(
        [cells[i] for i in rows],
        index=[shard.first_row + i for i in rows],
        dtype="str",
        name=job.text,
    )
    with _threads(job.threads), _collected() as told:
        answers, failed = predict_rows(partial(ask, fitted), texts, len(fitted.classes_))
        predicted, _ = positions(answers.labels, np.asarray(fitted.classes_).tolist())
        warn_of_other_labels(
            is_most_probable(predicted, answers.probability),
            f"the {type(fitted[-1]).__name__}",
            counted=False,
        )
    kept = [row for place, row in enumerate(rows) if place not in failed]
    bad.update({rows[place]: in_one_line(reason) for place, reason in failed.items()})
    answers, misfits = _fitting(answers, label_type(fitted.classes_))
    bad.update({kept[place]: reason for place, reason in misfits.items()})
    return _Scored(
        answers, bad, tuple({warning.category: str(warning.message) for warning in told}.items())
    )


def _fitting(answers: Answers, kind: pa.DataType) -> tuple[Answers, dict[int, str]]:
    """Set rows aside whose label is no class and does not fit into the column of the labels."""
    misfits = {}
    for place, label in enumerate(answers.labels.tolist()):
        try:
            pa.scalar(label, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            misfits[place] = in_one_line(
                f"its label {label!r} is no class and does not fit into a column of type {kind}"
            )
    kept = np.delete(np.arange(len(answers.labels)), list(misfits))
    return Answers(answers.labels[kept], answers.probability[kept]), misfits


def _takes_missing(fitted: Pipeline) -> bool:
    """Say whether the pipeline reads missing texts as empty ones."""
    return any(
        name.endswith("__missing") and value == "empty"
        for name, value in fitted.get_params().items()
    )


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """Compute with so many threads, and leave the process as it was."""
    torch = sys.modules.get("torch")  # a pipeline without BERT needs none
    before = torch.get_num_threads() if torch is not None else 0
    with threadpool_limits(n):
        try:
            if torch is not None:
                torch.set_num_threads(n)
            yield
        finally:
            if torch is not None:
                torch.set_num_threads(before)


@contextlib.contextmanager
def _collected() -> Iterator[list[Any]]:
    """Keep warnings for the driver, which tells each kind once, and not each of a thousand shards."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield told
