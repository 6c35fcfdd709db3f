"""Labels become class numbers, or are refused; what is set aside holds every class."""

import numpy as np
import pandas as pd
import pytest

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
