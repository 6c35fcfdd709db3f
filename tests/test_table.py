"""score_table: every row exactly once, the same bytes whoever scores and whoever is killed."""

import errno
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC

from pipeline import BertVectorizer, load_pipeline, read_table, save_pipeline, score_table
from pipeline.exceptions import BadRowError, PlanError
from pipeline.files import sha256_of
from pipeline.scoring.executors import SerialExecutor
from pipeline.scoring.score_table import Run, ScoredTable
from pipeline.scoring.shard import Died
from tests.reporting import Page
from tests.scoring_steps import DULL, LOVELY, TRUSTED, save_obeying

TOP = Path(__file__).resolve().parent.parent
ADDED = ["label", "probability_bad", "probability_good", "label_error"]
DRIVER = (
    "import sys; from pipeline import score_table\n"
    "if __name__ == '__main__':\n"
    "    model, source, out, executor, workers = sys.argv[1:]\n"
    "    score_table(model, source, out, text='text', executor=executor,\n"
    "                workers=int(workers), shard_rows=10,\n"
    f"                on_bad_row='null', trusted={TRUSTED!r})\n"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_obeying(tmp_path_factory.mktemp("model"))


@pytest.fixture
def score(model, tmp_path):
    """Give score_table with the model and small shards; ``out`` is a name in a new folder."""

    def call(source, out="out", **options):
        return score_table(
            model,
            source,
            tmp_path / out,
            **{"text": "text", "shard_rows": 10, "trusted": TRUSTED, **options},
        )

    return call


def texts(n):
    return [f"{'a lovely' if i % 3 else 'a dull'} film, number {i}" for i in range(n)]


def write_csv(path, rows):
    pd.DataFrame({"id": range(len(rows)), "text": rows}).to_csv(path, index=False)
    return path


def hashes(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- what comes out


def test_a_csv_file_becomes_parts_with_all_columns_in_order_with_the_models_answers(
    score, model, tmp_path
):
    scored = score(write_csv(tmp_path / "in.csv", texts(25)))
    assert (scored.n_rows, scored.n_bad, scored.n_parts, scored.n_skipped, scored.columns) == (
        25,
        0,
        3,
        0,
        ADDED,
    )
    assert scored.rows_per_second > 0
    assert sorted(path.name for path in scored.out.iterdir()) == [
        "_SUCCESS", "_manifest.json", "_run", *(f"part-00000{i}.parquet" for i in range(3)),
    ]  # fmt: skip
    found = pd.read_parquet(scored.out)  # as any other program would
    fitted = load_pipeline(model, trusted=TRUSTED)
    assert found["id"].tolist() == [str(i) for i in range(25)]
    assert found["text"].tolist() == texts(25)
    assert found["label"].tolist() == fitted.predict(texts(25)).tolist()
    assert np.allclose(
        found[["probability_bad", "probability_good"]],
        fitted.predict_proba(texts(25)),
        rtol=0,
        atol=1e-12,
    )
    assert found["label_error"].isna().all()
    manifest = json.loads((scored.out / "_manifest.json").read_text())
    assert {part["file"]: part["sha256"] for part in manifest["parts"]}.items() <= hashes(
        scored.out
    ).items()
    assert (manifest["n_rows"], manifest["columns"]) == (25, ["id", "text", *ADDED])


def test_every_kind_of_source_gives_the_same_labels(score, tmp_path):
    rows = texts(25)
    frame = pd.DataFrame({"text": rows})
    frame.to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress((tmp_path / "in.csv").read_bytes()))
    frame.to_parquet(tmp_path / "in.parquet", row_group_size=7)
    (tmp_path / "in").mkdir()
    for i, (start, stop) in enumerate([(0, 13), (13, 13), (13, 25)]):
        frame[start:stop].to_parquet(tmp_path / "in" / f"{i}.parquet")
    fsspec.filesystem("memory").pipe("/table/in.parquet", (tmp_path / "in.parquet").read_bytes())
    sources = [
        frame, tmp_path / "in.csv", tmp_path / "in.csv.gz", tmp_path / "in.parquet",
        tmp_path / "in",
        sorted((tmp_path / "in").iterdir()), f"{tmp_path}/in/*.parquet", "memory://table/in.parquet",
    ]  # fmt: skip
    found = [pd.read_parquet(score(source, f"out{i}").out) for i, source in enumerate(sources)]
    for one in found:
        pd.testing.assert_frame_equal(one, found[0])


def test_all_parts_have_one_schema_and_keep_the_types_of_the_table(score, tmp_path):
    rows = [*texts(10), *[None] * 10, *texts(5)]
    frame = pd.DataFrame(
        {
            "text": rows,
            "n": pd.array([None] * 10 + list(range(15)), dtype="Int64"),
            "kind": pd.Categorical(["x"] * 20 + ["y"] * 5),
            "when": pd.date_range("2026-01-01", periods=25, tz="UTC"),
            "tags": [["a"]] * 25,
            "small": np.arange(25, dtype="int8"),
        },
        index=pd.Index(list(range(100, 125)), name="key"),
    )
    frame.to_parquet(tmp_path / "in.parquet")
    for source in (frame, tmp_path / "in.parquet"):
        scored = score(source, f"out{isinstance(source, Path)}", on_bad_row="null")
        schemas = [
            pq.read_schema(path).remove_metadata() for path in sorted(scored.out.glob("part*"))
        ]
        assert len(schemas) == 3
        assert all(schema.equals(schemas[0]) for schema in schemas)
        expected = pq.read_schema(tmp_path / "in.parquet").remove_metadata()
        assert all(schemas[0].field(field.name).type == field.type for field in expected)
        found = pd.read_parquet(scored.out)
        pd.testing.assert_frame_equal(
            found[frame.columns], frame.reset_index(drop=True), check_categorical=False
        )
        assert found["key"].tolist() == list(range(100, 125))


@pytest.mark.parametrize("out", ["out", "out.csv", "out.parquet"])
def test_a_table_without_rows_gives_one_with_the_right_columns(out, score, tmp_path):
    (tmp_path / "in.csv").write_text("id,text\n")
    scored = score(tmp_path / "in.csv", out)
    assert (scored.n_rows, scored.n_parts) == (0, 1)
    found = read_table(scored.out) if out.endswith("csv") else pd.read_parquet(scored.out)
    assert found.columns.tolist() == ["id", "text", *ADDED[: 4 if out == "out" else 3]]
    assert len(found) == 0


@pytest.mark.parametrize("out", ["out.csv", "out.parquet"])
def test_a_single_file_is_the_parts_in_their_order_and_leaves_nothing_beside_it(
    out, score, tmp_path
):
    scored = score(write_csv(tmp_path / "in.csv", texts(25)), out)
    folder = score(tmp_path / "in.csv", "folder")
    found = read_table(scored.out) if out.endswith("csv") else pd.read_parquet(scored.out)
    expected = pd.read_parquet(folder.out).drop(columns="label_error")
    if out.endswith("csv"):
        expected = expected.map(lambda value: value if isinstance(value, str) else repr(value))
    pd.testing.assert_frame_equal(found, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.csv", out, "folder"])
    assert scored.columns == ADDED[:3]


# ---- exactly once


@pytest.fixture(scope="module")
def obeying(model, tmp_path_factory):
    """Give a CSV file of slow shards, and the hashes of its parts."""
    folder = tmp_path_factory.mktemp("serial")
    rows = texts(118)
    rows[5::10] = ["SLEEP 0.15"] * len(rows[5::10])
    rows[33] = "FAIL at this"
    source = write_csv(folder / "in.csv", rows)
    scored = score_table(
        model,
        source,
        folder / "out",
        text="text",
        shard_rows=10,
        on_bad_row="null",
        trusted=TRUSTED,
    )
    assert (scored.n_rows, scored.n_bad, scored.n_parts) == (118, 1, 12)
    return source, hashes(scored.out)


def test_processes_give_the_bytes_of_the_serial_executor(score, obeying):
    source, expected = obeying
    scored = score(source, executor="processes", workers=3, on_bad_row="null")
    assert hashes(scored.out) == expected


def test_bert_says_the_same_to_the_bit_in_one_process_and_in_workers(tiny_bert, tmp_path):
    rows = texts(41)  # the last shard has one row: sums over few rows are those that threads change
    fitted = make_pipeline(BertVectorizer(tiny_bert), LogisticRegression()).fit(
        rows, [i % 3 for i in range(41)]
    )
    model = save_pipeline(fitted, tmp_path / "m.joblib")
    frame = pd.DataFrame({"text": rows})
    one = score_table(model, frame, tmp_path / "one", text="text", shard_rows=20)
    two = score_table(
        model, frame, tmp_path / "two", text="text", shard_rows=20, executor="processes", workers=2
    )
    assert hashes(one.out) == hashes(two.out)
    found = pd.read_parquet(one.out)
    assert found["probability_0"].dtype == fitted.predict_proba(rows).dtype
    assert np.allclose(
        found[[f"probability_{i}" for i in range(3)]], fitted.predict_proba(rows), atol=1e-6
    )
    with pytest.raises(PlanError, match=r"threads \(1, now 2\)"):
        score_table(model, frame, tmp_path / "one", text="text", shard_rows=20, threads=2)


def test_a_worker_that_is_killed_half_way_changes_no_byte(score, tmp_path):
    once = tmp_path / "once"
    rows = texts(58)
    rows[33] = f"KILL ONCE {once}"
    rows[41] = "FAIL"
    source = write_csv(tmp_path / "in.csv", rows)
    killed = score(source, "killed", executor="processes", workers=2, on_bad_row="null")
    assert once.exists()
    assert (killed.n_rows, killed.n_bad, killed.n_skipped) == (58, 1, 0)
    calm = score(source, "calm", on_bad_row="null")  # the file is there: nobody is killed any more
    assert hashes(killed.out) == hashes(calm.out)


@pytest.mark.parametrize(
    ("executor", "workers"),
    [pytest.param("serial", 1, marks=pytest.mark.thorough), ("processes", 2)],
)
def test_a_driver_that_is_killed_half_way_leaves_whole_parts_and_a_rerun_gives_the_same_bytes(
    executor, workers, score, model, obeying, tmp_path
):
    source, expected = obeying
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-c",
        DRIVER,
        str(model),
        str(source),
        str(out),
        executor,
        str(workers),
    ]
    with subprocess.Popen(command, cwd=TOP) as driver:
        deadline = time.monotonic() + 60
        while len(list(out.glob("part-*"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        driver.kill()
    assert driver.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids)), "workers end with their driver"
    assert not (out / "_SUCCESS").exists()
    found = hashes(out)
    parts = {name for name in found if name.startswith("part-")}
    assert 3 <= len(parts) < 12
    assert {name: found[name] for name in parts}.items() <= expected.items()
    scored = score(source, executor="processes", workers=2, on_bad_row="null")
    assert scored.n_skipped >= 30
    assert hashes(out) == expected
    assert score(source, on_bad_row="null").n_skipped == 118  # and once more: nothing is left to do


# ---- reruns that are none


def test_another_model_another_table_or_other_options_are_refused_with_what_differs(
    score, model, tmp_path
):
    source = write_csv(tmp_path / "in.csv", texts(25))
    score(source)
    before = hashes(tmp_path / "out")
    with pytest.raises(PlanError, match=r"shard_rows \(10, now 11\)"):
        score(source, shard_rows=11)
    with pytest.raises(PlanError, match=r"the text column \('text', now 'id'\)"):
        score(source, text="id")
    with pytest.raises(PlanError, match=r"encoding='utf-8'.*now with encoding='latin-1'"):
        score(source, encoding="latin-1")
    other = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(
        [*LOVELY, *DULL], ["good"] * 10 + ["bad"] * 10
    )
    with pytest.raises(PlanError, match=r"out holds another run: the model \(sha256 "):
        score_table(
            save_pipeline(other, tmp_path / "m.joblib"),
            source,
            tmp_path / "out",
            text="text",
            shard_rows=10,
        )
    write_csv(source, texts(26))
    with pytest.raises(PlanError, match=r"the source \(other contents\)"):
        score(source)
    assert hashes(tmp_path / "out") == before


def test_a_rerun_may_begin_to_go_on_without_bad_rows_and_keeps_what_was_finished(score, tmp_path):
    rows = texts(40)
    rows[35] = "FAIL"
    source = write_csv(tmp_path / "in.csv", rows)
    with pytest.raises(
        BadRowError,
        match=r"row 35 cannot be scored: ValueError: this text says 'FAIL'\. Use on_bad_row='null'",
    ):
        score(source)
    scored = score(source, on_bad_row="null")
    assert (scored.n_rows, scored.n_bad, scored.n_skipped) == (40, 1, 30)


def test_a_rerun_may_begin_to_read_missing_texts_as_empty_ones_and_counts_them(score, tmp_path):
    frame = pd.DataFrame({"text": [*texts(10), None, " ", *texts(13)]})
    kept = score(frame, on_bad_row="null")
    assert (kept.n_bad, kept.n_empty, kept.n_skipped) == (1, 0, 0)
    with pytest.raises(BadRowError, match="row 10 cannot be scored: the text is missing"):
        score(frame)  # of a finished run too
    assert not (kept.out / "_SUCCESS").exists()
    scored = score(frame, on_bad_row="null", missing="empty")
    assert (scored.n_bad, scored.n_empty, scored.n_skipped, scored.n_parts) == (0, 2, 15, 3)
    assert score(frame, missing="empty").n_skipped == 25  # nothing is left to do
    assert pd.read_parquet(scored.out)["text"].isna().sum() == 1


def test_the_hash_of_the_model_may_be_given_in_either_case_and_is_no_other_plan(
    score, model, tmp_path
):
    frame, sha256 = pd.DataFrame({"text": texts(12)}), sha256_of(model)
    assert score(frame).n_skipped == 0
    for given in (sha256, sha256.upper()):
        again = score(frame, sha256=given, threads=1)
        assert (again.n_skipped, again.n_parts) == (12, 2)
    with pytest.raises(PlanError, match=r"threads \(1, now 2\)"):
        score(frame, threads=2)
    plan = json.loads((tmp_path / "out" / "_run" / "plan.json").read_text())
    assert plan["model"] == {
        "sha256": sha256,
        "classes": ["bad", "good"],
        "probabilities": "float64",
    }


@pytest.mark.parametrize("as_list", [False, True])
def test_the_output_may_not_be_in_the_folder_of_the_source(as_list, score, tmp_path):
    (tmp_path / "in").mkdir()
    pd.DataFrame({"text": texts(3)}).to_parquet(tmp_path / "in" / "a.parquet")
    source = tmp_path / "in"
    with pytest.raises(ValueError, match="is in the source folder"):
        score([source] if as_list else source, "in/out")


def test_one_file_with_bad_rows_says_why_and_the_speed_is_of_the_rows_of_this_run(score):
    scored = score(pd.DataFrame({"text": [*texts(3), None]}), "out.jsonl", on_bad_row="null")
    assert scored.columns == ADDED
    rows = [json.loads(line) for line in scored.out.read_text().splitlines()]
    assert [row["label_error"] for row in rows] == [None, None, None, "the text is missing"]
    assert replace(scored, n_rows=30, n_skipped=10, seconds=4.0).rows_per_second == 5
    assert replace(scored, seconds=0.0).rows_per_second > 0


@pytest.mark.parametrize("damage", ["cut short", "missing", "zeros"])
def test_a_finished_output_that_was_damaged_is_made_whole_again(damage, score, tmp_path):
    source = write_csv(tmp_path / "in.csv", texts(25))
    out = score(source).out
    before = hashes(out)
    part = out / "part-000001.parquet"
    content = part.read_bytes()
    if damage == "missing":
        part.unlink()
    else:
        part.write_bytes(content[:-1] if damage == "cut short" else bytes(len(content)))
    assert score(source).n_skipped == 15
    assert hashes(out) == before


def test_a_table_that_changes_while_it_is_scored_is_noticed(score, tmp_path, monkeypatch):
    source = write_csv(tmp_path / "in.csv", texts(25))
    written = Run._written

    def grows(self, index, first_row, rows):
        if index == 1:
            with source.open("a") as file:
                file.write("99,one more\n")
        return written(self, index, first_row, rows)

    monkeypatch.setattr(Run, "_written", grows)
    with pytest.raises(ValueError, match=r"in\.csv was changed while it was scored"):
        score(source)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


# ---- bad input and bad places


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"text\nTr\xc3\xa8s bien\n", {}),
        (b"\xef\xbb\xbftext\na\n", {}),
        (b"text\nTr\xe8s bien\n", {"encoding": "latin-1"}),
        ("text\nTrès bien\n".encode("utf-16"), {"encoding": "utf-16"}),
        (b"text\nNA\nnull\nNone\nN/A\nnan\n001\n1e5\n", {}),
        (b'id,text\r\n1,"two\r\nlines, ""quoted"", and a comma"\r\n\r\n2,"x"\r\n', {}),
        (b"text;n\na,b;c\n", {"sep": ";"}),
        (b"text\na\x00b\n", {}),
        (b"text\n", {}),
    ],
)
def test_csv_is_scored_as_read_table_reads_it(content, options, score, tmp_path):
    (tmp_path / "in.csv").write_bytes(content)
    expected = read_table(tmp_path / "in.csv", **options)
    found = pd.read_parquet(score(tmp_path / "in.csv", shard_rows=2, **options).out)
    assert found[expected.columns].to_numpy().tolist() == expected.to_numpy().tolist()
    assert found["label"].notna().all()


@pytest.mark.parametrize(
    "content",
    [
        b"text\nTr\xe8s bien\n", "text\nTrès bien\n".encode("utf-16"), b"Text\na\n",
        b"text,text\na,b\n", b"id;text\n1;a\n",
        b"text\na\nb,c\n", b'text\n"a\n', b"", b"\n\n", b"PK\x03\x04 a workbook",
    ],
)  # fmt: skip
@pytest.mark.parametrize("on_bad_row", ["error", "null"])
def test_csv_that_read_table_refuses_is_refused_in_the_same_words(
    content, on_bad_row, score, tmp_path
):
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"in\.csv") as expected:
        read_table(tmp_path / "in.csv", columns=["text"])
    if on_bad_row == "null" and b"b,c" in content:
        assert score(tmp_path / "in.csv", on_bad_row=on_bad_row).n_bad == 1
        return
    with pytest.raises(ValueError, match=r"in\.csv") as found:
        score(tmp_path / "in.csv", "out.csv", on_bad_row=on_bad_row)
    assert str(found.value) == str(expected.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_bad_rows_of_every_kind_are_kept_in_their_place_with_their_reason(score, tmp_path):
    (tmp_path / "in.csv").write_text(
        'id,text\n1,a lovely film\n2\n3,FAIL now\n4,"a dull film",x,y\n5,NA\n6,\n'
    )
    scored = score(tmp_path / "in.csv", on_bad_row="null", shard_rows=2)
    found = pd.read_parquet(scored.out)
    assert found["id"].tolist() == ["1", "2", "3", "4", "5", "6"]
    assert found["text"].fillna("<none>").tolist() == [
        "a lovely film",
        "<none>",
        "FAIL now",
        "a dull film",
        "NA",
        "",
    ]
    assert found["label"].notna().tolist() == [True, False, False, False, True, True]
    assert found["label_error"].fillna("").tolist() == [
        "", "line 3 has 1 cells, the header has 2: 2", "ValueError: this text says 'FAIL now'",
        "line 5 has 4 cells, the header has 2: 4,a dull film,x,y", "", "",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="line 3 has 1 cells"):
        score(tmp_path / "in.csv", "other")
    single = score(tmp_path / "in.csv", "out.csv", on_bad_row="null")
    assert single.columns == ADDED
    assert (
        read_table(single.out)["label_error"].tolist()[1]
        == "line 3 has 1 cells, the header has 2: 2"
    )


def test_cells_of_a_frame_that_are_no_texts_are_kept_as_they_print(score):
    frame = pd.DataFrame({"text": ["a lovely film", 7, None, "\ud800", b"x"]}, dtype=object)
    found = pd.read_parquet(score(frame, on_bad_row="null").out)
    assert found["text"].fillna("<none>").tolist() == [
        "a lovely film",
        "7",
        "<none>",
        "\\ud800",
        "b'x'",
    ]
    assert found["label"].notna().tolist() == [True, False, False, False, False]
    with pytest.raises(BadRowError, match="row 1 cannot be scored: the text is of type int"):
        score(frame, "other")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_one_and_a_rerun_goes_on(number, score, tmp_path, monkeypatch):
    source = write_csv(tmp_path / "in.csv", texts(25))
    fsync, n_calls = os.fsync, []

    def full(handle):
        n_calls.append(handle)
        if len(n_calls) > 5:
            raise OSError(number, os.strerror(number))
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(
            OSError,
            match=r"no space left for .*out. Finished parts are kept; free some space",
        ):
            score(source)
    scored = score(source)
    assert 0 < scored.n_skipped < 25
    assert not [path for path in scored.out.rglob("*.tmp")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad_row": "skip"}, "on_bad_row='skip'; allowed are 'error' and 'null'"),
        ({"missing": "drop"}, "missing='drop'; allowed are None, 'error' and 'empty'"),
        ({"shard_rows": 0}, "shard_rows=0; allowed are the numbers from 1"),
        ({"shard_rows": 2.5}, "shard_rows=2.5; allowed are the numbers from 1"),
        ({"executor": "celery"}, "executor='celery'; allowed are"),
        ({"workers": 2}, "'serial' is one worker, and workers=2"),
        ({"threads": 0}, "threads=0; allowed are the numbers from 1"),
        ({"text": "txt"}, "no column 'txt'.*Did you mean 'text'"),
        ({"sha256": "0" * 64}, "has sha256 .*, not 0000"),
        ({"trusted": ()}, "names tests.scoring_steps.Obeys: not on the list"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(options, message, score, tmp_path):
    with pytest.raises(ValueError, match=message):
        score(write_csv(tmp_path / "in.csv", texts(5)), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_other_kinds_of_columns_and_models_are_refused(score, tmp_path):
    with pytest.raises(TypeError, match="column 'id' holds int64, not text"):
        score(pd.DataFrame({"id": [1, 2]}), text="id")
    fitted = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(
        [*LOVELY, *DULL], [1] * 10 + [0] * 10
    )
    with pytest.raises(ValueError, match="LinearSVC gives no probabilities"):
        score_table(
            save_pipeline(fitted, tmp_path / "m.joblib"),
            pd.DataFrame({"text": ["a"]}),
            tmp_path / "out",
            text="text",
        )


@pytest.mark.thorough
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="the peak of a process's memory is read from /proc",
)
def test_a_large_csv_file_needs_no_more_memory_than_a_small_one(tmp_path):
    model = make_pipeline(HashingVectorizer(n_features=16), DummyClassifier()).fit(
        [*LOVELY, *DULL], [1] * 10 + [0] * 10
    )
    path = save_pipeline(model, tmp_path / "m.joblib")
    line = "a text of some length that is read and scored and forgotten " * 20
    code = (
        "import re, sys; from pathlib import Path; from pipeline import score_table\n"
        "scored = score_table(*sys.argv[1:4], text='text')\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(scored.n_rows, re.search(r'VmHWM:\\s+(\\d+)', status)[1])\n"
    )
    peaks = {}
    for n in (4_000, 25_000):  # 5 and 31 MB
        (tmp_path / "in.csv").write_text(
            "id,text\n" + "".join(f"{i},{line}{i}\n" for i in range(n))
        )
        command = [
            sys.executable,
            "-c",
            code,
            str(path),
            str(tmp_path / "in.csv"),
            str(tmp_path / f"out{n}.csv"),
        ]
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=True)
        n_rows, peaks[n] = map(int, done.stdout.split())
        assert n_rows == n
    assert peaks[25_000] - peaks[4_000] < 15 * 1024  # KB


@pytest.mark.parametrize(
    ("name", "why"), [("", "is a folder, not a file"), ("none", "does not exist")]
)
def test_a_model_that_is_no_file_is_named(name, why, tmp_path):
    model = str(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=rf"^{re.escape(model)} {why}"):
        score_table(model, pd.DataFrame({"t": ["a"]}), tmp_path / "out.csv", text="t")


@pytest.mark.parametrize("options", [{"missing": "error"}, {"on_bad_row": "null"}])
def test_a_part_may_hold_one_row_and_a_finished_run_is_only_looked_at(options, score):
    frame = pd.DataFrame({"text": texts(3)})
    first = score(frame, shard_rows=1, **options)
    assert (first.n_parts, first.n_rows, first.n_skipped) == (3, 3, 0)
    assert 0 < first.seconds < 600
    kept = {path: path.stat().st_mtime_ns for path in first.out.rglob("*") if path.is_file()}
    again = score(frame, shard_rows=1, **options)
    assert (again.n_parts, again.n_rows, again.n_skipped) == (3, 3, 3)
    changed = {path.name for path, then in kept.items() if path.stat().st_mtime_ns != then}
    assert changed <= {"lock"}


def test_a_model_may_stand_in_a_store(score, model, tmp_path):
    for ending in ("", ".json"):
        fsspec.filesystem("memory").put(f"{model}{ending}", f"/scoring/model.joblib{ending}")
    frame = pd.DataFrame({"text": texts(12)})
    options = {"text": "text", "shard_rows": 10, "trusted": TRUSTED}
    here = score(frame)
    there = score_table("memory://scoring/model.joblib", frame, tmp_path / "there", **options)
    assert pd.read_parquet(there.out).equals(pd.read_parquet(here.out))


class Killed(SerialExecutor):
    """Loses a worker at row 13, as often as it is tried."""

    def run(self, function, shards):
        for shard in shards:
            at_risk = range(shard.first_row, shard.first_row + shard.n_rows)
            dies = 13 in at_risk and 13 not in dict(shard.marked)
            yield shard, Died("ended with SIGKILL(-9)") if dies else function(shard)


def test_a_row_that_kills_is_kept_without_a_label_whoever_scores(score):
    scored = score(pd.DataFrame({"text": texts(25)}), on_bad_row="null", executor=Killed())
    assert (scored.n_rows, scored.n_bad, scored.n_parts) == (25, 1, 3)
    found = pd.read_parquet(scored.out)
    assert found["text"].tolist() == texts(25)
    assert found["label"].isna().tolist() == [row == 13 for row in range(25)]
    assert found["label_error"][13] == "it kills the process that scores it"


def test_a_model_of_two_columns_is_tried_on_a_row_that_it_takes(tmp_path):
    table = pd.DataFrame({"text": LOVELY + DULL, "kind": ["film", "book"] * 10})
    columns = ColumnTransformer(
        [("text", HashingVectorizer(n_features=64), "text"), ("kind", OneHotEncoder(), ["kind"])]
    )
    fitted = make_pipeline(columns, LogisticRegression()).fit(table, [1] * 10 + [0] * 10)
    path = tmp_path / "in.csv"
    path.write_text("text,kind\na lovely film,film\nno kind\na dull film,song\n")
    model = save_pipeline(fitted, tmp_path / "m.joblib", probes=table[:2])
    scored = score_table(model, path, tmp_path / "out", text="text", on_bad_row="null")
    found = pd.read_parquet(scored.out)
    assert found["label"][0] == 1
    assert found["label"].isna().tolist() == [False, True, True]
    why = found["label_error"].fillna("").tolist()
    assert not why[0]
    assert "line 3" in why[1]
    assert "song" in why[2]


def test_a_notebook_is_shown_what_was_written_and_how_fast():
    scored = ScoredTable(Path("out.csv"), 12_345, 1_234, 1_007, 2_345, ["label", "label_error"], 10)
    page = Page(scored._repr_html_())
    for fact in (
        "Written toout.csv",
        "Rows12,345",
        "Without a label1,234",
        "Scored before2,345",
        "Parts1,007",
        "Columns addedlabel, label_error",
        "Duration10.0 s, 1,000 rows a second",
    ):
        assert fact in page.text
    assert replace(scored, seconds=0.0).rows_per_second > 1e6
