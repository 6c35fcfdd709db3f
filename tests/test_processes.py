"""Worker processes: how many, with what, and none of them left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.scoring import executors
from pipeline.scoring.executors import ProcessExecutor
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
