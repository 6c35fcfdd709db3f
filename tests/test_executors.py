"""The contract of executors, held by each of them."""

import pytest

from pipeline.scoring.choose_executor import choose_executor
from pipeline.scoring.shard import Outcome, Shard


def shards(n):
    return [Shard(i, "rows.parquet", 10 * i, 10 * (i + 1), 10 * i) for i in range(n)]


def scored(shard):
    return Outcome(shard.index, shard.n_rows, "")


def fails_at_two(shard):
    if shard.index == 2:
        raise OSError("the disk is full")
    return scored(shard)


@pytest.mark.parametrize("name", ["serial"])
def test_every_shard_comes_back_once_with_its_outcome(name):
    with choose_executor(name, 2) as executor:
        found = list(executor.run(scored, iter(shards(7))))
        assert sorted(found, key=lambda one: one[0].index) == [(shard, scored(shard)) for shard in shards(7)]
        assert [shard for shard, _ in executor.run(scored, shards(1))] == shards(1)  # once more in the same context


@pytest.mark.parametrize("name", ["serial"])
def test_shards_are_taken_lazily(name):
    taken = []

    def source():
        for shard in shards(50):
            taken.append(shard)
            yield shard

    with choose_executor(name, 2) as executor:
        run = executor.run(scored, source())
        next(run)
        assert len(taken) <= 5
        run.close()


@pytest.mark.parametrize("name", ["serial"])
def test_what_the_function_raises_goes_to_the_caller(name):
    with choose_executor(name, 2) as executor, pytest.raises(OSError, match="the disk is full"):
        list(executor.run(fails_at_two, shards(5)))
    with choose_executor(name, 2) as executor:
        assert len(list(executor.run(scored, shards(3)))) == 3
