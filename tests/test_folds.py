"""Folds: leaks are counted, groups stay together, no fold tests a class it has not seen."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, compare, evaluate, layer_study
from pipeline.datasets import read_table, split_table
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.exceptions import LeakWarning

RANDOM = np.random.default_rng(0)
ONCE = [
    f"A film about {word} and {i}." for i in range(10, 20) for word in ("tea", "sea", "bees", "me")
]
COIN = RANDOM.permutation(["good", "bad"] * 20).tolist()  # nothing to learn
FOUR_TIMES, LABELS = ONCE * 4, COIN * 4
# six authors, each with texts of both classes
AUTHORS = np.arange(48) % 6
BY_AUTHOR = [f"author{author} wrote number {i}" for i, author in enumerate(AUTHORS)]
Y = ["good" if (i // 6) % 2 else "bad" for i in range(48)]


TFIDF = "TF-IDF + LogisticRegression"


def quick(X, y, **options):
    return compare(X, y, **{"models": ["majority"], "n_timed": 0, **options})


def leaked(texts, folds):
    """Count the slow way test texts that stand in the training part of their fold."""
    key = [" ".join(text.lower().split()) for text in texts]
    return sum(key[i] in {key[j] for j in train} for train, test in folds for i in test)


# ---- leaks


@pytest.mark.parametrize(
    "cv",
    [3, KFold(4, shuffle=True, random_state=1), StratifiedKFold(2), [*KFold(5).split(FOUR_TIMES)]],
    ids=["number", "KFold", "StratifiedKFold", "list"],
)
def test_compare_tells_how_many_texts_leak_in_one_warning(cv):
    with pytest.warns(LeakWarning) as told:
        quick(FOUR_TIMES, LABELS, cv=cv)
    splitter = StratifiedKFold(3, shuffle=True, random_state=0) if cv == 3 else cv
    folds = splitter if isinstance(splitter, list) else splitter.split(FOUR_TIMES, LABELS)
    n_leaked = leaked(FOUR_TIMES, folds)
    assert n_leaked
    assert [str(one.message).partition(" texts")[0] for one in told] == [f"{n_leaked} of 160"]
    assert told[0].filename == __file__


def test_texts_that_differ_in_case_and_blanks_leak_too_and_others_do_not():
    texts = [*ONCE, "  a FILM about\ttea and 10. ", "\uff21 film about sea and 10."]
    with pytest.warns(LeakWarning, match="2 of 2 texts"):
        quick(ONCE, COIN, test=(texts[40:], ["good", "bad"]))
    quick(ONCE, COIN, test=(["A film about tea and 99."], ["good"]))
    quick(ONCE, COIN, cv=3)


def test_groups_of_equal_texts_cure_the_leak_and_the_score():
    with pytest.warns(LeakWarning):
        wrong = quick(FOUR_TIMES, LABELS, cv=4)
    right = quick(FOUR_TIMES, LABELS, cv=4, groups=FOUR_TIMES)
    assert wrong.loc[TFIDF, "accuracy"] > 0.75
    assert right.loc[TFIDF, "accuracy"] < 0.65


@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_study_tells_its_leaks_before_anything_is_encoded(nested, tiny_bert, encoded):
    options = {"vectorizer": BertVectorizer(tiny_bert), "cv": 2, "poolings": ("cls",)}
    options |= {"combinations": ("last",), "Cs": (1.0,), "nested": nested}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LeakWarning, match="of 80 texts"):
            layer_study(ONCE * 2, COIN * 2, **options)
        assert not encoded
        layer_study(ONCE * 2, COIN * 2, groups=ONCE * 2, **options)


def test_the_row_of_the_best_layers_tells_no_leak_twice(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert)
    with pytest.warns(LeakWarning) as told:
        quick(FOUR_TIMES[:60], LABELS[:60], models=["layers"], vectorizer=vectorizer, cv=2)
    assert len([one for one in told if one.category is LeakWarning]) == 1


def test_evaluate_tells_the_texts_that_are_in_the_training_set():
    model = make_tfidf_baseline().fit(ONCE, COIN)
    mixed = [*ONCE[:7], "a new text", "another one"]
    with pytest.warns(LeakWarning, match="7 of 9 texts to score also occur in the training"):
        scores = evaluate(model, mixed, [*COIN[:7], "good", "bad"], train=(ONCE, COIN))
    assert (scores["duplicates"]["n_texts"], scores["duplicates"]["other_label"]) == (7, 0)
    evaluate(model, mixed[7:], ["good", "bad"], train=(ONCE, COIN))


def test_a_leaked_text_has_another_label_only_if_the_values_differ():
    model = make_tfidf_baseline().fit(ONCE, [label == "good" for label in COIN])
    floats = [1.0 if label == "good" else 0.0 for label in COIN]
    with pytest.warns(LeakWarning):
        scores = evaluate(model, ONCE, floats, train=(ONCE, [str(int(value)) for value in floats]))
    assert scores["duplicates"]["other_label"] == 0


# ---- split_table


def shares(table, test):
    whole, held_out = table["label"].value_counts(), test["label"].value_counts()
    return (held_out / whole).fillna(0).to_dict()


def test_a_table_is_split_with_equal_texts_on_one_side_and_stratified():
    table = pd.DataFrame({"text": FOUR_TIMES, "label": LABELS, "n": range(160)})
    train, test = split_table(table, "label")
    assert not set(train["text"]) & set(test["text"])
    assert sorted([*train["n"], *test["n"]]) == list(range(160))
    assert shares(table, test) == pytest.approx({"good": 0.2, "bad": 0.2})
    assert list(test.index) == list(range(len(test)))
    again, other = (split_table(table, "label", random_state=seed)[1] for seed in (0, 1))
    pd.testing.assert_frame_equal(again, test)
    assert set(other["text"]) != set(test["text"])


@pytest.mark.parametrize("groups", ["author", AUTHORS, pl.Series(AUTHORS), AUTHORS.astype(str)])
def test_groups_of_a_table_stay_on_one_side(groups):
    table = pd.DataFrame({"review": BY_AUTHOR, "label": Y, "author": AUTHORS})
    train, test = split_table(table, "label", text="review", groups=groups)
    assert not set(train["author"]) & set(test["author"])
    assert len(set(test["author"])) == 1
    assert shares(table, test) == pytest.approx({"good": 1 / 6, "bad": 1 / 6})


def test_equal_texts_join_their_groups():
    table = pd.DataFrame({"text": BY_AUTHOR, "label": Y, "author": AUTHORS})
    table.loc[table["author"].isin([0, 1]).to_numpy().nonzero()[0][:2], "text"] = "The same."
    for seed in range(5):
        train, test = split_table(table, "label", groups="author", random_state=seed)
        assert not set(train["author"]) & set(test["author"])
        assert not set(train["text"]) & set(test["text"])
        assert {0, 1} <= set(train["author"]) or {0, 1} <= set(test["author"])


@pytest.mark.parametrize(
    ("table", "groups", "message"),
    [
        ({"text": ["same"] * 12, "label": ["a", "b"] * 6}, None, "All texts are equal"),
        (
            {"text": ["same"] * 6 + list("abcdefghijkl"), "label": ["a"] * 6 + ["b"] * 12},
            None,
            "all texts with label 'a' are equal or of one group",
        ),
        (
            {"text": list("abcdefghijkl"), "label": ["a", "b"] * 6, "who": ["x", None] * 6},
            "who",
            "groups is missing for 6 of 12 texts, first for text 1",
        ),
        ({"text": list("abcdefghijkl"), "label": ["a", "b"] * 6}, [1, 2], "groups holds 2 values"),
    ],
)
def test_a_table_that_cannot_be_split_so_says_why(table, groups, message):
    with pytest.raises(ValueError, match=message):
        split_table(pd.DataFrame(table), "label", groups=groups)


# ---- groups


class Spy(ClassifierMixin, BaseEstimator):
    """Note which authors it was fitted on and asked for, in each fit."""

    seen: tuple = ()

    def __init__(self, strength=1):
        self.strength = strength

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.authors_ = {text.split()[0] for text in X}
        return self

    def predict(self, X):
        Spy.seen += ((self.authors_, {text.split()[0] for text in X}),)
        return np.full(len(X), self.classes_[0])

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


@pytest.mark.parametrize("cv", [3, GroupKFold(3), LeaveOneGroupOut()], ids=str)
@pytest.mark.parametrize(
    "model",
    [
        Spy(),
        GridSearchCV(Spy(), {"strength": [1, 2]}),
        GridSearchCV(Spy(), {"strength": [1, 2]}, cv=GroupKFold(2)),
        make_pipeline(GridSearchCV(Spy(), {"strength": [1]}, cv=3)),
    ],
    ids=["plain", "search", "search by groups", "search in a pipeline"],
)
def test_compare_keeps_groups_together_in_every_fold_and_inside_searches(cv, model):
    Spy.seen = ()
    quick(BY_AUTHOR, Y, models=[("spy", model)], cv=cv, groups=pd.Series(AUTHORS, name="who"))
    assert Spy.seen
    assert all(not trained & tested for trained, tested in Spy.seen)


@pytest.mark.parametrize("kind", ["cls", "static", "layers"])
def test_rows_of_bert_choose_by_folds_that_keep_groups_together(kind, tiny_bert, monkeypatch):
    inner = []
    fit = LogisticRegressionCV.fit

    def spied(self, X, y, **options):
        inner.append(self.cv)
        return fit(self, X, y, **options)

    monkeypatch.setattr(LogisticRegressionCV, "fit", spied)
    folds = list(GroupKFold(2).split(BY_AUTHOR, Y, AUTHORS))
    vectorizer = BertVectorizer(tiny_bert)
    quick(BY_AUTHOR, Y, models=[kind], vectorizer=vectorizer, cv=folds, groups=AUTHORS)
    parts = [AUTHORS[train] for train, _ in folds]  # of three authors each
    assert inner
    assert all(
        any(all(not set(part[a]) & set(part[b]) for a, b in splits) for part in parts)
        for splits in inner
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cv": KFold(3, shuffle=True, random_state=0), "groups": AUTHORS}, "Fold 0 .* one group"),
        ({"cv": list(KFold(3).split(Y)), "groups": AUTHORS}, "such as GroupKFold"),
        ({"cv": GroupKFold(3)}, "GroupKFold, which needs groups"),
        ({"cv": 9, "groups": AUTHORS}, "n_splits=9 greater than the number of groups: 6"),
        ({"groups": AUTHORS[:5]}, "groups holds 5 values for 48 texts"),
        ({"groups": [None, *AUTHORS[1:]]}, "groups is missing for 1 of 48 texts, first for text 0"),
        ({"groups": [*AUTHORS[:47].astype(float), np.nan]}, "first for text 47"),
    ],
    ids=str,
)
@pytest.mark.parametrize("study", [False, True], ids=["compare", "layer_study"])
def test_groups_that_cannot_be_kept_are_refused_before_anything_is_encoded(
    options, message, study, tiny_bert, encoded
):
    run = layer_study if study else quick
    with pytest.raises(ValueError, match=message):
        run(BY_AUTHOR, Y, vectorizer=BertVectorizer(tiny_bert), **options)
    assert not encoded


# ---- classes


RARE = [*Y[:-1], "RARE"]


@pytest.mark.parametrize(
    ("y", "options"),
    [
        (RARE, {"cv": 3}),
        (RARE, {"cv": KFold(4)}),
        (["RARE" if author == 2 else y for author, y in zip(AUTHORS, Y, strict=True)],
         {"cv": GroupKFold(3), "groups": AUTHORS}),
        ([*Y[:40], *["RARE"] * 8], {"cv": TimeSeriesSplit(3)}),
        (pd.Series(RARE, dtype="category"), {"cv": 2}),
    ],
    ids=["one text", "KFold", "one group", "by time", "category"],
)  # fmt: skip
def test_a_class_that_a_fold_tests_and_does_not_train_on_is_refused_by_name(
    y, options, tiny_bert, encoded
):
    part = r"in the training part of fold \d"
    with pytest.raises(ValueError, match=f"Class 'RARE' has no text {part}"):
        quick(BY_AUTHOR, y, models=["default"], vectorizer=BertVectorizer(tiny_bert), **options)
    with pytest.raises(ValueError, match=rf"Class 'RARE' has \d texts {part}"):
        layer_study(BY_AUTHOR, y, vectorizer=BertVectorizer(tiny_bert), **options)
    assert not encoded


def test_inner_folds_that_lack_a_class_are_refused_by_name(tiny_bert, encoded):
    y = ["RARE" if author in (2, 3) else label for author, label in zip(AUTHORS, Y, strict=True)]
    options = {"groups": AUTHORS, "cv": list(GroupKFold(6).split(Y, Y, AUTHORS))[2:4]}
    with pytest.raises(ValueError, match=r"fold 0 by 3-fold cross-validation, and there: Class"):
        layer_study(BY_AUTHOR, y, vectorizer=BertVectorizer(tiny_bert), **options)
    assert not encoded


def test_a_training_part_of_one_class_is_refused():
    good = [i for i, label in enumerate(Y) if label == "good"]
    with pytest.raises(ValueError, match="training part of fold 0 holds only one class, 'good'"):
        quick(BY_AUTHOR, Y, cv=[(np.array(good[:9]), np.array(good[9:]))])


@pytest.mark.parametrize("seed", range(3))
def test_classes_that_only_the_test_part_lacks_are_scored(seed):
    folds = list(ShuffleSplit(1, test_size=5, random_state=seed).split(Y))
    y = np.array(Y, dtype=object)
    y[folds[0][0][:4]] = "third"
    table = quick(BY_AUTHOR, y, cv=folds, models=[("mine", DummyClassifier(strategy="prior"))])
    assert table["accuracy"].notna().all()


# ---- what decides


class Words(ClassifierMixin, BaseEstimator):
    """Say the second class of a text with the word, by ``word`` alone."""

    def __init__(self, word=""):
        self.word = word

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[[int(self.word in text) for text in X]]


FEW = [
    f"{'odd' if i % 12 == 0 else 'even'} {'rare' if i % 6 == 0 else 'plain'} {i}"
    for i in range(120)
]
FEW_Y = ["yes" if i % 12 == 0 else "no" for i in range(120)]


@pytest.mark.parametrize("scoring", ["f1_macro", "macro_f1", "balanced_accuracy", "recall_macro"])
def test_the_verdict_is_by_the_scoring_asked_for(scoring):
    column = "macro_f1" if scoring == "f1_macro" else scoring
    y = ["yes" if i % 4 == 0 else "no" for i in range(120)]
    # words of one text each, in which TF-IDF finds nothing
    texts = [f"word{i}{'rare' if label == 'yes' else 'plain'}" for i, label in enumerate(y)]
    table = quick(texts, y, models=["majority", ("knows", Words("rare"))], cv=3, scoring=scoring)
    row, base = table.loc["knows"], table.loc[TFIDF]
    assert row["difference"] == pytest.approx(row[column] - base[column])
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    assert row["verdict"] == "better than TF-IDF"
    assert table.scoring == column


def test_scores_that_need_probabilities_leave_a_model_without_them_unscored():
    table = quick(FEW, FEW_Y, models=[("words", Words("odd"))], cv=2, scoring="log_loss")
    assert table.loc["words", "verdict"] == "not scored"
    assert np.isnan(table.loc["words", "difference"])
    majority = quick(FEW, FEW_Y, cv=2, scoring="neg_log_loss").loc["majority"]
    assert majority["verdict"] == "worse than TF-IDF"
    assert majority["difference"] < 0


@pytest.mark.parametrize("scoring", ["macro-f1", "f1", 3])
def test_a_scoring_that_cannot_score_these_classes_is_refused_at_once(scoring, encoded):
    with pytest.raises((ValueError, TypeError)):
        quick(FEW, [str(i % 3) for i in range(120)], models=["default"], scoring=scoring)
    assert not encoded


def test_classes_that_are_never_predicted_are_listed_by_row_and_by_evaluate():
    never = make_pipeline(TfidfVectorizer(), LogisticRegression(C=1e-6))
    table = quick(FEW, FEW_Y, models=["majority", ("never", never)], cv=2)
    assert table.never_predicted["never"] == ["yes"]
    assert "majority" not in table.never_predicted
    fitted = never.fit(FEW, FEW_Y)
    assert evaluate(fitted, FEW, FEW_Y, n_bootstrap=0)["never_predicted"] == ["yes"]
    cured = never.set_params(logisticregression__class_weight="balanced").fit(FEW, FEW_Y)
    assert evaluate(cured, FEW, FEW_Y, n_bootstrap=0)["never_predicted"] == []


# ---- split_table


def labelled(labels):
    return pd.DataFrame(
        {"text": [f"text {i}" for i in range(len(labels))], "label": labels},
        index=range(100, 100 + len(labels)),
    )


@pytest.mark.parametrize(
    "labels",
    [
        ["pos"] * 60 + ["neg"] * 40,
        [0] * 30 + [1] * 60 + [2] * 10,
        [True, False] * 5,
        [1.0, 2.0] * 10,
        pd.Categorical(["pos", "neg"] * 20),
        pd.array(["pos", "neg"] * 20, dtype=pd.ArrowDtype(pa.string())),
    ],
    ids=["text", "three classes", "bool", "float", "category", "arrow"],
)
def test_a_fifth_of_every_class_is_held_out_and_no_row_is_lost_or_changed(labels):
    table = labelled(labels)
    before = table.copy(deep=True)
    train, test = split_table(table, "label")
    pd.testing.assert_frame_equal(table, before)
    assert sorted([*train["text"], *test["text"]]) == sorted(table["text"])
    assert set(shares(table, test).values()) == {0.2}
    label_of = dict(zip(table["text"], table["label"], strict=True))
    for part in (train, test):
        assert part["label"].tolist() == [label_of[text] for text in part["text"]]
        assert list(part.index) == list(range(len(part)))


def test_the_split_is_decided_by_random_state_alone():
    table = labelled(["pos", "neg"] * 50)
    first, again, other = (split_table(table, "label", random_state=seed)[1] for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(first, split_table(table, "label")[1])
    assert set(first["text"]) != set(other["text"])


def test_a_class_with_too_few_texts_to_hold_some_out_is_refused_by_name_and_number():
    with pytest.raises(ValueError, match=r"label 'rare' has only 4 texts; at least 5 per label"):
        split_table(labelled(["pos"] * 20 + ["neg"] * 20 + ["rare"] * 4), "label")
    assert len(split_table(labelled(["pos"] * 20 + ["rare"] * 5), "label")[1]) == 5


def test_a_category_that_no_row_has_is_no_class_with_too_few_texts():
    labels = pd.Categorical(["pos", "neg"] * 10, categories=["pos", "neg", "neutral"])
    assert [len(part) for part in split_table(labelled(labels), "label")] == [16, 4]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["pos"] * 20, "only one class, 'pos', in all 20 rows"),
        (
            ["pos"] * 10 + ["neg"] * 9 + [None],
            r"label 19 is .* \(missing\)\. Drop the unlabelled rows",
        ),
        ([1, 0] * 9 + ["1", "0"], "mixes text with other labels: label 0 is 1"),
    ],
    ids=["one class", "missing", "mixed"],
)
def test_labels_that_no_classifier_can_be_fitted_to_are_refused_before_the_split(labels, message):
    with pytest.raises(ValueError, match=message):
        split_table(labelled(labels), "label")


def test_the_unlabelled_rows_of_a_csv_file_are_not_a_class_of_their_own(write):
    table = read_table(write("text,label\n" + "good,pos\nbad,neg\nnobody knows,\n" * 10))
    with pytest.raises(ValueError, match=r"label.*(empty|missing)"):
        split_table(table, "label")
