"""The baselines: what they stand for, tuned as ours are, and each a plain pipeline."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import accuracy_score

from pipeline import BertVectorizer, FineTunedBertClassifier
from pipeline.evaluation.baselines import (
    make_candidates,
    make_fine_tuned,
    make_tfidf_baseline,
    make_word2vec_baseline,
)
from tests.conftest import TEXTS

LABELS = [i % 2 for i in range(len(TEXTS))]


def test_the_majority_class_is_always_said_with_its_share():
    rows = make_candidates({"majority": None}, BertVectorizer(), None, None, 0, 1)
    (model,) = rows["majority"].by_fold
    model.fit(TEXTS, [1, 1, 1, *[0] * (len(TEXTS) - 3)])
    assert model.predict(["anything"]).tolist() == [0]
    assert model.predict_proba(["anything"])[0, 1] == pytest.approx(3 / len(TEXTS))


def test_tfidf_takes_words_and_pairs():
    model = make_tfidf_baseline().fit(["not good", "good"], [0, 1])
    assert set(model[0].get_feature_names_out()) == {"not", "good", "not good"}


def test_static_bert_is_layer_0_and_cls_the_last_layer(tiny_bert, hugging_face):
    vectorizer = BertVectorizer(tiny_bert, pooling="max", combine="mean", max_length=40)
    oracle = hugging_face(tiny_bert)
    rows = make_candidates({"static": None, "cls": None}, vectorizer, None, None, 0, 1)
    for name, layer, pooling in (("static", 0, "mean"), ("cls", -1, "cls")):
        model = rows[name].by_fold[0].fit(TEXTS[:8], LABELS[:8])
        expected = [
            oracle.sentence_vector(text, layer, pooling, max_length=40) for text in TEXTS[:8]
        ]
        np.testing.assert_allclose(model[0].transform(TEXTS[:8]), expected, atol=1e-5)
        assert isinstance(model[-1], LogisticRegressionCV)
        assert model[-1].C_ in model[-1].Cs_
    # the one given is left as it was
    assert vectorizer.layers == BertVectorizer().layers
    assert vectorizer.pooling == "max"


def test_the_order_of_words_means_nothing_to_word2vec():
    texts = ["good film", "film good", "dull film", "film dull"] * 5
    model = make_word2vec_baseline().fit(texts, [1, 1, 0, 0] * 5)
    one, other = model.predict_proba(["good film", "film good"])
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert accuracy_score([1, 1, 0, 0] * 5, model.predict(texts)) == 1.0


@pytest.mark.parametrize(
    ("given", "max_length", "truncation"),
    [
        ({}, 64, "head"),  # the tiny model takes no more
        ({"max_length": 10, "truncation": "window"}, 10, "head"),
        ({"max_length": 10, "truncation": "tail"}, 10, "tail"),
    ],
)
def test_the_fine_tuned_row_begins_with_the_same_model(given, max_length, truncation, tiny_bert):
    model = make_fine_tuned(BertVectorizer(tiny_bert, **given), random_state=3)
    assert isinstance(model[0], FineTunedBertClassifier)
    expected = {
        "model": tiny_bert, "max_length": max_length, "truncation": truncation, "random_state": 3,
    }  # fmt: skip
    assert expected.items() <= model[0].get_params().items()
    assert make_fine_tuned(BertVectorizer(), random_state=0)[0].max_length == 128
