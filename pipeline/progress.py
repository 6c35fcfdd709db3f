"""Progress on standard error, with one bar per job."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pipeline.forks import ForkSafeLock

_REDRAWN = 0.1
_TICKS = 0.5  # after which a terminal shows the elapsed time
LINE_SECONDS = 30.0  # between two lines without a terminal


class _Bar:
    """A bar in a terminal or notebook, else lines."""

    def __init__(self) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.lock = ForkSafeLock()
        self._notebook = type(sys.stderr).__module__.startswith("ipykernel")
        self._drawn = terminal or self._notebook
        self._seconds = _TICKS if terminal else LINE_SECONDS
        self._part: Part | None = None
        self._last_shown: Any = None
        self._at = 0.0
        self._over: threading.Event | None = None
        self._output: Any = None
        self._width = 0

    def follow(self, part: "Part") -> None:
        with self.lock:
            if self._over is None:
                self._over = threading.Event()
                if not self._notebook:  # outputs of a cell belong to the main thread
                    threading.Thread(target=self._tick, args=(self._over,), daemon=True).start()
            is_news = (part, part.what, part.total) != self._last_shown
            self._part, self._last_shown = part, (part, part.what, part.total)
            if self._drawn and (is_news or time.monotonic() - self._at > _REDRAWN):
                self._draw(part)

    def clear(self) -> None:
        if self._width:
            self._write("", f"\r{' ' * self._width}\r")
            self._width = 0

    def leave(self, outer: "Part | None") -> None:
        """Show the outer part again, or finish if there is none."""
        with self.lock:
            part, self._part = self._part, outer if outer is not None and outer.began else None
            if self._part is None and self._drawn:
                self.clear()
            if outer is None and self._over is not None:
                self._over.set()
                if part is not None and not self._drawn:
                    self._draw(part)

    def _tick(self, over: threading.Event) -> None:
        while not over.wait(self._seconds):
            with self.lock:
                if self._part is not None and not over.is_set():
                    self._draw(self._part)

    def _draw(self, part: "Part") -> None:
        if sys.stderr is None:
            return
        from tqdm import tqdm
        from tqdm.utils import disp_len

        self._at = time.monotonic()
        line = tqdm.format_meter(
            part.done,
            part.total,
            time.time() - part.began,
            ncols=_columns() if self._drawn else 0,
            prefix=f"{part.what}: ",
            ascii="utf" not in str(sys.stderr.encoding).lower(),
            unit=part.unit,
            bar_format=None if part.total or part.done else "{desc}{elapsed}",
            postfix=part.note,
            initial=part.known,
        )
        if not self._drawn:
            self._write(line, f"{line}\n")
            return
        width = disp_len(line)
        self._write(line, f"\r{line}{' ' * (self._width - width)}")
        self._width = width

    def _write(self, line: str, written: str) -> None:
        if not self._notebook:
            sys.stderr.write(written)
            sys.stderr.flush()
            return
        from IPython.display import display

        show: Any = display
        bundle = {"text/plain": line}
        if self._output is None:
            self._output = show(bundle, raw=True, display_id=True)
        else:
            self._output.update(bundle, raw=True)


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns - 1
    except (OSError, ValueError):  # no terminal, or without a file number
        return 79


@dataclass(eq=False)
class Part:
    """A part of a job with its name and progress."""

    what: str
    unit: str
    bar: _Bar | None
    whole: bool  # shows no inner part
    done: int = 0
    known: int = 0
    total: int | None = None
    began: float = 0.0
    note: str | None = None

    def show(
        self, done: int, total: int | None = None, *, what: str | None = None, known: int = 0
    ) -> None:
        """Show progress, without ``known`` in the speed."""
        self.began = self.began or time.time()
        self.done, self.total, self.known = done, total, known
        self.what = what or self.what
        if self.bar is not None:
            self.bar.follow(self)

    def folds(self, folds: Sequence[Any], what: str, times: int = 1) -> Iterator[Any]:
        """Yield folds, each shown as a fit of ``times`` rounds."""
        for i, fold in enumerate(folds, 1):
            total = times * len(folds)
            self.show(self.done, total, what=f"fold {i} of {len(folds)}, fitting {what}")
            yield fold
            self.done += 1


_current: ContextVar[Part | None] = ContextVar("part", default=None)


@contextmanager
def progress(
    what: str = "", unit: str = "", *, shown: bool = False, whole: bool = False
) -> Iterator[Part]:
    """Yield a part, shown in the bar of the outer one."""
    outer = _current.get()
    outer_bar = None if outer is None else outer.bar
    hidden = outer is not None and outer.whole
    bar = None if hidden else outer_bar or (_Bar() if shown else None)
    part = Part(what, unit, bar, whole or hidden)
    token = _current.set(part)
    try:
        yield part
    finally:
        _current.reset(token)
        if bar is not None:
            bar.leave(outer if outer_bar is not None else None)


@contextmanager
def without_bar() -> Iterator[None]:
    """Print where the bar was, and draw it again below."""
    part = _current.get()
    if part is None or part.bar is None:
        yield
        return
    with part.bar.lock:
        part.bar.clear()
        yield
