"""The one place where an ``executor=`` argument becomes an executor. Used by table."""

from typing import Any

from pipeline.scoring.executors import Executor, SerialExecutor

NAMES = ("serial",)


def choose_executor(executor: Any = "serial", workers: int | None = None, *, threads: int = 1) -> Executor:
    """Make an executor of what the user named.

    Parameters
    ----------
    executor : str or object
        One of `NAMES`.
    workers : int, optional
        Number of worker processes; one per core by default.
    threads : int, default=1
        Of each worker.

    Raises
    ------
    ValueError
        For a name that is none.
    """
    if executor == "serial":
        return SerialExecutor()
    # "processes" and "dask" / a dask.distributed.Client have their places here, each importing its own module
    raise ValueError(f"executor={executor!r}; allowed are {', '.join(map(repr, NAMES))}.")
