"""Worker processes: how many, with what, and none of them left."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import ClassVar

import pytest

from pipeline._compat import WorkerDiedError
from pipeline.scoring import executors
from pipeline.scoring.executors import BySizeExecutor, ProcessExecutor
from pipeline.scoring.shard import Died, Outcome
from tests.test_executors import shards

TOP = Path(__file__).resolve().parent.parent


def tells(shard):
    print("a model that talks", flush=True)  # noqa: T201
    return Outcome(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")


def ask(executor, n):
    """Return process and threads of each outcome of n shards."""
    told = (ended.sha256.split() for _, ended in executor.run(tells, shards(n)))
    return [(int(pid), threads) for pid, threads in told]


def waits(shard):
    time.sleep(60)


class Stubborn(Exception):
    """Cannot be pickled and read again."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def fails(shard):
    raise Stubborn(1, 2) if shard.index else ValueError("row 3")


def cannot_start(driver):
    os._exit(3)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ---- without processes


class Pool:
    """What loky's pool is for us, in this process: it breaks at a shard that says so."""

    made: ClassVar[list["Pool"]] = []
    starts = None  # or the error of a worker that does not
    deaths: ClassVar[dict[int, Exception]] = {}

    def __init__(self, **options):
        self.options, self.given, self.ended = options, [], None
        self.made.append(self)

    def submit(self, function, *arguments):
        future: Future = Future()
        shard = arguments[-1] if arguments else None
        self.given.append(shard)
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


@pytest.mark.parametrize("index", [0, 1])
def test_an_error_of_the_function_ends_the_run_though_it_cannot_be_pickled(index, pools):
    error, message = [(ValueError, "^row 3$"), (RuntimeError, "^Stubborn: 1 and 2$")][index]
    with ProcessExecutor(2) as executor:
        with pytest.raises(error, match=message):
            list(executor.run(fails, shards(2)[index:]))
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


# ---- with processes


def test_processes_are_kept_between_runs_have_their_threads_and_end_with_the_context(capfd):
    with ProcessExecutor(2, threads=3) as executor:
        pids, threads = map(set, zip(*ask(executor, 6), *ask(executor, 6), strict=True))
        assert len(pids) == 2
        assert os.getpid() not in pids
        assert threads == {"3"}
    assert not any(map(is_running, pids))
    output = capfd.readouterr()
    assert "talks" not in output.out
    assert "talks" in output.err


def test_no_more_processes_are_started_than_there_are_shards():
    with ProcessExecutor(5) as executor:
        assert len(ask(executor, 1)) == 1
        assert len(executor._idle) == 1


@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
def test_a_run_that_is_stopped_leaves_no_process_at_work(error):
    with ProcessExecutor(1) as executor:
        ((pid, _),) = ask(executor, 1)
        run = executor.run(waits, shards(3))
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(error))
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        started = time.monotonic()
        with pytest.raises(error):
            next(run)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert time.monotonic() - started < 20
        assert not is_running(pid)
        assert len(ask(executor, 1)) == 1  # and goes on with another one


def test_errors_arrive_with_the_traceback_of_the_worker():
    with ProcessExecutor(1) as executor:
        with pytest.raises(ValueError, match="row 3") as caught:
            list(executor.run(fails, shards(1)))
        assert "in fails" in str(caught.value.__cause__)
        with pytest.raises(RuntimeError, match="Stubborn: 1 and 2"):
            list(executor.run(fails, shards(2)[1:]))


def test_a_process_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(executors, "_prepare_worker", cannot_start)
    with (
        ProcessExecutor(1) as executor,
        pytest.raises(ChildProcessError, match=r"could not start: it ended with EXIT\(3\)"),
    ):
        list(executor.run(tells, shards(1)))


@pytest.mark.parametrize("pause", [0, 0.5])  # in which the pool learns of the death
def test_a_process_that_is_killed_from_outside_is_replaced(pause):
    with ProcessExecutor(1) as executor:
        ((pid, _),) = ask(executor, 1)
        os.kill(pid, signal.SIGKILL)
        time.sleep(pause)
        found = [ended for _, ended in executor.run(tells, shards(3))]
        assert len(found) == 3
        # at most the one it was given before it was known to be dead
        assert sum(isinstance(ended, Died) for ended in found) <= 1
        alive = [ended.sha256.split()[0] for ended in found if isinstance(ended, Outcome)]
        assert str(pid) not in alive


@pytest.mark.thorough
def test_a_script_needs_no_guard_and_workers_end_with_a_driver_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from pipeline.scoring.executors import ProcessExecutor\n"
        "from pipeline.scoring.shard import Shard\n"
        "def function(shard):\n"
        "    open(f'{shard.path}/{os.getpid()}', 'w').close()\n"
        "    time.sleep(600)\n"
        "with ProcessExecutor(1) as executor:\n"
        f"    list(executor.run(function, [Shard(0, {str(tmp_path / 'pids')!r}, 0, 1, 0)]))\n"
    )
    (tmp_path / "pids").mkdir()
    environment = os.environ | {"PYTHONPATH": str(TOP)}
    with subprocess.Popen([sys.executable, script], env=environment) as driver:
        end = time.monotonic() + 120
        while not (pids := list((tmp_path / "pids").iterdir())):
            assert time.monotonic() < end
            assert driver.poll() is None
            time.sleep(0.1)
        driver.kill()
    end = time.monotonic() + 20
    while is_running(int(pids[0].name)):
        assert time.monotonic() < end
        time.sleep(0.1)


# ---- by size


@pytest.mark.parametrize(("workers", "n", "here"), [(2, 1, True), (2, 3, False), (1, 3, True)])
def test_one_shard_or_one_worker_is_this_process(workers, n, here, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with BySizeExecutor(workers) as executor:
        asked = ask(executor, n)
    assert [pid == os.getpid() for pid, _ in asked] == [here] * n


@pytest.mark.parametrize("first", [1, 2])
def test_what_the_first_run_chose_later_ones_have(first, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with BySizeExecutor(2) as executor:
        ask(executor, first)
        ((pid, _),) = ask(executor, 1)
    assert (pid == os.getpid()) == (first == 1)
