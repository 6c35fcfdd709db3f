"""scikit-learn's own checks with nothing patched, and the same properties again on text."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator

from pipeline import BertVectorizer
from tests.conftest import CORPUS, TEXTS, build_model

# the checks want their estimators when the tests are collected, before any fixture
_FOLDER = Path(tempfile.mkdtemp(prefix="tiny-bert-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
MODEL = str(build_model(_FOLDER, "bert"))

LABELS = ["pos", "neg", "neg", "pos", "pos", "pos"] * 4
MANY = [f"{text} {i}" for i in range(4) for text in CORPUS]

# scikit-learn's checks feed tables of numbers, which the strict default is there to refuse
REFUSES_NUMBERS = dict.fromkeys(
    """check_fit_score_takes_y check_estimators_overwrite_params check_dont_overwrite_parameters
    check_estimators_fit_returns_self check_readonly_memmap_input
    check_n_features_in_after_fitting check_positive_only_tag_during_fit check_estimators_dtypes
    check_dtype_object check_pipeline_consistency check_estimators_nan_inf check_estimators_pickle
    check_f_contiguous_array_estimator check_transformer_data_not_an_array
    check_transformer_general check_methods_sample_order_invariance
    check_methods_subset_invariance check_fit2d_1sample check_fit2d_1feature check_dict_unchanged
    check_fit_idempotent check_fit_check_is_fitted check_n_features_in check_fit1d
    check_fit2d_predict1d""".split(),
    "X is text: tables of numbers are refused",
)


def checked(estimator, expected_failures=None):
    """Parametrize by scikit-learn's checks; the ids are the same in every process."""
    pairs = estimator_checks_generator(
        estimator, expected_failed_checks=expected_failures, mark="xfail", xfail_strict=True
    )
    return pytest.mark.parametrize(
        ("estimator", "check"),
        list(pairs),
        ids=lambda value: getattr(getattr(value, "func", value), "__name__", "it"),
    )


@checked(BertVectorizer(MODEL, on_invalid="coerce", layers=(-2, -1), combine="mean"))
def test_every_check_of_scikit_learn_passes_where_numbers_become_text(estimator, check):
    check(estimator)


@checked(BertVectorizer(MODEL), REFUSES_NUMBERS)
def test_the_strict_default_fails_exactly_the_checks_that_feed_numbers(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_dataframe_column_names_consistency",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_set_output_transform_polars",
        "check_get_feature_names_out_error",
        "check_inplace_ensure_writeable",
        "check_param_validation",
    ],
)
@pytest.mark.filterwarnings(
    "ignore:X (has|does not have valid) feature names:UserWarning"
)  # the checks provoke it
def test_the_checks_that_scikit_learn_keeps_for_itself_pass_too(name):
    getattr(estimator_checks, name)("BertVectorizer", BertVectorizer(MODEL, on_invalid="coerce"))


def test_the_array_api_check_passes_where_scipy_allows_it():
    code = (
        "from sklearn.utils.estimator_checks import check_array_api_input as check; from pipeline "
        f"import BertVectorizer;check('BertVectorizer', BertVectorizer({MODEL!r}, "
        "on_invalid='coerce'), 'numpy', None, None)"
    )
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, env=environment, timeout=120
    )


# ---- the same properties on text


def test_tags_say_that_x_is_text():
    tags = get_tags(BertVectorizer(MODEL))
    assert tags.input_tags.string
    assert not tags.input_tags.allow_nan
    assert tags.requires_fit
    assert get_tags(BertVectorizer(MODEL, missing="empty")).input_tags.allow_nan
    assert not is_classifier(BertVectorizer(MODEL))


def test_init_stores_every_argument_as_it_is():
    layers = (-1, -2)
    vectorizer = BertVectorizer("nowhere", layers=layers, pooling="nonsense")
    assert vectorizer.get_params()["layers"] is layers
    assert set(vectorizer.__dict__) == set(vectorizer.get_params())


def test_fit_twice_is_fit_once_and_fit_transform_is_fit_then_transform():
    vectorizer = BertVectorizer(MODEL, layers="all")
    first = vectorizer.fit_transform(TEXTS)
    assert np.array_equal(first, vectorizer.fit(TEXTS).transform(TEXTS))
    assert vectorizer.fit(TEXTS) is vectorizer


def test_transform_leaves_the_estimator_and_x_as_they_were():
    vectorizer = BertVectorizer(MODEL, max_length=5).fit(["film"])
    before = dict(vectorizer.__dict__)
    texts = pd.Series(TEXTS, index=range(100, 100 + len(TEXTS)))
    copy = texts.copy(deep=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vectorizer.transform(texts)
    assert vectorizer.__dict__ == before
    pd.testing.assert_series_equal(texts, copy)


@pytest.mark.parametrize("method", ["transform", "transform_tokens", "count_tokens"])
def test_methods_before_fit_raise_not_fitted_error_and_load_nothing(method, monkeypatch):
    monkeypatch.setattr(
        "pipeline.vectorizer.resolve", lambda *a, **k: pytest.fail("looked for the model")
    )
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(BertVectorizer(MODEL), method)(["film"])
    with pytest.raises(NotFittedError):
        BertVectorizer(MODEL).get_feature_names_out()


def test_zero_rows_give_zero_rows_of_all_features_at_transform_and_an_error_at_fit():
    vectorizer = BertVectorizer(MODEL, layers=(1, 2)).fit(["film"])
    for empty in (
        [],
        np.array([], dtype=object),
        pd.Series([], dtype=object),
        np.empty((0, 1), dtype=object),
    ):
        rows = vectorizer.transform(empty)
        assert rows.shape == (0, 64)
        assert rows.dtype == np.float32
    with pytest.raises(ValueError, match=r"0 sample\(s\).*minimum of 1 is required"):
        BertVectorizer(MODEL).fit([])


# ---- names and containers


def test_feature_names_are_an_object_array_of_distinct_padded_names():
    vectorizer = BertVectorizer(MODEL, pooling=("cls", "max"), layers=(0, -1)).fit(["film"])
    names = vectorizer.get_feature_names_out()
    assert isinstance(names, np.ndarray)
    assert names.dtype == object
    assert list(names[[0, 33, 64, 127]]) == [
        "cls_layer0_00",
        "cls_layer3_01",
        "max_layer0_00",
        "max_layer3_31",
    ]
    assert len(set(names)) == len(names) == vectorizer.transform(["film"]).shape[1]
    assert (
        BertVectorizer(MODEL, layers="all", combine="sum").fit(["film"]).get_feature_names_out()[0]
        == "mean_layersum_00"
    )


@pytest.mark.parametrize(
    "index", [[7] * len(TEXTS), ["a", None, 2.5] + ["a"] * (len(TEXTS) - 3)], ids=["equal", "mixed"]
)
def test_pandas_output_keeps_an_index_with_duplicates(index):
    texts = pd.Series(TEXTS, index=pd.Index(index, dtype=object))
    vectorizer = BertVectorizer(MODEL).set_output(transform="pandas").fit(texts)
    frame = vectorizer.transform(texts)
    assert list(frame.index) == list(texts.index)
    assert np.array_equal(frame.to_numpy(), BertVectorizer(MODEL).fit(TEXTS).transform(TEXTS))


def test_polars_output_has_the_names():
    frame = (
        BertVectorizer(MODEL).set_output(transform="polars").fit_transform(pl.Series("text", TEXTS))
    )
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns[-1] == "mean_layer3_31"


# ---- inside scikit-learn's own machinery


def classifier(**vectorizer: object) -> Pipeline:
    return make_pipeline(BertVectorizer(MODEL, **vectorizer), LogisticRegression(max_iter=1000))


def test_cross_validation_and_predictions_work_on_plain_lists():
    assert cross_val_score(classifier(), MANY, LABELS, cv=3).shape == (3,)
    probabilities = cross_val_predict(classifier(), MANY, LABELS, cv=3, method="predict_proba")
    assert np.allclose(probabilities.sum(axis=1), 1)


def test_two_processes_give_the_scores_of_one():
    alone = cross_val_score(classifier(), MANY, LABELS, cv=2)
    assert np.array_equal(cross_val_score(classifier(), MANY, LABELS, cv=2, n_jobs=2), alone)


@pytest.mark.parametrize("column", ["text", ["text"]], ids=["series", "frame"])
def test_column_transformer_takes_the_column_by_name_or_by_list(column):
    frame = pd.DataFrame(
        {"text": TEXTS, "stars": range(len(TEXTS))}, index=[f"r{i}" for i in range(len(TEXTS))]
    )
    transformer = ColumnTransformer(
        [("bert", BertVectorizer(MODEL), column), ("keep", "passthrough", ["stars"])]
    )
    table = transformer.set_output(transform="pandas").fit_transform(frame)
    assert list(table.index) == list(frame.index)
    assert list(table.columns[[0, -1]]) == ["bert__mean_layer3_00", "keep__stars"]
    assert np.allclose(table.iloc[:, :-1], BertVectorizer(MODEL).fit_transform(TEXTS))


def test_calibration_and_stacking_take_it_as_any_classifier():
    calibrated = CalibratedClassifierCV(classifier(), cv=2).fit(MANY, LABELS)
    assert np.allclose(calibrated.predict_proba(MANY).sum(axis=1), 1)
    stack = StackingClassifier(
        [("bert", classifier()), ("tfidf", make_pipeline(TfidfVectorizer(), LogisticRegression()))],
        cv=2,
    )
    assert set(stack.fit(MANY, LABELS).predict(MANY)) <= {"pos", "neg"}


# ---- callbacks and the repr


needs_callbacks = pytest.mark.skipif(
    not hasattr(BertVectorizer, "set_callbacks"), reason="callbacks need scikit-learn 1.9"
)


class CountBatches:
    """A callback that counts what it is told of."""

    def __init__(self) -> None:
        self.tasks: list[str] = []

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context):
        self.tasks.append(context.task_name)

    def on_fit_task_end(self, estimator, context): ...


@needs_callbacks
def test_callbacks_hear_of_every_batch_and_stay_out_of_pickles():
    counter = CountBatches()
    vectorizer = BertVectorizer(MODEL, batch_tokens=1).set_callbacks(counter)
    vectorizer.fit_transform(["film", "soup", "soup", "a quiet film"])
    assert counter.tasks == ["encode", "batch", "batch", "batch"]
    counter.tasks.clear()
    vectorizer.fit(["film"])
    assert counter.tasks == ["fit"]
    assert "_skl_callbacks" not in vectorizer.__getstate__()


@needs_callbacks
def test_the_progress_bar_of_scikit_learn_shows_encoding_inside_a_pipeline(capsys):
    from sklearn.callback import ProgressBar

    model = classifier().set_callbacks(ProgressBar(max_propagation_depth=3))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # an estimator without callback support would make Pipeline warn
        model.fit(MANY, LABELS)
    shown = "".join(capsys.readouterr())
    assert "BertVectorizer" in shown
    assert "encode" in shown


def test_our_own_progress_bar_counts_texts_on_stderr(capsys):
    BertVectorizer(MODEL, progress=True).fit_transform(["film", "soup"])
    assert "encoding: 100%" in capsys.readouterr().err
    BertVectorizer(MODEL).fit_transform(["film", "soup"])
    assert capsys.readouterr().err == ""


def test_repr_dir_and_html_load_no_model(monkeypatch):
    for name in ("pipeline.vectorizer.resolve", "pipeline.bert.embedding.load_encoder"):
        monkeypatch.setattr(name, lambda *a, **k: pytest.fail("the model was touched"))
    for vectorizer in (
        BertVectorizer("no/such model"),
        make_pipeline(BertVectorizer("no/such model"), LogisticRegression()),
    ):
        assert "BertVectorizer" in repr(vectorizer)
        assert "fit" in dir(vectorizer)
        assert "BertVectorizer" in vectorizer._repr_html_()


def test_the_html_repr_of_a_fitted_vectorizer_has_tooltips_and_a_doc_link(monkeypatch):
    vectorizer = BertVectorizer(MODEL).fit(["film"])
    monkeypatch.setattr(
        "pipeline.bert.embedding.load_encoder", lambda *a, **k: pytest.fail("the model was loaded")
    )
    html = vectorizer._repr_html_()
    assert "bert-features.md" in html
    assert "How the tokens of a text become one vector" in html


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([*LABELS[:-1], None], "Input y contains NaN: label 23 is None"),
        ([*LABELS[:-1], 1], r"y mixes text with other labels.*label 23 is 1 \(int\)"),
        (LABELS[:-1], "inconsistent numbers of samples"),
    ],
)
def test_wrong_labels_are_refused_before_anything_is_encoded(labels, message, monkeypatch):
    monkeypatch.setattr(
        "pipeline.bert.embedding.FrozenBert.embed",
        lambda *a, **k: pytest.fail("a text was encoded"),
    )
    with pytest.raises(ValueError, match=message):
        classifier().fit(MANY, labels)
