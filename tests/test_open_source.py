"""What users name becomes a source."""

import os

import pandas as pd
import pytest

from pipeline.scoring.sources import list_files, open_source


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "in.csv").write_text("text\na\n")
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(ValueError, match="Parquet and CSV files together"):
        open_source([tmp_path / "in.csv", tmp_path / "in.parquet"], "text")
    with pytest.raises(
        TypeError, match="source is a int; expected a path, a list of paths or a pandas DataFrame"
    ):
        open_source(3, "text")


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.parquet",
        "a.PARQUET",
        "sub/c.pq",
        "_hidden.parquet",
        ".x.parquet",
        "_run/d.parquet",
        "note.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def names(files, folder):
    return [os.path.relpath(file, folder) for file in files]


def test_a_folder_is_its_parquet_files_by_name_without_the_hidden_ones(folder):
    assert names(list_files(folder), folder) == ["a.PARQUET", "b.parquet", "sub/c.pq"]


def test_a_list_keeps_its_order_and_a_pattern_is_sorted(folder):
    assert names(list_files([folder / "b.parquet", folder / "a.PARQUET"]), folder) == [
        "b.parquet",
        "a.PARQUET",
    ]
    assert names(list_files(f"{folder}/*.[pP]*"), folder) == [
        "_hidden.parquet",
        "a.PARQUET",
        "b.parquet",
    ]
    assert names(list_files(f"file://{folder}/b.parquet"), folder) == ["b.parquet"]


def test_a_name_that_looks_like_a_pattern_is_the_file_of_that_name(tmp_path):
    (tmp_path / "a [1].csv").write_text("text\n")
    assert list_files(tmp_path / "a [1].csv") == [str(tmp_path / "a [1].csv")]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("none.csv", FileNotFoundError, "none.csv does not exist"),
        ("*.tsv", FileNotFoundError, "no file matches"),
        ("empty", FileNotFoundError, "is a folder, not a file, and holds no Parquet files"),
        (["b.parquet", "b.parquet"], ValueError, "is named twice"),
        ([], ValueError, "an empty list of files"),
        ("zero.csv", ValueError, r"is empty \(0 bytes\)"),
        ("nowhere://a/b.csv", ValueError, "not an address that fsspec knows"),
    ],
)
def test_what_is_not_there_is_named(source, error, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "zero.csv").touch()
    with pytest.raises(error, match=message):
        list_files(source)
