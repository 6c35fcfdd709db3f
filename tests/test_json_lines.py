"""JSON lines: read value by value, scored as other tables are, and written."""

import gzip
import json
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import read_table, save_pipeline, score_table
from pipeline.scoring.sources import open_source
from tests.commands import ROWS, assert_one_error_line

TRICKY = [
    "plain",
    "",
    ' two\nlines,\r\n"quoted"\t',
    "é 😀 \u2028 \u00a0",
    "NA",
    "null",
    "007",
    "1e5",
]


def write(path, rows, **options):
    path.write_text("".join(f"{json.dumps(row, **options)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    fitted = make_pipeline(TfidfVectorizer(token_pattern=r"\S"), LogisticRegression())
    fitted.fit([text for text, _ in ROWS], [label for _, label in ROWS])
    return fitted, save_pipeline(fitted, tmp_path_factory.mktemp("model") / "m.joblib")


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "T.JSONL"])
def test_no_text_and_no_number_is_changed(name, ascii_only, tmp_path):
    rows = [{"text": text, "n": i, "x": 0.1 * i, "ok": i % 2 == 0} for i, text in enumerate(TRICKY)]
    table = read_table(write(tmp_path / name, rows, ensure_ascii=ascii_only), columns=["text"])
    assert table.to_dict("records") == rows


def test_lines_may_lack_names_and_have_others_and_be_empty(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        '{"text": "a"}\n\n  \n{"stars": 4, "text": null}\r\n{"b": []}'
    )
    table = read_table(tmp_path / "t.jsonl")
    assert table.columns.tolist() == ["text", "stars", "b"]
    assert table["text"].tolist()[0] == "a"
    assert table["text"].isna().tolist() == [False, True, True]
    assert table["stars"].tolist()[1] == 4


@pytest.mark.parametrize("suffix", [".gz", ".zip"])
def test_packed_lines_are_unpacked(suffix, model, tmp_path):
    lines = b'{"text": "a"}\n{"text": "b"}\n'
    path = tmp_path / f"t.jsonl{suffix}"
    if suffix == ".gz":
        path.write_bytes(gzip.compress(lines))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t.jsonl", lines)
    assert read_table(path)["text"].tolist() == ["a", "b"]
    scored = score_table(model[1], path, tmp_path / "out.csv", text="text")
    assert scored.n_rows == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"text": \n', "line 2: "),
        ('{"text": "a"}\n["b"]\n', "line 2: expected an object"),
        ('{"text": "a"}\n"b"\n', "line 2: expected an object"),
        ("[\n", "line 1|holds no table"),
        ("\n\n", "holds no table; expected one object per line"),
        ('{"txt": "a"}\n', "no column 'text'.*Did you mean 'txt'"),
    ],
)
def test_what_is_not_well_formed_names_its_line(content, message, model, tmp_path):
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "t.jsonl", columns=["text"])
    with pytest.raises(ValueError, match=message):
        score_table(model[1], tmp_path / "t.jsonl", tmp_path / "out", text="text")


@pytest.mark.parametrize("shard_rows", [3, 100])
def test_a_table_of_lines_is_scored_as_predict_labels_its_texts(shard_rows, model, tmp_path):
    fitted, path = model
    rows = [
        {
            "id": 2**53 + i,
            "text": text,
            "x": [0.1, None][i % 2],
            "ok": True,
            "tags": ["a", i],
            "huge": 2**70,
        }
        for i, text in enumerate(TRICKY)
    ]
    write(tmp_path / "a.jsonl", rows[:5])
    write(tmp_path / "b.jsonl", rows[5:])
    sources = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    outs = {}
    for ending in ("parquet", "csv", "jsonl"):
        scored = score_table(
            path, sources, tmp_path / f"out.{ending}", text="text", shard_rows=shard_rows
        )
        assert scored.n_rows == len(TRICKY)
        outs[ending] = read_table(scored.out)
    found = outs["parquet"]
    assert found["text"].tolist() == TRICKY
    assert found["id"].tolist() == [row["id"] for row in rows]
    assert found["x"].dtype == np.float64
    assert found["huge"].tolist() == [str(2**70)] * len(TRICKY)
    assert [json.loads(cell) for cell in found["tags"]] == [row["tags"] for row in rows]
    assert found["label"].tolist() == fitted.predict(TRICKY).tolist()
    expected = fitted.predict_proba(TRICKY)
    for ending in ("parquet", "jsonl"):  # to the last bit
        assert (outs[ending][scored.columns[1:]].to_numpy() == expected).all()
    pd.testing.assert_frame_equal(outs["jsonl"], found, check_dtype=False)


def test_bad_lines_are_bad_rows_where_that_is_asked_for(model, tmp_path):
    lines = ['{"text": "a film"}', '{"text": ', '{"text": 5}', '{"x": 1}', '{"text": "\\ud800"}']
    (tmp_path / "t.jsonl").write_text("\n".join([*lines, '{"text": "good"}']))
    with pytest.raises(ValueError, match="line 2"):
        score_table(model[1], tmp_path / "t.jsonl", tmp_path / "out", text="text")
    scored = score_table(
        model[1], tmp_path / "t.jsonl", tmp_path / "new", text="text", on_bad_row="null"
    )
    reasons = pd.read_parquet(scored.out)["label_error"].tolist()
    parts = [None, "line 2: ", "type int", "missing", "lone surrogate", None]
    for reason, part in zip(reasons, parts, strict=True):
        assert (part is None) == (not isinstance(reason, str))
        assert part is None or part in reason


def test_cells_have_the_type_of_their_column_however_few_are_read_at_once(tmp_path):
    rows = [
        {"text": "é", "n": None, "x": 0.5, "any": ["é"]},
        {"text": None, "n": 2**53 + 1, "x": 2**53 + 1, "any": None},
        {"text": "b", "n": 3, "x": None, "any": True},
    ]
    for encoding in ("utf-8", "utf-16"):
        path = tmp_path / f"{encoding}.jsonl"
        lines = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        path.write_text(lines, encoding=encoding)
        source = open_source(path, "text", encoding=encoding)
        tables = [read.table for read in source.rows(1, mark=False)]
        assert [table.schema for table in tables] == [source.schema] * 3
        found = pa.concat_tables(tables).to_pydict()
        assert found["text"] == ["é", None, "b"]
        assert found["n"] == [None, 2**53 + 1, 3]
        assert found["x"] == [0.5, float(2**53 + 1), None]  # the nearest, as pandas reads it
        assert found["any"] == ['["é"]', None, "true"]


def feather(path):
    pd.DataFrame({"text": ["a"]}).to_feather(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.json", b'[{"text": "a"}]', "JSON is not supported.*JSON lines.*CSV or as Parquet"),
        ("t.JSON", b'{"text": "a"}\n', "JSON is not supported"),
        ("t.feather", feather, "Feather.*CSV or Parquet"),
        ("t.arrow", feather, "Feather.*CSV or Parquet"),
        ("t.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook"),
        ("t.csv.zst", b"\x28\xb5\x2f\xfd\x00", "compressed by zstd"),
        ("t.pkl", b"\x80\x04\x95", "a pickle"),
        ("t.orc", b"ORC\x00", "another format"),
        ("t.db", b"SQLite format 3\x00", "another format"),
    ],
)
def test_files_of_other_kinds_say_what_they_are(name, content, message, model, tmp_path):
    path = tmp_path / name
    content(path) if callable(content) else path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(path)
    with pytest.raises(ValueError, match=message):
        score_table(model[1], path, tmp_path / "out", text="text")


def test_the_commands_read_and_write_lines(light_artifact, run, tmp_path):
    path = write(tmp_path / "in.jsonl", [{"text": text, "label": label} for text, label in ROWS])
    data = ("--pipeline", light_artifact, "--data", path)
    result = run("predict", *data, "--out", tmp_path / "out.jsonl")
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [text for text, _ in ROWS]
    assert {row["predicted_label"] for row in rows} == {"positive", "negative"}
    result = run("evaluate", *data)
    assert result.code == 0, result.err
    (tmp_path / "in.json").write_text("[]")
    result = run("evaluate", pipeline=light_artifact, data=tmp_path / "in.json")
    assert_one_error_line(result, "JSON is not supported")
