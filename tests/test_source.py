"""What becomes a source, and what every kind does with rows, cells and schemas."""

import json
import os

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.scoring.sources import (
    FrameSource,
    check_text_type,
    list_files,
    open_source,
    text_array,
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
    schema = without_index(pa.Schema.from_pandas(frame.rename_axis(None)))
    assert schema.names == ["a"]
    told = json.loads(schema.metadata[b"pandas"])
    assert (told["index_columns"], [column["name"] for column in told["columns"]]) == ([], ["a"])


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


def test_an_address_is_a_file_a_pattern_or_a_folder_without_the_hidden_ones():
    system = fsspec.filesystem("memory")
    for name in ("b.parquet", "a.PARQUET", "sub/c.pq", "_run/d.parquet", "x/.e.pq", "note.txt"):
        system.pipe(f"/listed/{name}", b"1")
    root = "memory://listed"

    def listed(source):
        return [name.partition("listed/")[2] for name in list_files(source)]

    assert listed(f"{root}/note.txt") == ["note.txt"]
    assert listed(f"{root}/*.p*") == ["b.parquet"]
    for folder in (root, f"{root}/"):
        assert listed(folder) == ["a.PARQUET", "b.parquet", "sub/c.pq"]
    with pytest.raises(FileNotFoundError, match=r"memory://listed/none\.csv does not exist"):
        list_files(f"{root}/none.csv")


def test_a_pattern_is_of_files_alone(folder):
    (folder / "c.parquet").mkdir()
    assert names(list_files(f"{folder}/?.parquet"), folder) == ["b.parquet"]


def test_cells_that_are_no_texts_are_marked_and_what_is_missing_is_null():
    cells = ["é", None, np.nan, pd.NA, b"bytes", 3, "bad \ud800", [1]]
    marked = {}
    assert text_array(cells, marked).equals(
        pa.array(["é", None, None, None, "b'bytes'", "3", "bad \\ud800", "[1]"], pa.large_string())
    )
    assert sorted(marked) == [4, 5, 6, 7]
    assert "bytes" in marked[4]
    assert "int" in marked[5]
    assert "surrogate" in marked[6]
    assert text_array(["a", None, np.nan], {}).equals(
        pa.array(["a", None, None], pa.large_string())
    )
    only_bytes = {}
    text_array([b"bytes"], only_bytes)
    assert sorted(only_bytes) == [0]


def test_a_column_has_one_type_in_all_rows():
    frame = pd.DataFrame({"text": list("abcd"), "note": ["x", "y", None, None]}, dtype=object)
    source = FrameSource(frame, "text")
    tables = [rows.table for rows in source.rows(2, mark=True)]
    assert all(table.schema.equals(source.schema) for table in tables)
    assert pa.concat_tables(tables)["note"].to_pylist() == ["x", "y", None, None]


def test_of_several_index_levels_those_with_a_name_become_columns():
    index = pd.MultiIndex.from_tuples([(5, "x"), (7, "y")], names=["key", None])
    source = FrameSource(pd.DataFrame({"text": ["a", "b"]}, index=index), "text")
    assert source.schema.names == ["key", "text"]


def test_tables_without_rows_have_identities_too():
    frames = [
        pd.DataFrame({"text": pd.array([], dtype=object), name: pd.array([], dtype=kind)})
        for name, kind in (("n", "int64"), ("m", "int64"), ("n", "float64"))
    ]
    found = [FrameSource(frame, "text").identity() for frame in frames]
    assert all(one["kind"] == "DataFrame" for one in found)
    assert [one["files"][0]["n_rows"] for one in found] == [0, 0, 0]
    assert len({one["files"][0]["sha256"] for one in found}) == 3


def test_a_table_of_excel_is_a_source(tmp_path):
    pytest.importorskip("openpyxl", reason="openpyxl is not installed: pip install '.[excel]'")
    pd.DataFrame({"text": ["a", "b"]}).to_excel(tmp_path / "in.xlsx", index=False)
    source = open_source(tmp_path / "in.xlsx", "text")
    assert [rows.table["text"].to_pylist() for rows in source.rows(5, mark=True)] == [["a", "b"]]
