"""The map of the texts: PCA, the same for the same seed, and a reason where there can be none."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from pipeline.answers import Judged
from pipeline.evaluation.evaluate import MOST_CHARACTERS, map_embeddings

TEXTS = [f"text {i}" for i in range(40)]
TRUE = np.arange(40) % 2
PROBABILITY = np.random.default_rng(1).dirichlet([1, 1], size=40)
FEATURES = np.random.default_rng(0).normal(size=(40, 6)) * [9, 5, 1, 1, 1, 1]


def draw(features=FEATURES, texts=TEXTS, *, n_points=500, random_state=0):
    n = len(texts)
    judged = Judged(
        TRUE[:n], PROBABILITY[:n].argmax(axis=1), PROBABILITY[:n].max(axis=1), ["no", "yes"]
    )
    return map_embeddings(features, texts, judged, n_points=n_points, random_state=random_state)


def places(found):
    return np.array([[point["x"], point["y"]] for point in found["points"]])


def test_places_are_the_first_two_principal_components():
    found = draw()
    centred = FEATURES - FEATURES.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * singular[:2]
    assert np.abs(places(found)) == pytest.approx(np.abs(expected))
    assert found["explained_variance"] == pytest.approx((singular**2 / (singular**2).sum())[:2])
    assert found["method"] == "PCA"


def test_a_point_carries_its_text_and_what_was_said_of_it():
    point = draw()["points"][3]
    said = int(PROBABILITY[3].argmax())
    assert point | {"x": 0, "y": 0} == {
        "row": 3,
        "x": 0,
        "y": 0,
        "text": "text 3",
        "true": "yes",
        "predicted": ["no", "yes"][said],
        "probability": PROBABILITY[3, said],
    }


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
        (FEATURES[:1], TEXTS[:1], "two texts and two features at least; here are 1 and 6"),
        (FEATURES[:, :1], TEXTS, "here are 40 and 1"),
        ("a model without steps", TEXTS, "a model without steps"),
    ],
)
def test_where_there_can_be_no_map_the_reason_is_told(features, texts, reason):
    assert reason in draw(features, texts)["refused"]


def test_no_points_make_no_map():
    assert draw(n_points=0) is None
