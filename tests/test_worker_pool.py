"""What we ask of a worker's pool, and what we make of its end: no process is started."""

import errno
import os
import threading
from concurrent.futures import Future
from typing import ClassVar

import pytest

from pipeline._compat import WorkerDiedError
from pipeline.scoring import executors
from pipeline.scoring.executors import BySizeExecutor, ProcessExecutor
from pipeline.scoring.shard import Died, Outcome
from tests.test_executors import shards
from tests.test_processes import ask, tells


class Pool:
    """What loky's pool is for us, in this process: it breaks at a shard that says so."""

    made: ClassVar[list["Pool"]] = []
    starts = None  # or the error of a worker that does not
    deaths: ClassVar[dict[int, Exception]] = {}
    slow: ClassVar[set[int]] = set()  # shards that take for ever

    def __init__(self, **options):
        self.options, self.given, self.ended = options, [], None
        self.made.append(self)

    def submit(self, function, *arguments):
        future: Future = Future()
        shard = arguments[-1] if arguments else None
        self.given.append(shard)
        if shard and shard.index in self.slow:
            future.set_running_or_notify_cancel()
            return future
        error = self.deaths.get(shard.index) if shard else self.starts
        try:
            if error is not None:
                raise error
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, kill_workers):
        self.ended = kill_workers


@pytest.fixture
def pools(monkeypatch):
    """List the pools that are made from now on."""
    monkeypatch.setattr(executors.loky, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(Pool, "made", [])
    return Pool.made


def test_each_worker_is_a_pool_of_one_process_that_is_killed_in_the_end(pools):
    with ProcessExecutor(3, threads=5) as executor:
        assert (executor.workers, executor.threads) == (3, 5)
        assert len(ask(executor, 7)) == 7
        assert len(ask(executor, 2)) == 2
        assert [pool.ended for pool in pools] == [None] * 3
    for pool in pools:
        initializer, (driver,) = (pool.options.pop(name) for name in ("initializer", "initargs"))
        assert callable(initializer)
        assert driver == os.getpid()
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
        assert pool.options == {"max_workers": 1, "env": dict.fromkeys(names, "5")}
        assert pool.ended is True


def test_there_is_a_process_for_each_core(monkeypatch):
    monkeypatch.setattr(executors.joblib, "cpu_count", lambda: 7)
    assert (ProcessExecutor().workers, ProcessExecutor().threads) == (7, 1)
    assert (ProcessExecutor(2).workers, BySizeExecutor().workers) == (2, 7)


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.ENOSPC])
def test_a_process_that_the_system_refuses_says_so_and_ends_the_others(code, pools, monkeypatch):
    submit = Pool.submit

    def refused(pool, *arguments):
        if pool is not pools[0]:
            raise OSError(code, os.strerror(code))
        return submit(pool, *arguments)

    monkeypatch.setattr(Pool, "submit", refused)
    said = rf"could not start: \[Errno {code}\] {os.strerror(code)} .*use fewer workers"
    with ProcessExecutor(2) as executor, pytest.raises(ChildProcessError, match=said):
        list(executor.run(tells, shards(4)))
    assert pools[0].ended is True


CODES = "A worker process died. The exit codes of the workers are {SIGSEGV(-11)}"


@pytest.mark.parametrize(
    ("message", "reason"), [(CODES, "ended with SIGSEGV(-11)"), ("so", "ended with so")]
)
def test_a_shard_whose_process_dies_comes_back_with_the_reason(message, reason, pools, monkeypatch):
    monkeypatch.setattr(Pool, "deaths", {1: WorkerDiedError(message)})
    with ProcessExecutor(2) as executor:
        found = {shard.index: ended for shard, ended in executor.run(tells, shards(4))}
        assert found[1] == Died(reason)
        assert {type(found[n]) for n in (0, 2, 3)} == {Outcome}
        for pool in pools:
            assert pool.ended == (True if 1 in (s.index for s in pool.given if s) else None)


def test_a_worker_that_is_killed_while_it_starts_is_no_fault_of_the_machine(pools, monkeypatch):
    monkeypatch.setattr(Pool, "starts", WorkerDiedError("so"))
    for signal_name, raised in (("SIGKILL(-9)", False), ("EXIT(3)", True)):
        told = WorkerDiedError(f"The exit codes of the workers are {{{signal_name}}}")
        monkeypatch.setattr(Pool, "deaths", {0: told})
        with ProcessExecutor(1) as executor:
            if raised:
                with pytest.raises(ChildProcessError, match=r"not start: it ended with EXIT\(3\)"):
                    list(executor.run(tells, shards(1)))
            else:
                ((_, ended),) = executor.run(tells, shards(1))
                assert ended == Died("ended with SIGKILL(-9)")


def fails(shard):
    raise ValueError("row 3")


def fails_with_a_lock(shard):
    error = OSError("it is held")
    error.lock = threading.Lock()
    raise error


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (fails, ValueError, "^row 3$"),
        (fails_with_a_lock, RuntimeError, "^OSError: it is held$"),
    ],
)
def test_an_error_ends_the_run_though_it_cannot_be_pickled(function, error, message, pools):
    with ProcessExecutor(2) as executor:
        with pytest.raises(error, match=message):
            list(executor.run(function, shards(2)))
        assert len(ask(executor, 3)) == 3


def test_a_worker_is_stopped_when_its_call_has_begun(pools, monkeypatch):
    call: Future = Future()
    monkeypatch.setattr(Pool, "submit", lambda *_: call)

    def source():
        yield from shards(1)
        threading.Timer(0.1, call.set_running_or_notify_cancel).start()
        raise LookupError("of the source")

    with ProcessExecutor(2) as executor, pytest.raises(LookupError, match="of the source"):
        list(executor.run(tells, source()))
    assert [pool.ended for pool in pools] == [True]
    assert call.running()


def test_a_slow_process_keeps_no_other_waiting(pools, monkeypatch):
    monkeypatch.setattr(Pool, "slow", {1})
    with ProcessExecutor(2) as executor:
        run = executor.run(tells, shards(6))
        assert sorted(next(run)[0].index for _ in range(5)) == [0, 2, 3, 4, 5]
        run.close()
    assert len(pools) == 2
    assert all(pool.ended for pool in pools)


# ---- by size


@pytest.mark.parametrize(
    ("workers", "n", "here"),
    [(2, 0, True), (2, 1, True), (2, 2, False), (2, 3, False), (1, 3, True)],
)
def test_one_shard_or_one_worker_is_this_process(workers, n, here, pools, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    taken = []
    with BySizeExecutor(workers) as executor:
        run = executor.run(tells, (taken.append(shard) or shard for shard in shards(n)))
        for number, (shard, _) in enumerate(run, start=1):
            assert shard in taken
            assert len(taken) <= number + workers
        assert sorted(taken, key=lambda shard: shard.index) == shards(n)
        assert (not pools) == here


@pytest.mark.parametrize("first", [1, 2])
def test_what_the_first_run_chose_later_ones_have(first, pools, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with BySizeExecutor(2) as executor:
        ask(executor, first)
        n_pools = len(pools)
        assert (n_pools == 0) == (first == 1)
        ask(executor, 3)
        assert len(pools) == n_pools
