"""Worker processes: how many, with what, and none of them left."""

import os
import signal
import time

import pytest

from pipeline.scoring.executors import ProcessExecutor
from pipeline.scoring.shard import Died, Outcome, Shard


def shards(n):
    return [Shard(i, "rows.parquet", 0, 1, i) for i in range(n)]


def tells(shard):
    return Outcome(os.getpid(), shard.n_rows, os.environ["OMP_NUM_THREADS"])


def waits(shard):
    time.sleep(60)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_are_kept_between_runs_have_their_threads_and_end_with_the_context():
    with ProcessExecutor(2, threads=3) as executor:
        first = [ended for _, ended in executor.run(tells, shards(6))]
        second = [ended for _, ended in executor.run(tells, shards(6))]
        pids = {ended.index for ended in first + second}
        assert len(pids) == 2
        assert os.getpid() not in pids
        assert {ended.sha256 for ended in first} == {"3"}
    assert not any(map(is_running, pids))


def test_no_more_processes_are_started_than_there_are_shards():
    with ProcessExecutor(5) as executor:
        assert len(list(executor.run(tells, shards(1)))) == 1
        assert len(executor._workers) == 1


@pytest.mark.parametrize("stop", ["close", "interrupt"])
def test_a_run_that_is_stopped_leaves_no_process_at_work(stop):
    with ProcessExecutor(1) as executor:
        pids = [ended.index for _, ended in executor.run(tells, shards(1))]
        run = executor.run(waits, shards(3))
        if stop == "close":
            signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError))
            error = TimeoutError
        else:
            signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            error = KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        started = time.monotonic()
        with pytest.raises(error):
            next(run)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert time.monotonic() - started < 20
        assert not any(map(is_running, pids))
        assert [ended.n_rows for _, ended in executor.run(tells, shards(1))] == [
            1
        ]  # and goes on with another one


def test_a_process_that_cannot_start_is_an_error(monkeypatch, capfd):
    monkeypatch.setattr(
        "pipeline.scoring.executors._START", "raise SystemExit('no such interpreter')"
    )
    with (
        ProcessExecutor(1) as executor,
        pytest.raises(ChildProcessError, match="could not start: it ended with exit code 1"),
    ):
        list(executor.run(tells, shards(1)))
    assert "no such interpreter" in capfd.readouterr().err


def test_a_process_that_is_killed_from_outside_is_replaced():
    with ProcessExecutor(1) as executor:
        (pid,) = [ended.index for _, ended in executor.run(tells, shards(1))]
        os.kill(pid, signal.SIGKILL)
        found = [ended for _, ended in executor.run(tells, shards(3))]
        assert len(found) == 3
        assert (
            sum(isinstance(ended, Died) for ended in found) <= 1
        )  # the one it was given before it was known to be dead
        assert pid not in {ended.index for ended in found if isinstance(ended, Outcome)}
