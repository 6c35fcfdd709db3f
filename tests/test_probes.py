"""Probes: what a pipeline says is kept, and a pipeline that says something else is caught."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from pipeline import BertVectorizer, load_pipeline, save_pipeline, verify_pipeline
from pipeline.exceptions import ArtifactError, ArtifactWarning
from pipeline.saved.manifest import manifest_path, plain
from pipeline.saved.opening import TOLERANCE, TOLERANCE_HALF, check_probes, make_probes
from tests.test_artifact import manifest_values

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
    assert len(probes["inputs"]) == len(probes["outputs"]) == 3
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
    far = Says([[0.2, 0.8], [0.60201, 0.39799], [0.5, 0.5]])
    with pytest.raises(
        ArtifactError,
        match=r"for 'Two .*' it gives \[0\.602, 0\.398\] by predict_proba, but gave \[0\.6, 0\.4\]"
        r" when .* \(tolerance 0\.001\)",
    ):
        check_probes(far, probes)


def test_half_precision_has_a_wider_tolerance():
    probes = make_probes(Says([[0.2, 0.8]] * 3), half=True)
    assert probes["tolerance"] == TOLERANCE_HALF
    check_probes(Says([[0.21, 0.79]] * 3), probes)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([[np.nan, np.nan]] * 3, "it gives"),
        ([[0.2, 0.8]] * 2, "it gives"),
        ([[0.2, 0.4, 0.4]] * 3, "it gives"),
        (RuntimeError("no weights"), r"cannot answer any more \(RuntimeError: no weights\)"),
    ],
)
def test_an_answer_that_is_none_is_caught(answer, message):
    with pytest.raises(ArtifactError, match=message):
        check_probes(Says(answer), make_probes(Says([[0.2, 0.8]] * 3)))


class Labels(Says):
    """Says what it is told to, and labels what it is told to."""

    def __init__(self, answer, labels):
        super().__init__(answer)
        self.labels = labels

    def predict(self, X):
        return np.array(self.labels, dtype=object)


@pytest.mark.parametrize(
    ("answer", "labels", "other", "caught"),
    [
        ([[0.4995, 0.5005], [0.2, 0.8]], ["yes", "yes"], ["no", "yes"], None),
        ([[0.4995, 0.5005], [0.2, 0.8]], ["yes", "yes"], ["yes", "no"], "'no', but gave 'yes'"),
        ([[0.1, 0.4495, 0.4505], [1, 0, 0]], ["c", "a"], ["b", "a"], None),
        ([[0.4505, 0.1, 0.4495], [1, 0, 0]], ["a", "a"], ["a", "b"], "'b', but gave 'a'"),
        ([0.0005, -0.6], ["yes", "no"], ["no", "no"], None),
        ([0.0005, -0.6], ["yes", "no"], ["yes", "yes"], "'yes', but gave 'no'"),
        (
            [[0.5, 0.5], [0.5, 0.5]],
            [[1, 0], [0, 1]],
            [[1, 0], [1, 1]],
            r"\[1, 1\], but gave \[0, 1",
        ),
    ],
)
def test_a_label_that_rounding_cannot_change_is_compared_too(answer, labels, other, caught):
    probes = make_probes(Labels(answer, labels), TEXTS[:2])
    assert probes["labels"] == labels
    assert check_probes(Labels(answer, labels), probes) == 0.0
    if caught is None:
        assert check_probes(Labels(answer, other), probes) == 0.0
    else:
        with pytest.raises(ArtifactError, match=f"it labels 'a dull film' {caught}"):
            check_probes(Labels(answer, other), probes)


def test_a_difference_of_the_tolerance_itself_is_forgiven():
    probes = {**make_probes(Labels([[0.25, 0.75]] * 2, ["b"] * 2), TEXTS[:2]), "tolerance": 0.25}
    assert check_probes(Labels([[0.5, 0.5]] * 2, ["a"] * 2), probes) == 0.25


def test_another_label_is_forgiven_up_to_twice_the_tolerance():
    def probed(margin):
        answer = [[0.5 + margin / 2, 0.5 - margin / 2]]
        probes = {**make_probes(Labels(answer, ["a"]), TEXTS[:1]), "tolerance": 0.125}
        return check_probes(Labels(answer, ["b"]), probes)

    assert probed(0.25) == 0.0
    with pytest.raises(ArtifactError, match="labels 'a good film' 'b', but gave 'a'"):
        probed(0.3125)


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (np.array([1, 3]), np.array([1, 2]), r"it gives \[1, 3\], but gave \[1, 2\]"),
        (np.array(["1", "3"]), np.array(["1", "2"]), r"it gives \['1', '3'\], but gave"),
        (np.array([1.0, 2.0]), np.array(["a", "b"]), r"it gives \[1\.0, 2\.0\], but gave \['a'"),
        (np.array(["a", "b"]), np.array([1.0, 2.0]), r"it gives \['a', 'b'\], but gave \[1\.0"),
    ],
)
def test_labels_are_the_same_or_not_whatever_the_tolerance(now, before, said):
    probes = {**make_probes(Predicts(before), TEXTS[:2]), "tolerance": 5}
    assert check_probes(Predicts(before), probes) == 0.0
    with pytest.raises(ArtifactError, match=said):
        check_probes(Predicts(now), probes)


class Predicts(BaseEstimator):
    """Predicts what it is told to."""

    def __init__(self, labels):
        self.labels = labels

    def predict(self, X):
        return self.labels


DAYS = np.array([1, 2], "timedelta64[D]")


@pytest.mark.parametrize(
    ("labels", "stored"),
    [
        (np.array(["2026-01-31", "2025-12-31"], "datetime64[D]"), ["2026-01-31", "2025-12-31"]),
        (DAYS, DAYS.astype(str).tolist()),
        (np.array([b"a", b"b"]), ["a", "b"]),
        (["a", "b"], ["a", "b"]),
    ],
)
def test_dates_and_bytes_and_lists_are_stored_as_text(labels, stored):
    probes = json.loads(json.dumps(make_probes(Predicts(labels), TEXTS[:2])))
    assert probes["outputs"] == stored
    assert check_probes(Predicts(labels), probes) == 0.0


def test_labels_are_kept_beside_numbers_alone_and_what_answers_nothing_has_no_probes():
    for classifier in (LogisticRegression(), LinearSVC()):
        assert make_probes(fitted(classifier), TEXTS)["labels"] == LABELS
    assert "labels" not in make_probes(fitted(LinearRegression(), y=[1.0, 2.0, 3.0, 4.0]))
    assert "labels" not in make_probes(fitted())
    with pytest.raises(TypeError, match="it has none of predict_proba, decision_function, predict"):
        make_probes(BaseEstimator())


def test_other_labels_are_caught():
    model = fitted(KNeighborsClassifier(1))
    labels = {"method": "predict", "inputs": TEXTS, "outputs": LABELS, "tolerance": TOLERANCE}
    assert check_probes(model, labels) == 0.0
    with pytest.raises(ArtifactError, match=r"gives \['yes', 'no', 'yes', 'no'\], but gave \['no'"):
        check_probes(model, {**labels, "outputs": ["no", *LABELS[1:]]})


@pytest.mark.parametrize(
    "change",
    [{"method": "fit"}, {"inputs": None}, {"outputs": 5}, {"outputs": []}, {"labels": ["yes"]}],
)
def test_what_describes_no_probes_is_refused(change):
    says = Labels([[0.2, 0.8]] * 3, ["yes"] * 3)
    probes = {**make_probes(says), **change}
    with pytest.raises(ArtifactError, match="describes no probes"):
        check_probes(says, {name: value for name, value in probes.items() if value is not None})


def test_answers_that_were_nan_or_infinite_are_stored_and_must_be_so_again():
    answer = [[np.nan, np.nan], [0.2, np.inf], [-np.inf, 0.5]]
    stored = json.loads(json.dumps(plain(make_probes(Says(answer)), "probes"), allow_nan=False))
    assert check_probes(Says(answer), stored) == 0.0
    for other in (0.2, np.inf, -np.inf):
        with pytest.raises(ArtifactError, match=r"for 'A quiet.* gave \[nan, nan\]"):
            check_probes(Says([[np.nan, other], *answer[1:]]), stored)
    with pytest.raises(ArtifactError, match=r"it gives \[0\.2, nan\].* gave \[0\.2, inf\]"):
        check_probes(Says([answer[0], [0.2, np.nan], answer[2]]), stored)
    with pytest.raises(ArtifactError, match=r"it gives \[inf, 0\.5\].* gave \[-inf, 0\.5\]"):
        check_probes(Says([*answer[:2], [np.inf, 0.5]]), stored)


@pytest.mark.parametrize("kind", [float, object])
def test_a_self_test_of_a_manifest_of_before_has_null_for_nan(kind):
    model = Predicts(np.array([1.0, np.nan, 2.0], dtype=kind))
    stored = {"method": "predict", "inputs": ["a", "b", "c"], "outputs": [1.0, None, 2.0]}
    assert check_probes(model, {**stored, "tolerance": TOLERANCE}) == 0.0
    assert make_probes(model, ["a", "b", "c"])["outputs"] == stored["outputs"]


def test_several_outputs_are_compared_one_by_one_also_by_a_manifest_of_before():
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    model = make_pipeline(CountVectorizer(), KNeighborsClassifier(2)).fit(TEXTS, labels)
    probes = make_probes(model, [*TEXTS, "a film"])
    assert check_probes(model, probes) == 0.0
    before = [output.tolist() for output in model.predict_proba([*TEXTS, "a film"])]
    assert check_probes(model, {**probes, "outputs": before}) == 0.0
    other = make_pipeline(CountVectorizer(), KNeighborsClassifier(2)).fit(TEXTS, labels[::-1])
    with pytest.raises(ArtifactError, match=r"for 'good food' it gives \[1\.0"):
        check_probes(other, probes)


# ---- the self-test and the versions


def change_manifest(path, **values):
    manifest_path(path).write_text(json.dumps({**manifest_values(path), **values}))


def test_a_pipeline_that_says_something_else_of_its_probes_is_refused(fitted, tmp_path):
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    probes = manifest_values(path)["probes"]
    outputs = np.asarray(probes["outputs"])
    outputs[1] = outputs[1][::-1] + 0.1
    change_manifest(path, probes={**probes, "outputs": outputs.tolist()})
    with pytest.raises(
        ArtifactError, match=r"fails its self-test: for 'Two hours .* it gives .* but gave"
    ):
        load_pipeline(path)
    with pytest.raises(ArtifactError, match="fails its self-test"):
        verify_pipeline(path)
    assert (
        load_pipeline(path, verify="sha256").predict(TEXTS).tolist()
        == fitted.predict(TEXTS).tolist()
    )


def test_other_versions_are_told_and_the_probes_decide(fitted, tmp_path):
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    versions = manifest_values(path)["versions"]
    change_manifest(path, versions={**versions, "torch": "1.0.0", "scikit-learn": "1.2.3"})
    with pytest.warns(
        ArtifactWarning,
        match=r"made with torch 1\.0\.0, here .*; scikit-learn 1\.2\.3, .*are unchanged",
    ):
        load_pipeline(path)
    with pytest.warns(ArtifactWarning, match="It was not tested on its probe texts"):
        load_pipeline(path, verify="size")
    assert len(verify_pipeline(path)["versions"]) == 2
    probes = manifest_values(path)["probes"]
    change_manifest(path, probes={**probes, "outputs": [[0.0, 1.0]] * 3})
    with pytest.raises(
        ArtifactError, match=r"fails its self-test: .* It was made with torch 1\.0\.0"
    ):
        load_pipeline(path)


def test_a_pipeline_of_tables_is_tested_on_the_rows_it_is_given(tiny_bert, tmp_path):
    table = pd.DataFrame({"text": TEXTS, "stars": np.arange(len(TEXTS)) % 5})
    columns = ColumnTransformer(
        [("bert", BertVectorizer(tiny_bert, cache=None), "text")], remainder="passthrough"
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=5000)).fit(table, LABELS)
    with pytest.warns(ArtifactWarning, match=r"does not predict on plain texts .*probes=X\[:3\]"):
        path = save_pipeline(model, tmp_path / "m.joblib")
    assert load_pipeline(path).predict(table).tolist() == model.predict(table).tolist()
    save_pipeline(model, path, probes=table[:3])
    assert verify_pipeline(path)["probes"]["n"] == 3
    with pytest.raises(ValueError, match="cannot predict on these probes"):
        save_pipeline(model, path, probes=["a text"])


def test_options_that_do_not_exist_are_refused(fitted, tmp_path):
    with pytest.raises(ValueError, match=r"format='zip'; allowed are 'joblib' and 'skops'"):
        save_pipeline(fitted, tmp_path / "m.joblib", format="zip")
    with pytest.raises(ValueError, match=r"verify='no'; allowed are 'probes', 'sha256' and 'size'"):
        load_pipeline(tmp_path / "m.joblib", verify="no")
    with pytest.raises(TypeError, match=r"scores\['a'\] is a set"):
        save_pipeline(fitted, tmp_path / "m.joblib", scores={"a": {1}})
    assert list(tmp_path.iterdir()) == []
