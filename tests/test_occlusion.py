"""Explanations by leaving words out: of any classifier, in any pipeline, one column of several."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.utils.metaestimators import available_if

from pipeline import (
    BertVectorizer,
    FineTunedBertClassifier,
    evaluate,
    explain,
    save_pipeline,
)
from pipeline.exceptions import ExplanationError
from tests.commands import assert_one_error_line, run  # noqa: F401  (fixture)
from tests.test_sums import check_sums, lowered

TEXTS = [f"a {'lovely' if i % 2 else 'dull'} film, and a {'quiet' if i % 3 else 'cold'} day"
         for i in range(12)]  # fmt: skip
LABELS = ["good" if i % 2 else "bad" for i in range(12)]
THREE = [("bad", "good", "so-so")[i % 3] for i in range(12)]
NEW = ["What a lovely, quiet film!", "dull", ""]


@pytest.fixture
def bert(tiny_bert):
    return partial(BertVectorizer, tiny_bert, layers=-1)


def check(frames, decide, texts=NEW, columns=("contribution",)):
    """Leave every word out by hand and ask the model itself."""
    for frame, text in zip(frames, texts, strict=True):
        assert frame.attrs["method"] == "occlusion"
        whole, empty = decide(text), decide("")
        assert np.atleast_1d(frame.attrs["decision"]) == pytest.approx(whole, abs=1e-5)
        assert np.atleast_1d(frame.attrs["intercept"]) == pytest.approx(empty, abs=1e-5)
        for row in frame.to_dict("records"):
            assert text[row["start"] : row["end"]] == row["word"]
            without = decide(text[: row["start"]] + text[row["end"] :])
            found = [row[name] for name in columns]
            assert found == pytest.approx(np.asarray(whole) - without, abs=1e-5)
    assert frames[0]["word"].tolist() == ["What", "a", "lovely", ",", "quiet", "film", "!"]


@pytest.mark.parametrize(
    "last",
    [
        RandomForestClassifier(5, random_state=0),
        MLPClassifier((3,), solver="lbfgs", max_iter=9000, random_state=0),
        KNeighborsClassifier(3),
        CalibratedClassifierCV(SVC(), cv=2),
        GaussianNB(),
    ],
    ids=lambda last: type(last).__name__,
)
@pytest.mark.parametrize("labels", [LABELS, THREE], ids=["two", "three"])
def test_classifiers_without_decisions_are_explained_by_their_probabilities(last, labels, bert):
    model = make_pipeline(bert(), last).fit(TEXTS, labels)
    if len(model.classes_) == 2:
        check(explain(model, NEW), lambda text: model.predict_proba([text])[0, 1:])
    else:
        names = [f"contribution_{label}" for label in model.classes_]
        check(explain(model, NEW), lambda text: model.predict_proba([text])[0], columns=names)


@pytest.mark.parametrize("shape", ["ovr", "ovo"])
def test_a_kernel_machine_is_explained_by_its_decision(shape, bert):
    four = [("a", "b", "c", "d")[i % 4] for i in range(12)]
    last = SVC(decision_function_shape=shape)
    model = make_pipeline(bert(), last).fit(TEXTS, four)
    if shape == "ovo":  # a value per pair of classes, and no probabilities
        with pytest.raises(ExplanationError, match="one value per class nor predict_proba"):
            explain(model, NEW)
        return
    names = [f"contribution_{label}" for label in "abcd"]
    check(explain(model, NEW), lambda text: model.decision_function([text])[0], columns=names)


def as_column(texts):
    return np.array([[text] for text in lowered(texts)], dtype=object)


def search_around(bert):
    inner = make_pipeline(bert(), RandomForestClassifier(3, random_state=0))
    return GridSearchCV(inner, {"randomforestclassifier__max_depth": [2, 3]}, cv=2)


WHOLE = {
    "cleaning in front": lambda bert: make_pipeline(
        FunctionTransformer(lowered), bert(), KNeighborsClassifier(3)
    ),
    "cleaning to a column": lambda bert: make_pipeline(
        FunctionTransformer(as_column), bert(), GaussianNB()
    ),
    "two steps of cleaning": lambda bert: make_pipeline(
        FunctionTransformer(lowered), FunctionTransformer(lowered), bert(), GaussianNB()
    ),
    "a search": search_around,
    "a search in a pipeline": lambda bert: Pipeline([("search", search_around(bert))]),
    "votes": lambda bert: VotingClassifier(
        [("a", make_pipeline(bert(), GaussianNB())), ("b", make_pipeline(bert(), GaussianNB()))],
        voting="soft",
    ),
    "calibration around": lambda bert: CalibratedClassifierCV(make_pipeline(bert(), SVC()), cv=2),
    "a union": lambda bert: make_pipeline(
        FeatureUnion([("last", bert()), ("first", bert().set_params(layers=0))]), GaussianNB()
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_models_with_the_vectorizer_anywhere_are_asked_for_each_text(name, bert):
    model = WHOLE[name](bert).fit(TEXTS, LABELS)
    check(explain(model, NEW), lambda text: model.predict_proba([text])[0, 1:])


@pytest.mark.parametrize("around", ["search", "inner pipeline", "search at the end", "identity"])
def test_what_is_a_sum_stays_one_inside_other_models(around, bert):
    inner = make_pipeline(bert(), StandardScaler(), LogisticRegression())
    model = {
        "search": GridSearchCV(inner, {"logisticregression__C": [1.0]}, cv=2),
        "inner pipeline": make_pipeline(inner[:-1], LogisticRegression()),
        "search at the end": make_pipeline(
            *inner[:-1], GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2)
        ),
        "identity": make_pipeline(FunctionTransformer(), *inner, "passthrough")[:-1],
    }[around].fit(TEXTS, LABELS)
    check_sums(model, NEW, tolerance=1e-4)


# ---- samplers


class Repeats:
    """A sampler as imbalanced-learn has them: at work while the pipeline is fitted, never later."""

    def fit_resample(self, X, y):
        rows = np.repeat(np.arange(len(y)), 2)
        return [X[i] for i in rows] if isinstance(X, list) else X[rows], np.asarray(y)[rows]

    def get_params(self, deep=True):
        return {}


class SamplingPipeline(Pipeline):
    """A stand-in for imblearn.pipeline.Pipeline."""

    def _validate_steps(self):
        return None

    def fit(self, X, y):
        for _, step in self.steps[:-1]:
            if hasattr(step, "fit_resample"):
                X, y = step.fit_resample(X, y)
            else:
                X = step.fit(X, y).transform(X)
        self.steps[-1][1].fit(X, y)
        return self

    def _through(self, X):
        for _, step in self.steps[:-1]:
            X = X if hasattr(step, "fit_resample") else step.transform(X)
        return X

    @available_if(lambda self: hasattr(self.steps[-1][1], "decision_function"))
    def decision_function(self, X):
        return self.steps[-1][1].decision_function(self._through(X))

    def predict(self, X):
        return self.steps[-1][1].predict(self._through(X))

    def predict_proba(self, X):
        return self.steps[-1][1].predict_proba(self._through(X))


def sampling(*steps):
    return SamplingPipeline([(f"step{i}", step) for i, step in enumerate(steps)])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_sampler_is_skipped_as_when_the_model_predicts(place, bert):
    steps = [bert(), StandardScaler(), LogisticRegression()]
    model = sampling(*steps[:place], Repeats(), *steps[place:]).fit(TEXTS, LABELS)
    check_sums(model, NEW, tolerance=1e-4)


def test_a_sampler_is_no_obstacle_to_occlusion(bert):
    model = sampling(bert(), Repeats(), GaussianNB()).fit(TEXTS, LABELS)
    check(explain(model, NEW), lambda text: model.predict_proba([text])[0, 1:])


def test_imbalanced_learn_itself(bert):
    pipelines = pytest.importorskip("imblearn.pipeline", reason="imbalanced-learn is an extra")
    from imblearn.over_sampling import SMOTE

    steps = [bert(), SMOTE(k_neighbors=1, random_state=0), LogisticRegression()]
    model = pipelines.make_pipeline(*steps).fit(TEXTS, [*LABELS[:9], "bad", "bad", "bad"])
    check_sums(model, NEW, tolerance=1e-4)


# ---- columns


FRAME = pd.DataFrame(
    {"text": TEXTS, "title": [text[-5:] for text in TEXTS], "stars": range(12), "unused": None}
)
ROWS = pd.DataFrame(
    {"text": NEW, "title": ["a day", "film", "dull"], "stars": [3, 9, 5]}, index=[7, 8, 9]
)


@pytest.mark.parametrize("last", [SVC(), GaussianNB()])
def test_the_other_columns_are_held_fixed(last, bert):
    front = make_column_transformer((bert(), "text"), (StandardScaler(), ["stars"]))
    model = make_pipeline(front, last).fit(FRAME, LABELS)
    decide = getattr(model, "decision_function", lambda X: model.predict_proba(X)[:, 1])
    for frame, (_, row) in zip(explain(model, ROWS), ROWS.iterrows(), strict=True):
        assert frame.attrs["method"] == "occlusion"

        def decision(text, row=row):
            return decide(pd.DataFrame([{**row, "text": text}]))[0]

        assert frame.attrs["intercept"] == pytest.approx(decision(""), abs=1e-5)
        for word in frame.to_dict("records"):
            without = decision(row["text"][: word["start"]] + row["text"][word["end"] :])
            assert word["contribution"] == pytest.approx(decision(row["text"]) - without, abs=1e-5)
    with pytest.raises(ExplanationError, match="'text', 'stars': give a DataFrame"):
        explain(model, NEW)
    with pytest.raises(ValueError, match="no column 'stars'"):
        explain(model, ROWS[["text"]])


def test_of_two_columns_of_texts_one_is_named(bert):
    model = make_pipeline(
        make_column_transformer((bert(), "text"), (bert(), "title")), GaussianNB()
    ).fit(FRAME, LABELS)
    with pytest.raises(ExplanationError, match="columns 'text', 'title'; name the one"):
        explain(model, ROWS)
    assert explain(model, ROWS, text="title")[0]["word"].tolist() == ["a", "day"]
    assert explain(model, ROWS, text="text")[1]["word"].tolist() == ["dull"]


def test_one_column_in_a_transformer_takes_flat_texts_too(bert):
    model = make_pipeline(make_column_transformer((bert(), "text")), GaussianNB())
    model.fit(FRAME, LABELS)
    frames = explain(model, NEW)
    assert frames[0].equals(explain(model, ROWS)[0])


def test_mistakes_of_models_of_columns_come_with_their_words(bert):
    front = make_column_transformer((bert(), "text"), (StandardScaler(), ["stars"]))
    model = make_pipeline(front, LogisticRegression()).fit(FRAME, LABELS)
    turned = ["good" if label == "bad" else "bad" for label in model.predict(FRAME)]
    scores = evaluate(model, FRAME, turned, n_bootstrap=0, n_map=0)
    assert all("words" in mistake["explanation"] for mistake in scores["mistakes"])


# ---- several labels


@pytest.mark.parametrize("last", [OneVsRestClassifier(GaussianNB()),
                                  MultiOutputClassifier(LogisticRegression())])  # fmt: skip
def test_each_of_several_labels_has_its_contributions(last, bert):
    y = np.array([[i % 2, i % 3 == 0] for i in range(12)], dtype=int)
    model = make_pipeline(bert(), last).fit(TEXTS, y)
    frames = explain(model, NEW)

    def decide(text):
        own = model.predict_proba([text])
        return [p[0, 1] for p in own] if isinstance(own, list) else own[0]

    check(frames, decide, columns=["contribution_0", "contribution_1"])


# ---- what cannot be explained


def test_regressors_and_models_of_numbers_are_refused(bert):
    with pytest.raises(ExplanationError, match="Ridge, is not a classifier"):
        explain(make_pipeline(bert(), Ridge()).fit(TEXTS, range(12)), NEW)
    numbers = np.arange(12.0)[:, None]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(numbers, LABELS)
    with pytest.raises(ExplanationError, match="model is a Pipeline, and X holds no texts"):
        explain(model, numbers)
    with pytest.raises(ExplanationError, match="fails on texts"):
        explain(model, NEW)


def test_models_without_the_vectorizer_are_asked_too(tiny_bert):
    forest = make_pipeline(TfidfVectorizer(), RandomForestClassifier(5, random_state=0))
    forest.fit(TEXTS, LABELS)
    check(explain(forest, NEW), lambda text: forest.predict_proba([text])[0, 1:])
    tuned = FineTunedBertClassifier(tiny_bert, epochs=1, max_length=64).fit(TEXTS, LABELS)
    check(explain(tuned, NEW), lambda text: tuned.predict_proba([text])[0, 1:])


def test_the_command_explains_what_takes_texts_alone(bert, run, tmp_path):  # noqa: F811
    model = make_pipeline(bert(), GaussianNB()).fit(TEXTS, LABELS)
    path = save_pipeline(model, tmp_path / "m.joblib")
    result = run("explain", "--pipeline", path, "--text", "a lovely film")
    assert result.code == 0, result.err
    assert [line.split("\t")[0] for line in result.out.splitlines()] == [
        "a", "lovely", "film", "(intercept)", "(decision)",
    ]  # fmt: skip
    front = make_column_transformer((bert(), "text"), (StandardScaler(), ["stars"]))
    model = make_pipeline(front, GaussianNB()).fit(FRAME, LABELS)
    path = save_pipeline(model, tmp_path / "columns.joblib", probes=FRAME[:3])
    assert_one_error_line(run("explain", "--pipeline", path, "--text", "a film"), "'text', 'stars'")
