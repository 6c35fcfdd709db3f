"""The driver of a run: it hands shards to an executor, knows what became of them, and finishes. Used by table."""

import functools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.files import sha256_of
from pipeline.scoring.executors import Executor
from pipeline.scoring.isolate import score_alone
from pipeline.scoring.plan import Plan
from pipeline.scoring.progress import Progress
from pipeline.scoring.run_folder import RunFolder
from pipeline.scoring.score_shard import Job, score_shard, try_shard
from pipeline.scoring.shard import Died, Outcome, Shard
from pipeline.scoring.source import Rows, Source


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

    def __init__(self, source: Source, folder: RunFolder, job: Job, plan: Plan, progress: Progress) -> None:
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
            score, attempt = functools.partial(score_shard, self._job), functools.partial(try_shard, self._job)
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
        if not index and not self._is_finished(0, 0):  # a table without rows is one part without rows
            yield self._written(0, 0, Rows(self._source.schema.empty_table(), {}))

    def _is_finished(self, index: int, n_rows: int) -> bool:
        stamp = self._folder.stamp(index)
        expected = (index, self._plan.sha256, self._job.sha256, n_rows)
        if stamp is None or (stamp.index, stamp.plan, stamp.artifact, stamp.n_rows) != expected:
            return False
        if stamp.n_bad and self._job.on_bad_row == "error":  # an earlier run went on, this one is to stop
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
