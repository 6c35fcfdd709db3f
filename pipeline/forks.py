"""Locks that are always free in a forked child."""

import os
import threading
import weakref
from typing import Self

# Handlers cannot be unregistered, so one set per process serves all living locks.
_registering = threading.Lock()  # iterating a growing WeakSet would raise
_locks: "weakref.WeakSet[ForkSafeLock]" = weakref.WeakSet()
_gates: "weakref.WeakSet[ForkGate]" = weakref.WeakSet()
_closed: "list[ForkGate]" = []  # during a fork


class ForkSafeLock:
    """A lock that is always free in a forked child."""

    # What it guards must be valid after every step of a change: a child may inherit it there.

    def __init__(self) -> None:
        self._lock = threading.Lock()
        with _registering:
            _locks.add(self)

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class ForkGate:
    """A gate for threads that delays forks until all have left."""

    # A thread that forks inside does not wait for itself.

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: list[int] = []
        with _registering:
            _gates.add(self)

    def __enter__(self) -> Self:
        with self._changed:
            self._inside.append(threading.get_ident())
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            # not in a child that was forked inside
            if threading.get_ident() in self._inside:
                self._inside.remove(threading.get_ident())
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until all other threads have left, and let none in."""
        self._changed.acquire()
        while set(self._inside) - {threading.get_ident()}:
            self._changed.wait()

    def open(self) -> None:
        """Let threads in again."""
        self._changed.release()


def _before_fork() -> None:
    with _registering:
        gates = sorted(_gates, key=id)  # the same order in all forking threads
    for gate in gates:
        gate.close()
    _closed[:] = gates


def _after_in_parent() -> None:
    gates = _closed[:]
    _closed.clear()  # before the first gate opens: another thread may fork once the last is open
    for gate in reversed(gates):
        gate.open()


def _after_in_child() -> None:
    global _registering
    _registering = threading.Lock()
    for lock in _locks:
        lock._lock = threading.Lock()
    for gate in _gates:
        gate._changed, gate._inside = threading.Condition(), []
    _closed.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
