"""What becomes a source, and what every kind does with rows, cells and schemas."""

import os

import pandas as pd
import pyarrow as pa
import pytest

from pipeline.scoring.sources import (
    FrameSource,
    check_text_type,
    list_files,
    open_source,
    without_index,
)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.null(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_texts_of_every_kind_are_texts(kind):
    assert check_text_type(pa.schema([("text", kind)]), "text", "t") is None


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.binary(), pa.list_(pa.string()), pa.dictionary(pa.int8(), pa.int64())]
)
def test_columns_of_anything_else_are_refused_with_their_type(kind):
    with pytest.raises(TypeError, match=r"t: column 'text' holds .*, not text"):
        check_text_type(pa.schema([("text", kind)]), "text", "t")


def test_an_index_with_a_name_becomes_a_column_and_one_without_is_dropped():
    frame = pd.DataFrame({"a": [1, 2]}, index=pd.Index([5, 7], name="key"))
    schema = without_index(pa.Schema.from_pandas(frame))
    assert schema.names == ["a", "key"]
    assert pa.Table.from_pandas(frame).cast(schema).to_pandas().columns.tolist() == ["a", "key"]
    assert without_index(pa.Schema.from_pandas(frame.rename_axis(None))).names == ["a"]


@pytest.mark.parametrize("written", [b"{", b"[]", b"{}", b'{"columns": [7]}', b"[" * 10**5])
def test_what_pandas_wrote_is_left_out_where_it_is_damaged(written):
    schema = pa.schema([("text", pa.string())])
    kept = without_index(schema.with_metadata({"pandas": written, "author": "x"}))
    assert kept.equals(schema.with_metadata({"author": "x"}), check_metadata=True)


def test_identities_tell_values_types_and_names_apart_and_are_the_same_again():
    frame = pd.DataFrame({"text": ["a", "b", 3], "n": [1, 2, 3]})
    identity = FrameSource(frame, "text").identity()
    assert FrameSource(frame.copy(), "text").identity() == identity
    for other in (
        frame.assign(n=[1, 2, 4]),
        frame.assign(n=[1.0, 2, 3]),
        frame.assign(text=["a", "b", "3"]),
        frame[::-1],
        frame[:2],
        frame.rename(columns={"n": "m"}),
    ):
        assert FrameSource(other, "text").identity() != identity


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (
            pd.DataFrame({"text": ["a", "b"], "x": [1, "b"]}),
            TypeError,
            "column 'x' of the DataFrame cannot be written to Parquet",
        ),
        (pd.DataFrame({"text": [1, 2]}), TypeError, "column 'text' holds int64, not text"),
        (pd.DataFrame({"Text": ["a"]}), ValueError, "no column 'text'.*Did you mean 'Text'"),
        (
            pd.DataFrame([["a", "b"]], columns=["text", "text"]),
            ValueError,
            "several columns called 'text'",
        ),
    ],
)
def test_tables_that_cannot_be_scored_are_refused_at_once(frame, error, message):
    with pytest.raises(error, match=message):
        FrameSource(frame, "text")


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
        ("memory://nowhere/*.csv", FileNotFoundError, r"memory://nowhere/\*\.csv does not exist"),
    ],
)
def test_what_is_not_there_is_named(source, error, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "zero.csv").touch()
    with pytest.raises(error, match=message):
        list_files(source)
