"""Where a classifier fails: whole groups, explained mistakes, leaked texts."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import explain, make_sentiment_pipeline
from pipeline.answers import Judged
from pipeline.evaluation.failures import (
    count_tokens,
    find_duplicates,
    find_examples,
    find_mistakes,
    slice_by,
    slices_by_length,
)

TEXTS = [
    f"A {word} film, number {i}." for i in range(12) for word in ("lovely", "quiet", "dull", "cold")
]
LABELS = ["good", "good", "bad", "bad"] * 12


@pytest.fixture(scope="module")
def model(tiny_bert):
    return make_sentiment_pipeline(model=tiny_bert).fit(TEXTS, LABELS)


def answers(model, texts, labels):
    classes, probability = model.classes_.tolist(), model.predict_proba(texts)
    true = np.array([classes.index(label) for label in labels])
    return Judged(true, probability.argmax(axis=1), probability.max(axis=1), classes)


def test_every_value_is_a_group_and_rare_ones_are_put_together():
    right = np.array([True, False, True, True])
    assert slice_by(["b", "a", None, float("nan")], right) == [
        {
            "value": value,
            "n_texts": n_texts,
            "accuracy": accuracy,
            "interval": pytest.approx(interval, abs=1e-3),
        }
        for value, n_texts, accuracy, interval in [
            ("a", 1, 0.0, [0.0, 0.793]),
            ("b", 1, 1.0, [0.207, 1.0]),
            ("missing", 2, 1.0, [0.342, 1.0]),
        ]
    ]
    many = slice_by([f"v{i:02d}" for i in range(40)] + ["v00"] * 5, np.ones(45, dtype=bool))
    assert len(many) == 20
    assert {group["value"]: group["n_texts"] for group in many}["other"] == 21


def test_lengths_are_in_tokens_where_the_model_has_them_and_in_characters_elsewhere(model):
    texts = ["film", "film film", "film film film film", "a film a film a film a film a film"]
    right = np.array([True, True, False, False])
    counted = count_tokens(model, texts, texts)
    slices = slices_by_length(counted, texts, right)
    assert list(slices) == ["by tokens", "by truncation"]
    assert [group["n_texts"] for group in slices["by tokens"]] == [1, 1, 2]
    other = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)
    assert count_tokens(other, texts, texts) is None
    assert list(slices_by_length(None, texts, right)) == ["by characters"]
    assert slices_by_length(None, ["same"] * 4, right)["by characters"][0]["value"] == "4 to 4"


def test_the_surest_mistakes_come_first_with_reasons_that_add_up(model):
    labels = ["bad" if i % 3 == 0 else label for i, label in enumerate(LABELS)]
    judged = answers(model, TEXTS, labels)
    mistakes = find_mistakes(model, TEXTS, judged, n=5, train=(TEXTS, LABELS))
    sureness = [mistake["probability"] for mistake in mistakes]
    assert sureness == sorted(sureness, reverse=True)
    for mistake in mistakes:
        assert mistake["true"] == labels[mistake["row"]] != mistake["predicted"]
        assert mistake["text"] == TEXTS[mistake["row"]]
        (frame,) = explain(model, [mistake["text"]])
        sign = 1 if mistake["predicted"] == "good" else -1
        assert mistake["explanation"]["method"] == "exact"
        told = [word["contribution"] for word in mistake["explanation"]["words"]]
        assert np.allclose(told, sign * frame["contribution"], atol=1e-5)
        nearest = mistake["nearest"]
        similarities = [near["similarity"] for near in nearest]
        assert similarities == sorted(similarities, reverse=True)
        # the text itself, or one that differs in an unknown number
        assert nearest[0]["similarity"] == pytest.approx(1.0)
        assert nearest[0]["label"] == LABELS[mistake["row"]]
        assert len(nearest) == 3
    assert find_mistakes(model, TEXTS, judged, n=0, train=None) == []


def test_a_model_that_cannot_be_explained_says_so_and_has_neighbours_all_the_same():
    numbers = np.arange(len(TEXTS))[:, None]
    other = make_pipeline(StandardScaler(), LogisticRegression()).fit(numbers, LABELS)
    judged = answers(other, numbers, LABELS[::-1])
    (mistake,) = find_mistakes(other, numbers, judged, n=1, train=(numbers, LABELS))
    assert "X holds no texts" in mistake["explanation"]["refused"]
    assert len(mistake["nearest"]) == 3


def test_of_many_classes_a_mistake_is_set_against_the_truth_and_an_answer_against_the_next(
    tiny_bert,
):
    labels = ["good", "quiet", "bad", "cold"] * 12
    model = make_sentiment_pipeline(model=tiny_bert).fit(TEXTS, labels)
    wrong = ["cold", *labels[1:]]
    judged = answers(model, TEXTS, wrong)
    (mistake,) = find_mistakes(
        model, TEXTS[:1], answers(model, TEXTS[:1], wrong[:1]), n=1, train=None
    )
    (frame,) = explain(model, TEXTS[:1])
    expected = frame[f"contribution_{mistake['predicted']}"] - frame["contribution_cold"]
    assert mistake["explanation"]["against"] == "cold"
    told = [word["contribution"] for word in mistake["explanation"]["words"]]
    assert told == pytest.approx(expected.tolist())
    for example in find_examples(model, TEXTS, judged, n=4):
        (frame,) = explain(model, [example["text"]], against="runner-up")
        assert [example["explanation"]["against"], example["predicted"]] == frame.attrs["classes"]


def test_texts_that_the_model_was_trained_on_are_found_whatever_their_case_and_blanks():
    found = find_duplicates(
        ["A  LOVELY film", "new", "Stra\u00dfe", "a lovely film\n"],
        ["good", "bad", "good", "bad"],
        ["a lovely film", "STRASSE"],
        ["good", "good"],
    )
    assert found == {
        "n_texts": 3,
        "share": 0.75,
        "other_label": 1,
        "rows": [0, 2, 3],
        "examples": ["A  LOVELY film", "Stra\u00dfe", "a lovely film\n"],
    }
    assert find_duplicates([], [], ["a"], ["b"])["share"] == 0.0
