"""Score one shard: read, predict, set bad rows aside, write its part."""

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

from pipeline.answers import (
    Answers,
    ask,
    ask_each,
    is_most_probable,
    is_yes_or_no,
    positions,
    warn_of_other_labels,
)
from pipeline.columns import Kind, as_fitted, free_names
from pipeline.exceptions import ArtifactWarning, BadRowError, CheckpointError
from pipeline.saved.artifact import load_pipeline
from pipeline.scoring.run_folder import Stamp, part_name, write_part
from pipeline.texts import Missing

ERROR = "label_error"
OnBadRow = Literal["error", "null"]
_LONGEST_REASON = 500
_EMPTY = "the text is missing"
_PLAIN = pd.Series(["a plain text"], dtype="str")
# the fault of the disk, the installation or the weights
_NOT_THE_ROWS = (OSError, ImportError, CheckpointError)


@dataclass(frozen=True)
class Shard:
    """A range of rows of one Parquet file, picklable."""

    index: int  # of its part: part-000007.parquet
    path: str
    start: int  # the rows of that file, start <= row < stop
    stop: int
    first_row: int  # the row of the whole table at start, from 0
    marked: tuple[tuple[int, str], ...] = ()  # rows of the table not to score, with reasons

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    def rows(self, start: int, stop: int) -> Self:
        """Return the shard of some of its rows, counted from its first."""
        return replace(
            self, start=self.start + start, stop=self.start + stop, first_row=self.first_row + start
        )


@dataclass(frozen=True)
class Outcome:
    """The result of a scored shard."""

    sha256: str  # of its part, empty if none was written
    warnings: tuple[tuple[type[Warning], str], ...] = ()  # one of each category


@dataclass(frozen=True)
class Died:
    """The worker of a shard was killed or crashed."""

    reason: str  # such as "killed by signal 9"


@dataclass(frozen=True)
class Job:
    """Settings of all shards of a run, picklable."""

    model: str
    sha256: str
    trusted: tuple[str, ...]
    text: str
    schema: pa.Schema
    fields: tuple[pa.Field, ...]  # added: labels, probabilities, the error
    folder: str
    plan: str
    on_bad_row: OnBadRow
    threads: int
    n_labels: int | None = None  # of the fields, if a text gets several
    columns: dict[str, Kind] | None = None  # that the model was fitted on; None: flat texts
    probe: pa.Table | None = None
    missing: Missing | None = None  # None: a blank text is a text

    @property
    def scores_bad_rows_again(self) -> bool:
        """Whether bad rows of an earlier run are scored again."""
        return self.on_bad_row == "error" or self.missing == "empty"


def predict_rows(
    predict: Callable[[Any], Answers],
    texts: Any,
    n_probabilities: int,
    *,
    n_labels: int | None = None,
    probe: Any = _PLAIN,
) -> tuple[Answers, dict[int, str]]:
    """Return the answers, and the failed positions with reasons."""
    failed: dict[int, str] = {}
    shape = (0,) if n_labels is None else (0, n_labels)
    answers = Answers(np.empty(shape), np.empty((0, n_probabilities)))
    if len(texts):
        try:
            answers = predict(texts)
        except _NOT_THE_ROWS:
            raise
        except Exception as error:
            try:
                predict(probe)
            except Exception:  # any row fails, so it is not a row's fault
                raise error from None
            failed = _failing(predict, texts)
            kept = texts.drop(texts.index[list(failed)])
            if len(kept):  # all at once, however the bad rows were found
                answers = predict(kept)
    good = [i for i in range(len(texts)) if i not in failed]
    is_finite = np.isfinite(answers.probability).all(axis=1)
    failed.update({good[i]: "its probabilities are not finite" for i in np.flatnonzero(~is_finite)})
    return Answers(answers.labels[is_finite], answers.probability[is_finite]), failed


def _failing(predict: Callable[[Any], Answers], texts: Any) -> dict[int, str]:
    """Find the positions that the model fails on, by bisection."""
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
    """Shorten a model's message to one line."""
    # it may quote characters that no file can hold
    line = " ".join(reason.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."


def added_fields(
    schema: pa.Schema,
    classes: Sequence[Any],
    kind: str = "float64",
    outputs: Sequence[tuple[str, list[Any]]] | None = None,
) -> tuple[pa.Field, ...]:
    """Return the added fields: labels, probabilities, error."""
    labels: dict[str, pa.DataType] = {}
    numbers: list[str] = []
    for suffix, own in (
        [("", np.asarray(classes).tolist())]
        if outputs is None
        else [(f"_{name}", own) for name, own in outputs]
    ):
        plain = outputs is not None and is_yes_or_no(own)
        labels[f"label{suffix}"] = pa.int64() if plain else pa.array(own).type
        numbers += [
            f"probability{suffix}{end}" for end in ([""] if plain else [f"_{c}" for c in own])
        ]
    wanted = [*labels, *numbers, ERROR]
    types = [*labels.values(), *[pa.from_numpy_dtype(kind)] * len(numbers), pa.string()]
    return tuple(map(pa.field, free_names(schema.names, wanted), types))


def with_fields(schema: pa.Schema, fields: Iterable[pa.Field]) -> pa.Schema:
    """Append fields to a schema, keeping its metadata."""
    return pa.schema([*schema, *fields], metadata=schema.metadata)


def add_predictions(
    table: pa.Table, fields: Sequence[pa.Field], answers: Answers, bad: Mapping[int, str]
) -> pa.Table:
    """Add the columns of `added_fields`, null in bad rows."""
    is_good = np.ones(table.num_rows, bool)
    is_good[list(bad)] = False
    place = pa.array(np.cumsum(is_good) - 1, mask=~is_good)
    *fields, error = fields
    labels = np.atleast_2d(answers.labels.T)
    columns = [pa.array(c.tolist(), f.type) for c, f in zip(labels, fields, strict=False)]
    columns += [pa.array(np.ascontiguousarray(column)) for column in answers.probability.T]
    for field, column in zip(fields, columns, strict=True):
        table = table.append_column(field, column.take(place).cast(field.type))
    return table.append_column(
        error, pa.array([bad.get(i) for i in range(table.num_rows)], error.type)
    )


@lru_cache(maxsize=1)
def load_once(model: str, sha256: str, trusted: tuple[str, ...]) -> Pipeline:
    """Open a saved pipeline with this hash, once per process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ArtifactWarning)  # given by the driver already
        return load_pipeline(model, verify="sha256", sha256=sha256, trusted=trusted)


def score_shard(job: Job, shard: Shard) -> Outcome:
    """Score a shard and write its part."""
    table, answers, bad, messages = _score(job, shard)
    if bad and job.on_bad_row == "error":
        first = min(bad)
        cure = " Use missing='empty' (--missing empty) to read it as an empty text."
        raise BadRowError(
            f"row {shard.first_row + first} cannot be scored: {bad[first].removesuffix('.')}. Use "
            "on_bad_row='null' (--on-bad-row null) to continue without its label. Finished parts "
            f"are kept.{cure if bad[first] == _EMPTY else ''}"
        )
    sha256 = write_part(
        add_predictions(table, job.fields, answers, bad).cast(with_fields(job.schema, job.fields)),
        Path(job.folder) / part_name(shard.index),
        Stamp(shard.index, job.plan, job.sha256, shard.n_rows, len(bad)),
    )
    return Outcome(sha256, messages)


def try_shard(job: Job, shard: Shard) -> Outcome:
    """Score a shard without writing, as it may kill the process."""
    _score(job, shard)  # loads the model even without rows
    return Outcome("")


def _score(
    job: Job, shard: Shard
) -> tuple[pa.Table, Answers, dict[int, str], tuple[tuple[type[Warning], str], ...]]:
    """Return rows, answers, bad rows with reasons, and warnings."""
    table = pq.read_table(shard.path).slice(shard.start, shard.n_rows).cast(job.schema)
    fitted = load_once(job.model, job.sha256, job.trusted)
    cells = table.column(job.text).to_pylist()
    bad = {
        row - shard.first_row: reason
        for row, reason in shard.marked
        if shard.first_row <= row < shard.first_row + len(cells)
    }
    empty, asked = empty_cells(cells), table
    if job.missing == "empty":
        texts = pa.array(["" if i in empty else cell for i, cell in enumerate(cells)])
        asked = table.set_column(table.column_names.index(job.text), job.text, texts)
    elif not _takes_missing(fitted):
        if job.missing is None:
            empty = {i for i in empty if cells[i] is None}
        bad = dict.fromkeys(empty, _EMPTY) | bad
    rows = [i for i in range(len(cells)) if i not in bad]
    X = model_input(job.columns, asked, job.text, rows, shard.first_row)
    probe = _PLAIN if job.probe is None else model_input(job.columns, job.probe, job.text)
    n_labels = job.n_labels or 1
    predict = partial(ask if job.n_labels is None else ask_each, fitted)
    # shown once for all shards
    with _threads(job.threads), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers, failed = predict_rows(
            predict, X, len(job.fields) - n_labels - 1, n_labels=job.n_labels, probe=probe
        )
        if job.n_labels is None:
            predicted, _ = positions(answers.labels, np.asarray(fitted.classes_).tolist())
            warn_of_other_labels(
                is_most_probable(predicted, answers.probability),
                f"the {type(fitted[-1]).__name__}",
                counted=False,
            )
    kept = [row for place, row in enumerate(rows) if place not in failed]
    bad.update({rows[place]: in_one_line(reason) for place, reason in failed.items()})
    answers, misfits = _without_misfits(answers, [field.type for field in job.fields[:n_labels]])
    bad.update({kept[place]: reason for place, reason in misfits.items()})
    messages = {warning.category: str(warning.message) for warning in caught}
    return table, answers, bad, tuple(messages.items())


def model_input(
    columns: dict[str, Kind] | None,
    table: pa.Table,
    text: str,
    rows: Sequence[int] = (0,),
    first_row: int = 0,
) -> Any:
    """Return some rows as the model takes them."""
    names = [text, *(name for name in columns or () if len(columns or ()) > 1 and name != text)]
    taken = table.select(names).take(pa.array(rows, pa.int64()))
    frame = taken.to_pandas(ignore_metadata=True)
    # rows of the whole table, as messages of the model name them
    frame.index = pd.Index([first_row + i for i in rows])
    frame[text] = pd.Series(taken.column(text).to_pylist(), index=frame.index, dtype="str")
    return as_fitted(columns, frame, text)


def _without_misfits(
    answers: Answers, kinds: Sequence[pa.DataType]
) -> tuple[Answers, dict[int, str]]:
    """Set aside labels that do not fit the column type."""
    misfits = {}
    for labels, kind in zip(np.atleast_2d(answers.labels.T), kinds, strict=False):
        for place, label in enumerate(labels.tolist()):
            try:
                pa.scalar(label, kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                misfits[place] = in_one_line(
                    f"its label {label!r} is not a class and does not fit a column of type {kind}"
                )
    kept = np.delete(np.arange(len(answers.labels)), list(misfits))
    return Answers(answers.labels[kept], answers.probability[kept]), misfits


def empty_cells(cells: Sequence[Any]) -> set[int]:
    """Return the places of texts that are missing or blank."""
    return {i for i, cell in enumerate(cells) if not str(cell or "").strip()}


def _takes_missing(fitted: Pipeline) -> bool:
    return any(
        name.endswith("__missing") and value == "empty"
        for name, value in fitted.get_params().items()
    )


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    torch = sys.modules.get("torch")  # not needed by a pipeline without BERT
    with threadpool_limits(n):
        if torch is None:
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(n)
        try:
            yield
        finally:
            torch.set_num_threads(before)
