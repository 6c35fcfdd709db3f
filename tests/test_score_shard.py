"""Scoring a shard: the model's answers, nulls and reasons for bad rows, one part."""

import sys
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from pipeline import ArtifactError, BertVectorizer, inspect_pipeline, save_pipeline
from pipeline.exceptions import ArtifactWarning, BadRowError, LabelWarning
from pipeline.files import sha256_of
from pipeline.scoring.run_folder import part_name
from pipeline.scoring.shard import (
    Job,
    Outcome,
    Shard,
    added_fields,
    load_once,
    model_input,
    score_shard,
    try_shard,
)
from tests.scoring_steps import DULL, LOVELY, TRUSTED, Obeys, save_obeying

FILMS = [*LOVELY, *DULL]
LABELS = ["good"] * 10 + ["bad"] * 10
TEXTS = ["a lovely film", None, "FAIL 1", "a dull film", "", "FAIL 2", "é"]
SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.large_string())])


class Reads(TransformerMixin, BaseEstimator):
    """Says by a parameter that it takes missing texts, as BertVectorizer does."""

    def __init__(self, missing):
        self.missing = missing

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        for row, text in pd.Series(X).items():
            if text == "FAIL 2":
                raise ValueError(f"row {row} is odd")
        return pd.Series(X).fillna("")


class Unsure(LogisticRegression):
    """Gives the empty text a label that is not a class."""

    def predict(self, X):
        labels = super().predict(X).astype(object)
        labels[X.getnnz(axis=1) == 0] = "unsure"
        return labels


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
def job_of(job, tmp_path):
    """Give a job for another pipeline."""

    def make(fitted, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ArtifactWarning)  # that some steps have to be trusted
            path = save_pipeline(fitted, tmp_path / "m.joblib")
        trusted = tuple(inspect_pipeline(path)["refused"])
        return replace(job, model=str(path), sha256=sha256_of(path), trusted=trusted, **options)

    return make


@pytest.fixture
def shard_of(tmp_path):
    """Give a shard that starts at row 100 of its table."""

    def make(texts, n=None):
        rows = {"n": range(len(texts)) if n is None else n, "text": texts}
        pq.write_table(pa.table(rows, schema=SCHEMA), tmp_path / "in.parquet")
        return Shard(2, str(tmp_path / "in.parquet"), 0, len(texts), 100)

    return make


@pytest.fixture
def shard(shard_of):
    return shard_of(TEXTS)


def part(job, index=2):
    return pq.read_table(f"{job.folder}/{part_name(index)}")


def letters():
    """Give a step that tells any two texts of other letters apart."""
    return HashingVectorizer(analyzer="char", n_features=64)


def test_some_rows_of_a_shard_keep_their_number_in_the_table(shard):
    assert shard.rows(3, 6).rows(1, 2) == replace(shard, start=4, stop=5, first_row=104)


@pytest.mark.parametrize(
    ("start", "said", "may_be_empty"),
    [
        (0, "row 101 cannot be scored: the text is missing. Use on_bad_row='null' (", True),
        (2, "row 102 cannot be scored: it kills. Use", False),
        (4, "row 105 cannot be scored: ValueError: this text says 'FAIL 2'. Use", False),
    ],
)
def test_where_bad_rows_are_errors_the_first_is_named_and_no_part_is_written(
    start, said, may_be_empty, job, shard, tmp_path
):
    rows = replace(shard, marked=((102, "it kills."),)).rows(start, 7)
    with pytest.raises(BadRowError) as raised:
        score_shard(replace(job, on_bad_row="error"), rows)
    assert said in str(raised.value)
    assert ("missing='empty'" in str(raised.value)) == may_be_empty
    assert list((tmp_path / "out").iterdir()) == []


def test_where_bad_rows_are_errors_good_ones_are_a_part(job, shard):
    score_shard(replace(job, on_bad_row="error"), shard.rows(3, 5))
    assert part(job)["n"].to_pylist() == [3, 4]


def test_marked_rows_are_never_shown_to_the_model(job, shard):
    marks = ((100, "slow"), (102, "it kills"), (105, "line 9 has 1 cells"))
    score_shard(job, replace(shard, marked=(*marks, (3, "of another"), (107, "of the next"))))
    assert part(job)["label_error"].to_pylist() == [
        "slow", "the text is missing", "it kills", None, None, "line 9 has 1 cells", None,
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


@pytest.mark.parametrize("missing", ["error", "empty"])
def test_a_step_may_take_missing_texts_and_names_rows_by_their_number_in_the_table(
    missing, job_of, shard
):
    fitted = make_pipeline(Reads(missing), letters(), LogisticRegression()).fit(FILMS, LABELS)
    own = job_of(fitted)
    score_shard(own, shard)
    refused = "the text is missing" if missing == "error" else None
    assert part(own)["label_error"].to_pylist() == [
        None, refused, None, None, None, "ValueError: row 105 is odd", None,
    ]  # fmt: skip


def test_missing_and_blank_texts_are_read_as_empty_ones_if_wanted_and_written_as_they_are(
    job_of, shard_of
):
    fitted = make_pipeline(letters(), LogisticRegression()).fit(FILMS, LABELS)
    own = job_of(fitted, missing="empty")
    score_shard(own, shard_of(["a lovely film", None, " \n ", "", "a dull film"]))
    found = part(own).to_pydict()
    assert found["text"] == ["a lovely film", None, " \n ", "", "a dull film"]
    assert found["label_error"] == [None] * 5
    expected = fitted.predict_proba(["a lovely film", "", "", "", "a dull film"])
    assert found["probability_bad"] == pytest.approx(expected[:, 0])


def test_rows_of_a_table_are_scored_with_all_columns_of_the_model(job_of, shard_of):
    columns = ColumnTransformer([("letters", letters(), "text")], remainder="passthrough")
    frame = pd.DataFrame({"n": [*range(20)], "text": FILMS})
    fitted = make_pipeline(columns, LogisticRegression()).fit(frame, LABELS)
    probe = pa.table({"n": [1], "text": ["a film"]}, schema=SCHEMA)
    own = job_of(fitted, columns={"n": "number", "text": "text"}, probe=probe)
    score_shard(own, shard_of(FILMS[:4], [3, 5, None, 7]))
    found = part(own).to_pydict()
    assert "NaN" in found["label_error"][2]
    kept = pd.DataFrame({"n": [3, 5, 7], "text": [FILMS[i] for i in (0, 1, 3)]})
    expected = fitted.predict_proba(kept)[:, 1].tolist()
    expected.insert(2, None)
    assert found["probability_good"] == pytest.approx(expected)


def test_a_text_has_a_label_of_each_output_and_a_bad_one_none(job_of, shard_of):
    y = np.array([[i % 2, i // 10] for i in range(20)])
    fitted = make_pipeline(Obeys(), letters(), OneVsRestClassifier(LogisticRegression()))
    fitted.fit(FILMS, y)
    fields = added_fields(SCHEMA, [], outputs=[("odd", [0, 1]), ("dull", [0, 1])])
    own = job_of(fitted, fields=fields, n_labels=2)
    texts = ["a lovely film", "FAIL", "a dull film"]
    score_shard(own, shard_of(texts))
    found = part(own).to_pydict()
    for i, name in enumerate(["odd", "dull"]):
        label, probability = fitted.predict(texts[::2]), fitted.predict_proba(texts[::2])
        assert found[f"label_{name}"] == [label[0, i], None, label[1, i]]
        assert found[f"probability_{name}"] == pytest.approx(
            [probability[0, i], None, probability[1, i]]
        )
    score_shard(own, shard_of(["FAIL"]))
    assert part(own)["label_odd"].to_pylist() == part(own)["label_dull"].to_pylist() == [None]


def test_a_label_that_does_not_fit_its_column_is_a_bad_row_beside_those_that_fail(job_of, shard_of):
    fitted = make_pipeline(Obeys(), letters(), Unsure()).fit(FILMS, [0] * 10 + [1] * 10)
    own = job_of(fitted, fields=added_fields(SCHEMA, [0, 1]))
    texts = ["FAIL", "a dull film", "", "FAIL", "a lovely film"]
    assert fitted.predict([*texts[1::3], ""]).tolist() == [1, 0, "unsure"]
    score_shard(own, shard_of(texts))
    found = part(own).to_pydict()
    assert found["label"] == [None, 1, None, None, 0]
    assert "FAIL" in found["label_error"][0]
    assert "'unsure'" in found["label_error"][2]
    assert "FAIL" in found["label_error"][3]


def test_the_warnings_of_a_shard_are_handed_back_one_of_each_kind(job, shard_of):
    outcome = score_shard(job, shard_of(["WARN", "a film", "WARN"]))
    assert outcome.warnings == ((RuntimeWarning, "a text says so"),)


def test_the_warning_of_labels_that_are_not_the_most_probable_is_the_same_for_all_shards(
    job_of, shard
):
    classifier = FixedThresholdClassifier(LogisticRegression(), threshold=0.99)
    own = job_of(make_pipeline(Obeys(), letters(), classifier).fit(FILMS, LABELS))
    ((category, said),) = score_shard(own, shard).warnings
    assert category is LabelWarning
    assert "FixedThresholdClassifier" in said
    assert score_shard(own, shard.rows(0, 1)).warnings == ((category, said),)
    assert part(own)["label"].to_pylist() == ["bad"]


@pytest.mark.parametrize(
    ("columns", "rows", "expected"),
    [
        (None, [1], pd.Series([None], [101], name="text", dtype="str")),
        ({"review": "text"}, [2, 0], pd.DataFrame({"review": ["c", "a"]}, [102, 100])),
        (
            {"n": "number", "text": "text"},
            [0, 2],
            pd.DataFrame({"n": [7, 9], "text": ["a", "c"]}, [100, 102]),
        ),
    ],
)
def test_a_model_gets_the_columns_it_was_fitted_on_and_the_numbers_of_the_rows(
    columns, rows, expected
):
    frame = pd.DataFrame({"n": [7, 2, 9], "text": ["a", None, "c"]})
    table = pa.Table.from_pandas(frame.set_index("n"))  # whose metadata tell of an index
    found = model_input(columns, table, "text", rows, 100)
    assert type(found) is type(expected)
    assert found.equals(expected)
    assert found.index.tolist() == expected.index.tolist()
    assert model_input(columns, table, "text").index.tolist() == [0]


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
