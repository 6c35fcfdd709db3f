"""Score a table of any size, every row exactly once."""

import contextlib
import errno
import functools
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.answers import Answers, ask, ask_each, gives_several, outputs_of
from pipeline.columns import Kind, columns_for
from pipeline.files import fetched, sha256_of, where
from pipeline.notebook import block, facts
from pipeline.progress import Part
from pipeline.progress import progress as show_progress
from pipeline.saved.allow_list import trusted_names
from pipeline.saved.artifact import load_pipeline
from pipeline.saved.manifest import installed_versions
from pipeline.scoring.executors import Executor, Function, choose_executor
from pipeline.scoring.run_folder import Plan, RunFolder, Stamp, Target
from pipeline.scoring.shard import (
    Died,
    Job,
    OnBadRow,
    Outcome,
    Shard,
    added_fields,
    empty_cells,
    model_input,
    score_shard,
    try_shard,
    with_fields,
)
from pipeline.scoring.sources import Rows, Source, open_source
from pipeline.texts import Missing

_ROUNDS = 3
_MOST_KILLERS = 100
_TRIED_ROWS = 20  # one of them must suit a model of several columns


@dataclass(frozen=True)
class ScoredTable:
    """Summary of a run of `score_table`.

    Attributes
    ----------
    out : Path
        The folder of parts, or the file.
    n_rows : int
        Rows of the table, all of them in the output.
    n_bad : int
        Rows without a label.
    n_parts : int
        Parts that the table was scored in.
    n_skipped : int
        Rows scored by an earlier run.
    columns : list of str
        The added columns.
    seconds : float
        Duration of this run.
    n_empty : int
        Rows of this run labelled as empty texts, by ``missing="empty"``.
    """

    out: Path
    n_rows: int
    n_bad: int
    n_parts: int
    n_skipped: int
    columns: list[str]
    seconds: float
    n_empty: int = 0

    def _repr_html_(self) -> str:
        values = {
            "Written to": self.out,
            "Rows": f"{self.n_rows:,}",
            "Without a label": f"{self.n_bad:,}",
            "Scored before": f"{self.n_skipped:,}",
            "Parts": f"{self.n_parts:,}",
            "Columns added": ", ".join(self.columns),
            "Duration": f"{self.seconds:,.1f} s, {self.rows_per_second:,.0f} rows a second",
        }
        return block(facts(values))

    @property
    def rows_per_second(self) -> float:
        """Rows scored by this run, per second."""
        return (self.n_rows - self.n_skipped) / max(self.seconds, 1e-9)


def score_table(
    model_path: str | os.PathLike,
    source: str | os.PathLike | Sequence[str | os.PathLike] | pd.DataFrame,
    out: str | os.PathLike,
    *,
    text: str,
    executor: Any = "serial",
    workers: int | None = None,
    threads: int | None = None,
    shard_rows: int = 2048,
    on_bad_row: OnBadRow = "error",
    encoding: str = "utf-8",
    sep: str | None = None,
    missing: Missing | None = None,
    sha256: str | None = None,
    trusted: str | Iterable[str] = (),
    trusted_key: Any = None,
    progress: bool | None = None,
) -> ScoredTable:
    """Score a table of any size, every row exactly once.

    The table is read once, ``shard_rows`` rows at a time. Each shard becomes a part, written
    completely or not at all. After a crash the same call resumes and keeps finished parts. A
    manifest and ``_SUCCESS`` follow when all parts exist and their rows add up. The bytes of the
    parts do not depend on the executor, the number of workers, or interruptions.

    Parameters
    ----------
    model_path : str or Path
        A pipeline by `save_pipeline`, whose classifier gives probabilities. Labels are those of its
        ``predict``. If it gives several per text, each has a column ``label_<output>``, of 1 and 0
        or of its classes, and its probabilities have columns.
    source : path, sequence of paths, or DataFrame
        CSV or JSON lines (also ``.gz``, ``.bz2``, ``.xz``, ``.zip``) or Parquet: a file, several,
        a pattern such as ``"2026-*.parquet"`` or a folder of Parquet files, local or at an address
        of fsspec such as ``s3://bucket/folder``.
    out : str or Path
        A new folder, for ``part-000000.parquet`` and so on, or one file (``.csv``, ``.parquet``,
        ``.pq``, ``.jsonl``).
    text : str
        The text column. A model that was fitted on several columns gets all of these.
    executor : {"serial", "processes", "auto", "dask"}, address, Client or executor
        Default ``"serial"``: this process. ``"processes"``: worker processes on this machine.
        ``"auto"``: these if the table has more than one shard. ``"dask"``: a Dask cluster on this
        machine; another by its address, such as ``"tcp://10.0.0.5:8786"``, a
        ``distributed.Client`` or a `pipeline.DaskExecutor`.
    workers : int, optional
        Number of worker processes; one per core by default. An existing Dask cluster has its own.
    threads : int, optional
        Threads of the model in each worker; 1 by default. They may change the last bits of a
        probability, so a rerun needs the same. To use more cores, use more workers.
    shard_rows : int, default=2048
        Rows per part: lost in a crash, and held in memory by each worker.
    on_bad_row : {"error", "null"}, default="error"
        For a row that is not a string or malformed, that the model fails on, or that kills its
        process. ``"error"`` stops there. ``"null"`` leaves label and probabilities empty and gives
        the reason in the column ``label_error``; a rerun may change to it.
    encoding, sep : str
        Of CSV files, as in `read_table`.
    missing : {"error", "empty"}, optional
        ``"error"``: a missing or blank text cannot be scored; ``"empty"``: it is labelled as an
        empty text, and counted. Default: only a blank text is.
    sha256 : str, optional
        The hash that the model must have.
    trusted, trusted_key
        As in `load_pipeline`.
    progress : bool, optional
        Show rows, speed and time left on standard error. Default: only in a terminal.

    Returns
    -------
    ScoredTable
        What was written, and how fast; shown as a table in a notebook.

    Raises
    ------
    FileNotFoundError, PermissionError, BlockingIOError
        If a source is missing, the output cannot be written, or another run writes there.
    PlanError
        If ``out`` holds a run of another model, table or other options; it says which.
    BadRowError
        At a row that cannot be scored.
    ArtifactError
        If the model cannot be opened, or was replaced in the meantime.
    ChildProcessError
        If worker processes cannot start, or die whatever they score.

    Examples
    --------
    >>> from pipeline import load_reviews, make_sentiment_pipeline, save_pipeline, score_table
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> train, test = load_reviews()
    >>> model = make_sentiment_pipeline().fit(train["text"][:40], train["label"][:40])
    >>> path = save_pipeline(model, f"{folder}/m.joblib")
    >>> scored = score_table(path, test[["text"]][:8], f"{folder}/scored", text="text")
    >>> scored.n_rows, scored.columns
    (8, ['label', 'probability_negative', 'probability_positive', 'label_error'])
    """
    if on_bad_row not in ("error", "null"):
        raise ValueError(f"on_bad_row={on_bad_row!r}; allowed are 'error' and 'null'.")
    if missing not in (None, "error", "empty"):
        raise ValueError(f"missing={missing!r}; allowed are None, 'error' and 'empty'.")
    if not isinstance(shard_rows, int) or shard_rows < 1:
        raise ValueError(f"shard_rows={shard_rows!r}; allowed are the numbers from 1.")
    trusted = tuple(trusted_names(trusted))
    chosen = choose_executor(executor, workers, threads=threads)
    opened = open_source(source, text, encoding=encoding, sep=sep)
    target = Target(out, opened.paths, _folders(source))
    path, sha256, fitted = _open_model(model_path, sha256, trusted, trusted_key)
    columns = columns_for(fitted, opened.schema.names, text, opened.name)
    probe, several, kind = _try_first(fitted, opened, columns, text)
    outputs = outputs_of(fitted) if several else None
    fields = added_fields(opened.schema, fitted.classes_, kind, outputs)
    plan = Plan(
        source=opened.identity(),
        columns=[[field.name, str(field.type)] for field in opened.schema],
        text=text,
        model={
            "sha256": sha256,
            "classes": [*map(list, outputs)] if outputs else np.asarray(fitted.classes_).tolist(),
            "probabilities": kind,
        },
        shard_rows=shard_rows,
        threads=threads or 1,
        versions=installed_versions(),
    )
    job = Job(
        model=path,
        sha256=sha256,
        trusted=trusted,
        text=text,
        schema=opened.schema,
        columns=columns,
        fields=fields,
        n_labels=None if outputs is None else len(outputs),
        probe=probe,
        folder=str(target.folder.path),
        plan=plan.sha256,
        on_bad_row=on_bad_row,
        threads=plan.threads,
        missing=missing,
    )
    if progress is None:
        progress = sys.stderr is not None and sys.stderr.isatty()
    started = time.monotonic()
    with (
        target.folder.locked(),
        show_progress("scoring", " rows", shown=progress, whole=True) as bar,
        _cleaned_up(target),
    ):
        bar.show(0)
        run = Run(opened, target.folder, job, plan, bar)
        target.folder.start_or_resume(plan)
        manifest = target.folder.complete(plan)
        if manifest is None or (manifest["n_bad"] and job.scores_bad_rows_again):
            target.folder.reopen()
            manifest = run.run(chosen)
        else:
            run.n_skipped = manifest["n_rows"]
        if target.file is not None:
            if not manifest["n_bad"]:
                fields = fields[:-1]
            target.join_parts(len(manifest["parts"]), with_fields(opened.schema, fields))
        seconds = time.monotonic() - started
    return ScoredTable(
        out=target.file or target.folder.path,
        n_rows=manifest["n_rows"],
        n_bad=manifest["n_bad"],
        n_parts=len(manifest["parts"]),
        n_skipped=run.n_skipped,
        columns=[field.name for field in fields],
        seconds=seconds,
        n_empty=run.n_empty,
    )


def _open_model(
    path: str | os.PathLike, sha256: str | None, trusted: tuple[str, ...], trusted_key: Any
) -> tuple[str, str, Any]:
    place = where(path)
    if sha256 is None:
        with fetched(place) as file:  # if it is not a file, load_pipeline says what it is
            sha256 = sha256_of(file) if file.is_file() else ""
    fitted = load_pipeline(place, sha256=sha256, trusted=trusted, trusted_key=trusted_key)
    return os.path.abspath(place) if isinstance(place, Path) else place, sha256.lower(), fitted


def _try_first(
    fitted: Any, source: Source, columns: dict[str, Kind] | None, text: str
) -> tuple[pa.Table, bool, str]:
    """Return a row that the model takes, and the form of its answers."""
    # the output columns must be known before there is any output
    kinds = {**(columns or {}), text: "text"}
    table = pa.table({n: [0 if k == "number" else "a plain text"] for n, k in kinds.items()})
    if columns is not None and len(columns) > 1:
        first = next(source.rows(_TRIED_ROWS, mark=True), None)
        table = table if first is None else first.table
    for row in range(table.num_rows):
        probe = table.slice(row, 1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # given when the row is scored
                X = model_input(columns, probe, text)
                several = gives_several(fitted, X)
                answers: Answers = (ask_each if several else ask)(fitted, X)
        except Exception as error:
            refused = error
        else:
            return probe, several, str(answers.probability.dtype)
    raise refused


def _folders(source: Any) -> list[Any]:
    if isinstance(source, pd.DataFrame):
        return []
    paths = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    return [place for place in map(where, paths) if os.path.isdir(place)]


@contextlib.contextmanager
def _cleaned_up(target: Target) -> Iterator[None]:
    """Explain a full disk, and remove a folder that holds no part."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no space left for {target.folder.path}. Finished parts are kept; free some space "
                "and run it again",
            ) from error
        raise
    finally:
        target.remove_if_empty()


@dataclass
class Run:
    """One run in a locked folder, started or resumed with a plan."""

    source: Source
    folder: RunFolder
    job: Job
    plan: Plan
    bar: Part
    n_rows: int = 0
    n_scored: int = 0
    n_skipped: int = 0
    n_empty: int = 0
    hashes: dict[int, str] = field(default_factory=dict)
    warned: set[type[Warning]] = field(default_factory=set)

    def run(self, executor: Executor) -> dict[str, Any]:
        """Score the unfinished shards and return the manifest."""
        score = functools.partial(score_shard, self.job)
        attempt = functools.partial(try_shard, self.job)
        lost: list[Shard] = []
        with executor:
            for shard, result in executor.run(score, self._shards()):
                if isinstance(result, Died):
                    lost.append(shard)
                else:
                    self._scored(shard, result)
            for shard in sorted(lost, key=lambda shard: shard.index):
                self._scored(shard, score_alone(executor, score, attempt, shard))
        self.source.check_unchanged()
        columns = with_fields(self.job.schema, self.job.fields).names
        hashes = [self.hashes[index] for index in range(len(self.hashes))]
        return self.folder.finish(self.plan, columns, hashes, self.n_rows)

    def _shards(self) -> Iterator[Shard]:
        mark = self.job.on_bad_row == "null"
        index = 0
        for rows in self.source.rows(self.plan.shard_rows, mark=mark):
            first_row, n_rows = self.n_rows, rows.table.num_rows
            self.n_rows += n_rows
            if self.job.missing == "empty":
                self.n_empty += len(empty_cells(rows.table.column(self.job.text).to_pylist()))
            if not self._is_finished(index, n_rows):
                yield self._written(index, first_row, rows)
            index += 1
        if not index and not self._is_finished(0, 0):
            yield self._written(0, 0, Rows(self.source.schema.empty_table(), {}))

    def _is_finished(self, index: int, n_rows: int) -> bool:
        stamp = self.folder.stamp(index)
        if (
            stamp is None
            or stamp != Stamp(index, self.job.plan, self.job.sha256, n_rows, stamp.n_bad)
            or (stamp.n_bad and self.job.scores_bad_rows_again)
        ):
            return False
        self.hashes[index] = sha256_of(self.folder.part(index))
        self.n_skipped += n_rows
        return True

    def _written(self, index: int, first_row: int, rows: Rows) -> Shard:
        path = self.folder.shards / f"shard-{index:06d}.parquet"
        pq.write_table(rows.table, path)
        marked = tuple((first_row + place, reason) for place, reason in sorted(rows.marked.items()))
        return Shard(index, str(path), 0, rows.table.num_rows, first_row, marked)

    def _scored(self, shard: Shard, outcome: Outcome) -> None:
        self.hashes[shard.index] = outcome.sha256
        Path(shard.path).unlink(missing_ok=True)
        self.n_scored += shard.n_rows
        expected = self.source.expected_rows(self.n_rows)
        self.bar.show(self.n_skipped + self.n_scored, expected, known=self.n_skipped)
        whole = shard.index == 0 and shard.n_rows < self.plan.shard_rows
        last = shard.first_row + shard.n_rows - 1
        rows = "" if whole else f" (For rows {shard.first_row} to {last}; not repeated for others.)"
        for category, message in outcome.warnings:
            if category not in self.warned:
                self.warned.add(category)
                warnings.warn(message + rows, category, stacklevel=4)


def score_alone(executor: Executor, score: Function, attempt: Function, shard: Shard) -> Outcome:
    """Score a shard whose worker died, marking rows that kill any worker."""
    # First again as a whole, as the worker may have been killed from outside; then by halves.
    for _ in range(_ROUNDS):
        result = _alone(executor, score, shard)
        if isinstance(result, Outcome):
            return result
        reason = result.reason
        if all(isinstance(_alone(executor, attempt, shard.rows(0, 0)), Died) for _ in range(2)):
            raise ChildProcessError(
                f"worker processes die before they score a row ({reason}): is the memory too "
                "small for the model in each of them? Use fewer workers. Finished parts are kept."
            )
        killers = _killers(executor, attempt, shard)
        if len(shard.marked) + len(killers) > _MOST_KILLERS:
            raise ChildProcessError(
                f"more than {_MOST_KILLERS} rows from row {shard.first_row} on kill the process "
                f"that scores them ({reason}), which is unlikely to be the rows' fault. "
                "Finished parts are kept."
            )
        shard = replace(shard, marked=tuple(sorted({**dict(shard.marked), **killers}.items())))
    raise ChildProcessError(
        f"workers keep dying with the rows {shard.first_row} to "
        f"{shard.first_row + shard.n_rows - 1} ({reason}), but with no single one of them: is "
        "the memory too small? Use fewer workers, or fewer shard_rows. Finished parts are kept."
    )


def _alone(executor: Executor, function: Function, shard: Shard) -> Outcome | Died:
    ((_, result),) = executor.run(function, [shard])
    return result


def _killers(executor: Executor, attempt: Function, shard: Shard) -> dict[int, str]:
    """Return the rows that kill a process on their own, with the reason."""
    suspects, killers = [shard], dict[int, str]()
    while suspects and len(killers) <= _MOST_KILLERS:
        halves = [half for suspect in suspects for half in _halves(suspect)]
        results = executor.run(attempt, halves)
        died = [half for half, result in results if isinstance(result, Died)]
        suspects = [half for half in died if half.n_rows > 1]
        for half in died:
            # twice: not by chance
            if half.n_rows == 1 and isinstance(_alone(executor, attempt, half), Died):
                # without the signal, which depends on the executor
                killers[half.first_row] = "it kills the process that scores it"
    return killers


def _halves(shard: Shard) -> list[Shard]:
    if shard.n_rows == 1:
        return [shard]
    middle = shard.n_rows // 2
    return [shard.rows(0, middle), shard.rows(middle, shard.n_rows)]
