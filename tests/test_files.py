"""Files of a source: which, in which order, and how they are told from others."""

import hashlib
import os

import fsspec

from pipeline.files import file_identity, file_moment, file_size, open_binary


def test_addresses_of_fsspec_are_read_and_told_apart():
    memory = fsspec.filesystem("memory")
    memory.pipe("/in/a.parquet", b"10")
    with open_binary("memory://in/a.parquet") as file:
        assert file.read() == b"10"
    assert file_size("memory://in/a.parquet") == 2
    before = file_identity("memory://in/a.parquet")
    assert before == file_identity("memory://in/a.parquet")
    memory.pipe("/in/a.parquet", b"11")
    assert file_identity("memory://in/a.parquet") != before


def test_a_file_is_known_by_its_contents_alone_and_a_write_is_noticed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\na\n")
    identity, moment = file_identity(str(path)), file_moment(str(path))
    assert identity == {"size": 7, "sha256": hashlib.sha256(b"text\na\n").hexdigest()}
    os.utime(path, (1, 1))
    assert file_identity(str(path)) == identity
    assert file_moment(str(path)) != moment
