"""How far a run is: rows, rows per second, time left. Used by table."""

import sys
import time
from types import TracebackType
from typing import Any, Self


class Progress:
    """A bar on standard error, where somebody looks or it is asked for; rows of an earlier run do not count for the speed.

    Parameters
    ----------
    shown : bool or None
        None: where standard error is a terminal.
    """

    def __init__(self, shown: bool | None) -> None:
        self._shown = sys.stderr is not None and sys.stderr.isatty() if shown is None else shown
        self._bar: Any = None
        self.n_scored = 0
        self.n_skipped = 0
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if self._shown:
            from tqdm import tqdm

            # smoothing=0: shards come in bursts, the mean is what tells the time left
            self._bar = tqdm(total=None, unit=" rows", desc="scoring", smoothing=0, file=sys.stderr)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def seconds(self) -> float:
        """Time since it was made."""
        return time.monotonic() - self._started

    def skipped(self, n_rows: int) -> None:
        """Count rows that an earlier run has scored."""
        self.n_skipped += n_rows
        if self._bar is not None:
            self._bar.initial += n_rows
            self._bar.n += n_rows

    def scored(self, n_rows: int, expected: int | None) -> None:
        """Count rows that were scored now; ``expected`` is how many the table has, as far as is known."""
        self.n_scored += n_rows
        if self._bar is not None:
            self._bar.total = expected
            self._bar.update(n_rows)
