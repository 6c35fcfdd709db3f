"""estimators_in: every estimator in a pipeline is found, fitted ones in meta-estimators too."""

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.saved.manifest import estimators_in, holds_memmap

X, Y = np.arange(12.0).reshape(6, 2), [0, 1] * 3


def kinds(value):
    return [type(one).__name__ for one in estimators_in(value)]


def test_the_steps_of_a_pipeline_are_found_outermost_first():
    model = make_pipeline(make_pipeline(StandardScaler()), "passthrough", LogisticRegression())
    assert kinds(model) == ["Pipeline", "Pipeline", "LogisticRegression", "StandardScaler"]


def test_fitted_copies_in_meta_estimators_are_found():
    columns = ColumnTransformer([("a", StandardScaler(), [0])], remainder="drop").fit(X)
    assert any(hasattr(one, "mean_") for one in estimators_in(columns))
    voting = VotingClassifier([("a", LogisticRegression())]).fit(X, Y)
    assert any(hasattr(one, "coef_") for one in estimators_in(voting))
    search = GridSearchCV(LogisticRegression(), {"C": [1]}, cv=2).fit(X, Y)
    assert any(hasattr(one, "coef_") for one in estimators_in(search))


def test_an_estimator_that_stands_in_two_places_or_in_itself_is_found_once():
    scaler = StandardScaler()
    scaler.myself_ = scaler
    assert kinds([scaler, {"again": scaler}]) == ["StandardScaler"]


@pytest.mark.parametrize("inside", [lambda m: m, lambda m: [m], lambda m: {"a": (m,)}])
def test_a_memmap_is_found_wherever_it_is(inside, tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    model = make_pipeline(StandardScaler())
    model[0].mean_ = inside(np.load(tmp_path / "a.npy"))
    assert not holds_memmap(model)
    model[0].mean_ = inside(np.load(tmp_path / "a.npy", mmap_mode="c"))
    assert holds_memmap(model)
    model[0].mean_ = inside(np.asarray(np.load(tmp_path / "a.npy", mmap_mode="c")))
    assert not holds_memmap(model)
