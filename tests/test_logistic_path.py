"""Many logistic regressions at once: each is the one that scikit-learn finds alone."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import pipeline.evaluation.layer_study
from pipeline.evaluation.layer_study import fit_logistic_path


def case(n_classes, seed=0, n_rows=120, n_features=6, dtype=np.float64):
    """Make features off centre, codes that lean to them, and three parts."""
    rng = np.random.default_rng(seed)
    X = 3 + rng.normal(size=(n_rows, n_features)) * np.geomspace(0.1, 5, n_features)
    codes = (
        (X[:, 0] * 8 + X[:, 1] + rng.normal(size=n_rows)).argsort().argsort() * n_classes // n_rows
    )
    return X.astype(dtype), codes, rng.random((3, n_rows)) < 0.6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_each_is_the_minimum_that_scikit_learn_finds(n_classes, seed):
    X, codes, parts = case(n_classes, seed)
    Cs = [0.003, 0.1, 1.0, 30.0]
    weights, intercepts = fit_logistic_path(X, codes, parts, Cs, tol=1e-14)
    for i, part in enumerate(parts):
        for j, C in enumerate(Cs):
            alone = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(X[part], codes[part])
            np.testing.assert_allclose(weights[i, j], alone.coef_, atol=2e-4)
            np.testing.assert_allclose(intercepts[i, j], alone.intercept_, atol=2e-3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_more_features_than_rows_change_nothing(n_classes):
    X, codes, parts = case(n_classes, n_rows=40, n_features=90)
    weights, intercepts = fit_logistic_path(X, codes, parts, [0.01, 1.0], tol=1e-14)
    for i, part in enumerate(parts):
        for j, C in enumerate([0.01, 1.0]):
            alone = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(X[part], codes[part])
            np.testing.assert_allclose(weights[i, j], alone.coef_, atol=2e-4)
            np.testing.assert_allclose(intercepts[i, j], alone.intercept_, atol=2e-3)


def test_single_precision_and_the_default_tolerance_predict_the_same():
    X, codes, parts = case(2, dtype=np.float32)
    weights, intercepts = fit_logistic_path(X, codes, parts, [0.1, 10.0])
    exact, exact_intercepts = fit_logistic_path(
        X.astype(np.float64), codes, parts, [0.1, 10.0], tol=1e-14
    )
    logits = np.einsum("nf,pclf->pcln", X, weights) + intercepts[..., None]
    exact_logits = np.einsum("nf,pclf->pcln", X, exact) + exact_intercepts[..., None]
    assert abs(logits - exact_logits).max() < 0.01


def test_rows_outside_a_part_change_nothing_of_it():
    X, codes, parts = case(3)
    expected = fit_logistic_path(X, codes, parts[:1], [0.1, 1.0], tol=1e-14)
    codes[~parts[0]] = (codes[~parts[0]] + 1) % 3
    X[~parts[0]] += 2
    for found, before in zip(
        fit_logistic_path(X, codes, parts[:1], [0.1, 1.0], tol=1e-14), expected, strict=True
    ):
        np.testing.assert_allclose(found, before, atol=2e-4)


def test_features_that_are_all_the_same_get_no_weight():
    weights, intercepts = fit_logistic_path(
        np.full((10, 3), 7.0), np.arange(10) % 5 // 3, np.ones((1, 10), dtype=bool), [1.0]
    )
    assert not weights.any()
    assert intercepts[0, 0, 0] == pytest.approx(np.log(4 / 6), abs=1e-3)


def test_what_is_not_done_in_time_is_told_with_its_C(monkeypatch):
    monkeypatch.setattr(pipeline.evaluation.layer_study, "_MAX_ITER", 2)
    X, codes, parts = case(2)
    with pytest.warns(
        ConvergenceWarning,
        match=r"6 of 6 logistic regressions were not done after 2 steps .C of \[1.0, 100.0\]",
    ):
        fit_logistic_path(X, codes, parts, [1.0, 100.0])
