"""Shards on a Dask cluster, which is there already or is started here. Used by choose_executor."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import joblib

from pipeline.scoring.dask_tasks import Tasks, has_resources
from pipeline.scoring.executors import Function
from pipeline.scoring.shard import Died, Outcome, Shard

_BETWEEN_LOOKS = 0.2  # seconds
# For glibc. Dask's own value gives each freed block back to the system, which then clears it anew for the next batch: a tenth
# of the time. What is set in the environment already stays.
_KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_MMAP_THRESHOLD_": 1 << 30}  # bytes


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
    threads : int, default=1
        Of each worker: what its tokenizers take, and what workers that are started here have. How many the model computes with is
        told by ``score_table(threads=)``.
    resources : mapping of str to float, optional
        What a worker must have been started with, such as ``{"GPU": 1}`` (``dask worker --resources "GPU=1"``); a shard takes as
        much while it runs. Workers that have less get none.
    wait : float, default=120
        Seconds to wait for a worker where there is none, at the start and whenever all are lost; for the scheduler at most 30.

    Raises
    ------
    ImportError
        Where distributed is not installed, here or on a worker, or this package is not on a worker.
    OSError
        Where the scheduler does not answer, is lost, or no worker comes in time.
    ValueError
        For a number of workers where there are some already; by `run`, where a worker has other versions than this process: its
        parts would not be those of one process.

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
        threads: int = 1,
        resources: Mapping[str, float] | None = None,
        wait: float = 120.0,
    ) -> None:
        if cluster is not None and workers is not None:
            raise ValueError(
                f"workers={workers}, but the Dask cluster has its own: start as many as you want by dask worker, and leave "
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
            self._started = _start_cluster(distributed, self.workers or joblib.cpu_count(), self.threads)
            address = self._started.scheduler_address
        elif not isinstance(self.cluster, str):
            address, security = self.cluster.scheduler.address, self.cluster.security
        try:
            self._client = _connect(distributed, address, security, min(self.wait, 30.0))
            print(f"Dask dashboard: {self._client.dashboard_link}", file=sys.stderr)  # noqa: T201
            self._wait_for_a_worker()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
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
        """Run a function on every shard; see `pipeline.scoring.executors.Executor.run`."""
        if self._client is None:
            raise RuntimeError("The executor is not open: with DaskExecutor(...) as executor: ...")
        tasks = Tasks(self._client, self.resources, self.threads)
        try:
            yield from self._run(tasks, function, iter(shards))
        finally:
            tasks.close()

    def _run(self, tasks: Tasks, function: Function, shards: Iterator[Shard]) -> Iterator[tuple[Shard, Outcome | Died]]:
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
        """Wait for a worker with the resources, so that an address without any is told before anything is read."""
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
            f"No worker{with_what} has come to the Dask scheduler at {address} in {self.wait:.0f} s. Start one: "
            f"dask worker {address} --nthreads 1"
        )


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


def _start_cluster(distributed: Any, workers: int, threads: int) -> Any:
    import dask

    environment = {**dask.config.get("distributed.nanny.pre-spawn-environ"), **_KEEP_FREED}
    with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
        # No memory limit: a worker above Dask's would be paused or killed for what it shares with the others, the mapped weights.
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
        raise ConnectionError(f"No Dask scheduler answers at {address} ({error}). Start one: dask scheduler") from error
