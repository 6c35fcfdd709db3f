"""One shard is scored here, several by worker processes; either way every shard comes back once."""

import os

import pytest

from pipeline.scoring.executors import BySizeExecutor
from pipeline.scoring.shard import Outcome, Shard


def shards(n):
    return [Shard(index, f"shard-{index}", 0, 1, index) for index in range(n)]


def in_which_process(shard):
    return Outcome(shard.index, shard.n_rows, str(os.getpid()))


def processes(executor, n):
    with executor:
        return [int(outcome.sha256) for _, outcome in executor.run(in_which_process, shards(n))]


def test_one_shard_is_scored_in_this_process():
    assert processes(BySizeExecutor(2), 1) == [os.getpid()]


def test_several_shards_are_scored_by_workers():
    asked = processes(BySizeExecutor(2), 3)
    assert len(asked) == 3
    assert os.getpid() not in asked


def test_one_worker_is_this_process():
    assert processes(BySizeExecutor(1), 3) == [os.getpid()] * 3


@pytest.mark.parametrize("first", [1, 2])
def test_what_the_first_run_chose_later_ones_have(first):
    executor = BySizeExecutor(2)
    with executor:
        list(executor.run(in_which_process, shards(first)))
        ((_, outcome),) = list(executor.run(in_which_process, shards(1)))
    assert (int(outcome.sha256) == os.getpid()) == (first == 1)
