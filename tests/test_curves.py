"""The curves of a report: scikit-learn's own, thinned so that no eye sees it."""

import numpy as np
import pytest
from sklearn.metrics import (
    auc,
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from pipeline.evaluation.metrics import MOST_POINTS, score_curves


def make_case(n_texts, n_classes, seed=0):
    generator = np.random.default_rng(seed)
    true = generator.integers(n_classes, size=n_texts)
    probability = generator.random((n_texts, n_classes)) + 0.5 * np.eye(n_classes)[true]
    return true, probability / probability.sum(axis=1, keepdims=True)


def test_of_two_classes_the_curve_of_the_second_is_that_of_scikit_learn():
    true, probability = make_case(30, 2)
    (curve,) = score_curves(true, probability, ["bad", "good"])
    false_rate, true_rate, _ = roc_curve(true, probability[:, 1])
    precision, recall, _ = precision_recall_curve(true, probability[:, 1])
    assert curve == {
        "class": "good",
        "n_texts": int(true.sum()),
        "roc_auc": pytest.approx(roc_auc_score(true, probability[:, 1])),
        "average_precision": pytest.approx(average_precision_score(true, probability[:, 1])),
        "roc": {
            "false_positive_rate": false_rate.tolist(),
            "true_positive_rate": true_rate.tolist(),
        },
        "precision_recall": {
            "recall": recall[::-1].tolist(),
            "precision": precision[::-1].tolist(),
        },
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_long_curve_is_thinned_and_keeps_its_ends_and_its_area(seed):
    true, probability = make_case(20_000, 2, seed)
    (curve,) = score_curves(true, probability, [0, 1])
    x, y = curve["roc"].values()
    assert len(x) <= MOST_POINTS + 1
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert auc(x, y) == pytest.approx(curve["roc_auc"], abs=0.002)
    recall, precision = (np.array(values) for values in curve["precision_recall"].values())
    assert len(recall) <= MOST_POINTS + 1
    assert (recall[0], recall[-1]) == (0, 1)
    assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(
        curve["average_precision"], abs=0.01
    )


def test_every_class_has_its_curve_and_one_without_texts_has_none():
    true, probability = make_case(40, 4)
    true[true == 2] = 0
    curves = score_curves(true, probability, ["a", "b", "c", "d"])
    assert [curve["class"] for curve in curves] == ["a", "b", "d"]
    for i, curve in zip((0, 1, 3), curves, strict=True):
        assert curve["roc_auc"] == pytest.approx(roc_auc_score(true == i, probability[:, i]))


@pytest.mark.parametrize("only", [0, 1])
def test_texts_of_one_class_have_no_curve(only):
    assert score_curves(np.full(5, only), make_case(5, 2)[1], ["a", "b"]) == []
