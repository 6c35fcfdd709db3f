"""Rows that the model fails on are found, and cost the others nothing."""

import numpy as np
import pandas as pd
import pytest

from pipeline.answers import Answers
from pipeline.exceptions import CheckpointError
from pipeline.scoring.shard import in_one_line, predict_rows

TEXTS = pd.Series([f"text {i}" for i in range(37)], index=range(100, 137))


def model(bad, calls=None, error=ValueError):
    def predict(texts):
        if calls is not None:
            calls.append(len(texts))
        for label, text in texts.items():
            if text in bad:
                raise error(f"row {label}:\n {text}")
        value = texts.str.len().to_numpy() / 100
        return Answers(texts.to_numpy(), np.column_stack([value, 1 - value]))

    return predict


@pytest.mark.parametrize("places", [[], [0], [36], [17, 18], [3, 20, 35], list(range(37))])
def test_the_rows_that_fail_are_found_with_their_reason_and_the_others_have_their_values(places):
    bad = {TEXTS.iloc[i] for i in places}
    answers, failed = predict_rows(model(bad), TEXTS, 2)
    assert sorted(failed) == places
    assert all(failed[i] == f"ValueError: row {100 + i}:\n text {i}" for i in places)
    kept = TEXTS.drop(TEXTS.index[places])
    expected = model(set())(kept) if len(kept) else Answers(np.empty(0), np.empty((0, 2)))
    assert np.array_equal(answers.labels, expected.labels)
    assert np.array_equal(answers.probability, expected.probability)


@pytest.mark.parametrize(("n_labels", "shape"), [(None, (0,)), (3, (0, 3))])
def test_without_rows_the_model_is_not_asked_and_the_answers_have_their_number_of_columns(
    n_labels, shape
):
    calls = []
    answers, failed = predict_rows(model(set(), calls), TEXTS[:0], 2, n_labels=n_labels)
    assert (calls, failed) == ([], {})
    assert (answers.labels.shape, answers.probability.shape) == (shape, (0, 2))


def test_good_rows_cost_one_call_and_one_bad_row_few():
    calls = []
    predict_rows(model(set(), calls), TEXTS, 2)
    assert calls == [37]
    calls.clear()
    predict_rows(model({"text 5"}, calls), TEXTS, 2)
    assert len(calls) < 20


def test_a_model_that_fails_on_anything_is_at_fault_itself():
    def broken(texts):
        raise ValueError("not fitted")

    with pytest.raises(ValueError, match="not fitted"):
        predict_rows(broken, TEXTS, 2)


@pytest.mark.parametrize("error", [OSError, CheckpointError, ImportError])
def test_what_is_no_rows_fault_is_raised(error):
    with pytest.raises(error, match="text 5"):
        predict_rows(model({"text 5"}, error=error), TEXTS, 2)


def test_a_disk_that_fails_while_bad_rows_are_looked_for_is_no_rows_fault():
    def predict(texts):
        if len(texts) < 37 and "text 20" in set(texts):
            raise OSError("the disk is full")
        return model({"text 5"})(texts)

    with pytest.raises(OSError, match="the disk is full"):
        predict_rows(predict, TEXTS, 2)


def test_probabilities_that_are_no_numbers_are_no_probabilities():
    def predict(texts):
        found = model(set())(texts)
        found.probability[texts == "text 3"] = np.nan
        return found

    answers, failed = predict_rows(predict, TEXTS, 2)
    assert failed == {3: "its probabilities are not finite"}
    assert np.isfinite(answers.probability).all()
    assert len(answers.labels) == len(answers.probability) == 36


@pytest.mark.parametrize(("n_labels", "shape"), [(None, (0,)), (3, (0, 3))])
def test_no_rows_have_no_answers(n_labels, shape):
    answers, failed = predict_rows(model(set()), TEXTS[:0], 2, n_labels=n_labels)
    assert (answers.labels.shape, answers.probability.shape, failed) == (shape, (0, 2), {})


def test_reasons_are_one_short_line():
    assert in_one_line("a\n  b\tc") == "a b c"
    assert in_one_line("bad \ud800") == "bad \\ud800"
    assert len(in_one_line("word " * 1000)) < 520
    assert in_one_line("w" * 500) == "w" * 500
    assert in_one_line("w" * 501).endswith("w...")
