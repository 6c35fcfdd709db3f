"""Run shards in this process or in worker processes."""

import contextlib
import itertools
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, cast

import joblib

from pipeline.scoring.shard import Died, Outcome, Shard
from pipeline.scoring.worker import receive, send

Function = Callable[[Shard], Outcome]
"""A picklable function of a module, or a functools.partial of one."""


class Executor(Protocol):
    """Runs a function on shards, somewhere. A context manager; `run` may be called repeatedly.

    The contract, which tests/test_executors.py checks for every executor:

    - Every shard comes back once, with its outcome or with `Died`, in any order.
    - ``shards`` is consumed lazily: about as many are in flight as there are workers. The iterator
      may take time and may raise; its exceptions go to the caller.
    - An exception raised by the function goes to the caller unchanged. It is never the fault of a
      row: the function reports those in its outcome.
    - The death of a worker process is never an exception: its shard comes back as `Died`, no other
      shard is affected, and another worker takes over. The caller decides whether to retry.
    - A worker that cannot even start is an exception.
    - When the generator is closed, or an exception or KeyboardInterrupt passes through it, nothing
      more is started. After the context no process or connection of the executor remains.

    Attributes
    ----------
    threads : int
        Size of each worker's thread pools. The function has its own number of threads.
    """

    threads: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def run(
        self, function: Function, shards: Iterable[Shard]
    ) -> Iterator[tuple[Shard, Outcome | Died]]:
        """Run a picklable function on every shard and yield the results."""
        ...


class SerialExecutor:
    """Runs every shard in this process, in order. A row that kills, kills the driver."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(
        self, function: Function, shards: Iterable[Shard]
    ) -> Iterator[tuple[Shard, Outcome | Died]]:
        """Run a function on one shard after another."""
        for shard in shards:
            yield shard, function(shard)


_PATIENCE = 5.0  # seconds for a worker to end by itself
_START = "import sys; sys.path[:] = sys.argv[1:]; from pipeline.scoring.worker import main; main()"
# what sizes the thread pools of OpenMP, the BLAS libraries and the tokenizers when they are loaded
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


class _Worker:
    """A process, its pipes, and the shard that it has."""

    def __init__(self, threads: int, events: "queue.Queue[tuple[_Worker, bytes | None]]") -> None:
        # no multiprocessing: its children run the user's script again, unless it has a guard
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **{name: str(threads) for name in _POOLS}},
        )
        self.shard: Shard | None = None
        self.ready = False
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    def _read(self, events: "queue.Queue[tuple[_Worker, bytes | None]]") -> None:
        content: bytes | None = b""
        while content is not None:
            content = receive(cast(Any, self.process.stdout))
            events.put((self, content))

    def give(self, function: Function, shard: Shard) -> None:
        self.shard = shard
        with contextlib.suppress(OSError):  # it is dead: its reader tells
            send(cast(Any, self.process.stdin), (function, shard))

    def end(self, *, at_once: bool) -> None:
        if at_once:
            self.process.kill()
        with contextlib.suppress(OSError):
            cast(Any, self.process.stdin).close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        cast(Any, self.process.stdout).close()

    def last_words(self) -> str:
        code = self.process.wait()
        return f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


class ProcessExecutor:
    """Runs shards in worker processes, one at a time in each."""

    def __init__(self, workers: int | None = None, threads: int = 1) -> None:
        self.workers = workers or joblib.cpu_count()
        self.threads = threads
        self._events: queue.Queue[tuple[_Worker, bytes | None]] = queue.Queue()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._workers:
            self._workers.pop().end(at_once=False)

    def run(
        self, function: Function, shards: Iterable[Shard]
    ) -> Iterator[tuple[Shard, Outcome | Died]]:
        """Run a function on every shard; see `Executor.run`."""
        coming = iter(shards)
        ended: tuple[Shard, Outcome | Died] | None = None
        try:
            while True:
                more = self._hand_out(function, coming)
                if ended is not None:  # its worker has the next shard already
                    yield ended
                    ended = None
                if not more and not any(worker.shard for worker in self._workers):
                    return
                worker, content = self._events.get()
                if worker not in self._workers:  # of an earlier run
                    continue
                shard, worker.shard = worker.shard, None
                if content is None:
                    died = self._bury(worker)
                    ended = None if shard is None else (shard, died)
                    continue
                kind, answer = pickle.loads(content)
                if kind == "ready":
                    worker.ready, worker.shard = True, shard
                elif kind == "raised":
                    raise answer
                else:
                    ended = cast(Shard, shard), answer
        finally:
            for worker in [worker for worker in self._workers if worker.shard]:
                self._workers.remove(worker)
                worker.end(at_once=True)

    def _hand_out(self, function: Function, shards: Iterator[Shard]) -> bool:
        """Give every worker a shard; say whether there may be more."""
        while True:
            idle = next((worker for worker in self._workers if worker.shard is None), None)
            if idle is None and len(self._workers) >= self.workers:
                return True
            shard = next(shards, None)
            if shard is None:
                return False
            if idle is None:
                idle = _Worker(self.threads, self._events)
                self._workers.append(idle)
            idle.give(function, shard)

    def _bury(self, worker: _Worker) -> Died:
        self._workers.remove(worker)
        told = worker.last_words()
        worker.end(at_once=True)
        if not worker.ready and not told.startswith("killed"):
            raise ChildProcessError(
                f"a worker process could not start: it {told}; what it said of it stands above."
            )
        return Died(told)


class BySizeExecutor(ProcessExecutor):
    """Starts worker processes only for more than one shard: a start takes seconds."""

    _serial: bool | None = None  # decided by the first run

    def run(
        self, function: Function, shards: Iterable[Shard]
    ) -> Iterator[tuple[Shard, Outcome | Died]]:
        """Run a function on every shard."""
        if self._serial is None:
            shards = iter(shards)
            first = list(itertools.islice(shards, 2 if self.workers > 1 else 0))
            self._serial = len(first) < 2
            shards = itertools.chain(first, shards)
        if self._serial:
            yield from SerialExecutor(self.threads).run(function, shards)
        else:
            yield from super().run(function, shards)
