"""Which rows a comparison has: by name, the user's own, TF-IDF always; and what is refused."""

import sys

import pytest
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, make_sentiment_pipeline
from pipeline.evaluation.baselines import (
    QUICK,
    ROWS,
    SHORT,
    bert_in,
    choose_rows,
    encode_all,
    make_candidates,
    make_tfidf_baseline,
)

MINE = DummyClassifier()
STACK = make_sentiment_pipeline(ngrams=True)


@pytest.mark.parametrize(
    ("models", "model", "expected"),
    [
        (None, None, list(QUICK)),
        (None, MINE, list(SHORT)),
        ("all", None, list(ROWS)),
        ("all", MINE, list(ROWS)),
        (None, STACK, ["majority", "tfidf", "ngrams"]),
        ("all", STACK, list(ROWS)),
        (["default", "tfidf"], MINE, ["default", "tfidf"]),
        (["cls"], None, ["tfidf", "cls"]),
        ([("mine", MINE), "majority"], None, ["tfidf", "mine", "majority"]),
        ({"mine": MINE}, None, ["tfidf", "mine"]),
        (iter(["static"]), None, ["tfidf", "static"]),
        ([], None, ["tfidf"]),
    ],
)
def test_rows_come_in_the_order_asked_for_with_tfidf_among_them(models, model, expected):
    rows, left_out = choose_rows(models, model)
    assert list(rows) == expected
    assert left_out == {}
    assert {name for name, own in rows.items() if own is not None} == {"mine"} & set(expected)


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ("tfidf", ValueError, "='tfidf'; allowed are 'all', or a list of 'majority', 'tfidf'"),
        (["bert"], ValueError, "models holds 'bert'; allowed are"),
        (3, TypeError, "models is a int; allowed are"),
        ([3], TypeError, "models holds 3; allowed are"),
        (["cls", "cls"], ValueError, "models holds 'cls' twice"),
        ([("cls", MINE)], ValueError, "'cls' twice, or uses it for an estimator of yours"),
        ([("majority", MINE)], ValueError, "give every row its own name"),
        ([(ROWS["tfidf"], MINE)], ValueError, "give every row its own name"),
        ({"mine": "tfidf"}, TypeError, "'mine' is 'tfidf'; expected a scikit-learn classifier"),
        ({"mine": DummyClassifier}, TypeError, "expected a scikit-learn classifier, as an object"),
        ({"mine": Ridge()}, TypeError, "'mine' is a Ridge, which predicts no classes"),
    ],
)
def test_what_is_no_row_is_refused(models, error, message):
    with pytest.raises(error, match=message):
        choose_rows(models, None)


def test_a_model_that_predicts_no_classes_is_refused():
    with pytest.raises(TypeError, match="'model' is a Pipeline, which predicts no classes"):
        make_candidates({"default": None}, BertVectorizer(), make_pipeline(Ridge()), None, 0, 2)


def test_word_vectors_that_would_not_be_used_or_are_not_there_are_refused_at_once():
    with pytest.raises(ValueError, match="the row 'word2vec' is not among models"):
        make_candidates({"tfidf": None}, BertVectorizer(), None, "v.bin", 0, 2)
    with pytest.raises(FileNotFoundError, match=r"word_vectors='v\.bin' is not a file"):
        make_candidates({"word2vec": None}, BertVectorizer(), None, "v.bin", 0, 2)


def test_a_row_that_was_asked_for_and_cannot_be_names_the_extra(monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.baselines.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install '\.\[finetune\]'"):
        choose_rows(["finetuned"], None)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[word2vec\]'"):
        choose_rows(["word2vec"], None)
    rows, left_out = choose_rows(None, None)
    assert "word2vec" not in rows
    assert list(left_out) == [ROWS["word2vec"]]


def test_the_default_row_has_the_default_layout_and_the_vectorizer_s_own_settings():
    own = {"model": "acme/bert", "max_length": 7, "truncation": "tail", "cache": None}
    vectorizer = BertVectorizer(**own, pooling="cls", layers=-1)
    (candidate,) = make_candidates({"default": None}, vectorizer, None, None, 0, 1).values()
    expected = make_sentiment_pipeline(**own)
    assert repr(candidate.by_fold[0]) == repr(expected)


def test_a_stack_takes_the_row_of_the_stack_and_leaves_the_others_as_they_are():
    rows = dict.fromkeys(["default", "ngrams"])
    default, mine = make_candidates(rows, bert_in(STACK), STACK, None, 0, 1).values()
    assert mine.by_fold == [STACK]
    assert repr(default.by_fold[0]) == repr(make_sentiment_pipeline())
    (ngrams,) = make_candidates({"ngrams": None}, bert_in(None), None, None, 0, 1).values()
    assert repr(ngrams.by_fold[0]) == repr(STACK)
    for name, other, model in (("ngrams", "default", STACK), ("default", "tfidf", MINE)):
        with pytest.raises(ValueError, match=f"model is the row '{name}', which is not among"):
            choose_rows([other], model)


def test_the_vectorizer_is_found_inside_a_model():
    vectorizer = BertVectorizer("acme/bert")
    assert bert_in(GridSearchCV(make_pipeline(vectorizer, LogisticRegression()), {})) is vectorizer
    assert bert_in(None).model == bert_in(MINE).model == BertVectorizer().model


def test_filling_the_caches_encodes_every_text_once_and_fits_nothing(tiny_bert, encoded):
    cached, other, uncached = (
        make_sentiment_pipeline(model=tiny_bert, **options)
        for options in ({}, {"layers": 0, "combine": "mean"}, {"cache": None})
    )
    encode_all([cached, MINE, other, uncached], ["a", "b", "a"], [0, 1, 0])
    assert sum(encoded) == 2
    assert not cached.__sklearn_is_fitted__()


def test_a_stack_that_does_not_show_its_predict_before_fit_is_a_row():
    stack = StackingClassifier([("words", make_tfidf_baseline())])
    assert choose_rows({"stack": stack}, None)[0]["stack"] is stack
