"""Scores equal scikit-learn's, a slow resampling reference and hand-made calibration."""

import numpy as np
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    roc_auc_score,
)

from pipeline.evaluation.metrics import (
    _counted_scores,
    calibration_table,
    class_table,
    classification_scores,
    expected_calibration_error,
    intervals_of,
    resampled_scores,
    wilson_interval,
)


@pytest.fixture(params=[2, 3, 5])
def answers(request):
    """Give true classes and probabilities that know something of them, with ties."""
    random = np.random.default_rng(0)
    true = random.integers(request.param, size=80)
    raw = random.random((80, request.param)) + 0.6 * np.eye(request.param)[true]
    return true, np.round(raw / raw.sum(axis=1, keepdims=True), 2) + 1e-9


def test_scores_are_those_of_scikit_learn(answers):
    true, probability = answers
    probability = probability / probability.sum(axis=1, keepdims=True)
    predicted, binary = probability.argmax(axis=1), probability.shape[1] == 2
    scores = classification_scores(true, predicted, probability)
    assert scores["accuracy"] == np.mean(predicted == true)
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert scores["log_loss"] == pytest.approx(log_loss(true, probability))
    assert scores["brier"] == pytest.approx(brier_score_loss(true, probability))
    expected = (
        roc_auc_score(true, probability[:, 1])
        if binary
        else roc_auc_score(true, probability, multi_class="ovr")
    )
    assert scores["roc_auc"] == pytest.approx(expected)


def test_resampled_scores_are_those_of_the_resampled_rows(answers):
    """The slow reference: the rows really drawn, scored by `classification_scores`."""
    true, probability = answers
    probability = probability / probability.sum(axis=1, keepdims=True)
    random = np.random.default_rng(1)
    rows = [random.integers(len(true), size=len(true)) for _ in range(20)]
    times = np.stack([np.bincount(drawn, minlength=len(true)) for drawn in rows]).astype(float)
    # not always the most probable class
    predicted = np.where(random.random(len(true)) < 0.3, true, probability.argmax(axis=1))
    predicted[:5] = probability.shape[1]  # and sometimes none
    fast = _counted_scores(true, predicted, probability, probability, times)
    for i, drawn in enumerate(rows):
        slow = classification_scores(true[drawn], predicted[drawn], probability[drawn])
        assert fast.keys() == slow.keys()
        for name, value in slow.items():
            assert fast[name][i] == pytest.approx(
                np.nan if value is None else value, nan_ok=True
            ), name


def intervals(true, probability, n_samples, random_state):
    answers = true, probability.argmax(axis=1), probability, probability
    return intervals_of(resampled_scores(*answers, n_samples=n_samples, random_state=random_state))


def test_sets_without_a_class_have_no_ranking_scores_and_spoil_no_interval():
    true = np.array([0, 0, 0, 1])
    probability = np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    assert intervals(true, probability, 200, 0)["roc_auc"] == [1.0, 1.0]
    alone = classification_scores(true[:3], probability.argmax(axis=1)[:3], probability[:3])
    assert (alone["roc_auc"], alone["average_precision"], alone["accuracy"]) == (None, None, 1.0)
    assert intervals(true[:3], probability[:3], 20, 0)["roc_auc"] is None


def test_intervals_hold_the_score_and_are_the_same_for_a_seed(answers):
    true, probability = answers
    first, again = (intervals(true, probability, 300, 3) for _ in range(2))
    assert first == again != intervals(true, probability, 300, 4)
    scores = classification_scores(true, probability.argmax(axis=1), probability)
    for name in ("accuracy", "macro_f1", "roc_auc", "log_loss", "brier"):
        low, high = first[name]
        assert low < scores[name] < high
    assert intervals(true, probability, 0, 0) == {}


def test_calibration_compares_confidence_with_accuracy():
    probability = np.array([[0.95, 0.05]] * 10 + [[0.35, 0.65]] * 4)
    true = np.array([0] * 8 + [1] * 2 + [1, 1, 0, 0])
    table = calibration_table(true, probability)
    assert [(row["low"], row["n_texts"]) for row in table] == [(0.6, 4), (0.9, 10)]
    assert table[1]["confidence"] == pytest.approx(0.95)
    assert table[1]["accuracy"] == pytest.approx(0.8)
    assert expected_calibration_error(true, probability) == pytest.approx(
        (10 * 0.15 + 4 * 0.15) / 14
    )
    assert calibration_table(np.array([0]), np.array([[1.0, 0.0]]))[0]["high"] == 1.0


def test_every_class_has_a_row():
    rows = class_table(np.array([0, 0, 1]), np.array([0, 1, 1]), ["bad", "good", "none"])
    assert [row["class"] for row in rows] == ["bad", "good", "none"]
    assert list(rows[0].values()) == ["bad", 1.0, 0.5, pytest.approx(2 / 3), 2]
    assert rows[2]["n_texts"] == 0


def test_an_interval_of_few_texts_stays_between_0_and_1():
    for n_right in range(4):
        low, high = wilson_interval(n_right, 3)
        assert 0 <= low <= n_right / 3 <= high + 1e-12 <= 1 + 1e-9
