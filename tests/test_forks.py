"""Locks that survive a fork."""

import gc
import os
import signal
import threading
import weakref

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, save_pipeline
from pipeline.forks import ForkGate, ForkSafeLock

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
HANG = 60


def run_in_child(work):
    """Fork, and give the exit code of ``work``; a child that hangs is ended by an alarm."""
    child = os.fork()
    if child == 0:
        signal.alarm(HANG)
        try:
            os._exit(work() or 0)
        except BaseException:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def inside():
    """Give a function that lets another thread sit inside a lock."""
    threads, events = [], []

    def enter(lock):
        entered, leave = threading.Event(), threading.Event()

        def sit():
            with lock:
                entered.set()
                leave.wait(HANG)

        thread = threading.Thread(target=sit)
        thread.start()
        assert entered.wait(HANG)
        threads.append(thread)
        events.append(leave)
        return leave

    yield enter
    for event in events:
        event.set()
    for thread in threads:
        thread.join()


def test_one_thread_at_a_time_is_inside_a_lock():
    lock, counter = ForkSafeLock(), [0]

    def count():
        for _ in range(5000):
            with lock:
                value = counter[0]
                counter[0] = value + 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter == [20_000]


@needs_fork
def test_a_child_finds_a_lock_free_that_another_thread_held_in_the_parent(inside):
    lock = ForkSafeLock()
    inside(lock)

    def enter():
        with lock:
            return 0

    assert run_in_child(enter) == 0


def test_any_number_of_threads_may_be_inside_a_gate(inside):
    gate = ForkGate()
    inside(gate)
    inside(gate)
    with gate, gate:
        pass


@needs_fork
def test_a_fork_waits_until_the_other_threads_have_left_a_gate(inside):
    gate = ForkGate()
    leave = inside(gate)
    order = []
    # hooks before a fork run in reverse order of registration: this one comes before that of the
    # gate
    os.register_at_fork(before=lambda: (order.append(len(gate._inside)), leave.set()))
    assert run_in_child(lambda: len(gate._inside)) == 0
    assert order[0] == 1
    assert gate._inside == []


@needs_fork
def test_a_thread_that_forks_from_the_inside_does_not_wait_for_itself():
    gate = ForkGate()

    def leave_and_enter():
        gate.__exit__()
        with gate:
            return 0

    with gate:
        assert run_in_child(leave_and_enter) == 0
    with gate:
        assert gate._inside == [threading.get_ident()]


def test_locks_register_no_handler_of_their_own_and_leave_nothing_behind(monkeypatch):
    # a handler cannot be unregistered: one per lock would keep every lock alive for ever
    monkeypatch.setattr(
        os, "register_at_fork", lambda **_: pytest.fail("registered"), raising=False
    )
    references = [weakref.ref(kind()) for kind in (ForkSafeLock, ForkGate) for _ in range(5)]
    gc.collect()
    assert not any(reference() for reference in references)


def test_saving_a_pipeline_registers_no_handler(tiny_bert, tmp_path, monkeypatch):
    model = make_pipeline(BertVectorizer(tiny_bert), LogisticRegression())
    model.fit(["good", "bad", "fine", "poor"], [1, 0, 1, 0])
    save_pipeline(model, tmp_path / "first.joblib")  # modules imported on first use may register
    handlers = []
    monkeypatch.setattr(
        os, "register_at_fork", lambda **hooks: handlers.append(hooks), raising=False
    )
    save_pipeline(model, tmp_path / "second.joblib")
    assert handlers == []


@needs_fork
def test_threads_that_fork_at_once_do_not_block_each_other():
    gates = [ForkGate(), ForkGate()]
    codes = []
    threads = [
        threading.Thread(target=lambda: codes.extend(run_in_child(int) for _ in range(10)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert codes == [0] * 30
    assert [gate._inside for gate in gates] == [[], []]
