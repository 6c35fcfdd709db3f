"""Parts: whole or not there, the same bytes for the same rows, and what they tell of themselves."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.scoring.run_folder import Stamp, write_part

TABLE = pa.table({"text": ["a", None], "n": pa.array([1, 2], pa.int8())})
STAMP = Stamp(index=3, plan="p" * 64, artifact="a" * 64, n_rows=2, n_bad=1)


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
