"""Run shards in this process or in worker processes."""

import itertools
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, Self

import joblib
from joblib.externals import loky

from pipeline._compat import WorkerDiedError, keep_workers_that_grow
from pipeline.scoring.shard import Died, Outcome, Shard

# picklable: a function of a module, or a functools.partial of one
Function = Callable[[Shard], Outcome]
Results = Iterator[tuple[Shard, Outcome | Died]]


class Executor(Protocol):
    """Runs a function on shards, any number of times.

    The contract, tested in tests/test_executors.py for every executor:

    - Every shard comes back once, with its outcome or with `Died`, in any order.
    - ``shards`` is consumed lazily, with about as many in flight as there are workers.
    - Exceptions raised by ``shards`` or the function go to the caller. They are never a row's
      fault: the function reports those in its outcome.
    - A worker that dies is no exception: its shard alone comes back as `Died`, and another worker
      takes over. A worker that cannot start is an exception.
    - When the generator is closed, or an exception or KeyboardInterrupt passes through it, nothing
      more is started. After the context no process or connection of the executor remains.
    """

    threads: int  # of each worker's thread pools; the function has its own number

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def run(self, function: Function, shards: Iterable[Shard]) -> Results:
        """Run a function on every shard and yield the results."""
        ...


class SerialExecutor:
    """Runs every shard in this process, where a killing row ends the run."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(self, function: Function, shards: Iterable[Shard]) -> Results:
        """Run a function on one shard after another."""
        for shard in shards:
            yield shard, function(shard)


# of OpenMP, the BLAS libraries and the tokenizers, read when they are loaded
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


class _Worker:
    """A pool of one process, which had exactly one shard if it breaks."""

    def __init__(self, threads: int) -> None:
        self._pool = loky.ProcessPoolExecutor(
            max_workers=1,
            env={name: str(threads) for name in _POOLS},
            initializer=_prepare_worker,
            initargs=(os.getpid(),),
        )
        self._started: Future[int] = self._pool.submit(os.getpid)
        self._last: Future[Any] = self._started

    def submit(self, function: Function, shard: Shard) -> Future[Outcome]:
        result: Future[Outcome] = self._pool.submit(_call, function, shard)
        self._last = result
        return result

    def died(self, error: Exception) -> Died:
        """Return the death that broke the pool."""
        code = re.search(r"exit codes of the workers are {(.*)}", str(error))
        reason = f"ended with {code[1] if code else error}"
        if self._started.exception() is not None and "SIGKILL" not in reason:
            raise ChildProcessError(
                f"a worker process could not start: it {reason}; see its own message above."
            ) from error
        return Died(reason)

    def stop(self) -> None:
        # loky's own thread fails over a call that is still queued when the pool is shut down
        while not (self._last.running() or self._last.done()):
            time.sleep(0.001)
        self._pool.shutdown(kill_workers=True)


def _prepare_worker(driver: int) -> None:
    def end_with_driver() -> None:
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_driver, daemon=True).start()
    # a Ctrl-C in the terminal reaches all processes; the driver handles it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # standard output is the driver's
    keep_workers_that_grow()  # loading a model late is not a leak


def _call(function: Function, shard: Shard) -> Outcome:
    """Run a function, making its errors picklable."""
    try:
        return function(shard)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        raise


class ProcessExecutor:
    """Runs shards in worker processes, one at a time in each."""

    def __init__(self, workers: int | None = None, threads: int = 1) -> None:
        self.workers = workers or joblib.cpu_count()
        self.threads = threads
        self._idle: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._idle:
            self._idle.pop().stop()

    def run(self, function: Function, shards: Iterable[Shard]) -> Results:
        """Run a function on every shard."""
        coming = iter(shards)
        busy: dict[Future[Outcome], tuple[_Worker, Shard]] = {}
        result: tuple[Shard, Outcome | Died] | None = None
        try:
            while True:
                while len(busy) < self.workers and (shard := next(coming, None)) is not None:
                    future, worker = self._submit(function, shard)
                    busy[future] = worker, shard
                if result is not None:  # its worker already has the next shard
                    yield result
                if not busy:
                    return
                done = wait(busy, return_when=FIRST_COMPLETED).done.pop()
                worker, shard = busy[done]
                try:
                    result = shard, done.result()
                except WorkerDiedError as error:
                    result = shard, worker.died(error)
                    worker.stop()
                else:
                    self._idle.append(worker)
                del busy[done]
        finally:
            for worker, _ in busy.values():
                worker.stop()

    def _submit(self, function: Function, shard: Shard) -> tuple[Future[Outcome], _Worker]:
        while self._idle:
            worker = self._idle.pop()
            try:
                return worker.submit(function, shard), worker
            except WorkerDiedError:
                worker.stop()
        worker = _Worker(self.threads)
        return worker.submit(function, shard), worker


class BySizeExecutor(ProcessExecutor):
    """Starts processes only for more than one shard."""

    _serial: bool | None = None

    def run(self, function: Function, shards: Iterable[Shard]) -> Results:
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


def choose_executor(
    executor: Any = "serial", workers: int | None = None, *, threads: int | None = None
) -> Executor:
    """Return the executor for a name, address, client or executor."""
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and (type(number) is not int or number < 1):
            raise ValueError(f"{name}={number!r}; allowed are the numbers from 1, or None.")
    threads = threads or 1
    if executor == "serial":
        if workers not in (None, 1):
            raise ValueError(
                f"executor='serial' is one worker, and workers={workers}: set executor='processes'."
            )
        return SerialExecutor(threads)
    if executor == "processes":
        return ProcessExecutor(workers, threads)
    if executor == "auto":
        return BySizeExecutor(workers, threads)
    is_address = isinstance(executor, str) and "://" in executor
    is_client = type(executor).__module__.partition(".")[0] == "distributed"
    if executor == "dask" or is_address or (is_client and hasattr(executor, "scheduler")):
        from pipeline.scoring.dask_executor import DaskExecutor

        cluster = None if executor == "dask" else executor
        return DaskExecutor(cluster, workers=workers, threads=threads)
    if hasattr(executor, "run") and hasattr(executor, "threads"):
        if workers is not None:
            raise ValueError(f"workers={workers}, but the {type(executor).__name__} has its own.")
        chosen: Executor = executor
        return chosen
    raise ValueError(
        f"executor={executor!r}; allowed are 'serial', 'processes', 'auto', 'dask', the address of "
        "a Dask scheduler, such as 'tcp://10.0.0.5:8786', a distributed.Client and a DaskExecutor."
    )
