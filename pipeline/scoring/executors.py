"""Where shards are scored: the contract of every executor, and the serial one, which all others must match. Used by table."""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Protocol, Self

from pipeline.scoring.shard import Died, Outcome, Shard

Function = Callable[[Shard], Outcome]
"""A picklable function of a module, or a functools.partial of one."""


class Executor(Protocol):
    """Runs a function on shards, somewhere. A context manager; `run` may be called several times inside, one after another.

    The contract, which tests/test_executors.py holds every executor to:

    - Every shard comes back once, with its outcome or with `Died`, in any order.
    - ``shards`` is consumed lazily: no more are in flight than there are workers, or a small multiple of it. The iterator may
      take time, and may raise; what it raises goes to the caller.
    - An exception raised by the function goes to the caller, as it is. It is no fault of a row: those, the function keeps.
    - The death of a worker process is never an exception: the shard that it had comes back as `Died`, no other one does because
      of it, and the executor goes on with another worker. It is not tried again here; the caller does.
    - A worker that cannot even start is an exception.
    - When the generator is closed, or an exception or KeyboardInterrupt passes through it, nothing is started any more, and on
      leaving the context no process or connection of the executor's own is left.

    Attributes
    ----------
    threads : int
        Of each worker: what its thread pools are sized for. The function is told by whoever made it.
    """

    threads: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def run(self, function: Function, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Outcome | Died]]:
        """Run a function on every shard.

        Parameters
        ----------
        function : callable
            Picklable; takes a shard, returns its outcome.
        shards : iterable of Shard
            Consumed lazily.

        Yields
        ------
        shard : Shard
        outcome : Outcome or Died
        """
        ...


class SerialExecutor:
    """Runs every shard in this process, in order: the reference. A row that kills the process kills the driver.

    Parameters
    ----------
    threads : int, default=1
        To compute with.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def run(self, function: Function, shards: Iterable[Shard]) -> Iterator[tuple[Shard, Outcome | Died]]:
        """Run a function on every shard, one after another; see `Executor.run`."""
        for shard in shards:
            yield shard, function(shard)
