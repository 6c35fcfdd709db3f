"""evaluate: the numbers are scikit-learn's, and wrong labels cost no encoding."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, evaluate, make_sentiment_pipeline

WORDS = {
    "positive": ("lovely", "quiet", "good", "beautiful"),
    "negative": ("dull", "cold", "bad", "boring"),
}
LABELS = ["positive" if i % 5 < 2 else "negative" for i in range(40)]
REVIEWS = [
    f"A {WORDS[label][i % 4]} film, number {i % 7}, {'but' if i % 3 else 'and'} long."
    for i, label in enumerate(LABELS)
]


class Echo(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose X is its probabilities."""

    def __init__(self, classes):
        self.classes_ = np.array(classes)

    def predict_proba(self, X):
        return np.asarray(X)

    def predict(self, X):
        return self.classes_[np.asarray(X).argmax(axis=1)]


def random_case(classes, seed, n_texts=60):
    """Make labels that lean to the first classes, and probabilities that lean to the labels."""
    generator = np.random.default_rng(seed)
    true = generator.choice(
        len(classes), size=n_texts, p=np.arange(len(classes), 0, -1) / sum(range(len(classes) + 1))
    )
    probability = generator.random((n_texts, len(classes))) + 0.4 * np.eye(len(classes))[true]
    return np.array(classes)[true], probability / probability.sum(axis=1, keepdims=True)


# ---- evaluate


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "classes", [["negative", "positive"], [0, 1], [-1, 1], [False, True], ["b", "c"], [2.0, 3.0]]
)
def test_two_classes_are_scored_as_scikit_learn_scores_them(classes, seed):
    y, probability = random_case(classes, seed)
    predicted = np.array(classes)[probability.argmax(axis=1)]
    scores = evaluate(Echo(classes), probability, y, n_bootstrap=20)
    expected = {
        "n_texts": 60,
        "classes": classes,
        "accuracy": pytest.approx(accuracy_score(y, predicted)),
        "f1": pytest.approx(f1_score(y, predicted, pos_label=classes[1])),
        "roc_auc": pytest.approx(roc_auc_score(y, probability[:, 1])),
        "confusion_matrix": confusion_matrix(y, predicted, labels=classes).tolist(),
    }
    assert {name: scores[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("classes", "present"),
    [(["a", "b"], ["b"]), (["a", "b", "c"], ["a", "c"]), (["a", "b", "c"], ["b"]), ([0, 1], [0])],
)
def test_where_a_class_is_absent_there_is_no_roc_auc_but_everything_else(classes, present):
    y, probability = random_case(classes, 1)
    kept = np.isin(y, present)
    y, probability = y[kept], probability[kept]
    predicted = np.array(classes)[probability.argmax(axis=1)]
    scores = evaluate(Echo(classes), probability, y)
    assert scores["roc_auc"] is None
    assert scores["accuracy"] == pytest.approx(accuracy_score(y, predicted))
    assert np.array(scores["confusion_matrix"]).shape == (len(classes), len(classes))
    assert np.sum(scores["confusion_matrix"]) == len(y)


def test_a_class_that_is_never_predicted_counts_as_zero_and_warns_of_nothing():
    assert evaluate(Echo(["a", "b"]), [[0.9, 0.1], [0.8, 0.2]], ["a", "b"])["f1"] == 0.0


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            ["pos", "negative"],
            r"labels that the model does not know: 'pos'; it knows .*'negative', .*'positive'",
        ),
        (["b", "a"], "does not know: 'a', 'b'"),
        ([1, 0], "does not know: '0', '1'"),
        ([None, "positive"], "does not know: 'None'"),
        ([float("nan"), "positive"], "does not know: 'nan'"),
        (["Positive", "positive "], "does not know: 'Positive', 'positive '"),
    ],
)
def test_labels_the_model_does_not_know_are_listed_beside_those_it_knows(y, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Echo(["negative", "positive"]), [[0.5, 0.5]] * 2, y)


@pytest.mark.parametrize("n_labels", [1, 3, 0])
def test_texts_and_labels_of_different_number_are_refused(n_labels):
    with pytest.raises(
        ValueError, match=f"inconsistent numbers of samples: 2 texts and {n_labels} labels"
    ):
        evaluate(Echo(["a", "b"]), [[0.5, 0.5]] * 2, ["a", "b", "b"][:n_labels])


# ---- more than scores


@pytest.fixture(scope="module")
def trained(tiny_bert):
    words = ("lovely", "quiet", "dull", "cold")
    texts = [f"A {word} film, number {i}." for i in range(12) for word in words]
    labels = ["good", "good", "bad", "bad"] * 12
    return make_sentiment_pipeline(model=tiny_bert).fit(texts, labels), texts, labels


@pytest.mark.filterwarnings("ignore::pipeline.TruncationWarning")
@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")
def test_everything_is_plain_json_and_fits_together(trained):
    model, texts, labels = trained
    X, y = [*texts[:10], "The soup was lovely.", "a " * 100], [*labels[:10], "bad", "good"]
    by = pd.DataFrame({"domain": ["film"] * 10 + ["food", None], "n": range(12)})
    scores = evaluate(model, X, y, by=by, train=(texts, labels), n_bootstrap=50)
    assert json.loads(json.dumps(scores)) == scores
    assert set(scores["slices"]) == {"by tokens", "by truncation", "by domain", "by n"}
    for name, groups in scores["slices"].items():
        assert sum(group["n_texts"] for group in groups) == 12, name
        right = sum(group["n_texts"] * group["accuracy"] for group in groups)
        assert right == pytest.approx(12 * scores["accuracy"])
    for name, values in (("domain", ["film", "food", "missing"]), ("truncation", ["cut", "whole"])):
        assert [group["value"] for group in scores["slices"][f"by {name}"]] == values
    low, high = scores["intervals"]["accuracy"]
    assert low <= scores["accuracy"] <= high
    assert scores["duplicates"]["n_texts"] == 10
    assert [row["class"] for row in scores["by_class"]] == ["bad", "good"]
    assert sum(row["n_texts"] for row in scores["calibration"]) == 12


def test_columns_of_another_length_and_no_texts_are_refused(trained):
    model, texts, labels = trained
    with pytest.raises(ValueError, match=r"by\['n'\] has 1 values for 48 texts; give one for each"):
        evaluate(model, texts, labels, by={"n": [1]})
    with pytest.raises(ValueError, match="there is no text to score"):
        evaluate(model, [], [])


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")
@pytest.mark.parametrize("container", [pd.Series, lambda x: pd.DataFrame({"text": x}), iter, tuple])
def test_the_whole_answer_is_the_same_for_texts_in_any_container(container, trained):
    model, texts, labels = trained
    other = labels[::-1]
    expected = evaluate(model, texts, other, n_bootstrap=5, train=(texts, labels))
    assert expected["mistakes"]
    train = (texts if container is iter else container(texts), labels)
    assert evaluate(model, container(texts), other, n_bootstrap=5, train=train) == expected


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")
def test_a_pipeline_of_tables_is_scored_on_tables(tiny_bert):
    texts = ["A lovely film.", "A dull film."] * 6
    table = pd.DataFrame({"text": texts, "stars": range(12)}, index=range(5, 17))
    labels = ["good", "bad"] * 6
    columns = ColumnTransformer(
        [("bert", BertVectorizer(tiny_bert), "text")], remainder="passthrough"
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=5000)).fit(table, labels)
    options = {"by": table[["stars"]], "train": (table, labels), "n_bootstrap": 5}
    scores = evaluate(model, table, labels[::-1], **options)
    assert scores["accuracy"] == model.score(table, labels[::-1])
    mistake = scores["mistakes"][0]
    assert mistake["text"].startswith("A ")
    assert mistake["explanation"]["method"] == "exact"
    assert [row["word"] for row in mistake["explanation"]["words"]][-3:-1] == ["film", "."]
    assert mistake["nearest"][0]["similarity"] == pytest.approx(1.0)


# ---- what a report shows


def test_the_curves_and_the_map_are_of_the_same_answers(tiny_bert):
    model = make_sentiment_pipeline(model=tiny_bert).fit(REVIEWS, LABELS)
    scores = evaluate(model, REVIEWS, LABELS, n_bootstrap=5)
    (curve,) = scores["curves"]
    assert (curve["class"], curve["roc_auc"]) == ("positive", scores["roc_auc"])
    assert curve["average_precision"] == scores["average_precision"]
    points = scores["map"]["points"]
    assert [point["text"] for point in points] == REVIEWS
    assert [point["predicted"] for point in points] == model.predict(REVIEWS).tolist()
    probability = model.predict_proba(REVIEWS).max(axis=1)
    assert [point["probability"] for point in points] == probability.tolist()


def test_the_examples_are_the_surest_right_answers_of_each_class_in_turn(tiny_bert):
    model = make_sentiment_pipeline(model=tiny_bert).fit(REVIEWS, LABELS)
    wrong = [*LABELS[:-1], "positive" if LABELS[-1] == "negative" else "negative"]
    scores = evaluate(model, REVIEWS, wrong, n_bootstrap=5, n_examples=5)
    examples = scores["examples"]
    assert [one["true"] for one in examples] == ["negative", "positive"] * 2 + ["negative"]
    for one in examples:
        assert wrong[one["row"]] == one["true"] == one["predicted"]
        assert REVIEWS[one["row"]] == one["text"]
        assert one["explanation"]["words"]
        assert "nearest" not in one
    sure = [one["probability"] for one in examples]
    assert sure[0] >= sure[2] >= sure[4]
    assert sure[0] == max(
        p
        for p, y, t in zip(model.predict_proba(REVIEWS)[:, 0], wrong, LABELS, strict=True)
        if y == t == "negative"
    )


def test_what_is_not_wanted_is_left_out():
    y, probability = random_case([0, 1], 0)
    none = {"n_mistakes": 0, "n_examples": 0, "n_map": 0, "n_bootstrap": 0}
    scores = evaluate(Echo([0, 1]), probability, y, **none)
    assert (scores["mistakes"], scores["examples"], scores["map"]) == ([], [], None)


def test_without_features_the_map_says_why():
    y, probability = random_case([0, 1], 0)
    refused = evaluate(Echo([0, 1]), probability, y, n_bootstrap=5)["map"]["refused"]
    assert "a Echo has no features" in refused


def test_the_map_costs_no_forward_pass(tiny_bert, encoded):
    model = make_sentiment_pipeline(model=tiny_bert, cache=None).fit(REVIEWS, LABELS)
    encoded.clear()
    evaluate(model, REVIEWS, LABELS, n_mistakes=0, n_examples=0, n_bootstrap=5)
    assert sum(encoded) == len(set(REVIEWS))
