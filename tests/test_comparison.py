"""compare: the table equals loops by hand, texts are encoded once, times are cold."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    roc_auc_score,
)
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RepeatedKFold,
    StratifiedKFold,
    cross_val_score,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from pipeline import (
    BertVectorizer,
    TruncationWarning,
    cache_info,
    clear_cache,
    compare,
    layer_study,
    make_sentiment_pipeline,
)
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.evaluation.compare import ColdCost
from pipeline.evaluation.metrics import expected_calibration_error, paired_difference

WORDS = {
    "positive": ("lovely", "quiet", "good", "beautiful"),
    "negative": ("dull", "cold", "bad", "boring"),
}
LABELS = ["positive" if i % 5 < 2 else "negative" for i in range(40)]
REVIEWS = [
    f"A {WORDS[label][i % 4]} film, number {i}, {'but' if i % 3 else 'and'} long."
    for i, label in enumerate(LABELS)
]
SHORT = ["majority", "TF-IDF + LogisticRegression", "frozen BERT + LogisticRegression"]
METRICS = "accuracy macro_f1 balanced_accuracy roc_auc log_loss calibration_error".split()
SPREADS = [f"{metric}_sd" for metric in METRICS]
TIMES = ["fit_seconds", "predict_seconds", "artifact_mb"]
DIFFERENCE = ["difference", "difference_low", "difference_high"]


def quick(**options):
    """Compare rows on the reviews, without costs."""
    return compare(REVIEWS, LABELS, **{"cv": 2, "n_timed": 0, **options}).drop(columns=TIMES)


class ByWord(ClassifierMixin, BaseEstimator):
    """Say "positive" of a text with one of the words."""

    def __init__(self, words=()):
        self.words = words

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.array(
            [[0.1, 0.9] if any(word in text for word in self.words) else [0.9, 0.1] for text in X]
        )

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def slow_comparison(candidates, texts, y, folds):
    """One model, one fold, one metric at a time; and who is right on which text."""
    rows, right = {}, {}
    for name, candidate in candidates.items():
        scores, right[name] = [], np.zeros(len(texts), dtype=bool)
        for train, test in folds:
            model = clone(candidate).fit([texts[i] for i in train], y[train])
            held_out = [texts[i] for i in test]
            predicted, probability = model.predict(held_out), model.predict_proba(held_out)
            positions = np.searchsorted(model.classes_, y[test])
            scores.append((
                accuracy_score(y[test], predicted),
                f1_score(y[test], predicted, average="macro", zero_division=0.0),
                balanced_accuracy_score(y[test], predicted),
                roc_auc_score(y[test] == model.classes_[1], probability[:, 1]),
                log_loss(y[test], probability, labels=model.classes_),
                expected_calibration_error(positions, probability),
            ))  # fmt: skip
            right[name][test] = predicted == y[test]
        rows[name] = [*np.mean(scores, axis=0), *np.std(scores, axis=0, ddof=1)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*METRICS, *SPREADS]), right


# ---- the numbers


@pytest.mark.parametrize(("cv", "random_state"), [(2, 0), (4, 7)])
def test_the_table_is_what_a_loop_over_the_folds_by_hand_gives(cv, random_state, tiny_bert):
    y = np.array(LABELS)
    bert = make_sentiment_pipeline(model=tiny_bert)
    candidates = dict(
        zip(SHORT, [DummyClassifier(strategy="prior"), make_tfidf_baseline(), bert], strict=True)
    )
    folds = list(StratifiedKFold(cv, shuffle=True, random_state=random_state).split(REVIEWS, y))
    expected, right = slow_comparison(candidates, REVIEWS, y, folds)
    table = compare(REVIEWS, y, model=bert, cv=cv, random_state=random_state)
    assert list(table.index) == SHORT
    assert list(table.columns) == [*METRICS, *SPREADS, *TIMES, *DIFFERENCE, "verdict"]
    pd.testing.assert_frame_equal(table[expected.columns], expected)
    for name in (SHORT[0], SHORT[2]):
        found = paired_difference(right[name], right[SHORT[1]])
        assert tuple(table.loc[name, DIFFERENCE]) == pytest.approx(found)
    assert table.loc[SHORT[1], [*DIFFERENCE, "verdict"]].tolist() == [0, 0, 0, "baseline"]
    assert (table[TIMES] > 0).all(axis=None)


def test_one_split_scores_the_test_texts_alone_and_has_no_spread():
    test = (REVIEWS[30:], LABELS[30:])
    table = compare(
        REVIEWS[:30], LABELS[:30], models=[("by word", ByWord(WORDS["positive"]))], test=test
    )
    tfidf = make_tfidf_baseline().fit(REVIEWS[:30], LABELS[:30])
    assert table.loc[SHORT[1], "accuracy"] == tfidf.score(*test)
    assert table.loc["by word", "accuracy"] == 1.0
    assert table.loc["by word", "difference"] == pytest.approx(1 - tfidf.score(*test))
    assert table[SPREADS].isna().all(axis=None)
    expected = {"n_texts": 30, "n_tested": 10, "n_folds": "split", "n_timed": 10}
    assert expected.items() <= table.attrs.items()


def test_labels_of_a_test_file_may_be_text_where_those_of_training_are_numbers():
    numbers = [int(label == "positive") for label in LABELS]
    test = (REVIEWS[30:], [str(number) for number in numbers[30:]])
    rows = [("by word", ByWord(WORDS["positive"]))]
    found, expected = (
        compare(REVIEWS[:30], numbers[:30], models=rows, test=test, n_timed=0).drop(columns=TIMES)
        for test in (test, (REVIEWS[30:], numbers[30:]))
    )
    pd.testing.assert_frame_equal(found, expected)


def test_the_verdict_follows_the_interval():
    texts = [f"{word} thing {i}" for i in range(150) for word in ("fine", "poor")]
    y = [word.split()[0] for word in texts]
    noisy = [
        text.split()[1] + f" {i}" for i, text in enumerate(texts)
    ]  # TF-IDF finds nothing in these
    hidden = [
        f"{text}{'xx' if label == 'fine' else 'yy'}{i}"
        for i, (text, label) in enumerate(zip(noisy, y, strict=True))
    ]
    table = compare(
        hidden, y, models=[("knows", ByWord(("yy",))), ("errs", ByWord(("xx",)))], cv=3, n_timed=0
    )  # classes are fine, poor
    assert table.loc["knows", "verdict"] == "better than TF-IDF"
    assert table.loc["knows", "difference_low"] > 0
    assert table.loc["errs", "verdict"] == "worse than TF-IDF"
    assert table.loc["errs", "difference_high"] < 0
    same = compare(texts, y, models=[("same", make_tfidf_baseline())], cv=3, n_timed=0)
    assert same.loc["same", "verdict"] == "no clear difference"
    assert same.loc["same", "difference"] == 0.0


def test_all_rows_are_scored_on_the_same_folds():
    table = quick(model=make_tfidf_baseline(), cv=3, random_state=5)[METRICS]
    assert table.loc[SHORT[2]].tolist() == table.loc[SHORT[1]].tolist()
    assert table.loc[SHORT[1], "accuracy"] != table.loc[SHORT[0], "accuracy"]


def test_folds_may_be_given():
    splitter = KFold(4, shuffle=True, random_state=2)
    found = quick(models=["majority"], cv=list(splitter.split(REVIEWS)))
    pd.testing.assert_frame_equal(found, quick(models=["majority"], cv=splitter))
    assert found.attrs["n_folds"] == 4


def test_three_classes_and_number_labels_can_be_compared(tiny_bert):
    y = [i % 3 for i in range(len(REVIEWS))]
    table = compare(REVIEWS, y, model=make_sentiment_pipeline(model=tiny_bert), cv=2)
    assert np.isfinite(table.drop(columns="verdict").to_numpy(dtype=float)).all()
    assert table.loc["majority", "roc_auc"] == 0.5


def test_where_a_fold_lacks_a_class_there_is_no_roc_auc_but_everything_else():
    order = np.argsort(LABELS, kind="stable")  # unshuffled thirds: some hold only one class
    texts, y = [REVIEWS[i] for i in order], [LABELS[i] for i in order]
    folds = [(np.r_[0:10, 20:40], np.r_[10:20]), (np.r_[0:10, 10:20, 30:40], np.r_[20:30])]
    table = compare(texts, y, models=["majority"], cv=folds, n_timed=0)
    assert table["roc_auc"].isna().all()
    assert table["accuracy"].notna().all()


# ---- BERT's rows


def test_all_rows_of_bert_share_one_forward_pass(tiny_bert, encoded):
    clear_cache()
    names = ["static", "cls", "default", "layers"]
    table = quick(models=names, vectorizer=BertVectorizer(tiny_bert))
    assert cache_info().texts_encoded == len(set(REVIEWS)) == sum(encoded)
    assert len(table) == 5
    assert table.attrs["model"] == tiny_bert


def test_the_best_layers_are_those_that_the_nested_study_chose_and_score_as_it_says(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert)
    folds = list(StratifiedKFold(2, shuffle=True, random_state=1).split(REVIEWS, LABELS))
    nested = layer_study(
        REVIEWS, LABELS, vectorizer=vectorizer, cv=folds, nested=True, random_state=1
    ).attrs["nested"]
    table = quick(models=["layers"], vectorizer=vectorizer, random_state=1)
    assert table.attrs["chosen"] == nested["chosen"]
    assert table.loc["frozen BERT, best layers (nested)", "accuracy"] == pytest.approx(
        nested["score"]
    )


def test_the_choice_of_layers_does_not_see_the_test_texts(tiny_bert):
    few, y = REVIEWS[:30], LABELS[:30]
    wrong = ["positive" if label == "negative" else "negative" for label in LABELS[30:]]
    vectorizer = BertVectorizer(tiny_bert)
    tables = [
        compare(
            few, y, models=["layers"], vectorizer=vectorizer, test=(REVIEWS[30:], labels), n_timed=0
        )
        for labels in (LABELS[30:], wrong)
    ]
    assert tables[0].attrs["chosen"] == tables[1].attrs["chosen"]


@pytest.mark.filterwarnings("ignore::pipeline.TruncationWarning")
def test_the_rows_of_bert_are_those_of_the_vectorizer_or_of_the_model(tiny_bert):
    rows = ["cls", "default"]
    by_vectorizer = quick(models=rows, vectorizer=BertVectorizer(tiny_bert, max_length=5))
    model = make_sentiment_pipeline(model=tiny_bert, max_length=5)
    by_model = quick(models=rows, model=model)
    pd.testing.assert_frame_equal(by_vectorizer, by_model)
    whole = quick(models=rows, vectorizer=BertVectorizer(tiny_bert))
    assert whole.loc[SHORT[2], "log_loss"] != by_model.loc[SHORT[2], "log_loss"]


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")
def test_every_standard_row_runs_on_the_same_split(tiny_bert):
    table = compare(
        REVIEWS, LABELS, models="all", vectorizer=BertVectorizer(tiny_bert), test=(REVIEWS, LABELS)
    )
    assert list(table.index) == [
        "majority",
        "TF-IDF + LogisticRegression",
        "word2vec mean + LogisticRegression",
        "static BERT (layer 0 mean)",
        "frozen BERT, last [CLS]",
        "frozen BERT + LogisticRegression",
        "frozen BERT and TF-IDF, stacked",
        "frozen BERT, best layers (nested)",
        "fine-tuned BERT",
    ]
    assert np.isfinite(table[[*METRICS, *TIMES]].to_numpy()).all()


def test_by_default_the_quick_rows_are_compared_and_word2vec_is_left_out_without_gensim(
    tiny_bert, monkeypatch
):
    vectorizer = BertVectorizer(tiny_bert)
    table = quick(vectorizer=vectorizer)
    assert len(table) == 7
    assert table.attrs["left_out"] == {}
    monkeypatch.setattr("pipeline.evaluation.baselines.find_spec", lambda name: None)
    table = quick(vectorizer=vectorizer)
    assert len(table) == 6
    ((name, reason),) = table.attrs["left_out"].items()
    assert name == "word2vec mean + LogisticRegression"
    assert "pip install '.[word2vec]'" in reason


def test_what_truncation_cuts_is_told_once_and_not_by_every_fold_and_row(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert, max_length=5)
    with pytest.warns(TruncationWarning) as told:
        compare(REVIEWS, LABELS, models=["static", "default"], vectorizer=vectorizer, cv=3)
    assert {str(one.message).partition(" texts")[0] for one in told} == {"40 of 40"}
    assert len(told) == 2  # equal ones, of which Python shows the first
    uncached = make_sentiment_pipeline(model=tiny_bert, max_length=5, cache=None)
    with pytest.warns(TruncationWarning, match="20 of 20 texts") as told:
        compare(REVIEWS, LABELS, model=uncached, cv=2)
    assert len(told) == 1


# ---- times


NEW = [f"{text} {i}" for i, text in enumerate(REVIEWS)]


@pytest.fixture
def still_clock(monkeypatch):
    """Let each text take 20 ms to encode, and fits no time."""
    cost = ColdCost(predict_seconds=3.0, encode_seconds=0.02, artifact_mb=7.0)
    monkeypatch.setattr("pipeline.evaluation.compare.time.perf_counter", lambda: 0.0)
    monkeypatch.setattr("pipeline.evaluation.compare.cold_cost", lambda fitted, texts: cost)


@pytest.mark.usefixtures("still_clock")
def test_fitting_from_the_cache_is_told_as_if_there_were_none(tiny_bert):
    table = compare(NEW, LABELS, model=make_sentiment_pipeline(model=tiny_bert), cv=2)
    assert table["fit_seconds"].tolist() == [0.0, 0.0, pytest.approx(20 * 0.02)]
    uncached = compare(
        NEW, LABELS, model=make_sentiment_pipeline(model=tiny_bert, cache=None), cv=2
    )
    assert uncached["fit_seconds"].tolist() == [0.0, 0.0, 0.0]  # what was measured is told as it is
    assert (table["predict_seconds"] == 3.0).all()
    assert (table["artifact_mb"] == 7.0).all()


@pytest.mark.usefixtures("still_clock")
def test_a_search_inside_counts_every_text_once(tiny_bert):
    search = GridSearchCV(
        make_pipeline(BertVectorizer(tiny_bert), LogisticRegression()),
        {"logisticregression__C": [1, 2]},
        cv=2,
    )
    table = compare(NEW, LABELS, models=[("search", search)], cv=2)
    assert table.loc["search", "fit_seconds"] == pytest.approx(20 * 0.02)


def test_without_timed_texts_no_time_is_told_that_the_cache_made(tiny_bert):
    table = compare(
        REVIEWS, LABELS, model=make_sentiment_pipeline(model=tiny_bert), cv=2, n_timed=0
    )
    assert table[["predict_seconds", "artifact_mb"]].isna().all(axis=None)
    assert math.isnan(table.loc[SHORT[2], "fit_seconds"])
    assert table.loc[SHORT[1], "fit_seconds"] > 0


# ---- what is given


def test_the_model_given_is_neither_fitted_nor_changed(tiny_bert):
    model = make_sentiment_pipeline(model=tiny_bert, layers=1)
    before = repr(model)
    compare(REVIEWS, LABELS, model=model, cv=2)
    assert repr(model) == before
    assert not model.__sklearn_is_fitted__()


@pytest.mark.parametrize(
    "container",
    [np.array, pd.Series, lambda v: pd.Series(v, index=range(100, 100 - len(v), -1)), iter],
)
def test_texts_may_come_in_any_container(container, tiny_bert):
    y = pd.Series(LABELS, index=range(len(LABELS), 0, -1))
    model = make_sentiment_pipeline(model=tiny_bert)
    found = compare(container(REVIEWS), y, model=model, cv=2, n_timed=0).drop(columns=TIMES)
    pd.testing.assert_frame_equal(found, quick(model=model))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (LABELS[:-1], "inconsistent numbers of samples: 40 texts and 39 labels"),
        (["positive"] * 40, "only one class, 'positive', in all 40 rows"),
        ([None, *LABELS[1:]], "label 0 is None .missing.*Drop the unlabelled rows"),
        (
            [1, *LABELS[1:]],
            r"y mixes text with other labels: label 0 is 1 \(int\), label 1 is 'positive' \(str\)",
        ),
        (np.linspace(0, 1, 40), "is regression"),
    ],
)
def test_wrong_labels_are_refused_before_anything_is_encoded(y, message, tiny_bert, encoded):
    with pytest.raises(ValueError, match=message):
        compare(REVIEWS, y, model=make_sentiment_pipeline(model=tiny_bert), cv=2)
    assert not encoded


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cv": 1}, ValueError, "n_splits=1"),
        ({"cv": 25}, ValueError, "n_splits=25 folds"),
        ({"cv": RepeatedKFold(n_splits=2, n_repeats=2)}, ValueError, "cv tests some text twice"),
        ({"cv": [(np.arange(30), np.arange(20, 40))]}, ValueError, "one that it trains on"),
        ({"cv": GroupKFold(2)}, ValueError, "GroupKFold, which needs groups; pass groups="),
        ({"test": (REVIEWS, LABELS[1:])}, ValueError, "test holds 40 texts and 39 labels"),
        ({"test": ([], [])}, ValueError, "at least one text"),
        (
            {"test": (["A film."], ["mixed"])},
            ValueError,
            "labels that are not in y: 'mixed'; y has 'negative', 'positive'",
        ),
        ({"test": "held out"}, TypeError, r"test is a str; allowed is a pair, \(X_test, y_test\)"),
        ({"vectorizer": "bert"}, TypeError, "vectorizer is a str; allowed is a BertVectorizer"),
        ({"n_timed": -1}, ValueError, "n_timed=-1; allowed is a number of texts, or 0"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_encoded(
    options, error, message, tiny_bert, encoded
):
    with pytest.raises(error, match=message):
        compare(REVIEWS, LABELS, **{"model": make_sentiment_pipeline(model=tiny_bert), **options})
    assert not encoded


@pytest.mark.parametrize("texts", [["film", None], ["film", 3], "film"])
def test_wrong_texts_are_refused_by_row(texts):
    with pytest.raises((ValueError, TypeError), match=r"row 1 of X is|X is a single string"):
        compare(texts, [0, 1])


NUMBERS = np.arange(40)
SETS = pd.DataFrame({"odd": NUMBERS % 2, "third": NUMBERS % 3 == 0, "fourth": NUMBERS % 4 == 1})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")  # no label
@pytest.mark.parametrize(
    ("groups", "scoring"),
    [(None, "accuracy"), (np.arange(40) // 4, "f1_micro"), (None, "f1_samples")],
    ids=["accuracy", "f1_micro-groups", "f1_samples"],
)
def test_several_labels_per_text_are_compared_as_scikit_learn_scores_them(
    groups, scoring, tiny_bert
):
    svm = make_pipeline(TfidfVectorizer(), OneVsRestClassifier(LinearSVC()))
    table = compare(
        REVIEWS,
        SETS,
        models=["majority", "default", ("svm", svm)],
        vectorizer=BertVectorizer(tiny_bert),
        cv=2,
        groups=groups,
        scoring=scoring,
        n_timed=0,
    )
    kind = KFold if groups is None else GroupKFold
    folds = list(kind(2, shuffle=True, random_state=0).split(REVIEWS, groups=groups))
    scores = {"accuracy": "accuracy", "micro_f1": "f1_micro", "macro_f1": "f1_macro"}
    column = {"f1_micro": "micro_f1"}.get(scoring, scoring)
    for name, scorer in {**scores, column: scoring}.items():
        expected = cross_val_score(svm, REVIEWS, SETS.to_numpy(int), cv=folds, scoring=scorer)
        assert table.loc["svm", name] == pytest.approx(expected.mean())
    assert table.loc["svm", ["log_loss", "calibration_error"]].isna().all()
    assert table.attrs["classes"] == ["odd", "third", "fourth"]
    assert table["verdict"].notna().all()
    assert table.loc["svm", "difference_low"] <= table.loc["svm", "difference"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ["layers"]}, "'layers', which take one label per text"),
        ({"models": [("mine", make_pipeline(TfidfVectorizer(), LinearSVC()))]}, "'mine' takes one"),
        ({"models": ["majority"], "test": (REVIEWS, SETS[["odd", "third"]])}, "but test 2"),
    ],
)
def test_what_cannot_take_several_labels_says_so(options, message):
    with pytest.raises(ValueError, match=message):
        compare(REVIEWS, SETS, cv=2, n_timed=0, **options)
