"""Labels become class numbers, or are refused; what is set aside holds every class."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy.sparse import csc_matrix, csr_array, issparse
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import OneClassSVM

from pipeline import BertVectorizer, compare, evaluate
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.texts import class_numbers, set_aside


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", "b"],
        np.array([2, 1, 2]),
        pd.Series([True, False, True]),
        pd.Series(["x", "m", "x"], dtype="category"),
    ],
)
def test_classes_by_number_are_the_labels(labels):
    classes, numbers = class_numbers(labels, 3)
    assert numbers.tolist() == [1, 0, 1]
    assert classes[numbers].tolist() == list(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "requires y to be passed"),
        (["a", "b"], "inconsistent numbers of samples"),
        (["a", "b", None], "label 2 is None"),
        (["a", "b", 1], "y mixes text with other labels"),
        ([0.1, 0.2, 0.3], "Unknown label type: continuous"),
        ([1.0, 1.0, 1.0], "one class only, 1.0"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        class_numbers(labels, 3)


def test_what_is_set_aside_holds_every_class_and_is_the_same_for_a_seed():
    numbers = np.array([0] * 30 + [1] * 10)
    rows, aside = set_aside(numbers, np.array(["a", "b"]), 0.2, 0)
    assert sorted([*rows, *aside]) == list(range(40))
    assert np.bincount(numbers[aside]).tolist() == [6, 2]
    assert np.array_equal(set_aside(numbers, np.array(["a", "b"]), 0.2, 0)[1], aside)
    assert not np.array_equal(set_aside(numbers, np.array(["a", "b"]), 0.2, 1)[1], aside)


def test_too_little_to_set_aside_is_said_with_what_is_allowed():
    with pytest.raises(ValueError, match="the class 'b' has one text only"):
        set_aside(np.array([0, 0, 0, 1]), np.array(["a", "b"]), 0.5, 0)
    with pytest.raises(
        ValueError, match="sets 1 of 6 texts aside; with 2 classes allowed are 2 to 4"
    ):
        set_aside(np.array([0, 0, 0, 1, 1, 1]), np.array(["a", "b"]), 0.1, 0)


TEXTS = [f"{word} film, {i}" for i in range(12) for word in ("good", "bad", "dull")]
CODES = [1, 0, 0] * 10 + [0, 0, 1] * 2  # two texts have the wrong label


WRITTEN = {  # the labels 0 and 1 in other containers, and other ways to write them
    "int": CODES,
    "float": [float(code) for code in CODES],
    "bool": [code == 1 for code in CODES],
    "text": [str(code) for code in CODES],
    "text of floats": [f"{code}.0" for code in CODES],
    "text of bools": [str(code == 1) for code in CODES],
    "numpy ints": np.array(CODES, dtype=np.int8),
    "numpy floats": np.array(CODES, dtype=np.float32),
    "numpy scalars": [np.int64(code) for code in CODES],
    "objects": np.array([1, False, 0.0, *CODES[3:]], dtype=object),
    "column": np.array(CODES)[:, None],
    "lists of one": [[code] for code in CODES],
    "Series": pd.Series(CODES, index=range(99, 99 - len(CODES), -1)),
    "nullable": pd.Series(CODES, dtype="Int64"),
    "nullable bool": pd.Series([code == 1 for code in CODES], dtype="boolean"),
    "arrow": pd.Series(CODES, dtype=pd.ArrowDtype(pa.int8())),
    "category": pd.Series(CODES, dtype="category"),
    "category of text": pd.Categorical([str(code) for code in CODES]),
    "frame": pd.DataFrame({"label": CODES}),
    "polars": pl.Series(CODES),
    "polars frame": pl.DataFrame({"label": [float(code) for code in CODES]}),
    "pyarrow": pa.array(CODES),
    "chunked": pa.chunked_array([CODES[:5], CODES[5:]]),
}


@pytest.fixture(scope="module")
def scored_as():
    """Give the scores by ints, of a model fitted on one kind of label."""
    models = {}

    def scores(fitted_on, y):
        if fitted_on not in models:
            models[fitted_on] = make_tfidf_baseline().fit(TEXTS[:18], WRITTEN[fitted_on][:18])
        found = evaluate(
            models[fitted_on], TEXTS, y, n_bootstrap=5, n_mistakes=0, n_examples=0, n_map=0
        )
        return {
            name: value
            for name, value in found.items()
            if name not in ("classes", "by_class", "curves")
        }

    return scores


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("fitted_on", ["int", "float", "bool", "text", "text of floats"])
def test_equal_labels_are_equal_however_they_are_written(fitted_on, kind, scored_as):
    assert scored_as(fitted_on, WRITTEN[kind]) == scored_as("int", CODES)


@pytest.mark.parametrize("kind", WRITTEN)
def test_compare_takes_labels_however_they_are_written(kind):
    options = {"models": ["majority"], "n_timed": 0}
    expected = compare(TEXTS, CODES, cv=2, **options)["accuracy"].tolist()
    assert compare(TEXTS, WRITTEN[kind], cv=2, **options)["accuracy"].tolist() == expected
    texts, test = [f"{text}!" for text in TEXTS], WRITTEN[kind]
    by_test = compare(TEXTS, CODES, test=(["A new " + text for text in texts], test), **options)
    same = compare(TEXTS, CODES, test=(["A new " + text for text in texts], CODES), **options)
    assert by_test["accuracy"].tolist() == same["accuracy"].tolist()


@pytest.mark.parametrize(
    ("classes", "y", "accuracy"),
    [
        (["1", "01"], ["1", "01"], 1),
        (["1", "1.0"], ["1.0", "1"], 0),
        (["true", "True"], ["True", "true"], 0),
        ([2**53, 2**53 + 1], [str(2**53 + 1), str(2**53)], 0),
        (["nan", "inf"], ["inf", "nan"], 0),
        ([1.0, 2.0], ["1.00", "2"], 1),
        (["1e3", "5"], [1000, 5.0], 1),
        ([-1, 1], ["-1.0", "+1"], 1),
    ],
    ids=str,
)
def test_labels_that_look_alike_are_told_apart(classes, y, accuracy):
    model = make_tfidf_baseline().fit(["first", "second"] * 3, classes * 3)
    assert evaluate(model, ["first", "second"], y, n_bootstrap=0)["accuracy"] == accuracy


@pytest.mark.parametrize(
    "y", [["2", "0"], [0.5, 0], ["yes", "no"], [None, 1], ["1.5", "0.0"]], ids=str
)
def test_labels_that_are_no_class_are_refused_beside_those_that_are(y):
    model = make_tfidf_baseline().fit(["first", "second"] * 3, [0, 1] * 3)
    with pytest.raises(ValueError, match=r"labels the model does not know.*it knows 0, 1"):
        evaluate(model, ["first", "second"], y)
    with pytest.raises(ValueError, match="labels that are not in y"):
        compare(["first", "second"] * 3, [0, 1] * 3, test=(["third", "fourth"], y))


# ---- y is the last step's business


MANY = [f"A {word} film, number {i}." for i in range(10) for word in ("good", "bad", "dull")]
NAMES = ["pos", "neg", "neg"] * 10
TAGS = np.array([[i % 2, i % 3 == 0, 1] for i in range(30)], dtype=int)
STARS = np.linspace(1, 5, 30)


def fitted_beside(tiny_bert, last, y):
    """Fit a last step behind texts, and on the same features without us."""
    vectorizer = BertVectorizer(tiny_bert)
    ours = make_pipeline(vectorizer, clone(last)).fit(MANY, y)
    return ours.predict(MANY), clone(last).fit(vectorizer.transform(MANY), y).predict(
        vectorizer.transform(MANY)
    )


UNLABELLED = np.array([name if i % 3 else -1 for i, name in enumerate(NAMES)], dtype=object)
UNLABELLED[::4] = "pos"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("last", "y"),
    [
        pytest.param(SelfTrainingClassifier(LogisticRegression()), UNLABELLED, id="-1 in text"),
        pytest.param(
            SelfTrainingClassifier(LogisticRegression()),
            pd.Series(UNLABELLED, dtype=object),
            id="-1 in a Series",
        ),
        pytest.param(
            SelfTrainingClassifier(LogisticRegression()), [1, 0, -1] * 10, id="-1 in numbers"
        ),
        pytest.param(OneClassSVM(), [1] * 30, id="one class of numbers"),
        pytest.param(OneClassSVM(), ["normal"] * 30, id="one class of text"),
        pytest.param(IsolationForest(n_estimators=5, random_state=0), ["normal"] * 30, id="forest"),
        pytest.param(DummyClassifier(), ["only"] * 30, id="dummy"),
        pytest.param(Ridge(), STARS, id="numbers"),
        pytest.param(Ridge(), pd.DataFrame({"stars": STARS}), id="a column of numbers"),
        pytest.param(Ridge(), pd.DataFrame({"stars": STARS, "days": STARS[::-1]}), id="two"),
        pytest.param(KNeighborsClassifier(3), TAGS, id="tags"),
        pytest.param(OneVsRestClassifier(LogisticRegression()), TAGS[:, :2], id="one against rest"),
        pytest.param(
            OneVsRestClassifier(LogisticRegression()), csr_array(TAGS[:, :2]), id="sparse"
        ),
        pytest.param(
            OneVsRestClassifier(LogisticRegression()), csc_matrix(TAGS[:, :2]), id="sparse matrix"
        ),
        pytest.param(
            MultiOutputClassifier(LogisticRegression()), pd.DataFrame(TAGS[:, :2]), id="outputs"
        ),
        pytest.param(
            MultiOutputClassifier(LogisticRegression()), [["a", "x"], ["b", "y"]] * 15, id="lists"
        ),
    ],
)  # fmt: skip
def test_any_target_of_the_last_step_passes_through_the_vectorizer(last, y, tiny_bert):
    ours, theirs = fitted_beside(tiny_bert, last, y)
    dense = [found.toarray() if issparse(found) else np.asarray(found) for found in (ours, theirs)]
    assert dense[0].tolist() == dense[1].tolist()


@pytest.mark.parametrize(
    "y",
    [
        pd.DataFrame({"label": NAMES}),
        np.array(NAMES, dtype=object)[:, None],
        pl.DataFrame({"label": NAMES}),
        pa.table({"label": NAMES}),
        [[name] for name in NAMES],
    ],
    ids=lambda y: type(y).__module__,
)
def test_a_learned_mix_takes_one_column_of_labels(y, tiny_bert):
    vectorizer = BertVectorizer(tiny_bert, layers="all", combine="learned")
    expected = clone(vectorizer).fit(MANY, NAMES).layer_weights_
    assert np.array_equal(vectorizer.fit(MANY, y).layer_weights_, expected)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (csr_array(TAGS), "several labels per text.*needs class labels"),
        (UNLABELLED, "y mixes text with other labels.*needs class labels"),
        (STARS, "continuous.*needs class labels"),
        (["only"] * 30, "one class only, 'only'.*needs class labels"),
    ],
    ids=["tags", "unlabelled", "numbers", "one class"],
)
def test_a_learned_mix_refuses_what_it_cannot_learn_from(y, message, tiny_bert, encoded):
    with pytest.raises(ValueError, match=message):
        BertVectorizer(tiny_bert, layers="all", combine="learned").fit(MANY, y)
    assert not encoded
