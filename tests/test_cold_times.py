"""Cold costs: of a saved copy without a cache, in predictable seconds."""

import time

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from pipeline import make_sentiment_pipeline
from pipeline.evaluation.compare import cold_cost

TEXTS = np.array([f"a film, number {i}" for i in range(8)], dtype=object)


class Sleeper(ClassifierMixin, BaseEstimator):
    """Take a while for every text; a copy from a file takes longer, as one without a cache does."""

    def __init__(self, cold=0.02, warm=0.005):
        self.cold = cold
        self.warm = warm

    def __setstate__(self, state):
        super().__setstate__({**state, "warm": state["cold"]})

    def predict(self, X):
        time.sleep(self.warm * len(X))
        return np.zeros(len(X))


def test_cold_and_cached_are_told_apart_by_text():
    cost = cold_cost(Sleeper(), TEXTS)
    assert 20 <= cost.predict_seconds < 40  # per 1,000 texts: 20 ms each, at least
    assert 0.005 < cost.encode_seconds < 0.03  # 15 ms each


def test_the_size_is_that_of_the_joblib_file_and_the_copy_encodes_every_text(
    tiny_bert, encoded, tmp_path
):
    model = make_sentiment_pipeline(model=tiny_bert).fit(list(TEXTS), [0, 1] * 4)
    del encoded[:]
    cost = cold_cost(model, TEXTS)
    joblib.dump(model, tmp_path / "m.joblib")
    assert cost.artifact_mb == pytest.approx((tmp_path / "m.joblib").stat().st_size / 1e6)
    assert (
        sum(encoded) % len(TEXTS) == 1
    )  # the whole set one to three times, after one text to warm up; never by the model itself
    assert sum(encoded) > len(TEXTS)


def test_what_cannot_be_pickled_has_no_known_cost():
    model = Sleeper()
    model.anything = lambda text: text
    assert np.isnan(cold_cost(model, TEXTS)).all()
