"""Run shards in this process, in worker processes or on a Dask cluster."""

import contextlib
import itertools
import os
import pickle
import queue
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, Self

import joblib
from joblib.externals import loky

from pipeline._compat import WorkerDiedError, keep_workers_that_grow
from pipeline.saved.manifest import installed_versions
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
        try:
            self._pool = loky.ProcessPoolExecutor(
                max_workers=1,
                env={name: str(threads) for name in _POOLS},
                initializer=_prepare_worker,
                initargs=(os.getpid(),),
            )
            self._started: Future[int] = self._pool.submit(os.getpid)
        except OSError as error:
            raise ChildProcessError(
                f"a worker process could not start: {error} ({sys.executable}). If the limit of "
                "processes or memory is reached, use fewer workers. Finished parts are kept."
            ) from error
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


# no cover: workers end by SIGKILL, which leaves no measurement
def _prepare_worker(driver: int) -> None:  # pragma: no cover
    def end_with_driver() -> None:
        while os.getppid() == driver:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=end_with_driver, daemon=True).start()
    # a Ctrl-C in the terminal reaches all processes; the driver handles it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # standard output is the driver's
    keep_workers_that_grow()  # loading a model late is not a leak


def _call(function: Function, shard: Shard) -> Outcome:  # pragma: no cover - as above
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


_LOST = "its Dask worker was lost: killed, crashed or cut off"  # no address: it enters the output
_LOOK_AROUND = 1.0  # seconds between checks for workers that joined or were lost
_FETCHING = 30.0  # seconds after which the result of a finished task counts as lost
# for glibc: Dask's own value returns every freed block to the system, which costs a tenth of time
_KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_MMAP_THRESHOLD_": 1 << 30}


def introduce(threads: int) -> dict[str, str]:
    """Limit the tokenizer threads of a worker, and return host and versions."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # read at first use
    return {"host": socket.gethostname(), **installed_versions()}


def check_versions(worker: str, there: Mapping[str, str]) -> None:
    """Raise for a worker whose results may differ from ours."""

    def compared(name: str, version: str) -> str:
        return version.rpartition(".")[0] if name == "python" else version

    differing = [
        f"{name} {there.get(name)} there and {version} here"
        for name, version in installed_versions().items()
        if name != "joblib" and compared(name, there.get(name, "")) != compared(name, version)
    ]
    if differing:
        raise ValueError(
            f"The Dask worker {worker} on {there['host']} has {', '.join(differing)}. Results "
            "depend on it: use the same environment for driver and workers."
        )


class DaskExecutor:
    """Runs shards on the worker processes of a Dask cluster.

    Workers open the model themselves, have one shard at a time, and may join and leave. When a run
    ends early, running shards finish on their workers. A client that you pass is not changed.

    Parameters
    ----------
    cluster : str or distributed.Client, optional
        The scheduler's address, such as ``"tcp://10.0.0.5:8786"``, or a client that knows it.
        Default: start a cluster on this machine, and stop it at the end.
    workers : int, optional
        Processes of a cluster that is started here; one per core by default.
    threads : int, default=1
        Threads of tokenizers, and of workers that are started here. Those of the model are
        ``score_table(threads=)``.
    resources : mapping of str to float, optional
        Resources that a shard takes, such as ``{"GPU": 1}``. Workers that were started with less
        (``dask worker --resources "GPU=1"``) get none.
    wait : float, default=120
        Seconds to wait for a worker, at the start and when all are lost; for the scheduler at most
        30.

    Raises
    ------
    ImportError
        If distributed is not installed, or a worker lacks it or this package.
    OSError
        If the scheduler does not answer, is lost, or no worker comes in time.
    ValueError
        For a number of workers with an existing cluster, or a worker with other versions than this
        process.

    Examples
    --------
    >>> from pipeline.scoring.executors import DaskExecutor
    >>> executor = DaskExecutor("tcp://10.0.0.5:8786", resources={"GPU": 1})  # connects on entry
    """

    def __init__(
        self,
        cluster: Any = None,
        *,
        workers: int | None = None,
        threads: int = 1,
        resources: Mapping[str, float] | None = None,
        wait: float = 120.0,
    ) -> None:
        if cluster is not None and workers is not None:
            raise ValueError(
                f"workers={workers}, but the Dask cluster has its own: start as many as you want "
                "with dask worker, and leave workers out."
            )
        self.cluster, self.workers, self.wait = cluster, workers, wait
        self.resources = dict(resources or {})
        self.threads = threads
        self._started = contextlib.ExitStack()
        self._client: Any = None
        self._last_seen = 0.0
        self._hosts: dict[str, str] = {}
        self._busy: dict[str, tuple[Any, Shard | None]] = {}  # tasks; None: an introduction
        self._done: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        try:
            import distributed
        except ImportError as error:
            raise ImportError(
                "Dask needs distributed: pip install '.[dask]' in a checkout, or pip install "
                f"distributed ({error})"
            ) from error
        with contextlib.ExitStack() as started:
            address, security = self.cluster, None
            if self.cluster is None:
                workers = self.workers or joblib.cpu_count()
                cluster = started.enter_context(_start_cluster(workers, self.threads))
                address = cluster.scheduler_address
            elif not isinstance(self.cluster, str):
                address, security = self.cluster.scheduler.address, self.cluster.security
            try:
                self._client = distributed.Client(
                    address, security=security, set_as_default=False, timeout=min(self.wait, 30.0)
                )
            except OSError as error:
                raise ConnectionError(
                    f"No Dask scheduler answers at {address} ({error}). Start one: dask scheduler"
                ) from error
            started.callback(self._client.close)
            print(f"Dask dashboard: {self._client.dashboard_link}", file=sys.stderr)  # noqa: T201
            self._last_seen = time.monotonic()
            while not self._present():
                time.sleep(0.2)
            self._started = started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._client = None
        self._started.close()

    def run(self, function: Function, shards: Iterable[Shard]) -> Results:
        """Run a function on every shard."""
        if self._client is None:
            raise RuntimeError("The executor is not open: with DaskExecutor(...) as executor: ...")
        from distributed.comm import CommClosedError

        coming, more = iter(shards), True
        present: list[str] = []
        results: list[tuple[Shard, Outcome | Died]] = []
        looked, self._last_seen = float("-inf"), time.monotonic()
        try:
            while True:
                if time.monotonic() - looked > _LOOK_AROUND:
                    present, looked = self._present(), time.monotonic()
                    results += self._lost(present)
                more = more and self._hand_out(present, function, coming)
                yield from results  # their workers already have the next shards
                if not more and all(shard is None for _, shard in self._busy.values()):
                    return
                results = self._finished()
        except CommClosedError as error:
            raise self._scheduler_lost() from error
        finally:
            if self._client.status == "running":
                with contextlib.suppress(CommClosedError):
                    self._client.cancel([future for future, _ in self._busy.values()], force=True)
            self._busy.clear()

    def _present(self) -> list[str]:
        """Return the workers with the resources, or raise after ``wait``."""
        address = self._client.scheduler.address
        try:
            if self._client.status != "running":
                raise OSError("the connection is closed")
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
        except OSError as error:
            raise self._scheduler_lost() from error
        wanted = self.resources.items()
        present = [
            worker
            for worker, facts in workers.items()
            if all(facts["resources"].get(name, 0) >= amount for name, amount in wanted)
        ]
        if present:
            self._last_seen = time.monotonic()
        elif time.monotonic() - self._last_seen > self.wait:
            with_resources = f" with the resources {self.resources}" if self.resources else ""
            raise TimeoutError(
                f"No worker{with_resources} joined the Dask scheduler at {address} within "
                f"{self.wait:.0f} s. Start one: dask worker {address} --nthreads 1"
            )
        return present

    def _scheduler_lost(self) -> ConnectionError:
        return ConnectionError(
            f"The Dask scheduler at {self._client.scheduler.address} is lost. Finished parts are "
            "kept; run the same call again to resume."
        )

    def _lost(self, present: list[str]) -> Iterator[tuple[Shard, Died]]:
        for worker in set(self._busy).difference(present):
            future, shard = self._busy.pop(worker)
            future.cancel(force=True)
            if shard is not None:
                yield shard, Died(_LOST)

    def _hand_out(self, present: list[str], function: Function, shards: Iterator[Shard]) -> bool:
        """Give free workers a shard, and return whether more may follow."""
        for worker in present:
            if worker in self._busy:
                continue
            if worker not in self._hosts:
                self._submit(worker, None, introduce, self.threads)
            elif (shard := next(shards, None)) is not None:
                self._submit(worker, shard, function, shard)
            else:
                return False
        return True

    def _submit(self, worker: str, shard: Shard | None, function: Any, argument: Any) -> None:
        # bound to a worker, as Dask would try a deadly shard on one worker after another
        future = self._client.submit(
            function,
            argument,
            key=f"score-{uuid.uuid4().hex}",
            workers=[worker],
            allow_other_workers=False,
            resources=self.resources or None,
            pure=False,
            retries=0,
        )
        self._busy[worker] = future, shard
        future.add_done_callback(lambda done: self._done.put((worker, done.key)))

    def _finished(self) -> list[tuple[Shard, Outcome | Died]]:
        """Wait for a task, and return its result if for a shard."""
        try:
            worker, key = self._done.get(timeout=_LOOK_AROUND)
        except queue.Empty:
            return []
        if worker not in self._busy or self._busy[worker][0].key != key:  # from an earlier run
            return []
        future, shard = self._busy.pop(worker)
        result = self._result(worker, future)
        if shard is not None:
            return [(shard, result)]
        if not isinstance(result, Died):
            check_versions(worker, result)
            self._hosts[worker] = result["host"]
        return []

    def _result(self, worker: str, future: Any) -> Any:
        from distributed import CancelledError, KilledWorker

        try:
            return future.result(timeout=_FETCHING)
        except KilledWorker:
            return Died(_LOST)
        except (CancelledError, TimeoutError):
            if future.status == "error":
                raise
            self._present()  # raises if the scheduler is lost
            return Died(_LOST)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"The Dask worker {worker} says: {error}. Install this package in the same version "
                "in the environment of every worker."
            ) from error
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error} (Reported by the Dask worker {worker} on "
                f"{self._hosts.get(worker, 'its host')}.) The saved pipeline and the output must "
                "be on storage that every worker and this process see under the same path."
            ) from error


def _start_cluster(workers: int, threads: int) -> Any:
    import dask
    import distributed

    environment = {**dask.config.get("distributed.nanny.pre-spawn-environ"), **_KEEP_FREED}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        # no memory limit: Dask counts the shared mapped weights for each worker
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
        )


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
