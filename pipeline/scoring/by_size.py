"""A table of one shard is scored in this process, a longer one by worker processes. Used by choose_executor."""

import itertools
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from pipeline.scoring.executors import Executor, Function, SerialExecutor
from pipeline.scoring.processes import ProcessExecutor
from pipeline.scoring.shard import Died, Outcome, Shard


class BySizeExecutor:
    """Starts worker processes only where there is more than one shard: a process takes seconds to start, and a shard hardly more.

    Parameters
    ----------
    workers : int, optional
        Number of processes; one per core by default.
    threads : int, default=1
        Of each, and of this process.
    """

    def __init__(self, workers: int | None = None, threads: int = 1) -> None:
        self.threads = threads
        self._processes = ProcessExecutor(workers, threads)
        self._serial = SerialExecutor(threads)
        self._chosen: Executor | None = None if self._processes.workers > 1 else self._serial

    def __enter__(self) -> Self:
        self._processes.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._processes.__exit__(kind, error, traceback)

    def run(self, function: Function, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Outcome | Died]]:
        """Run a function on every shard; see `Executor.run`. What the first run chose, later ones have."""
        coming = iter(shards)
        if self._chosen is None:
            first = list(itertools.islice(coming, 2))
            self._chosen = self._processes if len(first) > 1 else self._serial
            coming = itertools.chain(first, coming)
        yield from self._chosen.run(function, coming)
