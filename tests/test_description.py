"""describe: what stands in a manifest about a pipeline is right, and is plain JSON."""

import json

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer
from pipeline.saved.manifest import describe, plain, vectorizers_in
from tests.conftest import TEXTS

LABELS = ["yes" if i % 2 else "no" for i in range(len(TEXTS))]


def test_steps_classes_and_model_are_told(tiny_bert):
    vectorizer = BertVectorizer(
        tiny_bert, layers=(1, -1), pooling=("cls", "mean"), max_length=20, truncation="tail"
    )
    with pytest.warns(match="longer than max_length=20"):
        told = describe(
            make_pipeline(vectorizer, "passthrough", LogisticRegression()).fit(TEXTS, LABELS)
        )
    assert json.loads(json.dumps(told)) == told
    assert told["steps"] == [
        ["bertvectorizer", "pipeline.vectorizer.BertVectorizer"],
        ["passthrough", "passthrough"],
        ["logisticregression", "sklearn.linear_model._logistic.LogisticRegression"],
    ]
    assert told["classes"] == ["no", "yes"]
    assert told["n_training_texts"] == len(TEXTS)
    (model,) = told["vectorizers"]
    assert model["source"] == vectorizer.source_
    expected = {
        "model": tiny_bert,
        "layers": [1, 3],
        "pooling": ["cls", "mean"],
        "max_length": 20,
        "truncation": "tail",
    }
    assert {name: model[name] for name in expected} == expected
    assert (model["device"], model["dtype"]) == ("cpu", "float32")


def test_numbers_are_labels_too(tiny_bert):
    told = describe(
        make_pipeline(BertVectorizer(tiny_bert), LogisticRegression()).fit(
            TEXTS, [i % 2 for i in range(len(TEXTS))]
        )
    )
    assert told["classes"] == [0, 1]


def test_a_vectorizer_inside_a_column_transformer_is_found_fitted(tiny_bert):
    import pandas as pd

    table = pd.DataFrame({"text": TEXTS, "n": range(len(TEXTS))})
    columns = ColumnTransformer(
        [("bert", BertVectorizer(tiny_bert), "text")], remainder="passthrough"
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=5000)).fit(table, LABELS)
    assert len(vectorizers_in(model)) == 1
    assert describe(model)["vectorizers"][0]["layers"] == [3]


def test_a_pipeline_without_a_vectorizer_has_none():
    told = describe(make_pipeline(LogisticRegression()).fit([[0.0], [1.0]], [0, 1]))
    assert (told["vectorizers"], told["n_training_texts"]) == ([], None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        ({"a": (1, None, True, "x")}, {"a": [1, None, True, "x"]}),
        ({1: np.nan, "b": float("inf")}, {"1": None, "b": None}),
        (np.array(["a", None], dtype=object), ["a", None]),
    ],
)
def test_values_become_those_of_json(value, expected):
    assert plain(value, "it") == expected


def test_what_json_does_not_have_is_refused_with_its_place():
    with pytest.raises(
        TypeError, match=r"scores\['held out'\]\[1\] is a set; a manifest holds numbers, strings"
    ):
        plain({"held out": [1, {2}]}, "scores")
