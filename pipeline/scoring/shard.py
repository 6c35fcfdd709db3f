"""What travels between driver and workers: a range of rows, what became of it, and a worker's death. Imports nothing of ours."""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True)
class Shard:
    """A range of rows of one Parquet file, and its place in the output: small, picklable, enough to score it anywhere.

    Attributes
    ----------
    index : int
        Its number, and that of its part: ``part-000007.parquet``.
    path : str
        The Parquet file that holds its rows: of the user, or one that a CSV file or DataFrame was cut into.
    start, stop : int
        The rows of that file, ``start <= row < stop``.
    first_row : int
        The row of the whole table that ``start`` is; 0 is the first.
    marked : tuple of (int, str)
        Rows of the whole table that are not scored, each with the reason: they killed a worker.
    """

    index: int
    path: str
    start: int
    stop: int
    first_row: int
    marked: tuple[tuple[int, str], ...] = ()

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    def rows(self, start: int, stop: int) -> Self:
        """Return the shard of some of its rows, counted from its first one."""
        return replace(self, start=self.start + start, stop=self.start + stop, first_row=self.first_row + start)


@dataclass(frozen=True)
class BadRow:
    """A row that got no label.

    Attributes
    ----------
    row : int
        Of the whole table; 0 is the first.
    reason : str
        Why, in one line.
    """

    row: int
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of a shard that was scored.

    Attributes
    ----------
    index : int
        The shard's.
    n_rows : int
        Rows of its part; bad ones too.
    sha256 : str
        Of its part; empty where none was written.
    bad : tuple of BadRow
        Rows without a label.
    warnings : tuple of (type, str)
        What the model warned of, one of each category.
    """

    index: int
    n_rows: int
    sha256: str
    bad: tuple[BadRow, ...] = ()
    warnings: tuple[tuple[type[Warning], str], ...] = ()


@dataclass(frozen=True)
class Died:
    """The worker process that had a shard was lost: killed, or dead by a crash. Whose fault that was is not known.

    Attributes
    ----------
    reason : str
        Such as ``"killed by signal 9"``.
    """

    reason: str
