"""The one place where an ``executor=`` argument becomes an executor. Used by table."""

from typing import Any

from pipeline.scoring.executors import Executor, SerialExecutor

NAMES = ("serial", "dask")


def choose_executor(executor: Any = "serial", workers: int | None = None, *, threads: int = 1) -> Executor:
    """Make an executor of what the user named.

    Parameters
    ----------
    executor : str or object
        One of `NAMES`; the address of a Dask scheduler, such as ``"tcp://10.0.0.5:8786"``; a ``distributed.Client``; or an
        executor, which is returned as it is.
    workers : int, optional
        Number of worker processes; one per core by default. A Dask cluster that is there already has those that it has.
    threads : int, default=1
        Of each worker.

    Raises
    ------
    ValueError
        For a name that is none, or a number of workers for a cluster that is there already.
    """
    if executor == "serial":
        return SerialExecutor()
    # "processes" has its place here, importing its own module
    if executor == "dask":
        from pipeline.scoring.dask_executor import DaskExecutor

        return DaskExecutor(workers=workers)
    if is_cluster(executor):
        from pipeline.scoring.dask_executor import DaskExecutor

        if workers is not None:
            raise ValueError(
                f"workers={workers}, but the Dask cluster has its own: start as many as you want by dask worker, and leave "
                "workers out."
            )
        return DaskExecutor(executor)
    if hasattr(executor, "run") and hasattr(executor, "__enter__"):
        running: Executor = executor
        return running
    raise ValueError(
        f"executor={executor!r}; allowed are {', '.join(map(repr, NAMES))}, the address of a Dask scheduler, such as "
        "'tcp://10.0.0.5:8786', a distributed.Client and a DaskExecutor."
    )


def is_cluster(executor: Any) -> bool:
    """Tell the address of a Dask scheduler, or a client of one."""
    if isinstance(executor, str):
        return "://" in executor
    return type(executor).__module__.partition(".")[0] == "distributed" and hasattr(executor, "scheduler")
