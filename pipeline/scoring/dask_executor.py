"""Shards on a Dask cluster: one at a time per worker process, a lost worker noticed at once. Used by choose_executor."""

import queue
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pipeline.saved.versions import installed_versions
from pipeline.scoring.executors import Function
from pipeline.scoring.shard import Died, Outcome, Shard

_LOOK_AROUND = 1.0  # seconds after which to look whether the scheduler is still there, when nothing happens
_FETCHING = 30.0  # seconds after which the result of a finished task counts as lost with its worker


class DaskExecutor:
    """Runs shards on the worker processes of a Dask cluster.

    Only shards and the function travel, a few hundred bytes each; the function opens the model where it runs. Every worker
    process has one shard at a time, whatever its number of threads. Workers may come and go.

    It has a connection of its own to the scheduler, so a client that you gave is as it was afterwards. When a run ends early,
    what is still queued is taken back; a shard that a worker is at work on is finished there.

    Parameters
    ----------
    cluster : str or distributed.Client, optional
        The scheduler's address, such as ``"tcp://10.0.0.5:8786"``, or a client that knows it. By default a cluster is started on
        this machine, and stopped at the end.
    workers : int, optional
        Number of processes of a cluster that is started here; one per core by default.
    resources : mapping of str to float, optional
        What a worker must have been started with, such as ``{"GPU": 1}`` (``dask worker --resources "GPU=1"``); a shard takes as
        much while it runs. Workers that have less get none.
    wait : float, default=120
        Seconds to wait for a worker where there is none, at the start and whenever all are lost; for the scheduler at most 30.

    Raises
    ------
    ImportError
        Where distributed is not installed, here or (by `run`) on a worker, or this package is not on a worker.
    OSError
        Where the scheduler does not answer, is lost, or no worker comes in time.
    ValueError
        By `run`, where a worker has other versions than this process: its parts would not be those of one process.

    Examples
    --------
    >>> from pipeline.scoring.dask_executor import DaskExecutor
    >>> executor = DaskExecutor("tcp://10.0.0.5:8786", resources={"GPU": 1})  # connects when it is entered
    """

    def __init__(
        self,
        cluster: Any = None,
        *,
        workers: int | None = None,
        resources: Mapping[str, float] | None = None,
        wait: float = 120.0,
    ) -> None:
        self.cluster, self.workers, self.wait = cluster, workers, wait
        self.resources = dict(resources or {})
        self._started: Any = None
        self._client: Any = None

    def __enter__(self) -> Self:
        distributed = check_distributed()
        address, security = self.cluster, None
        if self.cluster is None:
            self._started = _start_cluster(distributed, self.workers)
            address = self._started.scheduler_address
        elif not isinstance(self.cluster, str):
            address, security = self.cluster.scheduler.address, self.cluster.security
        try:
            self._client = distributed.Client(address, security=security, set_as_default=False, timeout=min(self.wait, 30.0))
        except OSError as error:
            raise ConnectionError(f"No Dask scheduler answers at {address} ({error}). Start one: dask scheduler") from error
        print(f"Dask dashboard: {self._client.dashboard_link}", file=sys.stderr)  # noqa: T201
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        client, cluster = self._client, self._started
        self._client = self._started = None
        try:
            if client is not None:
                client.close()
        finally:
            if cluster is not None:
                cluster.close()

    def run(self, function: Function, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Outcome | Died]]:
        """Run a function on every shard; see `Executor.run`."""
        if self._client is None:
            raise RuntimeError("The executor is not open: with DaskExecutor(...) as executor: ...")
        tasks = _Tasks(self._client, self._client.scheduler.address, self.resources)
        try:
            yield from _run(tasks, function, iter(shards), self.wait)
        finally:
            tasks.close()


def check_distributed() -> Any:
    """Return the module distributed.

    Raises
    ------
    ImportError
        Where it is not installed, with the command that installs it.
    """
    try:
        import distributed
    except ImportError as error:
        raise ImportError(f"Dask needs distributed: pip install 'bert-vectorizer[dask]' ({error})") from error
    return distributed


def _start_cluster(distributed: Any, workers: int | None) -> Any:
    # No memory limit: a worker above Dask's would be paused or killed for what it shares with the others, the mapped weights.
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,
    )


def _introduce() -> dict[str, str]:
    """Run on a worker before its first shard: who it is."""
    return {"host": socket.gethostname(), **installed_versions()}


@dataclass
class _Task:
    worker: str
    future: Any
    shard: Shard | None  # None: it is the introduction of the worker


@dataclass
class _Tasks:
    """The tasks that are out, at most one per worker, and what became of them.

    Every task is bound to a worker. That tells, when a worker is lost, which shard was in it, and keeps Dask from trying that
    shard on one worker after another, each of which it would kill.
    """

    client: Any
    address: str
    resources: Mapping[str, float]
    out: dict[str, _Task] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)  # worker that was introduced -> its host
    free: list[str] = field(default_factory=list)  # those of them that have no task
    news: "queue.SimpleQueue[dict[str, Any]]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.client.subscribe_topic("all", lambda event: self.news.put(event[1]) if isinstance(event[1], dict) else None)
        self.meet_workers()

    def look_around(self) -> tuple[Shard, Died] | None:
        """Compare the workers with those that are there; tell the shard of one that left unnoticed, if any."""
        there = self.meet_workers()
        for worker in {*self.known, *(task.worker for task in self.out.values())} - there:
            lost = self.lose(worker, expected=False)
            if lost is not None:
                return lost
        return None

    def meet_workers(self) -> set[str]:
        """Ask workers that are new who they are; return all that are there."""
        busy = {task.worker for task in self.out.values()}
        there = self.client.scheduler_info(n_workers=-1)["workers"]
        for worker, facts in there.items():
            has = all(facts["resources"].get(name, 0) >= amount for name, amount in self.resources.items())
            if has and worker not in self.known and worker not in busy:
                self._send(worker, None, _introduce)
        return set(there)

    def submit(self, function: Function, shard: Shard) -> None:
        """Send a shard to a worker that is free."""
        self._send(self.free.pop(), shard, function, shard)

    def _send(self, worker: str, shard: Shard | None, function: Callable[..., Any], *arguments: Any) -> None:
        key = f"{'introduce' if shard is None else 'score'}-{uuid.uuid4().hex}"
        future = self.client.submit(
            function, *arguments, key=key, workers=[worker], allow_other_workers=False, resources=self.resources or None,
            pure=False, retries=0,
        )  # fmt: skip
        self.out[key] = _Task(worker, future, shard)
        future.add_done_callback(lambda done: self.news.put({"action": "done", "key": done.key}))

    def finish(self, key: str) -> tuple[Shard, Outcome | Died] | None:
        """Take the result of a task that is done; None for an introduction, and for what was told already."""
        task = self.out.pop(key, None)
        if task is None:
            return None
        try:
            result = task.future.result(timeout=_FETCHING)
        except Exception as error:
            died = self._died(task, error)
            return None if task.shard is None else (task.shard, died)
        if task.shard is None:
            self._check_versions(task.worker, result)
            self.known[task.worker] = result["host"]
        self.free.append(task.worker)
        return None if task.shard is None else (task.shard, result)

    def lose(self, worker: str, expected: bool) -> tuple[Shard, Died] | None:
        """Forget a worker that has left, and tell which shard it had."""
        self.known.pop(worker, None)
        if worker in self.free:
            self.free.remove(worker)
        key = next((key for key, task in self.out.items() if task.worker == worker), None)
        if key is None:
            return None
        task = self.out.pop(key)
        task.future.cancel(force=True)
        if task.shard is None:
            return None
        how = "was stopped" if expected else "was lost: killed, crashed or cut off"
        return task.shard, Died(f"the Dask worker {worker} {how}")

    def _died(self, task: _Task, error: Exception) -> Died:
        """Return the death that an error is; raise it where it is none."""
        from distributed import CancelledError, KilledWorker

        host = self.known.get(task.worker, "unknown host")
        if isinstance(error, KilledWorker):
            return Died(f"the Dask worker {task.worker} was lost while it ran")
        if isinstance(error, CancelledError | TimeoutError) and task.future.status != "error":
            self.check_connection()
            return Died(f"the Dask worker {task.worker} was lost with its result")
        if isinstance(error, ModuleNotFoundError):
            raise ImportError(
                f"The Dask worker {task.worker} says: {error}. Every worker needs this package in the same version, in the "
                "environment it is started in."
            ) from error
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(
                f"{error} So says the Dask worker {task.worker} on {host}: the saved pipeline, the data and the output must be "
                "on storage that every worker and this process see under the same path."
            ) from error
        raise error

    def _check_versions(self, worker: str, there: Mapping[str, str]) -> None:
        here = installed_versions()
        differing = [
            f"{name} {there.get(name)} there and {version} here"
            for name, version in here.items()
            if name != "joblib" and _compared(name, there.get(name, "")) != _compared(name, version)
        ]
        if differing:
            raise ValueError(
                f"The Dask worker {worker} on {there['host']} has {', '.join(differing)}. Results depend on it: give driver and "
                "workers the same environment."
            )

    def check_connection(self) -> None:
        """Raise ConnectionError where the scheduler is gone."""
        if self.client.status != "running":
            raise ConnectionError(
                f"The Dask scheduler at {self.address} is lost. What is finished stays; run the same again, and it goes on from "
                "there."
            )

    def close(self) -> None:
        """Take back what is out."""
        if self.client.status == "running":
            self.client.cancel([task.future for task in self.out.values()], force=True)
            self.client.unsubscribe_topic("all")
        self.out.clear()


def _compared(name: str, version: str) -> str:
    return version.rpartition(".")[0] if name == "python" else version


def _run(tasks: _Tasks, function: Function, shards: Iterator[Shard], wait: float) -> Iterator[tuple[Shard, Outcome | Died]]:
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
        if not more and all(task.shard is None for task in tasks.out.values()):
            return
        result = _next_result(tasks)
        if tasks.known:
            last_seen = time.monotonic()
        elif time.monotonic() - last_seen > wait:
            with_what = f" with the resources {dict(tasks.resources)}" if tasks.resources else ""
            raise TimeoutError(
                f"No worker{with_what} has come to the Dask scheduler at {tasks.address} in {wait:.0f} s. Start one: "
                f"dask worker {tasks.address} --nthreads 1"
            )


def _next_result(tasks: _Tasks) -> tuple[Shard, Outcome | Died] | None:
    """Wait for one piece of news; return the result where it is one."""
    try:
        news = tasks.news.get(timeout=_LOOK_AROUND)
    except queue.Empty:
        tasks.check_connection()
        return tasks.look_around()
    if news.get("action") == "done":
        return tasks.finish(news["key"])
    if news.get("action") == "remove-worker":
        return tasks.lose(news["worker"], bool(news.get("expected")))
    if news.get("action") == "add-worker":
        tasks.meet_workers()
    return None
