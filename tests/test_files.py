"""Files of a source: which, in which order, and how they are told from others."""

import hashlib
import os

import fsspec
import pytest

from pipeline.scoring.files import file_identity, file_moment, file_size, list_files, open_binary


@pytest.fixture
def folder(tmp_path):
    for name in ("b.parquet", "a.PARQUET", "sub/c.pq", "_hidden.parquet", ".x.parquet", "_run/d.parquet", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(files, folder):
    return [os.path.relpath(file, folder) for file in files]


def test_a_folder_is_its_parquet_files_by_name_without_the_hidden_ones(folder):
    assert names(list_files(folder), folder) == ["a.PARQUET", "b.parquet", "sub/c.pq"]


def test_a_list_keeps_its_order_and_a_pattern_is_sorted(folder):
    assert names(list_files([folder / "b.parquet", folder / "a.PARQUET"]), folder) == ["b.parquet", "a.PARQUET"]
    assert names(list_files(f"{folder}/*.[pP]*"), folder) == ["_hidden.parquet", "a.PARQUET", "b.parquet"]
    assert names(list_files(f"file://{folder}/b.parquet"), folder) == ["b.parquet"]


def test_a_name_that_looks_like_a_pattern_is_the_file_of_that_name(tmp_path):
    (tmp_path / "a [1].csv").write_text("text\n")
    assert list_files(tmp_path / "a [1].csv") == [str(tmp_path / "a [1].csv")]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("none.csv", FileNotFoundError, "none.csv does not exist"),
        ("*.tsv", FileNotFoundError, "no file fits"),
        ("empty", FileNotFoundError, "is a folder, not a file, and holds no Parquet files"),
        (["b.parquet", "b.parquet"], ValueError, "is named twice"),
        ([], ValueError, "an empty list of files"),
        ("zero.csv", ValueError, r"is empty \(0 bytes\)"),
        ("nowhere://a/b.csv", ValueError, "no address that fsspec knows"),
    ],
)
def test_what_is_not_there_is_named(source, error, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "zero.csv").touch()
    with pytest.raises(error, match=message):
        list_files(source)


def test_addresses_of_fsspec_are_listed_read_and_told_apart():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/in/b.parquet": b"2", "/in/a.parquet": b"10", "/in/_x.parquet": b"3", "/in/t.csv": b"text\n"})
    assert list_files("memory://in") == ["memory:///in/a.parquet", "memory:///in/b.parquet"]
    assert list_files("memory://in/*.csv") == ["memory:///in/t.csv"]
    assert list_files("memory://in/t.csv") == ["memory:///in/t.csv"]
    with open_binary("memory://in/a.parquet") as file:
        assert file.read() == b"10"
    assert file_size("memory://in/a.parquet") == 2
    before = file_identity("memory://in/a.parquet")
    assert before == file_identity("memory://in/a.parquet")
    memory.pipe("/in/a.parquet", b"11")
    assert file_identity("memory://in/a.parquet") != before
    with pytest.raises(FileNotFoundError, match=r"memory://in/none\.csv does not exist"):
        list_files("memory://in/none.csv")


def test_a_file_is_known_by_its_contents_alone_and_a_write_is_noticed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text\na\n")
    identity, moment = file_identity(str(path)), file_moment(str(path))
    assert identity == {"size": 7, "sha256": hashlib.sha256(b"text\na\n").hexdigest()}
    os.utime(path, (1, 1))
    assert file_identity(str(path)) == identity
    assert file_moment(str(path)) != moment
