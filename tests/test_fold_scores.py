"""One row on one fold: the score of scikit-learn's search, and no leak from test rows."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold

import pipeline.evaluation.layer_study
from pipeline.evaluation.folds import split_folds
from pipeline.evaluation.layer_study import INNER_FOLDS, score_fold

CS = [0.001, 0.1, 10.0]
ACCURACY = check_scoring(LogisticRegression(), scoring="accuracy")


def vectors_and_codes(n_classes=2):
    """Give vectors of 3 layers of width 5 in which classes overlap, and the class of each."""
    random = np.random.default_rng(0)
    codes = random.permutation(np.arange(90) % n_classes)
    vectors = random.normal(size=(90, 1, 3, 5)) + 0.5 * codes[:, None, None, None] * random.normal(
        size=(1, 1, 3, 5)
    )
    return vectors.astype(np.float32), codes


def test_groups_stay_together_in_the_search_for_C():
    vectors, codes = vectors_and_codes()
    groups = np.arange(90) // 5
    train, test = next(StratifiedGroupKFold(3).split(codes, codes, groups))
    parts = split_folds(INNER_FOLDS, codes[train], 2, groups[train])
    found = score_fold(vectors, "mean", False, codes, (train, test), parts, CS, ACCURACY)
    classifier = LogisticRegression(solver="newton-cholesky", tol=1e-9, max_iter=500)
    inner = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=2)
    search = GridSearchCV(classifier, {"C": CS}, cv=inner)
    features = vectors[:, 0].mean(axis=1).astype(np.float64)
    search.fit(features[train], codes[train], groups=groups[train])
    assert found.inner == pytest.approx(search.cv_results_["mean_test_score"])
    assert found.score == pytest.approx(search.score(features[test], codes[test]))


@pytest.mark.parametrize("combine", ["concat", "learned"])
def test_neither_texts_nor_labels_of_test_rows_change_what_is_fitted(combine, monkeypatch):
    mixes = []
    learn = pipeline.evaluation.layer_study.learn_layer_mix

    def spied_learn(vectors, y):
        mix = learn(vectors, y)
        mixes.append(mix.weights)
        return mix

    monkeypatch.setattr(pipeline.evaluation.layer_study, "learn_layer_mix", spied_learn)
    vectors, codes = vectors_and_codes()
    train, test = next(StratifiedKFold(3, shuffle=True, random_state=1).split(codes, codes))
    inner = split_folds(INNER_FOLDS, codes[train], 0)
    fitted = []

    def scorer(head, X, y):
        fitted.append(head.coef_.copy())
        return ACCURACY(head, X, y)

    results = []
    for _ in range(2):
        results.append(score_fold(vectors, combine, False, codes, (train, test), inner, CS, scorer))
        vectors[test], codes[test] = vectors[test] - 3, 1 - codes[test]
    before, after = results
    for ours in (mixes, fitted):
        half = len(ours) // 2
        for one, other in zip(ours[:half], ours[half:], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(mixes) == (8 if combine == "learned" else 0)
    np.testing.assert_array_equal(before.inner, after.inner)
    assert before.score != after.score
    assert before.C == after.C
