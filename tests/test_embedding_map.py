"""The map of the texts: between the classes, one for one seed, or a reason why there is none."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestCentroid

from pipeline.answers import Judged
from pipeline.evaluation.evaluate import MOST_CHARACTERS, map_embeddings

TEXTS = [f"text {i}" for i in range(40)]
TRUE = np.arange(40) % 2
PROBABILITY = np.random.default_rng(1).dirichlet([1, 1], size=40)
FEATURES = np.random.default_rng(0).normal(size=(40, 6)) * [9, 5, 1, 1, 1, 1]


def draw(features=FEATURES, texts=TEXTS, *, n_points=500, random_state=0):
    n = len(texts)
    probability = PROBABILITY[:n]
    judged = Judged(TRUE[:n], probability.argmax(axis=1), probability.max(axis=1), ["no", "yes"])
    return map_embeddings(features, texts, judged, n_points=n_points, random_state=random_state)


def places(found):
    return np.array([[point["x"], point["y"]] for point in found["points"]])


def test_of_two_classes_the_first_axis_goes_through_their_means_and_the_second_is_the_rest():
    found, predicted = draw(), PROBABILITY.argmax(axis=1)
    centred = FEATURES - FEATURES.mean(axis=0)
    across = FEATURES[predicted == 1].mean(axis=0) - FEATURES[predicted == 0].mean(axis=0)
    across /= np.linalg.norm(across)
    rest = PCA(1).fit_transform(centred - np.outer(centred @ across, across))
    expected = np.column_stack([centred @ across, rest])
    assert np.abs(places(found)) == pytest.approx(np.abs(expected))
    shares = expected.var(axis=0) / FEATURES.var(axis=0).sum()
    assert found["explained_variance"] == pytest.approx(shares)
    assert found["classes"] == ["no", "yes"]


def test_of_three_classes_whose_means_are_apart_each_lies_apart():
    true = np.arange(60) % 3
    corners = np.zeros((3, 50))
    corners[[0, 1, 2], [3, 17, 40]] = 3.0  # in a few of many directions: PCA would not see it
    noise = np.random.default_rng(0).normal(size=(60, 50)) * np.linspace(2, 0.1, 50)
    noise[:, [3, 17, 40]] = 0.1
    judged = Judged(true, true, np.ones(60), ["a", "b", "c"])
    texts = [str(i) for i in range(60)]
    found = map_embeddings(corners[true] + noise, texts, judged, n_points=60, random_state=0)
    assert NearestCentroid().fit(places(found), true).score(places(found), true) > 0.9


def test_of_many_classes_the_most_confused_are_drawn():
    true = np.repeat(np.arange(10), 8)
    predicted = true.copy()
    predicted[true == 7] = [4, 4, 4, 7, 7, 7, 7, 7]
    judged = Judged(true, predicted, np.ones(80), list("abcdefghij"))
    features = np.random.default_rng(0).normal(size=(80, 12))
    found = map_embeddings(features, ["text"] * 80, judged, n_points=80, random_state=0)
    assert {"e", "h"} <= set(found["classes"])
    assert len(found["classes"]) == 6
    assert {point["true"] for point in found["points"]} == set(found["classes"])


@pytest.mark.parametrize(
    "container", [sparse.csr_matrix, pd.DataFrame], ids=["sparse", "DataFrame"]
)
def test_other_kinds_of_features_give_the_same_map(container):
    assert places(draw(container(FEATURES))) == pytest.approx(places(draw()))


def test_of_many_texts_the_same_few_are_drawn():
    rows = [point["row"] for point in draw(n_points=10)["points"]]
    assert rows == sorted(set(rows))
    assert len(rows) == 10
    assert draw(n_points=10) == draw(n_points=10)
    assert rows != [point["row"] for point in draw(n_points=10, random_state=1)["points"]]


def test_of_a_long_text_the_beginning_stands_on_the_map():
    assert draw(texts=["a" * 100_000, *TEXTS[1:]])["points"][0]["text"] == "a" * MOST_CHARACTERS


def test_the_same_text_again_and_again_is_one_place():
    found = draw(np.full((40, 6), 0.3))
    assert np.array_equal(places(found), np.zeros((40, 2)))
    assert found["explained_variance"] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("features", "texts", "reason"),
    [
        (FEATURES[:1], TEXTS[:1], "at least two texts and two features, but there are 1 and 6"),
        (FEATURES[:, :1], TEXTS, "here are 40 and 1"),
        ("a model without steps", TEXTS, "a model without steps"),
    ],
)
def test_where_there_can_be_no_map_the_reason_is_told(features, texts, reason):
    assert reason in draw(features, texts)["refused"]


def test_no_points_make_no_map():
    assert draw(n_points=0) is None
