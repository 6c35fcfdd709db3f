"""Run all shards of a job, isolate rows that kill workers, and finish."""

import functools
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq

from pipeline.files import sha256_of
from pipeline.progress import progress
from pipeline.scoring.executors import Executor, Function
from pipeline.scoring.run_folder import Plan, RunFolder
from pipeline.scoring.shard import (
    Died,
    Job,
    Outcome,
    Shard,
    empty_cells,
    score_shard,
    try_shard,
)
from pipeline.scoring.sources import Rows, Source

_ROUNDS = 3
_MOST_KILLERS = 100


class Progress:
    """A progress bar on standard error, by default only in a terminal."""

    def __init__(self, visible: bool | None) -> None:
        if visible is None:
            visible = sys.stderr is not None and sys.stderr.isatty()
        self._shown = progress("scoring", " rows", shown=visible, whole=True)
        self.n_scored = 0
        self.n_skipped = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        self._part = self._shown.__enter__()
        self._part.show(0)
        return self

    def __exit__(self, *error: Any) -> None:
        self._shown.__exit__(*error)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def skipped(self, n_rows: int) -> None:
        """Count rows of an earlier run."""
        self.n_skipped += n_rows

    def scored(self, n_rows: int, expected: int | None) -> None:
        """Count rows scored now, of ``expected`` in total."""
        self.n_scored += n_rows
        self._part.show(self.n_skipped + self.n_scored, expected, known=self.n_skipped)


def score_alone(
    executor: Executor, score: Function, attempt: Function, shard: Shard, died: Died
) -> Outcome:
    """Score a shard whose worker died, marking rows that kill any worker."""
    # The worker may have been killed from outside, so the shard is first tried again on its own.
    # If it dies again, its rows are halved repeatedly, each half in its own process.
    for _ in range(_ROUNDS):
        result = _alone(executor, score, shard)
        if isinstance(result, Outcome):
            return result
        died = result
        if all(isinstance(_alone(executor, attempt, shard.rows(0, 0)), Died) for _ in range(2)):
            raise ChildProcessError(
                f"worker processes die before they score a row ({died.reason}): is the memory too "
                "small for the model in each of them? Use fewer workers. Finished parts are kept."
            )
        killers = dict(_killers(executor, attempt, shard))
        # no killers: not a single row, and not chance, but all rows together, or the machine
        if len(shard.marked) + len(killers) > _MOST_KILLERS:
            raise ChildProcessError(
                f"more than {_MOST_KILLERS} rows from row {shard.first_row} on kill the process "
                f"that scores them ({died.reason}), which is unlikely to be the rows' fault. "
                "Finished parts are kept."
            )
        shard = replace(shard, marked=tuple(sorted({**dict(shard.marked), **killers}.items())))
    raise ChildProcessError(
        f"workers keep dying with the rows {shard.first_row} to "
        f"{shard.first_row + shard.n_rows - 1} ({died.reason}), but with no single one of them: is "
        "the memory too small? Use fewer workers, or fewer shard_rows. Finished parts are kept."
    )


def _alone(executor: Executor, function: Function, shard: Shard) -> Outcome | Died:
    ((_, result),) = list(executor.run(function, [shard]))
    return result


def _killers(executor: Executor, attempt: Function, shard: Shard) -> Iterator[tuple[int, str]]:
    """Yield the rows that kill a process on their own."""
    suspects = [shard]
    n_killers = 0
    while suspects and n_killers <= _MOST_KILLERS:
        halves = [half for suspect in suspects for half in _halves(suspect)]
        results = list(executor.run(attempt, halves))
        suspects = []
        for half, result in sorted(results, key=lambda pair: pair[0].first_row):
            if isinstance(result, Outcome):
                continue
            if half.n_rows > 1:
                suspects.append(half)
            elif isinstance(_alone(executor, attempt, half), Died):  # twice: not by chance
                n_killers += 1
                # without the signal, which depends on the executor
                yield half.first_row, "it kills the process that scores it"


def _halves(shard: Shard) -> list[Shard]:
    if shard.n_rows == 1:
        return [shard]
    middle = shard.n_rows // 2
    return [shard.rows(0, middle), shard.rows(middle, shard.n_rows)]


class Run:
    """One run in a locked folder, started or resumed with a plan."""

    def __init__(
        self, source: Source, folder: RunFolder, job: Job, plan: Plan, progress: Progress
    ) -> None:
        self._source = source
        self._folder = folder
        self._job = job
        self._plan = plan
        self._progress = progress
        self._hashes: dict[int, str] = {}
        self._n_rows = 0
        self.n_empty = 0
        self._warned: set[type[Warning]] = set()

    def run(self, executor: Executor, columns: Sequence[str]) -> dict[str, Any]:
        """Score the unfinished shards and return the manifest."""
        score = functools.partial(score_shard, self._job)
        attempt = functools.partial(try_shard, self._job)
        lost: list[tuple[Shard, Died]] = []
        with executor:
            for shard, result in executor.run(score, self._shards()):
                if isinstance(result, Died):
                    lost.append((shard, result))
                else:
                    self._scored(shard, result)
            for shard, died in sorted(lost, key=lambda pair: pair[0].index):
                self._scored(shard, score_alone(executor, score, attempt, shard, died))
        self._source.check_unchanged()
        hashes = [self._hashes[index] for index in range(len(self._hashes))]
        return self._folder.finish(self._plan, columns, hashes, self._n_rows)

    def _shards(self) -> Iterator[Shard]:
        mark = self._job.on_bad_row == "null"
        index = 0
        for rows in self._source.rows(self._plan.shard_rows, mark=mark):
            first_row, n_rows = self._n_rows, rows.table.num_rows
            self._n_rows += n_rows
            if self._job.missing == "empty":
                self.n_empty += len(empty_cells(rows.table.column(self._job.text).to_pylist()))
            if not self._is_finished(index, n_rows):
                yield self._written(index, first_row, rows)
            index += 1
        if not index and not self._is_finished(0, 0):
            yield self._written(0, 0, Rows(self._source.schema.empty_table(), {}))

    def _is_finished(self, index: int, n_rows: int) -> bool:
        stamp = self._folder.stamp(index)
        expected = (index, self._plan.sha256, self._job.sha256, n_rows)
        if stamp is None or (stamp.index, stamp.plan, stamp.artifact, stamp.n_rows) != expected:
            return False
        # an earlier run allowed bad rows
        if stamp.n_bad and (self._job.on_bad_row == "error" or self._job.missing == "empty"):
            return False
        self._hashes[index] = sha256_of(self._folder.part(index))
        self._progress.skipped(n_rows)
        return True

    def _written(self, index: int, first_row: int, rows: Rows) -> Shard:
        path = self._folder.shards / f"shard-{index:06d}.parquet"
        pq.write_table(rows.table, path)
        marked = tuple((first_row + place, reason) for place, reason in sorted(rows.marked.items()))
        return Shard(index, str(path), 0, rows.table.num_rows, first_row, marked)

    def _scored(self, shard: Shard, outcome: Outcome) -> None:
        self._hashes[shard.index] = outcome.sha256
        Path(shard.path).unlink(missing_ok=True)
        self._progress.scored(shard.n_rows, self._source.expected_rows(self._n_rows))
        for category, message in outcome.warnings:
            if category not in self._warned:
                self._warned.add(category)
                warnings.warn(message + self._row_range(shard), category, stacklevel=5)

    def _row_range(self, shard: Shard) -> str:
        if shard.index == 0 and shard.n_rows < self._plan.shard_rows:
            return ""
        last = shard.first_row + shard.n_rows - 1
        return f" (For rows {shard.first_row} to {last}; not repeated for others.)"
