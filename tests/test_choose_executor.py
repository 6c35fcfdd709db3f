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
