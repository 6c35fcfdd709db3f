"""Scoring a shard: the model's answers, nulls and reasons for bad rows, one part."""

import sys
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import ArtifactError, BertVectorizer, save_pipeline
from pipeline.exceptions import BadRowError
from pipeline.files import sha256_of
from pipeline.scoring.run_folder import part_name
from pipeline.scoring.shard import (
    Job,
    Outcome,
    Shard,
    added_fields,
    load_once,
    score_shard,
    try_shard,
)
from tests.scoring_steps import DULL, LOVELY, TRUSTED, save_obeying

TEXTS = ["a lovely film", None, "FAIL 1", "a dull film", "", "FAIL 2", "é"]
SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.large_string())])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_obeying(tmp_path_factory.mktemp("model"))


@pytest.fixture
def job(model, tmp_path):
    (tmp_path / "out").mkdir()
    return Job(
        str(model),
        sha256_of(model),
        TRUSTED,
        "text",
        SCHEMA,
        added_fields(SCHEMA, ["bad", "good"]),
        str(tmp_path / "out"),
        "p" * 64,
        "null",
        1,
    )


@pytest.fixture
def shard(tmp_path):
    pq.write_table(pa.table({"n": range(7), "text": TEXTS}, schema=SCHEMA), tmp_path / "in.parquet")
    return Shard(2, str(tmp_path / "in.parquet"), 0, 7, 100)


def part(job, index=2):
    return pq.read_table(f"{job.folder}/{part_name(index)}")


def test_where_bad_rows_are_errors_the_first_is_named_and_no_part_is_written(job, shard, tmp_path):
    with pytest.raises(
        BadRowError,
        match=r"row 101 cannot be scored: the text is missing\. Use on_bad_row='null' \(",
    ):
        score_shard(replace(job, on_bad_row="error"), shard)
    assert list((tmp_path / "out").iterdir()) == []
    good = shard.rows(3, 5)
    score_shard(replace(job, on_bad_row="error"), good)
    assert part(job)["n"].to_pylist() == [3, 4]


def test_marked_rows_are_never_shown_to_the_model(job, shard):
    marked = replace(
        shard, marked=((102, "it kills"), (105, "line 9 has 1 cells"), (3, "of another shard"))
    )
    score_shard(job, marked)
    assert part(job)["label_error"].to_pylist() == [
        None, "the text is missing", "it kills", None, None, "line 9 has 1 cells", None,
    ]  # fmt: skip


def test_an_attempt_writes_nothing_and_takes_no_rows_too(job, shard, tmp_path):
    assert try_shard(job, shard) == try_shard(job, shard.rows(0, 0)) == Outcome("")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_shard_without_rows_is_a_part_without_rows(job, shard):
    score_shard(job, shard.rows(0, 0))
    assert len(part(job)) == 0
    score_shard(job, replace(shard, index=3))
    assert part(job, 2).schema.remove_metadata().equals(part(job, 3).schema.remove_metadata())


def test_a_model_that_was_replaced_is_refused(job, shard):
    with pytest.raises(ArtifactError, match="not the requested file"):
        score_shard(replace(job, sha256="0" * 64), shard)


def test_the_model_is_opened_once_in_a_process(job):
    load_once.cache_clear()
    assert load_once(job.model, job.sha256, job.trusted) is load_once(
        job.model, job.sha256, job.trusted
    )
    assert load_once.cache_info().misses == 1


def test_missing_texts_are_empty_ones_where_the_model_says_so(job, shard, tiny_bert, tmp_path):
    vectorizer = BertVectorizer(tiny_bert, missing="empty", cache=None)
    fitted = make_pipeline(vectorizer, LogisticRegression()).fit(
        [*LOVELY, *DULL], [1] * 10 + [0] * 10
    )
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    fields = added_fields(SCHEMA, [0, 1])
    bert = replace(job, model=str(path), sha256=sha256_of(path), trusted=(), fields=fields)
    score_shard(bert, shard)
    assert part(job)["label_error"].null_count == 7
    row = part(job).to_pylist()[1]
    assert [row["probability_0"], row["probability_1"]] == pytest.approx(
        fitted.predict_proba([""])[0].tolist(), abs=1e-6
    )
    fitted[0].set_params(missing="error")
    path = save_pipeline(fitted, tmp_path / "strict.joblib")
    score_shard(replace(bert, model=str(path), sha256=sha256_of(path)), shard)
    assert part(job)["label_error"].to_pylist()[1] == "the text is missing"


@pytest.mark.parametrize("n", [1, 2])
def test_the_model_computes_with_the_threads_it_is_told_and_the_process_is_left_as_it_was(
    n, job, shard, monkeypatch
):
    import torch
    from threadpoolctl import threadpool_info

    def blas():
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    seen = []
    predict = LogisticRegression.predict_proba

    def looks(fitted, features):
        seen.append((torch.get_num_threads(), blas()))
        return predict(fitted, features)

    monkeypatch.setattr(LogisticRegression, "predict_proba", looks)
    before = torch.get_num_threads(), blas()
    score_shard(replace(job, threads=n), shard.rows(3, 5))
    assert seen == [(n, {n})]
    assert (torch.get_num_threads(), blas()) == before


def test_a_model_without_bert_needs_no_torch(job, shard, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    score_shard(job, shard.rows(3, 5))
    assert part(job)["label"].to_pylist() == ["bad", "good"]


def test_rows_of_a_shard_are_a_shard():
    shard = Shard(4, "in.parquet", 10, 20, 110)
    assert shard.rows(3, 5) == Shard(4, "in.parquet", 13, 15, 113)


@pytest.mark.parametrize(
    ("missing", "reasons"),
    [
        (None, {1: "the text is missing"}),
        ("error", {1: "the text is missing", 4: "the text is missing"}),
        ("empty", {}),
    ],
)
def test_missing_and_blank_texts_are_bad_or_empty_as_the_caller_says(missing, reasons, job, shard):
    score_shard(replace(job, missing=missing), shard)
    rows = part(job).to_pylist()
    assert {
        i: row["label_error"]
        for i, row in enumerate(rows)
        if i not in (2, 5) and row["label_error"]
    } == reasons
    assert [row["text"] for row in rows] == TEXTS  # written as it was
    assert rows[2]["label_error"] == "ValueError: this text says 'FAIL 1'"
    if missing == "empty":
        assert rows[1]["label"] == rows[4]["label"]
        assert rows[1]["probability_bad"] == rows[4]["probability_bad"]
        assert rows[0]["probability_bad"] != rows[4]["probability_bad"]


def test_the_cure_of_missing_texts_is_named_where_a_text_is_missing(job, shard):
    job = replace(job, on_bad_row="error")
    with pytest.raises(BadRowError, match=r"Finished parts are kept\. Use missing='empty'"):
        score_shard(job, shard)
    with pytest.raises(BadRowError, match=r"FAIL 1'\. Use .*Finished parts are kept\.$"):
        score_shard(job, shard.rows(2, 3))
    with pytest.raises(BadRowError, match=r"scored: line 9 is bad\. Use on_bad_row"):
        score_shard(job, replace(shard.rows(3, 5), marked=((103, "line 9 is bad."),)))


def test_rows_are_marked_in_their_shard_alone(job, shard):
    marked = tuple((row, f"row {row}") for row in range(99, 110))
    score_shard(job, replace(shard.rows(3, 5), marked=marked))
    assert part(job)["label_error"].to_pylist() == ["row 103", "row 104"]


def test_what_the_model_warns_of_comes_back_with_the_outcome(job, tmp_path, monkeypatch):
    schema = pa.schema([("text", pa.large_string())])
    pq.write_table(pa.table({"text": ["WARN", *LOVELY]}, schema=schema), tmp_path / "w.parquet")
    job = replace(job, schema=schema)
    shard = Shard(0, str(tmp_path / "w.parquet"), 0, 11, 0)
    assert score_shard(job, shard).warnings == ((RuntimeWarning, "a text says so"),)
    own = LogisticRegression.predict
    monkeypatch.setattr(
        LogisticRegression,
        "predict",
        lambda fitted, X: fitted.classes_[1 - (own(fitted, X) == fitted.classes_[1])],
    )
    ((_, told),) = score_shard(job, shard.rows(1, 11)).warnings
    assert "the LogisticRegression" in told
    assert "10" not in told  # the number is of this shard alone


def test_labels_that_do_not_fit_the_column_are_bad_rows(job, shard):
    fields = (pa.field("label", pa.int64()), *job.fields[1:])
    score_shard(replace(job, fields=fields), shard.rows(3, 5))
    assert part(job)["label"].to_pylist() == [None, None]
    assert part(job)["label_error"].to_pylist() == [
        "its label 'bad' is not a class and does not fit a column of type int64",
        "its label 'good' is not a class and does not fit a column of type int64",
    ]


def test_a_part_keeps_what_the_columns_say_of_themselves(job, shard):
    score_shard(replace(job, schema=SCHEMA.with_metadata({"author": "x"})), shard)
    assert part(job).schema.metadata[b"author"] == b"x"


def test_the_columns_added_have_the_types_of_classes_and_probabilities():
    one = added_fields(SCHEMA, [1, 2], "float32")
    assert [(field.name, field.type) for field in one] == [
        ("label", pa.int64()),
        ("probability_1", pa.float32()),
        ("probability_2", pa.float32()),
        ("label_error", pa.string()),
    ]
    assert added_fields(SCHEMA, [], outputs=[("x", [False, True])])[0].type == pa.int64()
    several = added_fields(SCHEMA, [], outputs=[("x", [0, 1]), ("y", ["a", "b", "c"])])
    assert [(field.name, field.type) for field in several] == [
        ("label_x", pa.int64()),
        ("label_y", pa.string()),
        ("probability_x", pa.float64()),
        *((f"probability_y_{name}", pa.float64()) for name in "abc"),
        ("label_error", pa.string()),
    ]


def saved(job, fitted, folder, probes=None):
    path = save_pipeline(fitted, folder / "m.joblib", probes=probes)
    return replace(job, model=str(path), sha256=sha256_of(path), trusted=())


def test_several_labels_are_those_of_the_model(job, shard, tmp_path):
    fitted = make_pipeline(TfidfVectorizer(), OneVsRestClassifier(LogisticRegression()))
    fitted.fit([*LOVELY, *DULL], [[i < 10, i % 2] for i in range(20)])
    fields = added_fields(SCHEMA, [], outputs=[("lovely", [0, 1]), ("odd", [0, 1])])
    several = replace(saved(job, fitted, tmp_path), fields=fields, n_labels=2)
    outcome = score_shard(several, shard)
    assert outcome.warnings == ()
    rows = part(job).to_pylist()
    for i in (0, 2, 3, 4, 5, 6):
        assert [rows[i]["label_lovely"], rows[i]["label_odd"]] == fitted.predict([TEXTS[i]])[
            0
        ].tolist()
        assert [rows[i]["probability_lovely"], rows[i]["probability_odd"]] == pytest.approx(
            fitted.predict_proba([TEXTS[i]])[0].tolist()
        )
    assert rows[1]["label_error"] == "the text is missing"
    assert rows[1]["label_odd"] is None
    score_shard(several, shard.rows(0, 0))
    assert len(part(job)) == 0


def test_a_model_of_several_columns_gets_them_and_a_row_it_fails_on_is_bad(job, shard, tmp_path):
    front = make_column_transformer((TfidfVectorizer(), "text"), (StandardScaler(), ["n"]))
    frame = pd.DataFrame({"text": [*LOVELY, *DULL], "n": range(20)})
    fitted = make_pipeline(front, LogisticRegression())
    fitted.fit(frame, ["good"] * 10 + ["bad"] * 10)
    table = pa.table({"n": [3, None, 5], "text": LOVELY[:3]}, schema=SCHEMA)
    pq.write_table(table, tmp_path / "in.parquet")
    kinds = {"text": "text", "n": "number"}
    job = replace(saved(job, fitted, tmp_path, frame[:3]), columns=kinds, probe=table[:1])
    score_shard(job, Shard(2, str(tmp_path / "in.parquet"), 0, 3, 100))
    rows = part(job).to_pylist()
    assert "NaN" in rows[1]["label_error"] or "missing" in rows[1]["label_error"]
    for i in (0, 2):
        one = pd.DataFrame({"text": [LOVELY[i]], "n": [[3, 0, 5][i]]})
        assert rows[i]["probability_good"] == pytest.approx(fitted.predict_proba(one)[0, 1])
