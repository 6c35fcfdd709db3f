"""The contract of executors, held by each of them."""

import os
import signal

import pytest

from pipeline.scoring.executors import choose_executor
from pipeline.scoring.shard import Died, Outcome, Shard

EXECUTORS = ["serial", "processes", "auto"]


def choose(name):
    return choose_executor(name, 1 if name == "serial" else 2)


def shards(n):
    return [Shard(i, "rows.parquet", 10 * i, 10 * (i + 1), 10 * i) for i in range(n)]


def scored(shard):
    return Outcome(str(shard.index))


def fails_at_two(shard):
    if shard.index == 2:
        raise OSError("the disk is full")
    return scored(shard)


@pytest.mark.parametrize("name", EXECUTORS)
def test_every_shard_comes_back_once_with_its_outcome(name):
    with choose(name) as executor:
        found = list(executor.run(scored, iter(shards(7))))
        assert sorted(found, key=lambda one: one[0].index) == [
            (shard, scored(shard)) for shard in shards(7)
        ]
        assert [shard for shard, _ in executor.run(scored, shards(1))] == shards(
            1
        )  # once more in the same context


@pytest.mark.parametrize("name", EXECUTORS)
def test_shards_are_taken_lazily(name):
    taken = []

    def source():
        for shard in shards(50):
            taken.append(shard)
            yield shard

    with choose(name) as executor:
        run = executor.run(scored, source())
        next(run)
        assert len(taken) <= 5
        run.close()


@pytest.mark.parametrize("name", EXECUTORS)
def test_what_the_function_raises_goes_to_the_caller(name):
    with choose(name) as executor, pytest.raises(OSError, match="the disk is full"):
        list(executor.run(fails_at_two, shards(5)))
    with choose(name) as executor:
        assert len(list(executor.run(scored, shards(3)))) == 3


def dies_at_two(shard):
    if shard.index == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return scored(shard)


@pytest.mark.parametrize(
    "name", [name for name in EXECUTORS if name != "serial"]
)  # there it is the driver that dies
def test_of_a_worker_that_dies_only_its_own_shard_comes_back_as_died(name):
    with choose(name) as executor:
        found = {shard.index: ended for shard, ended in executor.run(dies_at_two, shards(6))}
        assert sorted(found) == list(range(6))
        assert isinstance(found.pop(2), Died)
        assert all(isinstance(ended, Outcome) for ended in found.values())
        assert [ended for _, ended in executor.run(scored, shards(1))] == [scored(shards(1)[0])]


@pytest.mark.parametrize("name", EXECUTORS)
def test_what_the_shards_raise_goes_to_the_caller(name):
    def source():
        yield shards(1)[0]
        raise ValueError("line 7 has 3 cells")

    with choose(name) as executor, pytest.raises(ValueError, match="line 7"):
        list(executor.run(scored, source()))


@pytest.mark.parametrize("name", EXECUTORS)
def test_no_shards_are_no_outcomes(name):
    with choose(name) as executor:
        assert executor.threads >= 1
        assert list(executor.run(scored, [])) == []
