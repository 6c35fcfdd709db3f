"""CSV files row by row: the same rows however many are asked for, faults by their line."""

import bz2
import codecs
import gzip
import io
import itertools
import lzma
import zipfile

import pytest

from pipeline import csv_table, read_table
from pipeline.csv_table import CsvTable, check_names, refuse_twice
from tests.test_datasets import as_lists

CONTENT = 'id,text\n1,"two\nlines, ""quoted"""\n\n2,\n3,NA\n4,"""\n"\n'


def read(path, n, **options):
    with CsvTable(path, **options) as table:
        return list(itertools.chain.from_iterable(iter(lambda: table.read(n), [])))


@pytest.mark.parametrize("n", [1, 2, 3, 100])
@pytest.mark.parametrize("pack", [lambda content: content, gzip.compress], ids=["plain", "gz"])
def test_however_many_rows_are_asked_for_they_are_those_of_the_whole_table(n, pack, tmp_path):
    path = tmp_path / ("in.csv" if pack(b"a") == b"a" else "in.csv.gz")
    path.write_bytes(pack(CONTENT.encode()))
    assert read(path, n) == read_table(path).to_numpy().tolist()
    assert len(read(path, n)) == 4


def test_rows_at_fault_are_kept_with_line_reason_and_all_they_hold(tmp_path):
    (tmp_path / "in.csv").write_text('id,text\n1,a\n2,b,c,"d,\ne"\n3\n4,"f"g\n5,h\n')
    faults = {}
    with CsvTable(tmp_path / "in.csv") as table:
        rows = table.read(None, faults)
    assert rows == [["1", "a"], ["2", "b"], ["3", None], [None, None], ["5", "h"]]
    assert list(faults) == [1, 2, 3]
    assert faults[1] == 'line 4 has 4 cells, the header has 2: 2,b,c,"d,\ne"'
    assert faults[2].startswith("line 5 has 1 cells")
    assert faults[3].startswith("line 6: ")


def test_a_quote_that_is_never_closed_is_an_error_in_any_case(tmp_path):
    (tmp_path / "in.csv").write_text('id,text\n1,a\n2,"b\n3,c\n')
    with (
        CsvTable(tmp_path / "in.csv") as table,
        pytest.raises(ValueError, match=r"line 4: unexpected end of data"),
    ):
        table.read(None, {})


def test_a_cell_without_end_stops_reading_with_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.csv_table._LONGEST_CELL", 1000)
    (tmp_path / "in.csv").write_text('text\n"' + "a\n" * 2000)
    with (
        CsvTable(tmp_path / "in.csv") as table,
        pytest.raises(ValueError, match=r"quote that is never closed"),
    ):
        table.read(None, {})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
@pytest.mark.parametrize("before", [0, 1, 10, (1 << 20) - 3, 3 << 20])
def test_the_byte_that_is_no_text_is_found_wherever_it_is(encoding, before, tmp_path):
    start = ("text\n" + "é" * (before // 2) + "a" * (before % 2)).encode(encoding)
    bad = b"\xff" if encoding == "utf-8" else b"\x00\xdc"
    (tmp_path / "in.csv").write_bytes(start + bad + "\n".encode(encoding))
    with pytest.raises(UnicodeDecodeError) as slow:
        codecs.decode((tmp_path / "in.csv").read_bytes(), encoding)
    with (
        pytest.raises(
            ValueError,
            match=f"byte {slow.value.start} is 0x{slow.value.object[slow.value.start]:02x} ",
        ),
        CsvTable(tmp_path / "in.csv", encoding=encoding) as table,
    ):
        table.read()


def test_the_place_in_the_file_grows_as_rows_are_read(tmp_path):
    (tmp_path / "in.csv").write_text("text\n" + "a text\n" * 100_000)
    with CsvTable(tmp_path / "in.csv") as table:
        table.read(10)
        early = table.n_bytes_read
        table.read()
        assert 0 < early < table.n_bytes_read == (tmp_path / "in.csv").stat().st_size


def test_files_may_be_anywhere_and_are_closed_whatever_happens(monkeypatch):
    opened = []

    def open_binary(path):
        opened.append(io.BytesIO({"ok": b"text\na\n", "no": b"other\na\n"}[path]))
        return opened[-1]

    monkeypatch.setattr(csv_table, "open_binary", open_binary)
    with CsvTable("ok") as table:
        assert table.read() == [["a"]]
    with (
        pytest.raises(ValueError, match="no column 'text'"),
        CsvTable("no", columns=["text"]),
    ):
        pass
    assert all(file.closed for file in opened)


def test_names_are_checked():
    assert check_names(["a", "b"], ["b"], "t") is None
    with pytest.raises(ValueError, match=r"t has no column 'B'.*Did you mean 'b'"):
        check_names(["a", "b"], ["B"], "t")
    with pytest.raises(ValueError, match=r"several columns called 'a'"):
        refuse_twice(["a", "b", "a"], "t")


# ---- compressed CSV


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "text,label\nschön,pos\n")
    return buffer.getvalue()


CSV = "text,label\nschön,pos\n".encode()


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".gz", gzip.compress(CSV)),
        (".bz2", bz2.compress(CSV)),
        (".xz", lzma.compress(CSV)),
        (".zip", zipped("table.csv")),
    ],
)
def test_compressed_csv_is_unpacked(suffix, content, write):
    table = read_table(write(content, f"table.csv{suffix}"), columns=["text"])
    assert as_lists(table) == (["text", "label"], [["schön", "pos"]])


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".gz", CSV),
        (".gz", gzip.compress(CSV * 100)[:-12]),
        (".gz", gzip.compress(CSV * 100)[:20] + b"\xff" * 40),
        (".bz2", CSV),
        (".bz2", bz2.compress(CSV)[:-8]),
        (".xz", CSV),
        (".xz", lzma.compress(CSV)[:-12]),
        (".zip", CSV),
        (".zip", zipped("a.csv", "b.csv")),
        (".zip", zipped()),
    ],
    ids=[
        "gz not",
        "gz cut",
        "gz damaged",
        "bz2 not",
        "bz2 cut",
        "xz not",
        "xz cut",
        "zip not",
        "zip of two",
        "zip of none",
    ],
)
def test_a_compressed_file_that_cannot_be_unpacked_is_named(suffix, content, write):
    with pytest.raises(ValueError, match=rf"table\.csv\{suffix} "):
        read_table(write(content, f"table.csv{suffix}"))


@pytest.mark.parametrize(
    ("content", "kind", "cure"),
    [
        (gzip.compress(CSV), "compressed by gzip", r"to end in \.gz"),
        (bz2.compress(CSV), "compressed by bzip2", r"to end in \.bz2"),
        (lzma.compress(CSV), "compressed by xz", r"to end in \.xz"),
        (zipped("table.csv"), "a zip archive or an Excel workbook", "Export it as CSV or Parquet"),
        (b"PAR1\x15\x04", "a Parquet file", r"to end in \.parquet"),
    ],
)
@pytest.mark.parametrize("name", ["table.csv", "table"])
def test_a_binary_file_that_is_called_csv_is_named_as_what_it_is(name, content, kind, cure, write):
    with pytest.raises(ValueError, match=rf"{name} is {kind}, not CSV text\. .*{cure}"):
        read_table(write(content, name))


def test_a_header_that_begins_as_a_binary_file_does_is_still_a_header(write):
    for header in ("PAR1", "PK", "BZh9"):
        assert list(read_table(write(f"{header},text\n1,a\n")).columns) == [header, "text"]
