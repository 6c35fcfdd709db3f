"""The one place where an ``executor=`` argument becomes an executor. Used by table."""

from typing import Any

from pipeline.scoring.by_size import BySizeExecutor
from pipeline.scoring.executors import Executor, SerialExecutor
from pipeline.scoring.processes import ProcessExecutor

NAMES = ("serial", "processes", "auto", "dask")


def choose_executor(executor: Any = "serial", workers: int | None = None, *, threads: int | None = None) -> Executor:
    """Make an executor of what the user named.

    Parameters
    ----------
    executor : str or object
        One of `NAMES`; the address of a Dask scheduler, such as ``"tcp://10.0.0.5:8786"``; a ``distributed.Client``; or an
        executor, which is returned as it is.
    workers : int, optional
        Number of worker processes; one per core by default. A Dask cluster that is there already has those that it has.
    threads : int, optional
        Of each worker; 1 by default.

    Raises
    ------
    ValueError
        For a name that is none, for numbers that are none, and for a number of workers where there are some already.
    """
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise ValueError(f"{name}={number!r}; allowed are the numbers from 1, or None.")
    if executor == "serial":
        if workers not in (None, 1):
            raise ValueError(f"executor='serial' is one worker, and workers={workers}: set executor='processes'.")
        return SerialExecutor(threads or 1)
    if executor == "processes":
        return ProcessExecutor(workers, threads or 1)
    if executor == "auto":
        return BySizeExecutor(workers, threads or 1)
    if executor == "dask" or _is_cluster(executor):
        from pipeline.scoring.dask_executor import DaskExecutor

        return DaskExecutor(None if executor == "dask" else executor, workers=workers, threads=threads or 1)
    if hasattr(executor, "run") and hasattr(executor, "threads"):
        if workers is not None:
            raise ValueError(f"workers={workers}, but the {type(executor).__name__} has its own.")
        chosen: Executor = executor
        return chosen
    raise ValueError(
        f"executor={executor!r}; allowed are {', '.join(map(repr, NAMES))}, the address of a Dask scheduler, such as "
        "'tcp://10.0.0.5:8786', a distributed.Client and a DaskExecutor."
    )


def _is_cluster(executor: Any) -> bool:
    """Tell the address of a Dask scheduler, or a client of one."""
    if isinstance(executor, str):
        return "://" in executor
    return type(executor).__module__.partition(".")[0] == "distributed" and hasattr(executor, "scheduler")
