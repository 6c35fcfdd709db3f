"""Scoring a shard: the model's answers, nulls and reasons for bad rows, one part."""

import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

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
