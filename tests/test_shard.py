"""Shards name rows."""

import pickle

from pipeline.scoring.shard import Shard


def test_the_rows_of_a_shard_are_a_shard_that_knows_their_place_in_file_and_table():
    shard = Shard(
        index=3, path="table.parquet", start=100, stop=200, first_row=700, marked=((712, "killed"),)
    )
    some = shard.rows(10, 20)
    assert (some.start, some.stop, some.first_row, some.n_rows) == (110, 120, 710, 10)
    assert (some.index, some.path, some.marked) == (3, "table.parquet", ((712, "killed"),))
    assert shard.rows(0, shard.n_rows) == shard


def test_a_shard_is_small_on_the_wire():
    assert len(pickle.dumps(Shard(0, "a/folder/table.parquet", 0, 10**12, 0))) < 300
