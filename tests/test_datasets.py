"""pipeline.datasets: tables come in and go out without a changed text."""

import base64
import csv
import errno
import gzip
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow.parquet import encryption

from pipeline.columns import free_names
from pipeline.datasets import check_output, read_table, typed_labels, write_table
from pipeline.texts import check_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give one folder to all examples of a property."""
    return tmp_path_factory.mktemp("tables")


def csv_module(path, **dialect):
    """Read by the standard library's own reader, the outside oracle."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        header, *rows = csv.reader(file, **dialect)
    return header, [row for row in rows if row]


def as_lists(table):
    return list(table.columns), table.to_numpy().tolist()


# ---- CSV: what stands there is what comes out


@pytest.mark.parametrize(
    "content",
    [
        "text,label\nplain,pos\n",
        "text,label\nno newline at the end,pos",
        'text,label\n"two\nlines",pos\n"three\n\nlines",neg\n',
        'text,label\r\n"two\r\nlines",pos\r\n',
        'text,label\n"one, two, three",pos\n',
        'text,label\n"she said ""no""",pos\n"""",neg\n"""all""",neg\n',
        'text,label\na "quoted" word,pos\n',
        "text,label\n  blanks kept  ,\tpos \n",
        'text,label\n,\n"",""\n',
        "text,label\nNA,null\nNone,nan\nN/A,NaN\n<NA>,#N/A\nNULL,-inf\n",
        "text,label\n001,1e5\n1.50,0x1F\nTrue,false\n-0,1_000\n2024-05-01,½\n",
        "text,label\nÜberraschend 😀,東京\n",
        "text,label\n# no comment,;\n\\n,\\\n'single',`x`\n",
        "id,text\n0,first\n1,second\n",
        "text\none column\n",
        'text\na\n""\nb\n',
        "text\na\n   \nb\n",
        '"text","a label, quoted"\nx,y\n',
        "\ufefftext,label\nafter a byte order mark,pos\n",
        '\ufeff"text","label"\nafter a byte order mark,pos\n',
        "text,label\n\nblank lines,are no rows\n\n\nnot,here\n",
        "text,label\n",
        "text,label",
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_csv_file_is_read_as_the_csv_module_reads_it(content, write):
    path = write(content)
    table = read_table(path)
    assert as_lists(table) == csv_module(path)
    assert all(isinstance(cell, str) for cell in table.to_numpy().ravel())
    assert list(table.index) == list(range(len(table)))


def test_a_text_longer_than_the_csv_modules_limit_comes_back_whole(write):
    text = "long, " * 60_000
    assert read_table(write(f'text,label\n"{text}",pos\n'))["text"].tolist() == [text]


csv_text = st.text(
    st.sampled_from("a Ü😀,;\"'\n\r\t\\#\x00\ufeff") | st.characters(codec="utf-8"), max_size=8
)
csv_text |= st.sampled_from(["NA", "null", "None", "nan", "001", "1e5", "", " ", "TRUE", "-"])


@st.composite
def tables(draw):
    """Rows of the same width, 1 to 3."""
    width = draw(st.integers(1, 3))
    return draw(st.lists(st.lists(csv_text, min_size=width, max_size=width), max_size=5)), width


@settings(deadline=None, database=None)
@given(tables(), st.sampled_from(["\n", "\r\n"]), st.sampled_from([",", ";", "\t"]))
def test_any_quoted_csv_file_is_read_as_the_csv_module_reads_it(folder, table, lineterminator, sep):
    rows, width = table
    path = folder / "quoted.csv"
    header = ["text", "label", "more"][:width]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(
            file, delimiter=sep, lineterminator=lineterminator, quoting=csv.QUOTE_ALL
        ).writerows([header, *rows])
    assert csv_module(path, delimiter=sep) == (header, rows)
    assert as_lists(read_table(path, sep=sep)) == (header, rows)


@pytest.mark.parametrize("sep", ["", ";;"])
def test_a_separator_that_is_no_single_character_is_refused(sep, write):
    with pytest.raises(ValueError, match=r"sep.*(one|single) character"):
        read_table(write("text;;label\na;;b\n"), sep=sep)


# ---- encodings


@pytest.mark.parametrize("encoding", ["utf-8", "UTF-8", "utf8", "utf_8", "U8", "utf-8-sig"])
def test_a_byte_order_mark_is_dropped_whatever_utf_8_is_called(encoding, write):
    path = write(b"\xef\xbb\xbftext,label\nsch\xc3\xb6n,pos\n")
    assert as_lists(read_table(path, columns=["text"], encoding=encoding)) == (
        ["text", "label"],
        [["schön", "pos"]],
    )


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "cp037"]
)
def test_other_encodings_are_read_when_they_are_named(encoding, write):
    path = write('text,label\n"schön,\nwirklich",pos\n'.encode(encoding))
    assert as_lists(read_table(path, encoding=encoding)) == (
        ["text", "label"],
        [["schön,\nwirklich", "pos"]],
    )


@pytest.mark.parametrize("rows_before", [0, 3, 100_000])
def test_a_latin_1_file_is_refused_with_the_offset_of_the_byte_and_the_cure(rows_before, write):
    content = ("text,label\n" + "fine,pos\n" * rows_before + "schön,pos\n").encode("latin-1")
    message = (
        rf"table\.csv is not utf-8 text: byte {content.index(0xF6)} is 0xf6 "
        r".*encoding='latin-1' \(--encoding latin-1;.*utf-16"
    )
    with pytest.raises(ValueError, match=message):
        read_table(write(content))


def test_a_compressed_latin_1_file_is_refused_too(write):
    with pytest.raises(
        ValueError, match=r"table\.csv\.gz is not utf-8 text: .*0xf6.*encoding='latin-1'"
    ):
        read_table(write(gzip.compress("text\nschön\n".encode("latin-1")), "table.csv.gz"))


def test_utf_16_is_refused_unless_it_is_named_and_named_in_the_cure(write):
    with pytest.raises(
        ValueError, match=r"is not utf-8 text: byte 0 is 0xff .*also common: cp1252, utf-16"
    ):
        read_table(write(b"\xff\xfe" + "text,label\na,b\n".encode("utf-16-le")))


def test_a_utf_8_file_under_another_name_is_refused_with_that_name(write):
    with pytest.raises(ValueError, match=r"is not utf-16 text"):
        read_table(write("text,label\na,bc\n"), encoding="utf-16")
    with pytest.raises(ValueError, match=r"is not ascii text: byte 14 is 0xc3"):
        read_table(write("text,label\nschön,b\n"), encoding="ascii")


@pytest.mark.parametrize("encoding", ["klingon", "hex"])
def test_an_unknown_encoding_is_refused_by_its_name(encoding, write):
    with pytest.raises(ValueError, match=rf"encoding='{encoding}' is unknown"):
        read_table(write("text\na\n"), encoding=encoding)


# ---- files that are no table


@pytest.mark.parametrize("name", ["table.csv", "table.parquet", "table.csv.gz"])
def test_an_empty_file_is_refused(name, write):
    with pytest.raises(
        ValueError, match=rf"{name} is empty \(0 bytes\); expected a table with a header line"
    ):
        read_table(write("", name))


@pytest.mark.parametrize("content", ["\n", "\n\n\r\n", "\ufeff"])
def test_a_file_without_a_header_is_refused(content, write):
    with pytest.raises(ValueError, match=r"table\.csv holds no table; expected a header line"):
        read_table(write(content))


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_missing_file_and_a_folder_are_told_apart(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.csv does not exist"):
        read_table(kind(tmp_path / "gone.csv"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.csv is a folder, not a file"):
        read_table(kind(tmp_path / "folder.csv"))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("text,label\nOh, no,neg\nfine,pos\n", "2"),
        ("text,label\nOh, no,neg\n", "2"),
        ("text,label\nfine,pos\nOh, no,neg\n", "3"),
        ("text,label\nfine,pos\ngood,pos\nOh, no, no,neg\n", "4"),
        ("text,label\nfine,pos\nno label\n", "3"),
        ("text,label\nno label\nfine,pos\n", "2"),
    ],
    ids=repr,
)
def test_a_row_with_more_or_fewer_cells_than_the_header_is_refused_with_its_line(
    content, line, write
):
    with pytest.raises(ValueError, match=rf"(?s)table\.csv .*(line|row) {line}\b"):
        read_table(write(content))


def test_a_quote_that_is_never_closed_is_refused(write):
    with pytest.raises(ValueError, match=r"table\.csv is not a well-formed CSV table"):
        read_table(write('text,label\n"a,b\nc,d\n'))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("text,text\na,b\n", "'text'"),
        ("\ufefftext,label,text\na,b,c\n", "'text'"),
        ('text,label,"text",label\na,b,c,d\n', "'label', 'text'"),
        ("text,text", "'text'"),
    ],
)
def test_columns_that_are_there_twice_are_refused_by_name(content, names, write):
    with pytest.raises(
        ValueError, match=rf"table\.csv has several columns called {names}; rename them"
    ):
        read_table(write(content))


def test_names_that_look_like_pandas_own_for_duplicates_are_kept(write):
    assert list(read_table(write("text,text.1\na,b\n")).columns) == ["text", "text.1"]


# ---- columns that are asked for


def test_a_missing_column_is_refused_with_the_list_of_those_there(write):
    with pytest.raises(
        ValueError, match=r"table\.csv has no column 'text'; its columns are 'id', 'stars'\.$"
    ):
        read_table(write("id,stars\n1,2\n"), columns=["id", "text"])


@pytest.mark.parametrize(
    ("asked", "there", "near"),
    [
        ("text", "Text", "Text"),
        ("text", "TEXT", "TEXT"),
        ("label", "lable", "lable"),
        ("label", " label", " label"),
        ("text", "texts", "texts"),
    ],
)
@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_missing_column_is_refused_with_the_nearest_name(asked, there, near, name, tmp_path):
    write_table(pd.DataFrame({"id": ["1"], there: ["x"]}), tmp_path / name)
    with pytest.raises(
        ValueError,
        match=rf"{name} has no column '{asked}'; .* 'id', '{there}'\. Did you mean '{near}'\?",
    ):
        read_table(tmp_path / name, columns=[asked])


@pytest.mark.parametrize("sep", [";", "\t", "|"])
@pytest.mark.parametrize(
    "rows",
    [
        ["Good{sep}pos", "Bad{sep}neg"],
        ["Good, really good{sep}pos", "Bad{sep}neg"],
        ["Good{sep}pos", "Bad, really bad{sep}neg"],
        ["Good, really good{sep}pos", "Bad, really bad{sep}neg"],
    ],
    ids=["no comma", "comma in the first text", "comma in the second", "comma in both"],
)
def test_a_file_with_another_separator_is_refused_with_the_hint_to_name_it(rows, sep, write):
    path = write("\n".join(["text{sep}label", *rows, ""]).format(sep=sep))
    with pytest.raises(
        ValueError, match=r"table\.csv .*separated by another character: set sep \(--sep\)"
    ):
        read_table(path, columns=["text", "label"])


# ---- Parquet


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.array(["a", "b", "a"], pa.large_string()),
        pa.array(["a", "b", "a"], pa.string_view()),
        pa.chunked_array([["a"], ["b", "a"]]),
    ],
    ids=lambda column: str(column.type),
)
def test_parquet_texts_of_every_kind_are_the_same_texts(column, tmp_path):
    pq.write_table(pa.table({"text": column}), tmp_path / "table.parquet")
    assert check_texts(read_table(tmp_path / "table.parquet", columns=["text"])["text"]) == [
        "a",
        "b",
        "a",
    ]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([["a", "b"], ["c"]]), "row 0 of X is of type ndarray.*' '.join"),
        (pa.array([{"en": "a"}, {"en": "b"}]), "row 0 of X is of type dict"),
        (pa.array([b"a", b"b"]), "row 0 of X is of type bytes.*decode"),
    ],
    ids=["lists", "structs", "bytes"],
)
def test_nested_and_binary_parquet_columns_are_read_and_refused_as_texts(column, message, tmp_path):
    pq.write_table(pa.table({"text": column}), tmp_path / "table.parquet")
    table = read_table(tmp_path / "table.parquet", columns=["text"])
    with pytest.raises(TypeError, match=message):
        check_texts(table["text"])


class Keys(encryption.KmsClient):
    """A key server that keeps nothing secret."""

    def __init__(self, configuration):
        super().__init__()

    def wrap_key(self, key_bytes, master_key_identifier):
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key, master_key_identifier):
        return base64.b64decode(wrapped_key)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_encrypted_parquet_is_refused_by_name(plaintext_footer, tmp_path):
    path = tmp_path / "table.parquet"
    table = pa.table({"text": ["a", "b"]})
    configuration = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=plaintext_footer
    )
    properties = encryption.CryptoFactory(Keys).file_encryption_properties(
        encryption.KmsConnectionConfig(), configuration
    )
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(
        ValueError,
        match=r"table\.parquet is not a readable Parquet file: .*(?i:encrypted|decryption)",
    ):
        read_table(path)


@pytest.mark.parametrize("name", ["table.parquet", "table.pq", "TABLE.PARQUET"])
def test_parquet_is_read_with_its_own_types(name, tmp_path):
    table = pd.DataFrame(
        {"text": ["NA", "two\nlines", None], "stars": [1, 2, 3], "sure": [0.5, 1.0, 0.25]}
    )
    table.to_parquet(tmp_path / name)
    pd.testing.assert_frame_equal(read_table(tmp_path / name, columns=["text", "stars"]), table)


@pytest.mark.parametrize("keep", [3, 8, 0.5, -4, -1])
def test_truncated_parquet_is_refused_with_its_name(keep, tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"text": ["some text"] * 50}).to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"table\.parquet is not a readable Parquet file: "):
        read_table(path)


def test_the_index_that_pandas_stored_as_a_parquet_column_is_a_column(tmp_path):
    pd.DataFrame({"id": ["p", "q"], "text": ["a", "b"]}).set_index("id").to_parquet(
        tmp_path / "table.parquet"
    )
    table = read_table(tmp_path / "table.parquet", columns=["id", "text"])
    assert sorted(table.columns) == ["id", "text"]
    assert table["id"].tolist() == ["p", "q"]


def test_parquet_columns_that_are_there_twice_are_refused_by_name(tmp_path):
    pq.write_table(
        pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]),
        tmp_path / "table.parquet",
    )
    with pytest.raises(
        ValueError, match=r"table\.parquet has several columns called 'text'; rename them"
    ):
        read_table(tmp_path / "table.parquet")


# ---- check_output


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".pq"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_an_output_path_that_can_be_written_is_accepted_and_not_made(suffix, kind, write, tmp_path):
    source = write("text\na\n", "in.csv")
    assert check_output(kind(tmp_path / f"out{suffix}"), kind(source)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_an_output_path_that_cannot_be_written_is_refused(write, tmp_path):
    source = write("text\na\n", "in.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OSError, match=r"folder\.csv cannot be written: it is a folder"):
        check_output(tmp_path / "folder.csv", source)
    with pytest.raises(OSError, match=r"out\.csv cannot be written: .*nowhere does not exist"):
        check_output(tmp_path / "nowhere" / "out.csv", source)
    for name in ("out.txt", "out", "out.xlsx", "out.csv.gz", "out.json"):
        with pytest.raises(
            ValueError, match=r"has the ending '.*'; allowed are \.csv, \.parquet, \.pq and \.jsonl"
        ):
            check_output(tmp_path / name, source)


def test_the_input_is_never_taken_as_the_output_by_whatever_name(write, tmp_path):
    source = write("text\na\n", "in.csv")
    (tmp_path / "link.csv").symlink_to(source)
    os.link(source, tmp_path / "hard.csv")
    (tmp_path / "sub").mkdir()
    for out in (
        source,
        tmp_path / "link.csv",
        tmp_path / "hard.csv",
        tmp_path / "sub" / ".." / "in.csv",
    ):
        with pytest.raises(ValueError, match="is the input file; name another one"):
            check_output(out, source)


# ---- free_names


@pytest.mark.parametrize(
    ("taken", "names"),
    [
        (["text"], ["label", "probability_neg", "probability_pos"]),
        (
            ["text", "label", "probability_pos"],
            ["predicted_label", "probability_neg", "predicted_probability_pos"],
        ),
        (
            ["label", "predicted_label"],
            ["predicted_predicted_label", "probability_neg", "probability_pos"],
        ),
    ],
)
def test_columns_of_predictions_never_take_a_name_that_is_there(taken, names):
    assert free_names(taken, ["label", "probability_neg", "probability_pos"]) == names


# ---- write_table


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".pq"])
def test_a_table_is_written_as_it_is_over_an_older_one_and_leaves_no_other_file(suffix, tmp_path):
    out = tmp_path / f"out{suffix}"
    out.write_text("an older file")
    texts = ['a, "b"\nc', "NA", "", " 001 ", "Überraschend 😀", "crlf\r\n"]
    table = pd.DataFrame({"text": texts, "label": list("xyxyxy")}, index=[9, 9, 8, 7, 6, 5])
    before = table.copy(deep=True)
    write_table(table, str(out))
    pd.testing.assert_frame_equal(table, before)
    assert as_lists(read_table(out)) == (["text", "label"], table.to_numpy().tolist())
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_csv_is_written_as_utf_8_with_plain_line_ends_and_exact_numbers(tmp_path):
    table = pd.DataFrame({"text": ["ü", "b"], "probability": [0.1 + 0.2, 1e-17], "n": [1, 2]})
    write_table(table, tmp_path / "out.csv")
    assert b"\r" not in (tmp_path / "out.csv").read_bytes()
    assert "ü".encode() in (tmp_path / "out.csv").read_bytes()
    found = read_table(tmp_path / "out.csv")
    assert found["probability"].astype(float).tolist() == [0.1 + 0.2, 1e-17]
    assert found["n"].tolist() == ["1", "2"]


@settings(deadline=None, database=None)
@given(tables())
@example(([["a\rb", "x"], ["\r", "\r\n"]], 2))
@example(([["a"], ["   "], [""], ["\t"], ["\n"]], 1))
def test_any_text_survives_writing_and_reading(folder, table):
    rows, width = table
    written = pd.DataFrame(rows, columns=["text", "label", "more"][:width], dtype="str")
    for name in ("round.csv", "round.parquet"):
        write_table(written, folder / name)
        assert as_lists(read_table(folder / name)) == (list(written.columns), rows)


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_full_disk_leaves_the_older_file_and_no_other(name, tmp_path, monkeypatch):
    (tmp_path / name).write_text("an older file")

    def half(table, path, **options):
        path.write_text("half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", half)
    with pytest.raises(OSError, match="No space left on device"):
        write_table(pd.DataFrame({"text": ["a"]}), tmp_path / name)
    assert (tmp_path / name).read_text() == "an older file"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (pd.DataFrame({"text": ["a", 1]}, dtype=object), "out.parquet"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "out.parquet"),
        (pd.DataFrame({"text": ["a", "\ud800"]}, dtype=object), "out.csv"),
    ],
    ids=["mixed types", "duplicate columns", "surrogate"],
)
def test_a_table_that_cannot_be_written_leaves_the_older_file_and_no_other(table, name, tmp_path):
    (tmp_path / name).write_text("an older file")
    with pytest.raises((ValueError, TypeError), match=r"text|surrogate"):
        write_table(table, tmp_path / name)
    assert (tmp_path / name).read_text() == "an older file"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "-2", "30"], [1, -2, 30]),
        (["0.0", "1.5"], [0.0, 1.5]),
        (["True", "False"], [True, False]),
        (["007", "1"], ["007", "1"]),
        (["1e3", "2.0"], ["1e3", "2.0"]),
        (["nan", "1.0"], ["nan", "1.0"]),
        (["1", ""], ["1", ""]),
        (["good", "1"], ["good", "1"]),
        (["true", "false"], ["true", "false"]),
    ],
)
def test_labels_of_a_text_file_get_the_type_they_are_written_in(cells, expected):
    labels = pd.Series(cells, index=range(len(cells), 0, -1), name="stars")
    found = typed_labels(labels)
    assert found.tolist() == expected
    assert {type(label) for label in found.tolist()} == {type(label) for label in expected}
    assert found.index.equals(labels.index)


def test_parquet_without_row_groups_is_a_table_without_rows(tmp_path):
    pq.ParquetWriter(tmp_path / "table.parquet", pa.schema([("text", pa.string())])).close()
    assert pq.ParquetFile(tmp_path / "table.parquet").num_row_groups == 0
    assert as_lists(read_table(tmp_path / "table.parquet", columns=["text"])) == (["text"], [])


def test_damaged_parquet_and_csv_called_parquet_are_refused(write, tmp_path):
    with pytest.raises(ValueError, match=r"table\.parquet is not a readable Parquet file: "):
        read_table(write("text,label\na,b\n" * 10, "table.parquet"))
    path = tmp_path / "damaged.pq"
    pd.DataFrame({"text": ["some text", "more"] * 50}).to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:10] + bytes(40) + whole[50:])
    with pytest.raises(ValueError, match=r"damaged\.pq is not a readable Parquet file: "):
        read_table(path)
