"""What becomes a source, and what every kind does with rows, cells and schemas."""

import json
import os
import re
import threading
from decimal import Decimal
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.scoring.sources import (
    FrameSource,
    check_text_type,
    list_files,
    open_source,
    text_array,
    with_equal_sizes,
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


def test_of_several_index_levels_those_with_a_name_become_columns():
    index = pd.MultiIndex.from_tuples([(5, "x"), (7, 2)], names=["key", None])
    source = FrameSource(pd.DataFrame({"text": ["a", "b"]}, index=index), "text")
    (rows,) = source.rows(10, mark=False)
    assert rows.table.to_pydict() == {"key": [5, 7], "text": ["a", "b"]}


@pytest.mark.parametrize("kind", ["str", "object", "category"])
def test_an_index_without_a_name_may_hold_what_no_file_can(kind):
    frame = pd.DataFrame({"text": ["a", "b"], "n": [1, 2]}, index=[3, "c"])
    (rows,) = FrameSource(frame.astype({"text": kind}), "text").rows(10, mark=False)
    assert rows.table.to_pydict() == {"text": ["a", "b"], "n": [1, 2]}


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7])
@pytest.mark.parametrize("sizes", [[], [0], [1] * 5, [5], [3, 3], [2, 0, 4, 1]])
def test_tables_of_any_sizes_become_tables_of_one_size_each_as_soon_as_it_is_full(sizes, n_rows):
    before = given = 0

    def tables():
        nonlocal before, given
        for size in sizes:
            before, given = given, given + size
            yield pa.table({"n": range(before, given)})

    rows, found = [], []
    for table in with_equal_sizes(tables(), n_rows):
        rows += table["n"].to_pylist()
        found.append(table.num_rows)
        assert before < len(rows)
    assert found == [n_rows] * (given // n_rows) + [given % n_rows] * (given % n_rows > 0)
    assert rows == list(range(sum(sizes)))


@pytest.mark.parametrize(
    ("cell", "written", "reason"),
    [
        (None, None, None),
        (float("nan"), None, None),
        (pd.NA, None, None),
        (b"a", "b'a'", "type bytes, not a string"),
        (3, "3", "type int, not a string"),
        ([], "[]", "type list, not a string"),
        ([None], "[None]", "type list, not a string"),
        (["a", "b"], "['a', 'b']", "type list, not a string"),
        ("a\ud800", r"a\ud800", "contains a lone surrogate.* written as 'a"),
    ],
)
@pytest.mark.parametrize("other", ["é", None, 7])
def test_a_cell_that_is_no_text_is_marked_and_still_written(cell, written, reason, other):
    marked = {}
    array = text_array([cell, other], marked)
    assert array.type == pa.large_string()
    assert array[0].as_py() == written
    assert marked.keys() == {place for place, bad in enumerate((reason, other == 7)) if bad}
    assert reason is None or re.search(reason, marked[0])


def test_identities_tell_values_types_and_names_apart_and_are_the_same_again():
    frame = pd.DataFrame({"text": ["a", "b", 3], "n": [1, 2, 3]})
    identity = FrameSource(frame, "text").identity()
    assert FrameSource(frame.copy(), "text").identity() == identity
    (file,) = identity.pop("files")
    assert identity == {"kind": "DataFrame"}
    assert file["n_rows"] == 3
    assert re.fullmatch("[0-9a-f]{64}", file["sha256"])
    for other in (
        frame.assign(n=[1, 2, 4]),
        frame.assign(n=[1.0, 2, 3]),
        frame.assign(text=["a", "b", "3"]),
        frame[::-1],
        frame[:2],
        frame.rename(columns={"n": "m"}),
    ):
        assert FrameSource(other, "text").identity()["files"][0]["sha256"] != file["sha256"]
    empty = [frame[:0], frame[:0].astype({"n": float}), frame[:0].rename(columns={"n": "m"})]
    identities = [str(FrameSource(other, "text").identity()) for other in empty]
    assert len(set(identities)) == len(empty)


def test_rows_of_a_frame_have_its_types_however_few_are_read_at_once():
    cells = {"text": ["a", "b"], "note": [None, "x"], "price": [Decimal("1.5"), 3]}
    source = FrameSource(pd.DataFrame(cells, dtype=object), "text")
    tables = [rows.table for rows in source.rows(1, mark=False)]
    assert [table.schema for table in tables] == [source.schema] * 2
    assert pa.concat_tables(tables).to_pydict() == cells


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (
            pd.DataFrame({"text": ["a", "b"], "x": [1, "b"]}),
            TypeError,
            "column 'x' of the DataFrame cannot be written to Parquet",
        ),
        (pd.DataFrame({"text": [1j]}), TypeError, "column 'text' of .* cannot be written"),
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


@pytest.mark.parametrize(
    ("names", "name"),
    [(["a.csv"], "a.csv"), (["a.csv", "b.csv"], "a.csv and 1 more"), (list("cab"), "c and 2 more")],
)
def test_a_source_is_called_by_its_first_file(names, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for own in names:
        (tmp_path / own).write_text("text\na\n")
    assert open_source(names, "text").name == name


def test_a_workbook_is_read_as_a_frame(tmp_path):
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"text": ["a", "b"], "n": [1, 2]})
    frame.to_excel(tmp_path / "in.xlsx", index=False)
    (rows,) = open_source(tmp_path / "in.xlsx", "text").rows(10, mark=False)
    assert rows.table.column("text").to_pylist() == ["a", "b"]
    (tmp_path / "b.xlsx").write_bytes((tmp_path / "in.xlsx").read_bytes())
    with pytest.raises(ValueError, match=r"in\.xlsx is .* Excel workbook, not CSV text"):
        open_source([tmp_path / "in.xlsx", tmp_path / "b.xlsx"], "text")


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.parquet",
        "a.PARQUET",
        "sub/c.pq",
        "_hidden.parquet",
        ".x.parquet",
        "_run/d.parquet",
        "sub/_run/e.parquet",
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
        ("em*", FileNotFoundError, "no file matches"),
        (
            "empty",
            FileNotFoundError,
            r"is a folder, not a file, and holds no Parquet files \(\.parquet, \.pq\)",
        ),
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


# ---- addresses


@pytest.fixture
def store(folder):
    """Copy the folder into fsspec's memory; give the file system."""
    system = fsspec.filesystem("memory")
    system.put(f"{folder}/", "/store", recursive=True)
    system.pipe_file("/store/a [1].csv", b"text\n")
    system.pipe_file("/store/_/f.parquet", b"")
    yield system
    system.rm("/store", recursive=True)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", ["a.PARQUET", "b.parquet", "sub/c.pq"]),
        ("/", ["a.PARQUET", "b.parquet", "sub/c.pq"]),
        ("/sub", ["sub/c.pq"]),
        ("/_run", ["_run/d.parquet"]),
        ("/_", ["_/f.parquet"]),
        ("/note.txt", ["note.txt"]),
        ("/*.[pP]*", [".x.parquet", "_hidden.parquet", "a.PARQUET", "b.parquet"]),
        ("/*/*.pq", ["sub/c.pq"]),
        ("/[ns]*", ["note.txt"]),  # and not the folder
        ("/a [1].csv", ["a [1].csv"]),  # which is no pattern
    ],
)
def test_an_address_is_a_file_or_a_pattern_or_a_folder(source, found, store):
    files = list_files(f"memory://store{source}")
    assert [file.removeprefix("memory:///store/") for file in files] == found
    for file in files:
        assert fsspec.core.url_to_fs(file)[0].isfile(file)


@pytest.mark.parametrize("name", ["none.csv", "none", "*.tsv", "s?b"])
def test_an_address_where_nothing_is_to_be_scored_is_named(name, store):
    with pytest.raises(FileNotFoundError, match=re.escape(f"memory://store/{name} does not exist")):
        list_files(f"memory://store/{name}")


def test_a_file_that_two_addresses_name_is_named_twice(store):
    with pytest.raises(ValueError, match=r"store/b\.parquet is named twice"):
        list_files(["memory://store", "memory://store/b.parquet"])


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and prints nothing."""

    def log_message(self, *_):
        pass


def test_a_web_server_is_listed_by_its_pages_and_a_query_is_no_pattern(folder):
    pytest.importorskip("aiohttp")
    (folder / "in.csv").write_text("text\na\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        expected = [f"{address}/{name}" for name in ("a.PARQUET", "b.parquet", "sub/c.pq")]
        for end in ("", "/"):
            assert list_files(f"{address}{end}") == expected
            assert list_files(f"{address}/sub{end}") == expected[2:]
        (rows,) = open_source(f"{address}/in.csv?signed=1", "text").rows(10, mark=False)
        assert rows.table.to_pydict() == {"text": ["a"]}
        server.shutdown()
