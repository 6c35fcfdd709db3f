"""Where output goes: what is refused before any work, and single files made of parts."""

import csv
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.scoring.run_folder import Stamp, Target, write_part

SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("n", pa.int64()),
        ("ok", pa.bool_()),
        ("p", pa.float64()),
        ("error", pa.string()),
    ]
)
PARTS = [
    pa.table(
        {
            "text": ["a", 'b "quoted",\r\n'],
            "n": [1, 2],
            "ok": [True, False],
            "p": [0.1, 1 / 3],
            "error": [None, None],
        },
        SCHEMA,
    ),
    pa.table(
        {
            "text": ["", None],
            "n": [None, 4],
            "ok": [None, True],
            "p": [None, 1e-9],
            "error": [None, "bad"],
        },
        SCHEMA,
    ),
    SCHEMA.empty_table(),
]


def target_with_parts(out):
    target = Target(out, [])
    target.folder.path.mkdir()
    for index, table in enumerate(PARTS):
        write_part(table, target.folder.part(index), Stamp(index, "p", "a", table.num_rows, 0))
    return target


def test_endings_tell_files_from_folders(tmp_path):
    (tmp_path / "a.folder").mkdir()
    for name in ("out", "a.folder"):
        target = Target(tmp_path / name, [])
        assert (target.file, target.folder.path) == (None, tmp_path / name)
    for name in ("out.csv", "out.parquet", "out.pq"):
        target = Target(tmp_path / name, [])
        assert (target.file, target.folder.path) == (tmp_path / name, tmp_path / f"{name}.parts")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.folder"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("in.csv", "is the input file"),
        (
            "out.xlsx",
            r"has the ending '\.xlsx'; allowed are \.csv, \.parquet, \.pq and \.jsonl, or none",
        ),
        ("full", r"holds other files \(thesis\.tex\)"),
        ("full.csv", r"full\.csv cannot be written: it is a folder"),
        ("file", "file is a file; name a folder"),
        ("none/out", "none does not exist"),
        ("none/out.csv", "none does not exist"),
        (".", "holds the input"),
        ("s3://bucket/out", "no folder of this machine"),
    ],
)
def test_what_cannot_be_written_is_refused(out, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text("text\na\n")
    (tmp_path / "file").write_text("a file")
    for folder in ("full", "full.csv"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "thesis.tex").touch()
    with pytest.raises((OSError, ValueError), match=message):
        Target(out, [str(tmp_path / "in.csv")])


@pytest.mark.parametrize("out", ["in", "in/out", "in/out.csv", "in/../in/a"])
def test_output_in_a_folder_that_is_read_is_refused(out, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=": the next run would read it too"):
        Target(tmp_path / out, [], [tmp_path / "in"])
    assert Target(tmp_path / "inside", [], [tmp_path / "in"]).file is None


@pytest.mark.parametrize("out", ["new", "out.csv"])
def test_a_folder_that_may_only_be_read_is_refused(out, tmp_path, monkeypatch):
    monkeypatch.setattr(
        os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK)
    )  # nothing is read-only for root
    with pytest.raises(PermissionError, match="is read-only"):
        Target(tmp_path / out, [])


@pytest.mark.parametrize("name", ["out.parquet", "out.pq"])
def test_a_parquet_file_of_the_parts_has_their_rows_and_types(name, tmp_path):
    (tmp_path / f".{name}.x1.tmp").touch()  # of a run that was killed here
    target_with_parts(tmp_path / name).join_parts(3, SCHEMA)
    assert pq.read_table(tmp_path / name).equals(pa.concat_tables(PARTS))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_part_at_a_time_gives_the_csv_file_of_the_whole_table(tmp_path):
    target_with_parts(tmp_path / "out.csv").join_parts(3, SCHEMA)
    whole = pa.concat_tables(PARTS).to_pandas(
        types_mapper={pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}.get
    )
    expected = whole.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    assert (tmp_path / "out.csv").read_bytes().decode() == expected


def test_columns_that_are_not_asked_for_are_left_out(tmp_path):
    target_with_parts(tmp_path / "out.parquet").join_parts(3, pa.schema(list(SCHEMA)[:-1]))
    assert pq.read_schema(tmp_path / "out.parquet").names == ["text", "n", "ok", "p"]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_where_the_disk_is_full_the_older_file_and_the_parts_stay(name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"older")
    target = target_with_parts(tmp_path / name)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        target.join_parts(3, SCHEMA)
    assert (tmp_path / name).read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.parts"]
    assert target.remove_if_empty() is None
    assert target.folder.path.is_dir()


def test_a_folder_beside_a_file_goes_where_nothing_in_it_is_finished(tmp_path):
    target = Target(tmp_path / "out.csv", [])
    (target.folder.path / "_run").mkdir(parents=True)
    target.remove_if_empty()
    assert list(tmp_path.iterdir()) == []
