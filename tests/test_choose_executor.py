"""Names become executors."""

import pytest

from pipeline.scoring.choose_executor import choose_executor
from pipeline.scoring.dask_executor import DaskExecutor
from pipeline.scoring.executors import SerialExecutor


def test_serial_is_the_serial_one():
    assert isinstance(choose_executor("serial"), SerialExecutor)


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"executor='celery'; allowed are 'serial'"):
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
