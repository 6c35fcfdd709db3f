"""explain: contributions add up to the decision, are those of a slow reference."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from pipeline import BertVectorizer, TruncationWarning, explain, make_sentiment_pipeline
from pipeline.exceptions import ExplanationError
from tests.conftest import FAMILIES, TEXTS
from tests.test_sums import assert_equal, check_sums

LABELS = ["positive" if i % 3 else "negative" for i in range(len(TEXTS))]
LOGISTIC = LogisticRegression()
THREE = [("bad", "good", "so-so")[i % 3] for i in range(len(TEXTS))]
NEW = ["A lovely, unbelievably dull film!", "", "Überraschend 東京", "film film film", TEXTS[0]]


def fitted(*steps, labels=LABELS, **vectorizer):
    return make_pipeline(BertVectorizer(cache=None, **vectorizer), *steps).fit(TEXTS, labels)


# ---- exact


@pytest.mark.parametrize("level", ["word", "token"])
@pytest.mark.parametrize("combine", ["concat", "mean", "sum", "learned"])
@pytest.mark.parametrize("layers", [-1, (0, 2), "all"])
def test_contributions_add_up_for_all_layers_and_combinations(layers, combine, level, tiny_bert):
    model = fitted(LogisticRegression(C=10), model=tiny_bert, layers=layers, combine=combine)
    check_sums(model, NEW, level=level)


@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_add_up_for_every_family(family, model_folder):
    model = fitted(LOGISTIC, model=model_folder(family), layers="all")
    for level in ("word", "token"):
        check_sums(model, NEW, level=level)


@pytest.mark.parametrize(
    "steps",
    [
        [StandardScaler()],
        [RobustScaler(), MinMaxScaler(), MaxAbsScaler()],
        [PCA(4, whiten=True)],
        [StandardScaler(), TruncatedSVD(3), "passthrough"],
        [SelectKBest(k=5), FunctionTransformer()],
    ],
    ids=lambda steps: "-".join(str(step).partition("(")[0] for step in steps),
)
@pytest.mark.parametrize("pandas", [False, True])
def test_contributions_add_up_through_affine_steps(steps, pandas, tiny_bert):
    model = make_pipeline(BertVectorizer(tiny_bert, layers="all"), *steps, LOGISTIC)
    if pandas:
        model.set_output(transform="pandas")
    model.fit(TEXTS, LABELS)
    check_sums(model, NEW)


@pytest.mark.parametrize(
    "classifier",
    [LinearSVC(), RidgeClassifier(), SGDClassifier(random_state=0), LOGISTIC],
)
@pytest.mark.parametrize("labels", [LABELS, THREE], ids=["two", "three"])
def test_contributions_add_up_for_every_linear_classifier_and_for_many_classes(
    classifier, labels, tiny_bert
):
    model = fitted(StandardScaler(), classifier, labels=labels, model=tiny_bert)
    # SGD's decisions are hundreds, of single precision: there the bound is relative
    scale = model.decision_function(NEW) if isinstance(classifier, SGDClassifier) else 1
    frames = check_sums(model, NEW, tolerance=1e-5 * float(np.abs(scale).max()))
    names = [name for name in frames[0].columns if name.startswith("contribution")]
    assert names == (
        ["contribution"]
        if labels is LABELS
        else ["contribution_bad", "contribution_good", "contribution_so-so"]
    )
    assert frames[0].attrs["classes"] == sorted(set(labels))


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail", "window"])
def test_contributions_add_up_where_texts_are_cut_or_read_in_windows(truncation, tiny_bert):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        model = fitted(LOGISTIC, model=tiny_bert, max_length=9, truncation=truncation)
        frames = check_sums(model, TEXTS, level="token")
    assert len(frames[-1]) == (32 if truncation == "window" else 9)


def test_they_are_those_of_a_slow_reference(tiny_bert, hugging_face):
    """One text at a time by transformers' forward."""
    model = fitted(LogisticRegression(C=10), model=tiny_bert, layers=2)
    oracle = hugging_face(tiny_bert)
    intercept = model[-1].intercept_[0]
    frames = explain(model, NEW, level="token", baseline="zero")
    for text, frame in zip(NEW, frames, strict=True):
        states = oracle.hidden_states(text)[2]  # (n_tokens, hidden_size)
        slow = [
            (model[-1].decision_function(state[None])[0] - intercept) / len(states)
            for state in states
        ]
        assert np.allclose(frame["contribution"], slow, atol=1e-5)
        assert frame["token"].tolist() == oracle.tokenizer.convert_ids_to_tokens(oracle.ids(text))
        assert frame.attrs["intercept"] == pytest.approx(intercept)


def test_words_are_their_tokens_added_up_with_their_place_in_the_text(tiny_bert):
    model = fitted(LOGISTIC, model=tiny_bert)
    text = "Unbelievably  good, no?"
    (words,), (tokens,) = explain(model, [text]), explain(model, [text], level="token")
    assert words["word"].tolist() == ["[CLS]", "Unbelievably", "good", ",", "no", "?", "[SEP]"]
    assert words[["start", "end"]].iloc[[0, -1]].values.tolist() == [[0, 0], [len(text)] * 2]
    for row in words.iloc[1:-1].itertuples():
        assert text[row.start : row.end] == row.word
        own = tokens[
            (tokens["start"] >= row.start)
            & (tokens["end"] <= row.end)
            & (tokens["start"] < tokens["end"])
        ]
        assert row.contribution == pytest.approx(own["contribution"].sum())
    assert words["contribution"].sum() == pytest.approx(tokens["contribution"].sum())


def test_byte_level_words_come_without_the_blank_before_them(model_folder):
    model = fitted(LOGISTIC, model=model_folder("roberta"))
    (words,) = explain(model, ["a good film"])
    assert words["word"].tolist()[1:-1] == ["a", "good", "film"]


def test_many_texts_are_explained_in_portions_and_equal_ones_once(tiny_bert, monkeypatch):
    model = fitted(LOGISTIC, model=tiny_bert)
    whole = explain(model, NEW * 2)
    monkeypatch.setattr("pipeline.token_level._TEXTS_AT_ONCE", 2)
    for ours, theirs in zip(whole, explain(model, NEW * 2), strict=True):
        assert np.allclose(ours["contribution"], theirs["contribution"], atol=1e-6)
    whole[0]["contribution"] = 0.0  # a caller's change reaches no other row
    assert whole[len(NEW)]["contribution"].any()


def test_no_texts_give_no_frames(tiny_bert):
    assert explain(fitted(LOGISTIC, model=tiny_bert), []) == []
    assert explain(fitted(LOGISTIC, model=tiny_bert, pooling="cls"), []) == []


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize(
    "container", [pd.Series, lambda x: pd.DataFrame({"t": x}), np.array, iter, tuple]
)
def test_texts_may_come_in_any_container(container, pooling, tiny_bert):
    model = fitted(LOGISTIC, model=tiny_bert, pooling=pooling)
    assert_equal(explain(model, container(NEW)), explain(model, NEW))


def test_several_columns_are_refused(tiny_bert):
    model = fitted(LOGISTIC, model=tiny_bert)
    with pytest.raises(ValueError, match="columns"):
        explain(model, pd.DataFrame({"a": NEW, "b": NEW}))


# ---- occlusion


@pytest.mark.parametrize("pooling", ["cls", "max", "pooler", ("cls", "mean")])
def test_other_poolings_leave_out_each_word_in_turn_and_say_so(pooling, tiny_bert):
    model = fitted(QuantileTransformer(n_quantiles=5), LOGISTIC, model=tiny_bert, pooling=pooling)
    text = "A lovely, dull film!"
    (frame,) = explain(model, [text])
    assert frame.attrs["method"] == "occlusion"
    assert frame["word"].tolist() == ["A", "lovely", ",", "dull", "film", "!"]
    whole = model.decision_function([text])[0]
    for row in frame.itertuples():
        without = model.decision_function([text[: row.start] + text[row.end :]])[0]
        assert row.contribution == pytest.approx(whole - without, abs=1e-5)
    assert frame.attrs["decision"] == pytest.approx(whole, abs=1e-5)
    assert frame.attrs["intercept"] == pytest.approx(model.decision_function([""])[0], abs=1e-5)


def test_occlusion_may_be_asked_for_and_knows_many_classes_and_empty_texts(tiny_bert):
    model = fitted(LOGISTIC, labels=THREE, model=tiny_bert)
    frames = explain(model, ["", "a film"], method="occlusion")
    assert [len(frame) for frame in frames] == [0, 2]
    assert frames[0].columns.tolist()[3:] == [
        "contribution_bad",
        "contribution_good",
        "contribution_so-so",
    ]
    assert len(frames[1].attrs["decision"]) == 3


# ---- what is refused


@pytest.mark.parametrize(
    ("steps", "vectorizer", "asked", "message"),
    [
        (
            [QuantileTransformer(n_quantiles=5), LOGISTIC],
            {},
            {},
            "'quantiletransformer', QuantileTransformer, is not known",
        ),
        ([MinMaxScaler(clip=True), LOGISTIC], {}, {}, "MinMaxScaler, is not known to be affine"),
        (
            [FunctionTransformer(np.tanh), LOGISTIC],
            {},
            {},
            "Transformer, is not known to be affine",
        ),
        ([SVC()], {}, {}, "SVC, is not a linear classifier"),
        ([DecisionTreeClassifier()], {}, {}, "DecisionTreeClassifier, is not a linear classifier"),
        ([LOGISTIC], {"normalize": True}, {}, "normalize=True: only the plain mean is a sum over"),
        ([LOGISTIC], {"pooling": "cls"}, {}, "pooling='cls', normalize=False: only the plain mean"),
        (
            [LOGISTIC],
            {"pooling": "max"},
            {"level": "token", "method": "auto"},
            "level='token' needs the exact method",
        ),
    ],
)
def test_what_is_no_sum_over_tokens_is_refused_with_the_reason(
    steps, vectorizer, asked, message, tiny_bert
):
    model = fitted(*steps, model=tiny_bert, **vectorizer)
    with pytest.raises(ExplanationError, match=message):
        explain(model, NEW, **{"method": "exact", **asked})
    assert explain(model, ["a film"])[0].attrs["method"] == "occlusion"


def test_other_models_and_options_are_refused(tiny_bert):
    for model in (DecisionTreeClassifier(), make_sentiment_pipeline(model=tiny_bert)):
        with pytest.raises(ValueError, match="not fitted"):
            explain(model, NEW)
    model = fitted(LOGISTIC, model=tiny_bert)
    with pytest.raises(ValueError, match=r"level='letter'; allowed are 'word' and 'token'"):
        explain(model, NEW, level="letter")
    with pytest.raises(ValueError, match=r"method='shap'; allowed are 'auto', 'exact' and 'occl"):
        explain(model, NEW, method="shap")
