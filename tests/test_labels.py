"""Labels become class numbers, or are refused; what is set aside holds every class."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from scipy.sparse import csc_matrix, csr_array, issparse
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.svm import OneClassSVM

from pipeline import BertVectorizer, compare, evaluate
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.texts import (
    check_labels,
    class_numbers,
    has_label_sets,
    label_sets,
    labels_of_texts,
    set_aside,
)


def test_what_is_set_aside_holds_every_class_and_is_the_same_for_a_seed():
    numbers = np.array([0] * 30 + [1] * 10)
    rows, aside = set_aside(numbers, np.array(["a", "b"]), 0.2, 0)
    assert sorted([*rows, *aside]) == list(range(40))
    assert np.bincount(numbers[aside]).tolist() == [6, 2]
    assert np.array_equal(set_aside(numbers, np.array(["a", "b"]), 0.2, 0)[1], aside)
    assert not np.array_equal(set_aside(numbers, np.array(["a", "b"]), 0.2, 1)[1], aside)


def test_too_little_to_set_aside_is_said_with_what_is_allowed():
    with pytest.raises(ValueError, match="the class 'b' has only one text"):
        set_aside(np.array([0, 0, 0, 1]), np.array(["a", "b"]), 0.5, 0)
    with pytest.raises(
        ValueError, match="holds out 1 of 6 texts; with 2 classes allowed are 2 to 4"
    ):
        set_aside(np.array([0, 0, 0, 1, 1, 1]), np.array(["a", "b"]), 0.1, 0)
    with pytest.raises(ValueError, match=r"holds out 5 of 6 texts; .* allowed are 2 to 4"):
        set_aside(np.array([0, 0, 0, 1, 1, 1]), np.array(["a", "b"]), 0.7, 0)


@pytest.mark.parametrize(("fraction", "n_aside"), [(1 / 3, 2), (0.5, 3), (2 / 3, 4)])
def test_all_that_is_allowed_can_be_set_aside_down_to_two_texts_of_a_class(fraction, n_aside):
    rows, aside = set_aside(np.array([0, 0, 1, 1, 1, 1]), np.array(["a", "b"]), fraction, 0)
    assert len(aside) == n_aside
    assert sorted([*rows, *aside]) == list(range(6))


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
    with pytest.raises(ValueError, match=r"labels that the model does not know.*it knows 0, 1"):
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
        (["only"] * 30, "only one class, 'only'.*needs class labels"),
    ],
    ids=["tags", "unlabelled", "numbers", "one class"],
)
def test_a_learned_mix_refuses_what_it_cannot_learn_from(y, message, tiny_bert, encoded):
    with pytest.raises(ValueError, match=message):
        BertVectorizer(tiny_bert, layers="all", combine="learned").fit(MANY, y)
    assert not encoded


# ---- labels


def in_containers(*columns):
    """Give columns of labels in every kind of container."""
    return [
        of_kind(values)
        for values in columns
        for of_kind in (
            list,
            tuple,
            lambda y: np.array(y, dtype=object),
            lambda y: np.array(y, dtype=object)[:, None],
            lambda y: pd.Series(y, dtype=object, index=[9] * len(y)),
            lambda y: pd.Series(y, dtype="category"),
            lambda y: pd.DataFrame({"label": y}),
            pd.Series,
            pd.Categorical,
            pl.Series,
            lambda y: pl.DataFrame({"label": y}),
            pa.array,
            lambda y: pa.chunked_array([y[:1], y[1:]]),
        )
    ]


def kind_of(y):
    return f"{type(y).__module__}.{type(y).__name__}"


@pytest.mark.parametrize(
    "y",
    [
        None,
        *in_containers(["pos", "neg", "pos"], [1, 0, 1], [True, False, True], [0.1, 2.5, -3.0]),
        [b"pos", b"neg", b"pos"],
        np.array(["pos", "neg", "pos"], dtype=np.dtypes.StringDType()),
        pd.Series(["pos", "neg", "pos"], dtype=pd.ArrowDtype(pa.string())),
        pd.Series([1, 0, 1], dtype="Int64"),
        [[0, 1], [1, 0], [1, 1]],
        np.array([[0.5, np.nan], [1, 0], [1, 1]]),
        pl.DataFrame({"a": [0.5, 1, 1], "b": [1, 1, 1]}),
        *([-1, "pos", "neg"], pd.Series(["pos", -1, "neg"], dtype=object)),
        *(
            sparse.csr_array([[1], [0], [1]]),
            sparse.csc_matrix(np.eye(3)),
            sparse.dok_array(np.eye(3)),
            sparse.csr_array((3, 10**12)),  # would be too large as an array
        ),
        *([{"a", "b"}, {"a"}, set()], [("a", "b"), ("a",), ()]),
        pd.DataFrame({"a": [1, None, 0], "b": [0, 1, 1]}),
    ],
    ids=kind_of,
)
def test_labels_for_a_classifier_a_regressor_or_several_outputs_are_accepted_and_left_as_they_were(
    y,
):
    before = pickle.dumps(y)
    assert check_labels(y, 3) is None
    assert pickle.dumps(y) == before


@pytest.mark.parametrize("n_labels", [0, 1, 2, 4])
@pytest.mark.parametrize(
    "container",
    [
        list,
        np.array,
        pd.Series,
        pl.Series,
        lambda y: np.array(y)[:, None],
        lambda y: np.array([y, y]).T,
    ],
)
def test_a_wrong_number_of_labels_is_refused_with_both_numbers(container, n_labels):
    with pytest.raises(
        ValueError,
        match=rf"inconsistent numbers of samples: 3 texts and {n_labels} labels",
    ):
        check_labels(container([0, 1, 0, 1][:n_labels]), 3)


@pytest.mark.parametrize(
    "y",
    [
        *in_containers(["pos", "neg", None], [1.0, 0.0, None]),
        *([1, 0, pd.NA], [1, 0, pd.NaT], np.array([1.0, 0.0, np.nan])),
        pd.Series([1, 0, None], dtype="Int64"),
    ],
    ids=kind_of,
)
def test_a_missing_label_is_refused_with_its_place_and_cure(y):
    with pytest.raises(
        ValueError,
        match=r"y contains NaN: label 2 is .*\(missing\)\. Drop the unlabelled rows before fit",
    ):
        check_labels(y, 3)


@pytest.mark.parametrize(
    ("y", "first", "other"),
    [
        (["pos", "neg", 1], r"'pos' \(str\)", r"label 2 is 1 \(int\)"),
        ([1, 0, "pos"], r"1 \(int\)", r"label 2 is 'pos' \(str\)"),
        (
            np.array(["pos", True, "neg"], dtype=object),
            r"'pos' \(str\)",
            r"label 1 is True \(bool\)",
        ),
        (
            pd.Series(["pos", 2.5, "neg"], dtype=object),
            r"'pos' \(str\)",
            r"label 1 is 2\.5 \(float\)",
        ),
        (["pos", b"neg", "pos"], r"'pos' \(str\)", r"label 1 is b'neg' \(bytes\)"),
    ],
    ids=str,
)
def test_text_mixed_with_other_labels_is_refused_with_one_of_each(y, first, other):
    with pytest.raises(
        ValueError,
        match=rf"y mixes text with other labels: label 0 is {first}, {other}.*Use one type",
    ):
        check_labels(y, 3)


@pytest.mark.parametrize(
    "y",
    [
        *in_containers(["pos"] * 3, [1] * 3, [True] * 3),
        pd.Series(["pos"] * 3, dtype=pd.CategoricalDtype(["pos", "neg"])),
    ],
    ids=kind_of,
)
def test_one_class_is_left_to_the_last_step_and_refused_where_classes_are_needed(y):
    assert check_labels(y, 3) is None
    with pytest.raises(
        ValueError, match=r"y holds only one class, .*, in all 3 rows; .*at least two"
    ):
        class_numbers(labels_of_texts(y, 3), 3)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            ["pos", "neg", "Pos"],
            r"y holds 3 classes, \['pos', 'neg', 'Pos'\]: 'pos' and 'Pos' differ by case or "
            r"blanks only\. Unless",
        ),
        (
            ["pos", "neg", " pos", "pos\n"],
            r"'pos' and ' pos' and 'pos\\n' differ by case or blanks only",
        ),
        (
            pd.Series(["pos", "neg", ""]),
            r"holds 3 classes, .*: '' is empty\. .*drop unlabelled rows",
        ),
        (
            np.array(["pos", "POS", "neg", "  ", ""]),
            r": 'pos' and 'POS' differ by case or blanks only; '  ' and '' is empty",
        ),
    ],
    ids=["case", "blanks", "empty", "both"],
)
def test_classes_that_look_alike_are_kept_with_one_warning_that_lists_them(y, message):
    with pytest.warns(UserWarning, match=message) as caught:
        check_labels(y, len(y))
    assert len(caught) == 1


def test_one_text_with_one_label_is_no_complaint_of_ours():
    assert check_labels(["pos"], 1) is None
    assert check_labels([], 0) is None


@pytest.mark.parametrize(
    "y",
    [
        "abc",
        b"abc",
        3,
        np.array(3),
        {"a": 1, "b": 0, "c": 1},
        {"a", "b", "c"},
        (label for label in "abc"),
        pl.LazyFrame({"label": [1, 0, 1]}),
    ],
    ids=lambda y: type(y).__name__,
)
def test_labels_that_are_no_sequence_are_refused_as_what_they_are(y):
    with pytest.raises((TypeError, ValueError), match=r"\by\b.*(list|array|sequence|dense)"):
        check_labels(y, 3)


# ---- the numbers of classes


@pytest.mark.parametrize(
    "y",
    [
        pd.Series([1, 0, 1]),
        pd.DataFrame({"label": [1, 0, 1]}),
        pl.Series([1, 0, 1]),
        pl.DataFrame({"label": [1, 0, 1]}),
        pa.chunked_array([[1], [0, 1]]),
        pa.table({"label": [1, 0, 1]}),
    ],
    ids=kind_of,
)
def test_the_labels_of_a_table_or_a_series_are_plain_numbers_as_messages_show_them(y):
    labels = labels_of_texts(y, 3)
    assert labels == [1, 0, 1]
    assert {type(label) for label in labels} == {int}


@pytest.mark.parametrize(
    "y",
    [
        *in_containers(["pos", "neg", "pos"], [3, -1, 3], [True, False, True], [1.0, 0.0, 1.0]),
        pd.Series([3, 0, 3], dtype="Int64"),
        [np.int64(3), 1, 3.0],
    ],
    ids=kind_of,
)
def test_classes_and_numbers_are_those_of_a_classifier_of_scikit_learn(y):
    classes, numbers = class_numbers(y, 3, warn=False)
    labels = labels_of_texts(y, 3)  # scikit-learn refuses numbers in an array of objects
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)  # of a column
        own = y if isinstance(labels[0], str) else labels
        expected = LogisticRegression().fit([[1], [0], [1]], own).classes_
    assert classes.tolist() == expected.tolist()
    assert (classes.dtype == object) == (expected.dtype == object)
    assert numbers.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("y", "category"),
    [(np.array([[1], [0]]), DataConversionWarning), (["pos", "Pos"], UserWarning)],
    ids=["a column", "classes that look alike"],
)
def test_warnings_about_labels_can_be_left_out(y, category):
    with pytest.warns(category) as caught:
        class_numbers(y, 2)
    assert len(caught) == 1
    class_numbers(y, 2, warn=False)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([1.0, 2.5, 3.25], r"y is continuous, with numbers such as 2\.5:"),
        (["pos", -1, "neg"], r"label 0 is 'pos' \(str\), label 1 is -1 \(int\)"),
        ([1.0, None, 0.0], "label 1 is None"),
        ([1, 0], "3 texts and 2 labels"),
        (None, "target y is None"),
    ],
    ids=str,
)
def test_what_is_no_class_has_no_number(y, message):
    with pytest.raises(ValueError, match=message):
        class_numbers(y, 3)


# ---- several labels per text

SETS = [[1, 0, 1], [0, 0, 0]]
ALIKE = {
    "lists": SETS,
    "tuples of bools": [(True, False, True), (False,) * 3],
    "array of floats": np.array(SETS, dtype=float),
    "arrays": [np.array(row) for row in SETS],
    "csr": csr_array(SETS),
    "csc": csc_matrix(SETS),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_labels_of_each_text_become_0_and_1_however_they_are_written(kind):
    assert has_label_sets(ALIKE[kind])
    numbers, names = label_sets(ALIKE[kind], 2)
    assert (numbers.tolist(), numbers.dtype, names) == (SETS, np.int64, None)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_the_columns_of_a_table_name_its_labels(frame):
    y = frame({"food": [1, 0], "price": [1, 1]})
    assert has_label_sets(y)
    numbers, names = label_sets(y, 2)
    assert (numbers.tolist(), names) == ([[1, 1], [0, 1]], ["food", "price"])
    assert label_sets(pd.DataFrame(SETS), 2)[1] == ["0", "1", "2"]


@pytest.mark.parametrize(
    "y", [None, [0, 1], ["ab", "c"], np.array([[0], [1]]), pd.DataFrame({"a": [0, 1]}),
          sparse.coo_array([0, 1])], ids=kind_of,
)  # fmt: skip
def test_one_label_per_text_is_no_set(y):
    assert not has_label_sets(y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[1, 0], [0, 2]], "0 and 1, such as 2"),
        ([[1, 0], [0, 0.5]], r"0 and 1, such as 0\.5"),
        ([["a", "b"], ["c", "d"]], "0 and 1, such as 'a'"),
        ([[1, 0], ["1", 0]], "0 and 1, such as '1'"),
        ([[1, 0], [None, 0]], "0 and 1, such as None"),
        ([[1, 0], [1]], r"0 and 1, such as \[1, 0\]"),
        ([[1, 0], 1], "0 and 1"),
        ([[[1, 0], [0, 1]]] * 2, r"0 and 1\."),
        ([[1, 0]], "2 texts and 1 labels"),
        (csr_array([[1, 0]]), "2 texts and 1 labels"),
    ],
    ids=str,
)
def test_what_is_not_0_or_1_for_each_label_is_refused_with_an_example(y, message):
    with pytest.raises(ValueError, match=message):
        label_sets(y, 2)
