"""The one place where an ``executor=`` argument becomes an executor. Used by table."""

from typing import Any

from pipeline.scoring.executors import Executor, SerialExecutor
from pipeline.scoring.processes import ProcessExecutor

NAMES = ("serial", "processes")


def choose_executor(executor: Any = "serial", workers: int | None = None, *, threads: int | None = None) -> Executor:
    """Make an executor of what the user named.

    Parameters
    ----------
    executor : str or object
        One of `NAMES`.
    workers : int, optional
        Number of worker processes; one per core by default.
    threads : int, optional
        Of each worker; 1 by default.

    Raises
    ------
    ValueError
        For a name that is none, and for numbers that are none.
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
    # "dask" and a dask.distributed.Client have their place here, importing their own module
    raise ValueError(f"executor={executor!r}; allowed are {', '.join(map(repr, NAMES))}.")
