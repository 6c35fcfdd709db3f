"""The tasks that are out on a Dask cluster, one per worker, and what became of them. Used by dask_executor."""

import os
import queue
import socket
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pipeline.saved.versions import installed_versions
from pipeline.scoring.executors import Function
from pipeline.scoring.shard import Died, Outcome, Shard

# They may come to stand in the output, so no address is in them: the same table gives the same bytes.
_LOST, _STOPPED = "its Dask worker was lost: killed, crashed or cut off", "its Dask worker was stopped"
_LOOK_AROUND = 1.0  # seconds after which to look who is there, when nothing happens
_FETCHING = 30.0  # seconds after which the result of a finished task counts as lost with its worker


class _Task(NamedTuple):
    worker: str
    future: Any
    shard: Shard | None  # None: it is the introduction of the worker


class Tasks:
    """Tasks that are bound to workers, at most one to each.

    The binding tells which shard was in a worker that is lost, and keeps Dask from trying that shard on one worker after another,
    each of which it may kill. Who comes and leaves is heard from the scheduler at once, by its own events.

    Parameters
    ----------
    client : distributed.Client
        Its subscription of the topic "all" is taken.
    resources : mapping of str to float
        That a task takes.
    threads : int
        Of each worker.
    """

    def __init__(self, client: Any, resources: Mapping[str, float], threads: int) -> None:
        self._client = client
        self._address: str = client.scheduler.address
        self._resources, self._threads = resources, threads
        self._out: dict[str, _Task] = {}
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._known: dict[str, str] = {}  # workers that have said who they are -> their host
        self.free: list[str] = []  # those of them that have no task
        client.subscribe_topic("all", lambda event: self._news.put(event[1]) if isinstance(event[1], dict) else None)
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
        """Wait for one piece of news; return the result where it is one.

        Raises
        ------
        Exception
            What the function has raised.
        ConnectionError
            Where the scheduler is lost.
        ImportError, ValueError
            Where a worker has not what it needs, or has other versions.
        """
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
            if has_resources(facts, self._resources) and worker not in self._known and worker not in busy:
                self._send(worker, None, introduce, self._threads)
        return set(there)

    def _look_around(self) -> tuple[Shard, Died] | None:
        """Meet new workers; tell the shard of one that left unheard, if any."""
        there = self._meet_workers()
        for worker in {*self._known, *(task.worker for task in self._out.values())} - there:
            lost = self._lost(worker, expected=False)
            if lost is not None:
                return lost
        return None

    def _send(self, worker: str, shard: Shard | None, function: Callable[..., Any], *arguments: Any) -> None:
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
        """Take the result of a task that is done; None for an introduction, and for what was told already."""
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
        """Forget a worker that has left, and tell which shard it had."""
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
        """Return the death that an error is; raise it where it is none."""
        from distributed import CancelledError, KilledWorker

        if isinstance(error, KilledWorker):
            return Died(_LOST)
        if isinstance(error, CancelledError | TimeoutError) and task.future.status != "error":
            self._check_connection()
            return Died(_LOST)
        if isinstance(error, ModuleNotFoundError):
            raise ImportError(
                f"The Dask worker {task.worker} says: {error}. Every worker needs this package in the same version, in the "
                "environment it is started in."
            ) from error
        if isinstance(error, FileNotFoundError):
            host = self._known.get(task.worker, "its host")
            raise FileNotFoundError(
                f"{error} So says the Dask worker {task.worker} on {host}: the saved pipeline and the output must be on storage "
                "that every worker and this process see under the same path."
            ) from error
        raise error

    def _check_connection(self) -> None:
        if self._client.status != "running":
            raise ConnectionError(
                f"The Dask scheduler at {self._address} is lost. What is finished stays; run the same again, and it goes on from "
                "there."
            )


def has_resources(facts: Mapping[str, Any], resources: Mapping[str, float]) -> bool:
    """Say whether a worker, of which the scheduler knows this, was started with as much of everything."""
    return all(facts["resources"].get(name, 0) >= amount for name, amount in resources.items())


def introduce(threads: int) -> dict[str, str]:
    """Run on a worker before its first shard: set what its tokenizers take, and say who it is."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))  # read when the first of them is used
    return {"host": socket.gethostname(), **installed_versions()}


def check_versions(worker: str, there: Mapping[str, str]) -> None:
    """Refuse a worker whose results may differ from ours.

    Parameters
    ----------
    worker : str
        Its address.
    there : mapping of str to str
        From `introduce`.

    Raises
    ------
    ValueError
        With every version that differs. Of Python the first two numbers count; joblib counts nothing.
    """

    def compared(name: str, version: str) -> str:
        return version.rpartition(".")[0] if name == "python" else version

    differing = [
        f"{name} {there.get(name)} there and {version} here"
        for name, version in installed_versions().items()
        if name != "joblib" and compared(name, there.get(name, "")) != compared(name, version)
    ]
    if differing:
        raise ValueError(
            f"The Dask worker {worker} on {there['host']} has {', '.join(differing)}. Results depend on it: give driver and "
            "workers the same environment."
        )
