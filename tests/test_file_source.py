"""Files as streams of rows: one or several, CSV or Parquet, however they are divided."""

import hashlib
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.scoring.sources import CsvSource, JsonSource, ParquetSource, open_source

FRAME = pd.DataFrame(
    {
        "text": [f"text {i}" for i in range(10)],
        "n": pd.array([None if i == 3 else i for i in range(10)], dtype="Int64"),
        "kind": pd.Categorical(["x", "y"] * 5),
        "when": pd.date_range("2026-01-01", periods=10),
    }
)


def all_rows(source, n_rows):
    tables = [rows.table for rows in source.rows(n_rows, mark=False)]
    assert all(table.schema.equals(source.schema, check_metadata=True) for table in tables)
    return tables


@pytest.mark.parametrize("row_group_size", [1, 3, 100])
@pytest.mark.parametrize("n_rows", [1, 4, 100])
def test_parquet_rows_are_those_of_the_file_with_their_types_whatever_its_row_groups(
    row_group_size, n_rows, tmp_path
):
    FRAME.to_parquet(tmp_path / "in.parquet", row_group_size=row_group_size)
    source = ParquetSource([str(tmp_path / "in.parquet")], "text")
    tables = all_rows(source, n_rows)
    assert [table.num_rows for table in tables[:-1]] == [n_rows] * (len(tables) - 1)
    pd.testing.assert_frame_equal(pa.concat_tables(tables).to_pandas(), FRAME)
    assert source.expected_rows(3) == 10


def test_rows_go_on_from_one_file_to_the_next(tmp_path):
    csv = [str(tmp_path / f"{i}.csv") for i in range(3)]
    for path, lines in zip(csv, ["a\nb\nc", "d\n,\n", "e"], strict=True):
        (tmp_path / path).write_text(f"text\n{lines}\n")
    source = CsvSource(csv, "text")
    for _ in range(2):
        found = list(source.rows(4, mark=True))
        texts = [rows.table["text"].to_pylist() for rows in found]
        assert texts == [["a", "b", "c", "d"], ["", "e"]]
        assert [list(rows.marked) for rows in found] == [[], [0]]
    parquet = [str(tmp_path / f"{i}.parquet") for i in range(2)]
    FRAME[:3].to_parquet(parquet[0])
    FRAME[3:].to_parquet(parquet[1])
    source = ParquetSource(parquet, "text")
    assert source.expected_rows(0) == 10
    tables = all_rows(source, 4)
    assert [table.num_rows for table in tables] == [4, 4, 2]
    assert pa.concat_tables(tables)["text"].to_pylist() == FRAME["text"].tolist()


def test_files_of_other_columns_or_types_are_refused_before_anything_is_read(tmp_path):
    paths = [str(tmp_path / f"{i}.parquet") for i in range(3)]
    FRAME.to_parquet(paths[0])
    FRAME.rename(columns={"n": "m"}).to_parquet(paths[1])
    FRAME.assign(n="1").to_parquet(paths[2])
    with pytest.raises(
        ValueError,
        match=r"1\.parquet does not .* of .*0\.parquet: it lacks \['n'\], and has \['m'\] instead",
    ):
        ParquetSource(paths[:2], "text")
    with pytest.raises(
        ValueError,
        match=r"0\.parquet does not have .* of .*1\.parquet: it lacks \['m'\], and has \['n'\]",
    ):
        ParquetSource(paths[1::-1], "text")
    with pytest.raises(
        ValueError, match=r"2\.parquet has large_string in column 'n', but .*0\.parquet has int64"
    ):
        ParquetSource([paths[0], paths[2]], "text")
    for i, header in enumerate(("text,a", "text,b")):
        (tmp_path / f"{i}.csv").write_text(f"{header}\n1,2\n")
    with pytest.raises(
        ValueError, match=r"1\.csv has the columns \['text', 'b'\], but .*0\.csv has"
    ):
        list(CsvSource([str(tmp_path / f"{i}.csv") for i in range(2)], "text").rows(5, mark=False))


def test_a_file_that_is_gone_when_its_rows_are_read_is_not_called_damaged(tmp_path):
    FRAME.to_parquet(tmp_path / "in.parquet")
    source = ParquetSource([str(tmp_path / "in.parquet")], "text")
    (tmp_path / "in.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"in\.parquet"):
        next(source.rows(5, mark=False))


@pytest.mark.parametrize("keep", [3, 0.5, -4])
def test_parquet_that_is_cut_short_is_refused_by_name(keep, tmp_path):
    FRAME.to_parquet(tmp_path / "in.parquet")
    whole = (tmp_path / "in.parquet").read_bytes()
    (tmp_path / "in.parquet").write_bytes(
        whole[: int(keep * len(whole)) if isinstance(keep, float) else keep]
    )
    with pytest.raises(ValueError, match=r"in\.parquet is not a readable Parquet file"):
        ParquetSource([str(tmp_path / "in.parquet")], "text")


def test_parquet_that_is_damaged_inside_is_refused_by_name_when_its_rows_are_read(tmp_path):
    pq.write_table(
        pa.table({"text": [f"text {i}" for i in range(1000)]}),
        tmp_path / "in.parquet",
        write_page_checksum=True,
    )
    whole = (tmp_path / "in.parquet").read_bytes()
    (tmp_path / "in.parquet").write_bytes(whole[:10] + bytes(200) + whole[210:])
    with pytest.raises(ValueError, match=r"in\.parquet is not a readable Parquet file"):
        list(ParquetSource([str(tmp_path / "in.parquet")], "text").rows(10, mark=False))


def test_parquet_with_texts_that_are_not_utf_8_is_refused_by_name(tmp_path):
    latin = pa.array([b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": latin}), tmp_path / "in.parquet")
    source = ParquetSource([str(tmp_path / "in.parquet")], "text")
    with pytest.raises(ValueError, match=r"in\.parquet is not a readable Parquet file.*UTF"):
        list(source.rows(10, mark=True))


def test_the_rows_of_a_csv_file_are_estimated_from_its_bytes(tmp_path):
    (tmp_path / "in.csv").write_text("text\n" + "a text of one length\n" * 50_000)
    source = CsvSource([str(tmp_path / "in.csv")], "text")
    assert source.expected_rows(0) is None
    estimates = [
        source.expected_rows(1000 * (i + 1)) for i, _ in enumerate(source.rows(1000, mark=False))
    ]
    assert 45_000 < estimates[25] < 55_000
    assert estimates[-1] == 50_000


def test_the_rows_of_several_csv_files_are_estimated_from_the_bytes_of_all(tmp_path):
    paths = [str(tmp_path / f"{i}.csv") for i in range(3)]
    for path in paths:
        (tmp_path / path).write_text("text\n" + "a\n" * 400)
    source = CsvSource(paths, "text")
    assert source.expected_rows(10) is None  # as nothing was read
    for _ in range(2):
        estimates = [
            source.expected_rows(200 * (i + 1)) for i, _ in enumerate(source.rows(200, mark=False))
        ]
        assert estimates == [600, 1200, 900, 1200, 1000, 1200]  # small files are read at once


def test_identities_tell_other_contents_and_other_ways_of_reading_apart(tmp_path):
    path = str(tmp_path / "in.csv")
    (tmp_path / "in.csv").write_text("text\na\n")
    first = CsvSource([path], "text")
    identity = first.identity()
    os.utime(path, (1, 1))
    assert CsvSource([path], "text").identity() == identity
    assert CsvSource([path], "text", encoding="latin-1").identity() != identity
    (tmp_path / "in.csv").write_text("text\nb\n")
    assert CsvSource([path], "text").identity() != identity
    with pytest.raises(ValueError, match=r"in\.csv was changed while it was scored"):
        first.check_unchanged()


def test_json_lines_have_an_encoding_and_nested_values_are_text_as_written(tmp_path):
    content = '{"text": "é", "more": {"a": "ü"}}\n'
    (tmp_path / "in.jsonl").write_text(content, encoding="latin-1")
    source = open_source(tmp_path / "in.jsonl", "text", encoding="latin-1")
    (table,) = all_rows(source, 5)
    assert table.to_pylist() == [{"text": "é", "more": '{"a": "ü"}'}]


@pytest.mark.parametrize(
    ("kind", "content", "options", "said"),
    [
        (CsvSource, b"text\na\n", {}, {"kind": "csv", "encoding": "utf-8", "sep": ","}),
        (
            CsvSource,
            b"text;n\n\xe9;1\n",
            {"encoding": "latin-1", "sep": ";"},
            {"kind": "csv", "encoding": "latin-1", "sep": ";"},
        ),
        (
            JsonSource,
            b'{"text": "a"}\n',
            {},
            {"kind": "json lines", "encoding": "utf-8", "sep": ","},
        ),
        (ParquetSource, FRAME.to_parquet(), {}, {"kind": "parquet"}),
    ],
)
def test_an_identity_is_the_hashes_of_the_files_and_how_they_are_read(
    kind, content, options, said, tmp_path
):
    (tmp_path / "in").write_bytes(content)
    file = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    found = kind([str(tmp_path / "in")] * 2, "text", **options).identity()
    assert found == {**said, "files": [file] * 2}
