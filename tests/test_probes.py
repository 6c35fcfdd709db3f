"""Probes: what a pipeline says is kept, and a pipeline that says something else is caught."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from pipeline.exceptions import ArtifactError
from pipeline.saved.manifest import plain
from pipeline.saved.probes import PROBES, TOLERANCE, TOLERANCE_HALF, check_probes, make_probes

TEXTS, LABELS = ["a good film", "a dull film", "good food", "cold soup"], ["yes", "no", "yes", "no"]


def fitted(*steps, y=LABELS):
    return make_pipeline(CountVectorizer(), *steps).fit(TEXTS, y)


class Says(BaseEstimator):
    """Says what it is told to."""

    def __init__(self, answer):
        self.answer = answer

    def predict_proba(self, X):
        if isinstance(self.answer, Exception):
            raise self.answer
        return np.asarray(self.answer)[: len(X)]


def test_three_texts_and_their_probabilities_are_kept():
    model = fitted(LogisticRegression())
    probes = make_probes(model)
    assert probes["inputs"] == list(PROBES)
    assert np.array_equal(probes["outputs"], model.predict_proba(list(PROBES)))
    assert (probes["method"], probes["tolerance"]) == ("predict_proba", TOLERANCE)
    assert check_probes(model, probes) == 0.0


@pytest.mark.parametrize(
    ("model", "method"),
    [
        (fitted(LinearSVC()), "decision_function"),
        (fitted(LinearRegression(), y=[1.0, 2.0, 3.0, 4.0]), "predict"),
        (fitted(), "transform"),
    ],
    ids=["decision", "regression", "features"],
)
def test_other_pipelines_are_asked_what_they_can_answer(model, method):
    probes = make_probes(model)
    assert probes["method"] == method
    assert check_probes(model, probes) == 0.0


def test_rows_may_be_given_as_a_table_or_a_list():
    class Columns(BaseEstimator):
        def predict(self, X):
            return np.array(
                ["long" if n > 3 else "short" for n in X["text"].str.len()], dtype=object
            )

    table = pd.DataFrame({"text": ["a", "abcd"], "n": [1, 2]}, index=[7, 9])
    probes = make_probes(Columns(), table)
    assert probes["inputs"] == [{"text": "a", "n": 1}, {"text": "abcd", "n": 2}]
    assert probes["outputs"] == ["short", "long"]
    assert check_probes(Columns(), probes) == 0.0
    assert make_probes(fitted(LogisticRegression()), np.array(["x"]))["inputs"] == ["x"]


def test_rounding_is_forgiven_and_more_is_not():
    probes = make_probes(Says([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]]))
    near = Says([[0.2005, 0.7995], [0.6, 0.4], [0.5, 0.5]])
    assert check_probes(near, probes) == pytest.approx(0.0005)
    far = Says([[0.2, 0.8], [0.602, 0.398], [0.5, 0.5]])
    with pytest.raises(
        ArtifactError,
        match=r"of 'Two .*' it says \[0\.602, 0\.398\] by predict_proba, and said \[0\.6, 0\.4\]",
    ):
        check_probes(far, probes)


def test_half_precision_has_a_wider_tolerance():
    probes = make_probes(Says([[0.2, 0.8]] * 3), half=True)
    assert probes["tolerance"] == TOLERANCE_HALF
    check_probes(Says([[0.21, 0.79]] * 3), probes)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[np.nan, np.nan]] * 3, "it says"),
        ([[0.2, 0.8]] * 2, "it says"),
        ([[0.2, 0.4, 0.4]] * 3, "it says"),
        (RuntimeError("no weights"), r"cannot answer any more \(RuntimeError: no weights\)"),
    ],
)
def test_an_answer_that_is_none_is_caught(answer, message):
    with pytest.raises(ArtifactError, match=message):
        check_probes(Says(answer), make_probes(Says([[0.2, 0.8]] * 3)))


def test_answers_that_were_nan_or_infinite_are_stored_and_must_be_so_again():
    answer = [[np.nan, np.nan], [0.2, np.inf], [-np.inf, 0.5]]
    stored = json.loads(json.dumps(plain(make_probes(Says(answer)), "probes"), allow_nan=False))
    assert check_probes(Says(answer), stored) == 0.0
    for other in (0.2, np.inf, -np.inf):
        with pytest.raises(ArtifactError, match=r"of 'A quiet.* said \[nan, nan\]"):
            check_probes(Says([[np.nan, other], *answer[1:]]), stored)
    with pytest.raises(ArtifactError, match=r"it says \[0\.2, nan\].* said \[0\.2, inf\]"):
        check_probes(Says([answer[0], [0.2, np.nan], answer[2]]), stored)
    with pytest.raises(ArtifactError, match=r"it says \[inf, 0\.5\].* said \[-inf, 0\.5\]"):
        check_probes(Says([*answer[:2], [np.inf, 0.5]]), stored)


@pytest.mark.parametrize("kind", [float, object])
def test_a_self_test_of_a_manifest_of_before_has_null_for_nan(kind):
    class Predicts(BaseEstimator):
        def predict(self, X):
            return np.array([1.0, np.nan, 2.0], dtype=kind)

    stored = {"method": "predict", "inputs": ["a", "b", "c"], "outputs": [1.0, None, 2.0]}
    assert check_probes(Predicts(), {**stored, "tolerance": TOLERANCE}) == 0.0
    assert make_probes(Predicts(), ["a", "b", "c"])["outputs"] == stored["outputs"]


def test_several_outputs_are_compared_one_by_one_also_by_a_manifest_of_before():
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    model = make_pipeline(CountVectorizer(), KNeighborsClassifier(2)).fit(TEXTS, labels)
    probes = make_probes(model, [*TEXTS, "a film"])
    assert check_probes(model, probes) == 0.0
    before = [output.tolist() for output in model.predict_proba([*TEXTS, "a film"])]
    assert check_probes(model, {**probes, "outputs": before}) == 0.0
    other = make_pipeline(CountVectorizer(), KNeighborsClassifier(2)).fit(TEXTS, labels[::-1])
    with pytest.raises(ArtifactError, match=r"of 'good food' it says \[1\.0"):
        check_probes(other, probes)


def test_other_labels_are_caught():
    class Labels(BaseEstimator):
        def __init__(self, answer):
            self.answer = answer

        def predict(self, X):
            return np.array(self.answer, dtype=object)

    probes = make_probes(Labels(["a", "b", "a"]))
    assert check_probes(Labels(["a", "b", "a"]), probes) == 0.0
    with pytest.raises(ArtifactError, match=r"says \['a', 'b', 'b'\], and said \['a', 'b', 'a'\]"):
        check_probes(Labels(["a", "b", "b"]), probes)
