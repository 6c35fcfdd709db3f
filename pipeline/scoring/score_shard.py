"""What a worker does: read the rows of a shard, score them, write its part. Handed to executors by table."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from pipeline.answers import Answers, ask, is_most_probable, positions, warn_of_other_labels
from pipeline.artifact import ArtifactWarning, load_pipeline
from pipeline.scoring.bad_rows import in_one_line, predict_rows
from pipeline.scoring.parts import Stamp, part_name, write_part
from pipeline.scoring.predictions import add_predictions, added_fields, label_type, with_fields
from pipeline.scoring.shard import BadRow, Outcome, Shard

OnBadRow = Literal["error", "null"]


class BadRowError(ValueError):
    """A row cannot be scored, and ``on_bad_row="error"``."""


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
    table = pq.read_table(shard.path, memory_map=False).slice(shard.start, shard.n_rows).cast(job.schema)
    fitted = load_once(job.model, job.sha256, job.trusted)
    scored = _score(job, shard, table, fitted)
    bad = tuple(BadRow(shard.first_row + place, reason) for place, reason in sorted(scored.bad.items()))
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
    table = pq.read_table(shard.path, memory_map=False).slice(shard.start, shard.n_rows).cast(job.schema)
    _score(job, shard, table, load_once(job.model, job.sha256, job.trusted))
    return Outcome(shard.index, shard.n_rows, "")


def _score(job: Job, shard: Shard, table: pa.Table, fitted: Pipeline) -> _Scored:
    cells = table.column(job.text).to_pylist()
    bad = {row - shard.first_row: reason for row, reason in shard.marked if shard.first_row <= row < shard.first_row + len(cells)}
    if not _takes_missing(fitted):
        bad.update({i: "the text is missing" for i, cell in enumerate(cells) if cell is None and i not in bad})
    rows = [i for i in range(len(cells)) if i not in bad]
    # labels of the whole table: what the model says of a row names it as the user knows it
    texts = pd.Series([cells[i] for i in rows], index=[shard.first_row + i for i in rows], dtype="str", name=job.text)
    with _threads(job.threads), _collected() as told:
        answers, failed = predict_rows(partial(ask, fitted), texts, len(fitted.classes_))
        predicted, _ = positions(answers.labels, np.asarray(fitted.classes_).tolist())
        warn_of_other_labels(is_most_probable(predicted, answers.probability), f"the {type(fitted[-1]).__name__}", counted=False)
    kept = [row for place, row in enumerate(rows) if place not in failed]
    bad.update({rows[place]: in_one_line(reason) for place, reason in failed.items()})
    answers, misfits = _fitting(answers, label_type(fitted.classes_))
    bad.update({kept[place]: reason for place, reason in misfits.items()})
    return _Scored(answers, bad, tuple({warning.category: str(warning.message) for warning in told}.items()))


def _fitting(answers: Answers, kind: pa.DataType) -> tuple[Answers, dict[int, str]]:
    """Set rows aside whose label is no class and does not fit into the column of the labels."""
    misfits = {}
    for place, label in enumerate(answers.labels.tolist()):
        try:
            pa.scalar(label, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            misfits[place] = in_one_line(f"its label {label!r} is no class and does not fit into a column of type {kind}")
    kept = np.delete(np.arange(len(answers.labels)), list(misfits))
    return Answers(answers.labels[kept], answers.probability[kept]), misfits


def _takes_missing(fitted: Pipeline) -> bool:
    """Say whether the pipeline reads missing texts as empty ones."""
    return any(name.endswith("__missing") and value == "empty" for name, value in fitted.get_params().items())


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
