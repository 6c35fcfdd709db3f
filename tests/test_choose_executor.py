"""Names become executors."""

import joblib
import pytest

from pipeline.scoring.executors import (
    BySizeExecutor,
    DaskExecutor,
    ProcessExecutor,
    SerialExecutor,
    choose_executor,
)


def test_serial_is_the_serial_one():
    assert isinstance(choose_executor("serial"), SerialExecutor)
    assert choose_executor("serial").threads == 1
    assert choose_executor("serial", 1, threads=3).threads == 3


def test_processes_are_one_per_core_with_one_thread_each_unless_told_otherwise():
    executor = choose_executor("processes")
    assert isinstance(executor, ProcessExecutor)
    assert (executor.workers, executor.threads) == (joblib.cpu_count(), 1)
    executor = choose_executor("processes", 5, threads=3)
    assert (executor.workers, executor.threads) == (5, 3)


def test_auto_decides_by_the_size_of_the_table():
    executor = choose_executor("auto", threads=3)
    assert isinstance(executor, BySizeExecutor)
    assert executor.threads == 3


@pytest.mark.parametrize("number", [0, -1, 1.5, "2", True])
def test_numbers_that_are_none_are_refused(number):
    with pytest.raises(ValueError, match=r"workers=.*; allowed are the numbers from 1"):
        choose_executor("processes", number)
    with pytest.raises(ValueError, match=r"threads=.*; allowed are the numbers from 1"):
        choose_executor("serial", threads=number)


def test_serial_has_no_more_workers_than_one():
    with pytest.raises(
        ValueError, match=r"'serial' is one worker, and workers=2: set executor='processes'"
    ):
        choose_executor("serial", 2)


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"executor='celery'; allowed are 'serial', 'processes'"):
        choose_executor("celery")


def test_a_scheduler_is_named_by_its_address():
    executor = choose_executor("tls://cluster.example.org:8786")
    assert isinstance(executor, DaskExecutor)
    assert executor.cluster == "tls://cluster.example.org:8786"
    with pytest.raises(ValueError, match="workers=3, but the Dask cluster has its own"):
        choose_executor("tcp://10.0.0.5:8786", 3)


def test_dask_alone_is_a_cluster_of_this_machine():
    executor = choose_executor("dask", 3)
    assert isinstance(executor, DaskExecutor)
    assert (executor.cluster, executor.workers) == (None, 3)


def test_an_executor_is_taken_as_it_is():
    executor = DaskExecutor("tcp://10.0.0.5:8786", resources={"GPU": 1})
    assert choose_executor(executor) is executor
    with pytest.raises(ValueError, match="workers=3, but the DaskExecutor has its own"):
        choose_executor(executor, 3)


def test_what_is_not_said_is_one_thread_and_two_minutes_of_waiting():
    assert isinstance(choose_executor(), SerialExecutor)
    assert SerialExecutor().threads == 1
    executor = DaskExecutor()
    assert (executor.cluster, executor.workers, executor.threads) == (None, None, 1)
    assert (executor.wait, executor.resources) == (120.0, {})


def test_workers_and_threads_go_to_the_executor_that_is_named():
    assert choose_executor("auto", 5).workers == 5
    here = choose_executor("dask", 4, threads=2)
    assert (here.cluster, here.workers, here.threads) == (None, 4, 2)
    there = choose_executor("tcp://10.0.0.5:8786", threads=3)
    assert (there.cluster, there.workers, there.threads) == ("tcp://10.0.0.5:8786", None, 3)


def of_distributed(**attributes):
    return type("Client", (), {"__module__": "distributed.client", **attributes})()


def test_a_client_of_dask_is_known_by_its_package_and_its_scheduler():
    client = of_distributed(scheduler="any")
    executor = choose_executor(client, threads=2)
    assert isinstance(executor, DaskExecutor)
    assert (executor.cluster, executor.threads) == (client, 2)
    for other in (of_distributed(), type("Client", (), {"scheduler": "any"})()):
        with pytest.raises(ValueError, match="allowed are 'serial'"):
            choose_executor(other)


def test_an_executor_of_ones_own_runs_and_has_threads():
    own = type("Own", (), {"threads": 1, "run": None})()
    assert choose_executor(own) is own
    with pytest.raises(ValueError, match="workers=2, but the Own has its own"):
        choose_executor(own, 2)
    for half in ({"threads": 1}, {"run": None}):
        with pytest.raises(ValueError, match="allowed are 'serial'"):
            choose_executor(type("Half", (), half)())
