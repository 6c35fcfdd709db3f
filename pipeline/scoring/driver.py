"""Run every shard of a job, isolate rows that kill workers, report progress, finish."""

import functools
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow.parquet as pq

from pipeline.files import sha256_of
from pipeline.scoring.executors import Executor, Function
from pipeline.scoring.run_folder import Plan, RunFolder
from pipeline.scoring.shard import Died, Job, Outcome, Shard, score_shard, try_shard
from pipeline.scoring.sources import Rows, Source


class Progress:
    """A bar on standard error, where somebody looks or it is asked for; rows of an earlier run do not count for the speed.

    Parameters
    ----------
    shown : bool or None
        None: where standard error is a terminal.
    """

    def __init__(self, shown: bool | None) -> None:
        self._shown = sys.stderr is not None and sys.stderr.isatty() if shown is None else shown
        self._bar: Any = None
        self.n_scored = 0
        self.n_skipped = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._shown:
            from tqdm import tqdm

            # smoothing=0: shards come in bursts, the mean is what tells the time left
            self._bar = tqdm(total=None, unit=" rows", desc="scoring", smoothing=0, file=sys.stderr)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds(self) -> float:
        """Time since it was made."""
        return time.monotonic() - self._started

    def skipped(self, n_rows: int) -> None:
        """Count rows that an earlier run has scored."""
        self.n_skipped += n_rows
        if self._bar is not None:
            self._bar.initial += n_rows
            self._bar.n += n_rows

    def scored(self, n_rows: int, expected: int | None) -> None:
        """Count rows that were scored now; ``expected`` is how many the table has, as far as is known."""
        self.n_scored += n_rows
        if self._bar is not None:
            self._bar.total = expected
            self._bar.update(n_rows)


_ROUNDS = 3
_MOST_KILLERS = 100


def score_alone(
    executor: Executor, score: Function, attempt: Function, shard: Shard, died: Died
) -> Outcome:
    """Score a shard that a worker died with; if a row kills whoever scores it, mark that row and score the others.

    Whoever died may have been killed from outside, so the shard is tried again first, with nothing beside it. Only if it kills
    again, its rows are halved, each half in a process of its own.

    Parameters
    ----------
    executor : Executor
    score : callable
        Scores a shard and writes its part.
    attempt : callable
        Scores a shard and writes nothing.
    shard : Shard
    died : Died
        Of the first time.

    Returns
    -------
    Outcome

    Raises
    ------
    ChildProcessError
        Where workers die whatever they score: then it is no row's fault.
    """
    for _ in range(_ROUNDS):
        ended = _alone(executor, score, shard)
        if isinstance(ended, Outcome):
            return ended
        died = ended
        if all(isinstance(_alone(executor, attempt, shard.rows(0, 0)), Died) for _ in range(2)):
            raise ChildProcessError(
                f"worker processes die before they score a row ({died.reason}): is the memory too small for the model in each of "
                "them? Set fewer workers. What is finished is kept."
            )
        killers = dict(_killers(executor, attempt, shard))
        if not killers:  # not one row, and not by chance: all of them together, or the machine
            continue
        if len(shard.marked) + len(killers) > _MOST_KILLERS:
            raise ChildProcessError(
                f"more than {_MOST_KILLERS} rows from row {shard.first_row} on kill the process that scores them "
                f"({died.reason}): that is hardly the rows' fault. What is finished is kept."
            )
        shard = replace(shard, marked=tuple(sorted({**dict(shard.marked), **killers}.items())))
    raise ChildProcessError(
        f"workers keep dying with the rows {shard.first_row} to {shard.first_row + shard.n_rows - 1} ({died.reason}), and with "
        "no single one of them: is the memory too small? Set fewer workers, or fewer shard_rows. What is finished is kept."
    )


def _alone(
    executor: Executor, function: Callable[[Shard], Outcome], shard: Shard
) -> Outcome | Died:
    ((_, ended),) = list(executor.run(function, [shard]))
    return ended


def _killers(executor: Executor, attempt: Function, shard: Shard) -> Iterator[tuple[int, str]]:
    """Yield the rows, as numbers of the whole table, that kill a process by themselves."""
    suspects = [shard]
    n_found = 0
    while suspects and n_found <= _MOST_KILLERS:
        halves = [half for suspect in suspects for half in _halves(suspect)]
        ended = list(executor.run(attempt, halves))
        suspects = []
        for half, outcome in sorted(ended, key=lambda one: one[0].first_row):
            if isinstance(outcome, Outcome):
                continue
            if half.n_rows > 1:
                suspects.append(half)
            elif isinstance(_alone(executor, attempt, half), Died):  # twice: no chance
                n_found += 1
                yield (
                    half.first_row,
                    "it kills the process that scores it",
                )  # not how: that depends on the executor


def _halves(shard: Shard) -> list[Shard]:
    if shard.n_rows == 1:
        return [shard]
    middle = shard.n_rows // 2
    return [shard.rows(0, middle), shard.rows(middle, shard.n_rows)]


class Run:
    """One run: what is left to do, and what became of it.

    Parameters
    ----------
    source : Source
    folder : RunFolder
        Locked, and taken up with the plan.
    job : Job
    plan : Plan
    progress : Progress
    """

    def __init__(
        self, source: Source, folder: RunFolder, job: Job, plan: Plan, progress: Progress
    ) -> None:
        self._source = source
        self._folder = folder
        self._job = job
        self._plan = plan
        self._progress = progress
        self._hashes: dict[int, str] = {}
        self._n_rows = 0  # of the shards that were read
        self._warned: set[type[Warning]] = set()

    def run(self, executor: Executor, columns: Sequence[str]) -> dict[str, Any]:
        """Score what is not finished.

        Parameters
        ----------
        executor : Executor
            Entered and left here.
        columns : sequence of str
            Of the output.

        Returns
        -------
        dict
            The manifest.
        """
        lost: list[tuple[Shard, Died]] = []
        with executor:
            score, attempt = (
                functools.partial(score_shard, self._job),
                functools.partial(try_shard, self._job),
            )
            for shard, ended in executor.run(score, self._shards()):
                if isinstance(ended, Died):
                    lost.append((shard, ended))
                else:
                    self._scored(shard, ended)
            for shard, died in sorted(lost, key=lambda one: one[0].index):
                self._scored(shard, score_alone(executor, score, attempt, shard, died))
        self._source.check_unchanged()
        hashes = [self._hashes[index] for index in range(len(self._hashes))]
        return self._folder.finish(self._plan, columns, hashes, self._n_rows)

    def _shards(self) -> Iterator[Shard]:
        """Read the source and write its shards for the workers, as they ask for them; finished ones are left out."""
        index = 0
        for rows in self._source.rows(self._plan.shard_rows, mark=self._job.on_bad_row == "null"):
            first_row, n_rows = self._n_rows, rows.table.num_rows
            self._n_rows += n_rows
            if not self._is_finished(index, n_rows):
                yield self._written(index, first_row, rows)
            index += 1
        if not index and not self._is_finished(
            0, 0
        ):  # a table without rows is one part without rows
            yield self._written(0, 0, Rows(self._source.schema.empty_table(), {}))

    def _is_finished(self, index: int, n_rows: int) -> bool:
        stamp = self._folder.stamp(index)
        expected = (index, self._plan.sha256, self._job.sha256, n_rows)
        if stamp is None or (stamp.index, stamp.plan, stamp.artifact, stamp.n_rows) != expected:
            return False
        if (
            stamp.n_bad and self._job.on_bad_row == "error"
        ):  # an earlier run went on, this one is to stop
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
                warnings.warn(message + self._whereabouts(shard), category, stacklevel=5)

    def _whereabouts(self, shard: Shard) -> str:
        if shard.index == 0 and shard.n_rows < self._plan.shard_rows:  # the whole table
            return ""
        last = shard.first_row + shard.n_rows - 1
        return f" (Said of rows {shard.first_row} to {last}; not repeated for others.)"
