"""Names become executors."""

import pytest

from pipeline.scoring.choose_executor import choose_executor
from pipeline.scoring.executors import SerialExecutor


def test_serial_is_the_serial_one():
    assert isinstance(choose_executor("serial"), SerialExecutor)


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"executor='celery'; allowed are 'serial'"):
        choose_executor("celery")
