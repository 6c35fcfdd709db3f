"""label_issues: flipped labels are found, as confident learning finds them."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from pipeline import (
    BertVectorizer,
    cache_info,
    clear_cache,
    evaluate,
    label_issues,
    load_pipeline,
    make_sentiment_pipeline,
    save_pipeline,
)
from pipeline.evaluation.baselines import make_tfidf_baseline
from tests.commands import ROWS, assert_one_error_line, read_csv, write_csv

TEXTS, LABELS = [text for text, _ in ROWS], [label for _, label in ROWS]
OTHER = {"positive": "negative", "negative": "positive"}
FLIPPED = (3, 20, 41)
WRONG = [OTHER[label] if i in FLIPPED else label for i, label in enumerate(LABELS)]


class Known(ClassifierMixin, BaseEstimator):
    """A classifier that says what it is told to say of text number i."""

    def __init__(self, told):
        self.told = told

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return self.told[[int(text) for text in X]]

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def numbered(given, probability, **options):
    """Rank texts "0", "1", ... with these labels and probabilities, in their own order."""
    texts = [str(i) for i in range(len(given))]
    return label_issues(Known(np.asarray(probability)), texts, given, cv=2, **options).sort_index()


@pytest.mark.parametrize("label", [str, lambda label: int(label == "positive")])
def test_flipped_labels_come_first(label):
    issues = label_issues(make_tfidf_baseline(), TEXTS, list(map(label, WRONG)), cv=4)
    assert sorted(issues.index[: len(FLIPPED)]) == list(FLIPPED)
    assert 2 <= issues["issue"].sum() == issues["issue"][:3].sum()
    assert list(issues.columns) == ["text", "label", "suggested", "probability", "score", "issue"]
    for i, row in issues[:3].iterrows():
        assert (row["text"], row["label"]) == (TEXTS[i], label(WRONG[i]))
        assert row["suggested"] == label(LABELS[i])
        assert row["score"] == pytest.approx(2 * row["probability"] - 1)
    assert issues["score"].is_monotonic_increasing


@pytest.mark.parametrize("seed", range(5))
def test_they_are_those_of_cleanlab(seed):
    pytest.importorskip("cleanlab")
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    random = np.random.default_rng(seed)
    n_classes = 2 + seed % 3
    given = random.integers(n_classes, size=200)
    logits = random.normal(size=(200, n_classes)) + 1.5 * np.eye(n_classes)[given]
    logits[:, 0] += 1  # a model that leans to a class
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ours = numbered(given, probability)
    theirs = find_label_issues(given, probability, filter_by="confident_learning", n_jobs=1)
    # it takes the most probable class where two are confident, though that may not be one of them
    mean = np.array([probability[given == k, k].mean() for k in range(n_classes)])
    confident = probability >= mean
    clear = (confident.sum(axis=1) < 2) | confident[np.arange(200), probability.argmax(axis=1)]
    assert clear.mean() > 0.9
    assert ours["issue"][clear].tolist() == theirs[clear].tolist()
    assert 0 < theirs.sum() < 100
    margins = get_label_quality_scores(given, probability, method="normalized_margin")
    usual = ours["suggested"].to_numpy() == np.where(
        np.eye(n_classes)[given] > 0, -1, probability
    ).argmax(axis=1)
    assert usual.mean() > 0.9
    assert np.abs((ours["score"] + 1) / 2 - margins)[usual].max() < 1e-12


def test_a_class_that_the_model_is_never_sure_of_has_a_lower_bar():
    given = ["rare", "rare", "often", "often", "often", "often"]
    #        often rare
    told = [[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.45, 0.55]]
    issues = numbered(given, told)
    # 0.6 is not sure of "often" (0.79 on average), 0.55 is of "rare" (0.35)
    assert issues["issue"].tolist() == [False] * 5 + [True]
    assert issues["suggested"].tolist() == ["often"] * 2 + ["rare"] * 4
    assert issues["probability"].tolist() == [0.4, 0.3, 0.9, 0.9, 0.9, 0.45]


def test_groups_and_equal_texts_stay_on_one_side():
    # every text of an author holds the author's own word, and wrong labels come in pairs
    texts = [f"{text} author{i // 4}" for i, text in enumerate(TEXTS)]
    copies = [*texts, texts[3].upper()]
    labels = [*WRONG, WRONG[3]]
    issues = label_issues(make_tfidf_baseline(), copies, labels, cv=4)
    assert issues.loc[[3, len(texts)], "issue"].all()  # no copy vouches for the other
    seen = []

    class Spy(Known):
        def fit(self, X, y):
            seen.append({int(text) // 4 for text in X})
            return super().fit(X, y)

        def predict_proba(self, X):
            assert not {int(text) // 4 for text in X} & seen[-1]
            return super().predict_proba(X)

    told = np.full((48, 2), 0.5)
    numbers = [str(i) for i in range(48)]
    label_issues(Spy(told), numbers, LABELS, cv=3, groups=np.arange(48) // 4)
    assert len(seen) == 3


@pytest.mark.parametrize("loaded", [False, True])
def test_each_text_is_encoded_once(loaded, tiny_bert, tmp_path):
    model = make_sentiment_pipeline(C="cv", model=tiny_bert)
    if loaded:  # without a cache
        path = save_pipeline(model.fit(TEXTS, LABELS), tmp_path / "m.joblib")
        model = load_pipeline(path)
    clear_cache()
    before = cache_info().texts_encoded
    label_issues(model, TEXTS, LABELS, cv=3)
    assert cache_info().texts_encoded - before == len(set(TEXTS))


def test_texts_that_are_cut_are_told_of_once(tiny_bert):
    from pipeline.exceptions import TruncationWarning

    model = make_pipeline(BertVectorizer(tiny_bert, max_length=5), LogisticRegression())
    with pytest.warns(TruncationWarning) as told:
        label_issues(model, TEXTS, LABELS, cv=3)
    assert len(told) == 1


def test_a_frame_of_several_columns_is_given_to_a_model_that_reads_them():
    from sklearn.compose import make_column_transformer

    X = pd.DataFrame({"text": TEXTS, "stars": range(len(TEXTS))})
    columns = make_column_transformer((TfidfVectorizer(), "text"), ("drop", ["stars"]))
    issues = label_issues(make_pipeline(columns, LogisticRegression(C=30)), X, WRONG, cv=4)
    assert sorted(issues.index[:3]) == list(FLIPPED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": ["a"] * 48}, "only one class"),
        ({"y": LABELS[:5]}, "48 texts and 5 labels"),
        ({"cv": [(np.arange(24), np.arange(24, 48))]}, "cv must test every text once"),
        ({"groups": [1, 2]}, "groups holds 2 values for 48 texts"),
        ({"y": ["rare", *LABELS[1:]]}, "'rare' has no text in the training part"),
        ({"model": make_pipeline(TfidfVectorizer(), LinearSVC())}, "gives no probabilities"),
    ],
)
def test_what_cannot_be_judged_is_refused(options, message):
    arguments = {"model": make_tfidf_baseline(), "X": TEXTS, "y": LABELS, **options}
    with pytest.raises(ValueError, match=message):
        label_issues(**arguments)


def test_evaluate_lists_the_wrong_labels_of_held_out_texts():
    told = np.array([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1], [0.9, 0.1], [0.45, 0.55]])
    given = ["rare", "rare", "often", "often", "often"]
    texts = list("01234")
    model = Known(told).fit(texts, given)
    found = evaluate(model, texts, given, n_bootstrap=0)["label_issues"]
    row = {"row": 4, "text": "4", "label": "often", "suggested": "rare", "probability": 0.45}
    assert found == {"n_texts": 1, "rows": [row]}
    hidden = evaluate(model, texts, given, n_bootstrap=0, n_mistakes=0)["label_issues"]
    assert hidden == {"n_texts": 1, "rows": []}
    without = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(TEXTS, LABELS)
    assert evaluate(without, TEXTS[:9], LABELS[:9], n_bootstrap=0)["label_issues"] is None


# ---- the command


def test_the_command_prints_the_first_and_writes_all(run, tmp_path, tiny_bert):
    data = write_csv(tmp_path / "d.csv", ["review", "stars"], zip(TEXTS, WRONG, strict=True))
    out = tmp_path / "out.csv"
    arguments = ("labels", "--data", data, "--text-column", "review", "--label-column", "stars",
                 "--bert", tiny_bert, "--cv", 3)  # fmt: skip
    result = run(*arguments, "--out", out, "--show", 2)
    assert (result.code, result.err) == (0, "")
    header, *rows = read_csv(out)
    assert header == ["row", "text", "label", "suggested", "probability", "score", "issue"]
    assert len(rows) == len(TEXTS)
    assert [float(row[5]) for row in rows] == sorted(float(row[5]) for row in rows)
    assert all(WRONG[int(row[0])] == row[2] and TEXTS[int(row[0])] == row[1] for row in rows)
    n_issues = sum(row[6] == "True" for row in rows)
    printed = result.out.splitlines()
    assert printed[0] == f"{n_issues} of {len(TEXTS)} labels are probably wrong."
    issues = [row for row in rows if row[6] == "True"]
    shown = [line.split("\t")[0] for line in printed if line.count("\t") == 4]
    assert shown[1:] == [row[0] for row in issues[:2]]


def test_the_command_keeps_the_groups_of_a_column_together(run, tmp_path, tiny_bert):
    rows = [(*row, i // 4) for i, row in enumerate(zip(TEXTS, WRONG, strict=True))]
    data = write_csv(tmp_path / "d.csv", ["text", "label", "who"], rows)
    arguments = ("labels", "--data", data, "--bert", tiny_bert, "--cv", 3, "--C", 1)
    assert run(*arguments, "--group-column", "who").code == 0
    assert_one_error_line(run(*arguments, "--group-column", "author"), "no column 'author'")
    nowhere = tmp_path / "none" / "o.csv"
    assert_one_error_line(run(*arguments, "--out", nowhere), "cannot be written")


def test_a_regressor_and_a_target_of_numbers_are_named_so():
    model = make_pipeline(TfidfVectorizer(), Ridge())
    with pytest.raises(TypeError, match=r"'model' is a Pipeline.*Regression is scored with"):
        label_issues(model, TEXTS, LABELS)
    with pytest.raises(ValueError, match=r"y is continuous.*this is regression"):
        label_issues(make_tfidf_baseline(), TEXTS, np.linspace(0, 1, len(TEXTS)))
