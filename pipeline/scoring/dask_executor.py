"""Run shards on a Dask cluster."""

import os
import queue
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import joblib

from pipeline.saved.manifest import installed_versions
from pipeline.scoring.executors import Function
from pipeline.scoring.shard import Died, Outcome, Shard

_LOST, _STOPPED = (
    "its Dask worker was lost: killed, crashed or cut off",
    "its Dask worker was stopped",
)
_LOOK_AROUND = 1.0  # seconds after which to look who is there, when nothing happens
_FETCHING = 30.0  # seconds after which the result of a finished task counts as lost with its worker


class _Task(NamedTuple):
    worker: str
    future: Any
    shard: Shard | None  # None: it is the introduction of the worker


class Tasks:
    """Tasks that are bound to workers, at most one to each."""

    # The binding tells which shard a lost worker had, and keeps Dask from trying that shard on one
    # worker after another, each of which it may kill.
    def __init__(self, client: Any, resources: Mapping[str, float], threads: int) -> None:
        self._client = client
        self._address: str = client.scheduler.address
        self._resources, self._threads = resources, threads
        self._out: dict[str, _Task] = {}
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._known: dict[str, str] = {}  # workers that have said who they are -> their host
        self.free: list[str] = []  # those of them that have no task
        client.subscribe_topic(
            "all", lambda event: self._news.put(event[1]) if isinstance(event[1], dict) else None
        )
        self._meet_workers()

    @property
    def n_shards(self) -> int:
        """Number of shards that are out."""
        return sum(task.shard is not None for task in self._out.values())

    @property
    def has_workers(self) -> bool:
        """Say whether a worker is there, or was asked who it is."""
        return bool(self._known or self._out)

    def submit(self, function: Function, shard: Shard) -> None:
        """Send a shard to a worker that is free."""
        self._send(self.free.pop(), shard, function, shard)

    def next_result(self) -> tuple[Shard, Outcome | Died] | None:
        """Wait for one event, and return the result if it is one."""
        try:
            news = self._news.get(timeout=_LOOK_AROUND)
        except queue.Empty:
            self._check_connection()
            return self._look_around()
        if news.get("action") == "done":
            return self._finished(news["key"])
        if news.get("action") == "remove-worker":
            return self._lost(news["worker"], expected=bool(news.get("expected")))
        if news.get("action") == "add-worker":
            self._meet_workers()
        return None

    def close(self) -> None:
        """Take back what is out."""
        if self._client.status == "running":
            self._client.cancel([task.future for task in self._out.values()], force=True)
            self._client.unsubscribe_topic("all")
        self._out.clear()

    def _meet_workers(self) -> set[str]:
        """Ask workers that are new who they are; return all that are there."""
        busy = {task.worker for task in self._out.values()}
        there = self._client.scheduler_info(n_workers=-1)["workers"]
        for worker, facts in there.items():
            if (
                has_resources(facts, self._resources)
                and worker not in self._known
                and worker not in busy
            ):
                self._send(worker, None, introduce, self._threads)
        return set(there)

    def _look_around(self) -> tuple[Shard, Died] | None:
        """Introduce new workers, and return the shard of a lost one."""
        there = self._meet_workers()
        for worker in {*self._known, *(task.worker for task in self._out.values())} - there:
            lost = self._lost(worker, expected=False)
            if lost is not None:
                return lost
        return None

    def _send(
        self, worker: str, shard: Shard | None, function: Callable[..., Any], *arguments: Any
    ) -> None:
        key = f"{'introduce' if shard is None else 'score'}-{uuid.uuid4().hex}"
        future = self._client.submit(
            function,
            *arguments,
            key=key,
            workers=[worker],
            allow_other_workers=False,
            resources=self._resources or None,
            pure=False,
            retries=0,
        )
        self._out[key] = _Task(worker, future, shard)
        future.add_done_callback(lambda done: self._news.put({"action": "done", "key": done.key}))

    def _finished(self, key: str) -> tuple[Shard, Outcome | Died] | None:
        """Return the result of a task that is done, if it is a shard's."""
        task = self._out.pop(key, None)
        if task is None:
            return None
        try:
            result = task.future.result(timeout=_FETCHING)
        except Exception as error:
            died = self._died(task, error)
            return None if task.shard is None else (task.shard, died)
        if task.shard is None:
            check_versions(task.worker, result)
            self._known[task.worker] = result["host"]
        self.free.append(task.worker)
        return None if task.shard is None else (task.shard, result)

    def _lost(self, worker: str, *, expected: bool) -> tuple[Shard, Died] | None:
        """Forget a worker that has left, and return its shard."""
        self._known.pop(worker, None)
        if worker in self.free:
            self.free.remove(worker)
        key = next((key for key, task in self._out.items() if task.worker == worker), None)
        if key is None:
            return None
        task = self._out.pop(key)
        task.future.cancel(force=True)
        if task.shard is None:
            return None
        return task.shard, Died(_STOPPED if expected else _LOST)

    def _died(self, task: _Task, error: Exception) -> Died:
        """Return the death that an error stands for, or raise it."""
        from distributed import CancelledError, KilledWorker

        if isinstance(error, KilledWorker):
            return Died(_LOST)
        if isinstance(error, CancelledError | TimeoutError) and task.future.status != "error":
            self._check_connection()
            return Died(_LOST)
        if isinstance(error, ModuleNotFoundError):
            raise ImportError(
                f"The Dask worker {task.worker} says: {error}. Every worker needs this package in "
                "the same version, in the "
                "environment it is started in."
            ) from error
        if isinstance(error, FileNotFoundError):
            host = self._known.get(task.worker, "its host")
            raise FileNotFoundError(
                f"{error} So says the Dask worker {task.worker} on {host}: the saved pipeline and "
                "the output must be on storage "
                "that every worker and this process see under the same path."
            ) from error
        raise error

    def _check_connection(self) -> None:
        if self._client.status != "running":
            raise ConnectionError(
                f"The Dask scheduler at {self._address} is lost. What is finished stays; run the "
                "same again, and it goes on from "
                "there."
            )


def has_resources(facts: Mapping[str, Any], resources: Mapping[str, float]) -> bool:
    """Say whether a worker was started with as much of everything."""
    return all(facts["resources"].get(name, 0) >= amount for name, amount in resources.items())


def introduce(threads: int) -> dict[str, str]:
    """Size the tokenizers' threads of a worker, and return host and versions."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # read when the first of them is used
    return {"host": socket.gethostname(), **installed_versions()}


def check_versions(worker: str, there: Mapping[str, str]) -> None:
    """Refuse a worker whose results may differ from ours."""

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
            "depend on it: give driver and "
            "workers the same environment."
        )


_BETWEEN_LOOKS = 0.2  # seconds
# For glibc. Dask's own value gives each freed block back to the system, which then clears it anew
# for the next batch: a tenth of the time.
_KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_MMAP_THRESHOLD_": 1 << 30}  # bytes


class DaskExecutor:
    """Runs shards on the worker processes of a Dask cluster.

    Only shards and the function travel, a few hundred bytes each; workers open the model where they
    run. Every worker process has one shard at a time, whatever its number of threads. Workers may
    join and leave.

    The executor has its own connection to the scheduler; a client that you pass stays as it is.
    When a run ends early, queued shards are cancelled; a shard that a worker is running is finished
    there.

    Parameters
    ----------
    cluster : str or distributed.Client, optional
        The scheduler's address, such as ``"tcp://10.0.0.5:8786"``, or a client that knows it. By
        default a cluster is started on this machine, and stopped at the end.
    workers : int, optional
        Number of processes of a cluster that is started here; one per core by default.
    threads : int, default=1
        Of each worker: for its tokenizers, and for workers that are started here. How many the
        model computes with is set by ``score_table(threads=)``.
    resources : mapping of str to float, optional
        What a worker must have been started with, such as ``{"GPU": 1}`` (``dask worker --resources
        "GPU=1"``); a shard takes as much while it runs. Workers that have less get none.
    wait : float, default=120
        Seconds to wait for a worker if there is none, at the start and whenever all are lost; for
        the scheduler at most 30.

    Raises
    ------
    ImportError
        If distributed is not installed, here or on a worker, or a worker lacks this package.
    OSError
        If the scheduler does not answer, is lost, or no worker comes in time.
    ValueError
        For a number of workers where a cluster exists; by `run`, if a worker has other versions
        than this process: its parts would differ from those of one process.

    Examples
    --------
    >>> from pipeline.scoring.dask_executor import DaskExecutor
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
                "by dask worker, and leave "
                "workers out."
            )
        self.cluster, self.workers, self.wait = cluster, workers, wait
        self.resources = dict(resources or {})
        self.threads = threads
        self._started: Any = None
        self._client: Any = None

    def __enter__(self) -> Self:
        distributed = check_distributed()
        address, security = self.cluster, None
        if self.cluster is None:
            self._started = _start_cluster(
                distributed, self.workers or joblib.cpu_count(), self.threads
            )
            address = self._started.scheduler_address
        elif not isinstance(self.cluster, str):
            address, security = self.cluster.scheduler.address, self.cluster.security
        try:
            self._client = _connect(distributed, address, security, min(self.wait, 30.0))
            print(f"Dask dashboard: {self._client.dashboard_link}", file=sys.stderr)  # noqa: T201
            self._wait_for_a_worker()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        client, cluster = self._client, self._started
        self._client = self._started = None
        try:
            if client is not None:
                client.close()
        finally:
            if cluster is not None:
                cluster.close()

    def run(
        self, function: Function, shards: Iterable[Shard]
    ) -> Iterator[tuple[Shard, Outcome | Died]]:
        """Run a function on every shard; see `pipeline.scoring.executors.Executor.run`."""
        if self._client is None:
            raise RuntimeError("The executor is not open: with DaskExecutor(...) as executor: ...")
        tasks = Tasks(self._client, self.resources, self.threads)
        try:
            yield from self._run(tasks, function, iter(shards))
        finally:
            tasks.close()

    def _run(
        self, tasks: Tasks, function: Function, shards: Iterator[Shard]
    ) -> Iterator[tuple[Shard, Outcome | Died]]:
        more = True
        result = None
        last_seen = time.monotonic()  # when there was a worker
        while True:
            while more and tasks.free:
                shard = next(shards, None)
                if shard is None:
                    more = False
                else:
                    tasks.submit(function, shard)
            if result is not None:  # its worker has the next shard already
                yield result
            if not more and not tasks.n_shards:
                return
            result = tasks.next_result()
            if tasks.has_workers:
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > self.wait:
                raise self._nobody_came()

    def _wait_for_a_worker(self) -> None:
        """Wait for a worker with the resources."""
        end = time.monotonic() + self.wait
        while True:
            there = self._client.scheduler_info(n_workers=-1)["workers"]
            if any(has_resources(facts, self.resources) for facts in there.values()):
                return
            if time.monotonic() > end:
                raise self._nobody_came()
            time.sleep(_BETWEEN_LOOKS)

    def _nobody_came(self) -> TimeoutError:
        address = self._client.scheduler.address
        with_what = f" with the resources {self.resources}" if self.resources else ""
        return TimeoutError(
            f"No worker{with_what} has come to the Dask scheduler at {address} in {self.wait:.0f} "
            "s. Start one: "
            f"dask worker {address} --nthreads 1"
        )


def check_distributed() -> Any:
    """Return the module distributed."""
    try:
        import distributed
    except ImportError as error:
        raise ImportError(
            f"Dask needs distributed: pip install 'bert-vectorizer[dask]' ({error})"
        ) from error
    return distributed


def _start_cluster(distributed: Any, workers: int, threads: int) -> Any:
    import dask

    environment = {**dask.config.get("distributed.nanny.pre-spawn-environ"), **_KEEP_FREED}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        # No memory limit: Dask counts the mapped weights, which workers share, for each of them
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
        )


def _connect(distributed: Any, address: str, security: Any, timeout: float) -> Any:
    try:
        return distributed.Client(address, security=security, set_as_default=False, timeout=timeout)
    except OSError as error:
        raise ConnectionError(
            f"No Dask scheduler answers at {address} ({error}). Start one: dask scheduler"
        ) from error
