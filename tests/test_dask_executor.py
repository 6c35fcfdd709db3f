"""Shards on a Dask cluster: every one comes back once, whoever is killed."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pipeline.saved.manifest import installed_versions
from pipeline.scoring.executors import (
    DaskExecutor,
    choose_executor,
)
from pipeline.scoring.shard import Died, Outcome
from tests.dask_cluster import cluster_by_hand
from tests.test_executors import shards

distributed = pytest.importorskip(
    "distributed", reason="distributed is not installed: pip install '.[dask]'"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Start a scheduler and two workers, one of which says that it has a GPU."""
    with cluster_by_hand(tmp_path_factory.mktemp("cluster"), ["", "--resources GPU=1"]) as address:
        with distributed.Client(address) as client:
            client.wait_for_workers(2, timeout=60)  # on a busy machine one comes late
        yield address


def who(shard):
    time.sleep(0.02)
    return Outcome(f"{os.getpid()} {shard.index}")


def environment(shard):
    names = ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    return Outcome(" ".join(os.environ[name] for name in names))


def pid_of(outcome):
    return outcome.sha256.split()[0]


def dies_at(shard, deadly, log):
    with Path(log, f"{shard.index}-{time.monotonic_ns()}").open("w"):
        pass
    if shard.index in deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return who(shard)


def fails_at_two(shard):
    if shard.index == 2:
        raise OSError("the disk is full")
    return who(shard)


def looks_for_a_file(shard):
    raise FileNotFoundError("There is no model.joblib.")


def test_every_shard_comes_back_once_from_every_worker_and_what_is_printed_is_the_dashboard(
    address, capsys
):
    with choose_executor(address) as executor:
        assert executor.threads == 1
        for n in (30, 1, 0):
            found = list(executor.run(who, iter(shards(n))))
            assert sorted(shard.index for shard, _ in found) == list(range(n))
            assert all(outcome.sha256.endswith(f" {shard.index}") for shard, outcome in found)
            assert n < 30 or len({pid_of(outcome) for _, outcome in found}) == 2
    assert "Dask dashboard: http://127.0.0.1:" in capsys.readouterr().err


def test_no_more_shards_are_taken_than_there_are_workers(address):
    taken = []

    def source():
        for shard in shards(50):
            taken.append(shard)
            yield shard

    with DaskExecutor(address) as executor:
        run = executor.run(who, source())
        for finished, _ in enumerate(run):
            assert len(taken) <= finished + 1 + 2
            if finished == 10:
                run.close()
                break


def test_only_the_shard_of_a_killed_worker_is_lost_and_no_other_worker_gets_it(address, tmp_path):
    function = partial(dies_at, deadly=(3, 11), log=str(tmp_path))
    with DaskExecutor(address) as executor:
        found = {
            shard.index: outcome for shard, outcome in executor.run(function, iter(shards(20)))
        }
    assert set(found) == set(range(20))
    assert {index for index, outcome in found.items() if isinstance(outcome, Died)} == {3, 11}
    assert found[3].reason == "its Dask worker was lost: killed, crashed or cut off"
    assert (
        len(list(tmp_path.iterdir())) == 20
    )  # each was begun once: the deadly ones killed one worker each


def test_what_the_function_raises_goes_to_the_caller_and_the_cluster_is_as_good_as_before(address):
    with DaskExecutor(address) as executor:
        with pytest.raises(OSError, match="the disk is full"):
            list(executor.run(fails_at_two, iter(shards(9))))
        with pytest.raises(LookupError, match="of the source"):
            list(
                executor.run(
                    who, (1 / 0 if n == 5 else shard for n, shard in enumerate(raising_source()))
                )
            )
        assert len(list(executor.run(who, shards(5)))) == 5


def raising_source():
    yield from shards(3)
    raise LookupError("of the source")


def test_a_file_that_a_worker_does_not_see_is_a_matter_of_shared_storage(address):
    with (
        DaskExecutor(address) as executor,
        pytest.raises(FileNotFoundError, match=r"no model.joblib.* on storage that every worker"),
    ):
        list(executor.run(looks_for_a_file, shards(2)))


def test_a_client_is_used_and_left_as_it_was(address):
    with distributed.Client(address, set_as_default=False) as client:
        future = client.submit(sum, [1, 2])
        with choose_executor(client) as executor:
            assert len(list(executor.run(who, shards(4)))) == 4
        assert client.status == "running"
        assert future.result(timeout=20) == 3


def test_only_workers_with_the_resources_are_used(address):
    with distributed.Client(address, set_as_default=False) as client:
        wait_for_workers(client, 2)
        workers = client.scheduler_info()["workers"]
        pids = client.run(os.getpid)
    with_gpu = {
        str(pids[worker]) for worker, facts in workers.items() if facts["resources"].get("GPU")
    }
    with DaskExecutor(address, resources={"GPU": 1}) as executor:
        assert {pid_of(outcome) for _, outcome in executor.run(who, shards(6))} == with_gpu
    with (
        pytest.raises(
            TimeoutError,
            match=r"No worker with the resources {'GPU': 2} joined .* dask worker tcp://127",
        ),
        DaskExecutor(address, resources={"GPU": 2}, wait=1.5),
    ):
        pass


def wait_for_workers(client, n):
    client.wait_for_workers(n, timeout=30)


def test_a_worker_with_other_versions_is_refused_with_both(address, monkeypatch):
    monkeypatch.setattr(
        "pipeline.scoring.executors.installed_versions",
        lambda: {**installed_versions(), "torch": "1.13.0"},
    )
    with (
        DaskExecutor(address) as executor,
        pytest.raises(
            ValueError,
            match=r"The Dask worker tcp://\S+ on \S+ has torch \S+ there and 1.13.0 here. ",
        ),
    ):
        list(executor.run(who, shards(2)))


@pytest.mark.thorough
def test_a_scheduler_that_is_lost_ends_the_run_with_what_to_do(tmp_path):
    code = (
        "import sys, time\n"
        "from pipeline.scoring.executors import DaskExecutor\n"
        "from tests.test_dask_executor import shards, who\n"
        "with DaskExecutor(sys.argv[1]) as executor:\n"
        "    for n, _ in enumerate(executor.run(who, iter(shards(10**6)))):\n"
        "        print(n, flush=True)\n"
    )
    with cluster_by_hand(tmp_path, [""]) as address:
        driver = subprocess.Popen(
            [sys.executable, "-c", code, address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with driver:
            for _ in range(5):
                assert driver.stdout.readline()
            with distributed.Client(address, set_as_default=False) as client:
                scheduler = client.run_on_scheduler(os.getpid)
            os.kill(scheduler, signal.SIGKILL)
            driver.stdout.read()
            message = driver.stderr.read()
            assert driver.wait(30) == 1
    assert "ConnectionError: The Dask scheduler at tcp://127.0.0.1:" in message
    assert "run the same call again to resume" in message


def test_a_cluster_of_this_machine_is_started_and_stopped(capsys, monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "4096")
    with choose_executor("dask", 2) as executor:
        assert executor.threads == 1
        pids = set()
        for _, outcome in executor.run(who, iter(shards(10**4))):
            pids.add(pid_of(outcome))
            if len(pids) == 2:
                break
        environments = {outcome.sha256 for _, outcome in executor.run(environment, shards(8))}
    assert len(pids) == 2
    assert environments == {f"1 {1 << 30} 4096"}  # what was set already stays
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
    assert "Dask dashboard: http://127.0.0.1:" in capsys.readouterr().err
