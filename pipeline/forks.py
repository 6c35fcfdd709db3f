"""Locks that survive a fork: no child waits for a thread of its parent."""

import os
import threading
from typing import Self


class ForkSafeLock:
    """A lock that a forked child always finds free."""

    # What it guards must be usable after any single step of a change: a child may inherit it then.

    def __init__(self) -> None:
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.Lock()


class ForkGate:
    """A gate for any number of threads that holds forks back until all left."""

    # A thread that forks from the inside does not wait for itself.

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: list[int] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._close, after_in_parent=self._open, after_in_child=self._renew
            )

    def __enter__(self) -> Self:
        with self._changed:
            self._inside.append(threading.get_ident())
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            # not in a child that was forked from the inside
            if threading.get_ident() in self._inside:
                self._inside.remove(threading.get_ident())
            self._changed.notify_all()

    def _close(self) -> None:
        self._changed.acquire()
        while set(self._inside) - {threading.get_ident()}:
            self._changed.wait()

    def _open(self) -> None:
        self._changed.release()

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._inside = []
