"""Parts: whole or not there, the same bytes for the same rows, and what they tell of themselves."""

import hashlib
import os
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.scoring.run_folder import Stamp, part_name, remove_temporary, write_part, write_whole

TABLE = pa.table({"text": ["a", None], "n": pa.array([1, 2], pa.int8())})
STAMP = Stamp(index=3, plan="p" * 64, artifact="a" * 64, n_rows=2, n_bad=1)


def test_a_part_holds_its_rows_and_its_stamp_and_the_same_rows_are_the_same_bytes(tmp_path):
    sha256 = write_part(TABLE, tmp_path / "a", STAMP)
    assert Stamp.of(tmp_path / "a") == STAMP
    assert pq.read_table(tmp_path / "a").equals(TABLE)
    assert sha256 == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    assert write_part(TABLE.slice(0), tmp_path / "b", STAMP) == sha256
    assert write_part(TABLE, tmp_path / "c", replace(STAMP, index=4)) != sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1])
def test_what_is_cut_short_missing_or_not_ours_has_no_stamp(keep, tmp_path):
    path = tmp_path / "part"
    assert Stamp.of(path) is None
    write_part(TABLE, path, STAMP)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert Stamp.of(path) is None
    pd.DataFrame({"a": [1]}).to_parquet(path)
    assert Stamp.of(path) is None


def test_a_stamp_that_does_not_fit_the_rows_is_none(tmp_path):
    write_part(TABLE, tmp_path / "part", replace(STAMP, n_rows=3))
    assert Stamp.of(tmp_path / "part") is None


def test_a_flipped_bit_is_noticed_by_whoever_checks_pages(tmp_path):
    write_part(TABLE, tmp_path / "part", STAMP)
    content = bytearray((tmp_path / "part").read_bytes())
    at = content.index(b"a", 4, 80)
    content[at] ^= 1
    (tmp_path / "part").write_bytes(content)
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.read_table(tmp_path / "part", page_checksum_verification=True)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_where_writing_fails_the_older_file_stays_and_nothing_is_left(
    failing, tmp_path, monkeypatch
):
    (tmp_path / "part").write_bytes(b"older")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "part", b"newer")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("part", b"older")]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    for name in (".part-000001.parquet.x1.tmp", "part-000001.parquet", ".hidden", "a.tmp"):
        (tmp_path / name).touch()
    remove_temporary(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".hidden",
        "a.tmp",
        "part-000001.parquet",
    ]


def test_the_order_of_names_is_that_of_numbers():
    names = [part_name(i) for i in (0, 9, 10, 99_999, 100_000)]
    assert sorted(names) == names
