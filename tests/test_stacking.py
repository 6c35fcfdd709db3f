"""make_sentiment_pipeline(ngrams=True): BERT and n-grams, stacked by scikit-learn's stack."""

from typing import ClassVar

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.ensemble import StackingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline

from pipeline import (
    BertVectorizer,
    TruncationWarning,
    compare,
    evaluate,
    inspect_pipeline,
    load_pipeline,
    make_sentiment_pipeline,
    save_pipeline,
    score_table,
    verify_pipeline,
)
from pipeline.answers import ask
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.stacking import TextStackingClassifier

GOOD = ["A lovely film.", "Good soup, a quiet terrace.", "What a beautiful day.", "I love Paris."]
BAD = ["A dull film.", "Cold soup and a rude waiter.", "What a boring day.", "Two lost hours."]
TEXTS = [f"{text} Number {i}." for i in range(4) for text in (*GOOD, *BAD)]
LABELS = (["positive"] * 4 + ["negative"] * 4) * 4
NEW = ["What a lovely evening.", "Cold and dull.", ""]
VECTORIZER = "stackingclassifier__bert__bertvectorizer"


def stacked(bert, **options):
    return make_sentiment_pipeline(ngrams=True, model=bert, **options)


@pytest.fixture
def stack(tiny_bert):
    return stacked(tiny_bert)


def test_it_is_a_pipeline_of_scikit_learns_stack_of_two_known_parts(stack):
    assert type(stack) is Pipeline
    ((name, last),) = stack.steps
    assert name == "stackingclassifier"
    assert isinstance(last, StackingClassifier)
    parts = {name: list(part.named_steps) for name, part in last.estimators}
    assert parts == {
        "bert": ["bertvectorizer", "logisticregression"],
        "ngrams": ["tfidfvectorizer", "logisticregression"],
    }
    assert last.stack_method == "decision_function"


def test_it_predicts_what_scikit_learns_own_stack_of_the_same_folds_predicts(stack, tiny_bert):
    folds = list(StratifiedKFold(4, shuffle=True, random_state=3).split(TEXTS, LABELS))
    parts = [
        ("bert", make_sentiment_pipeline(model=tiny_bert)),
        (
            "ngrams",
            make_pipeline(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode"),
                LogisticRegression(C=30, max_iter=2000),
            ),
        ),
    ]
    last = stack[-1].final_estimator
    plain = StackingClassifier(parts, last, cv=folds, stack_method="decision_function")
    plain.fit(TEXTS, LABELS)
    stack.set_params(stackingclassifier__cv=folds).fit(TEXTS, LABELS)
    assert np.abs(stack.predict_proba(NEW) - plain.predict_proba(NEW)).max() <= 1e-6
    bert, words = (part.decision_function(NEW) for part in plain.estimators_)
    (a, b), (c,) = plain.final_estimator_.coef_[0], plain.final_estimator_.intercept_
    assert np.allclose(stack.predict_proba(NEW)[:, 1], expit(a * bert + b * words + c), atol=1e-6)


@pytest.mark.parametrize(
    ("search", "n_texts"),
    [
        (lambda model: model.fit(TEXTS, LABELS), len(TEXTS)),
        (lambda model: cross_val_score(model, TEXTS, LABELS, cv=3), len(TEXTS)),
        (
            lambda model: GridSearchCV(
                model,
                {
                    "stackingclassifier__bert__logisticregression__C": [0.1, 1],
                    "stackingclassifier__ngrams__tfidfvectorizer__min_df": [1, 2],
                },
                cv=2,
            ).fit(TEXTS, LABELS),
            len(TEXTS),
        ),
        (lambda model: model.fit(TEXTS, LABELS).predict(TEXTS + NEW), len(TEXTS + NEW)),
        (lambda model: ask(model.fit(TEXTS, LABELS), NEW), len(TEXTS + NEW)),
    ],
)
def test_each_text_is_encoded_once(search, n_texts, stack, encoded):
    search(stack)
    assert sum(encoded) == n_texts


@pytest.mark.parametrize(
    "labels",
    [[1, 0] * 16, [True, False] * 16, ["c", "a", "b", "a"] * 8, np.array(LABELS, dtype=object)],
)
def test_labels_of_any_kind_come_back_as_they_were(labels, stack):
    stack.fit(TEXTS, labels)
    assert stack.classes_.tolist() == sorted(set(labels))
    assert stack.score(TEXTS, labels) > 0.9
    found, probability = stack[-1].predict_both(NEW)
    assert np.array_equal(found, stack.predict(NEW))
    assert np.array_equal(probability, stack.predict_proba(NEW))


def test_sorted_labels_do_no_harm_and_two_fits_are_equal(stack):
    order = np.argsort(LABELS, kind="stable")
    texts, labels = [TEXTS[i] for i in order], [LABELS[i] for i in order]
    stack.fit(texts, labels)
    assert stack.score(TEXTS, LABELS) == 1.0
    again = clone(stack).fit(texts, labels)
    assert np.array_equal(again.predict_proba(NEW), stack.predict_proba(NEW))


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        ([*TEXTS, "A riddle."], [*LABELS, "neutral"]),  # one text of a class
        ([*TEXTS, "A riddle.", "An enigma."], [*LABELS, "neutral", "neutral"]),
        ([*TEXTS, *["A riddle."] * 5], [*LABELS, *["neutral"] * 5]),  # equal ones, that is one
        ([*TEXTS[:8], "A riddle."], ["positive"] * 8 + ["negative"]),
        (["A lovely film.", "A dull film."], ["positive", "negative"]),
    ],
)
def test_classes_of_fewer_texts_than_folds_do_no_harm(texts, labels, stack):
    stack.fit(texts, labels)
    assert stack.classes_.tolist() == sorted(set(labels))
    assert np.isfinite(stack.decision_function(NEW)).all()
    assert np.abs(stack[-1].final_estimator_.coef_).max() < 100


class Spy(ClassifierMixin, BaseEstimator):
    """Remembers what it was fitted to and asked for."""

    calls: ClassVar[list] = []

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.known_ = list(X)
        return self

    def decision_function(self, X):
        self.calls.append((self.known_, list(X)))
        return np.array([float(len(text)) for text in X])

    def predict(self, X):
        raise NotImplementedError


def test_equal_texts_lie_in_one_fold():
    texts = [f"Text {i % 11}" + " " * (i % 2) for i in range(40)]
    Spy.calls.clear()
    spied = TextStackingClassifier([("spy", Spy())], stack_method="decision_function", cv=5)
    spied.fit(texts, [i % 11 % 2 for i in range(40)])
    assert len(Spy.calls) == 5
    assert sum(len(asked) for _, asked in Spy.calls) == 40
    for known, asked in Spy.calls:
        assert not {text.strip() for text in known} & {text.strip() for text in asked}


@pytest.mark.parametrize("class_weight", [{"positive": 3.0}, {"negative": 0.2, "positive": 2}])
def test_class_weights_are_sample_weights_of_every_part(class_weight, stack, tiny_bert):
    labels = LABELS[:-6] + ["negative"] * 6
    by_class = stacked(tiny_bert, class_weight=class_weight).fit(TEXTS, labels)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = stacked(tiny_bert)
        weight = [class_weight.get(label, 1.0) for label in labels]
        routed.fit(TEXTS, labels, sample_weight=weight)
    stack.fit(TEXTS, labels)
    assert np.abs(by_class.predict_proba(NEW) - routed.predict_proba(NEW)).max() <= 1e-4
    assert np.abs(by_class.predict_proba(NEW) - stack.predict_proba(NEW)).max() > 1e-3
    for part in (*by_class[-1].estimators_, by_class[-1].final_estimator_):
        head = part[-1] if isinstance(part, Pipeline) else part
        assert head.class_weight[1] == class_weight["positive"]
    assert by_class[-1].final_estimator.class_weight == class_weight


def test_balanced_weights_find_a_rare_class(tiny_bert):
    few = TEXTS[:4] + [text for text, label in zip(TEXTS, LABELS, strict=True) if label[0] == "n"]
    labels = ["positive"] * 4 + ["negative"] * 16
    plain, balanced = (
        stacked(tiny_bert, class_weight=weight).fit(few, labels).predict_proba(NEW)[:, 1]
        for weight in (None, "balanced")
    )
    assert (balanced > plain).all()


@pytest.mark.parametrize(
    "container",
    [
        tuple,
        np.array,
        lambda texts: np.array(texts, dtype=object).reshape(-1, 1),
        lambda texts: pd.Series(texts, index=range(7, 7 + len(texts))),
        lambda texts: pd.DataFrame({"review": texts}),
        lambda texts: pl.DataFrame({"review": texts}),
        iter,
    ],
)
def test_texts_may_come_in_any_container(container, stack):
    expected = clone(stack).fit(TEXTS, LABELS).predict_proba(NEW)
    stack.fit(container(TEXTS), LABELS)
    assert np.array_equal(stack.predict_proba(container(NEW)), expected)


def test_missing_and_invalid_cells_are_read_by_both_parts_as_the_vectorizer_says(tiny_bert):
    lenient = stacked(tiny_bert, missing="empty", on_invalid="coerce")
    lenient.fit([*TEXTS, None, 5], [*LABELS, "negative", "positive"])
    assert np.array_equal(lenient.predict_proba([None, 7]), lenient.predict_proba(["", "7"]))
    strict = stacked(tiny_bert)
    with pytest.raises(ValueError, match="row 32 of X is None"):
        strict.fit([*TEXTS, None], [*LABELS, "negative"])
    with pytest.raises(TypeError, match="row 1 of X is of type int"):
        strict.fit(TEXTS, LABELS).predict(["a", 1])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([None, *LABELS[1:]], "label 0 is None"),
        (LABELS[1:], "32 texts and 31 labels"),
        (["positive"] * 32, "y holds only one class, 'positive'"),
    ],
)
def test_wrong_labels_are_refused_before_anything_is_encoded(labels, message, stack, encoded):
    with pytest.raises(ValueError, match=message):
        stack.fit(TEXTS, labels)
    assert not encoded


def test_what_is_cut_is_told_once_in_a_fit_and_once_in_a_prediction(tiny_bert):
    stack = stacked(tiny_bert, max_length=4)
    for call, counted in ((lambda: stack.fit(TEXTS, LABELS), 32), (lambda: stack.predict(NEW), 2)):
        with pytest.warns(TruncationWarning, match=f"{counted} of ") as told:
            call()
        assert len(told) == 1


def test_parameters_reach_the_fitted_parts(stack):
    stack.fit(TEXTS, LABELS)
    stack.set_params(**{f"{VECTORIZER}__batch_tokens": 64, f"{VECTORIZER}__device": "cpu"})
    fitted = stack[-1].estimators_[0][0]
    assert (fitted.batch_tokens, fitted.device) == (64, "cpu")
    assert clone(stack).get_params()[f"{VECTORIZER}__batch_tokens"] == 64


# ---- saved


@pytest.mark.parametrize("format", ["joblib", "skops"])
def test_a_saved_stack_is_verified_and_predicts_the_same(format, stack, tmp_path):
    if format == "skops":
        pytest.importorskip("skops")
    path = tmp_path / f"stack.{format}"
    stack.fit(TEXTS, LABELS)
    save_pipeline(stack, path, format=format)
    loaded = load_pipeline(path)
    assert np.abs(loaded.predict_proba(NEW) - stack.predict_proba(NEW)).max() <= 1e-6
    assert verify_pipeline(path)["probes"]["difference"] <= 1e-6
    found = inspect_pipeline(path)
    assert found["refused"] == []
    assert found["manifest"]["n_training_texts"] == len(TEXTS)
    assert len(found["manifest"]["vectorizers"]) == 1
    assert found["manifest"]["classes"] == ["negative", "positive"]


def test_a_saved_stack_carries_the_weights_once(stack, tiny_bert, tmp_path):
    models = {
        "plain": make_sentiment_pipeline(model=tiny_bert),
        "words": make_tfidf_baseline(),
        "stack": stack,
    }
    size = {}
    for name, model in models.items():
        path = tmp_path / f"{name}.joblib"
        save_pipeline(model.fit(TEXTS, LABELS), path)
        size[name] = path.stat().st_size
    assert size["stack"] < size["plain"] + size["words"] + 10_000
    # and so does one that was loaded, fitted again and saved
    again = load_pipeline(tmp_path / "stack.joblib").fit(TEXTS, LABELS)
    save_pipeline(again, tmp_path / "again.joblib")
    assert (tmp_path / "again.joblib").stat().st_size < size["stack"] + 1000


def test_no_folder_of_this_machine_is_saved(tiny_bert, tmp_path, encoded):
    folder = tmp_path / "vectors"
    stack = stacked(tiny_bert, cache=folder)
    save_pipeline(stack.fit(TEXTS, LABELS), tmp_path / "stack.joblib")
    assert stack.get_params()[f"{VECTORIZER}__cache"] == folder
    assert str(folder) not in str(inspect_pipeline(tmp_path / "stack.joblib")["contents"])
    loaded = load_pipeline(tmp_path / "stack.joblib")
    encoded.clear()
    loaded.fit(NEW, ["a", "b", "a"])
    assert sum(encoded) == len(NEW)


def test_tables_are_scored_with_each_text_encoded_once(stack, tmp_path, encoded):
    save_pipeline(stack.fit(TEXTS, LABELS), tmp_path / "stack.joblib")
    table = pd.DataFrame({"text": TEXTS, "id": range(len(TEXTS))})
    table.to_csv(tmp_path / "in.csv", index=False)
    encoded.clear()
    score_table(tmp_path / "stack.joblib", tmp_path / "in.csv", tmp_path / "out.csv", text="text")
    assert sum(encoded) <= len(TEXTS) + 10  # probes, and a row to try the model on
    scored = pd.read_csv(tmp_path / "out.csv")
    assert scored["label"].tolist() == stack.predict(TEXTS).tolist()
    assert np.allclose(scored["probability_positive"], stack.predict_proba(TEXTS)[:, 1], atol=1e-5)


# ---- judged


def test_evaluate_sees_the_vectors_of_bert_inside(stack, tiny_bert):
    stack.fit(TEXTS, LABELS)
    wrong = ["negative", *LABELS[1:8]]
    found = evaluate(stack, TEXTS[:8], wrong, n_bootstrap=0)
    assert set(found["slices"]) == {"by tokens", "by truncation"}
    assert len(found["map"]["points"]) == 8
    known = TEXTS[8:], LABELS[8:]
    (mistake,) = evaluate(stack, TEXTS[:8], wrong, train=known, n_bootstrap=0)["mistakes"]
    vectors = BertVectorizer(tiny_bert, layers="all").fit(TEXTS)
    ours, theirs = (vectors.transform(texts) for texts in (TEXTS[:1], known[0]))
    cosine = theirs @ ours[0] / np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours)
    assert mistake["nearest"][0]["text"] == known[0][int(cosine.argmax())]
    assert mistake["nearest"][0]["similarity"] == pytest.approx(cosine.max(), abs=1e-5)


def test_the_stack_is_a_row_of_the_comparison(stack, tiny_bert, encoded):
    vectorizer = BertVectorizer(tiny_bert)
    table = compare(
        TEXTS, LABELS, models=["default", "ngrams"], vectorizer=vectorizer, cv=2, n_timed=0
    )
    assert sum(encoded) == len(TEXTS)
    assert len(table) == 3
    own = compare(TEXTS, LABELS, model=stack, cv=2, n_timed=0)
    name = table.index[-1]
    assert list(own.index) == ["majority", "TF-IDF + LogisticRegression", name]
    assert own.loc[name, "log_loss"] == table.loc[name, "log_loss"]


def test_groups_stay_together_in_the_folds_of_a_stack():
    Spy.calls.clear()
    spied = TextStackingClassifier([("spy", Spy())], stack_method="decision_function", cv=5)
    texts = [f"Text {i}" for i in range(36)]
    author = {text: i % 9 for i, text in enumerate(texts)}
    compare(texts, [i % 3 % 2 for i in range(36)], models={"spied": spied}, cv=3,
            groups=list(author.values()), n_timed=0)  # fmt: skip
    inner = [(known, asked) for known, asked in Spy.calls if len(known) < 24]
    assert len(inner) >= 9
    for known, asked in inner:
        assert not {author[text] for text in known} & {author[text] for text in asked}


@pytest.mark.parametrize("weight", [None, {"positive": 3.0, "negative": 1.0}])
def test_a_part_that_chooses_its_C_does_so_once_and_keeps_it_in_the_folds(
    weight, tiny_bert, monkeypatch
):
    searches = []
    search = LogisticRegressionCV.fit

    def counted(self, *arguments, **options):
        searches.append(self.Cs)
        return search(self, *arguments, **options)

    monkeypatch.setattr(LogisticRegressionCV, "fit", counted)
    model = stacked(tiny_bert, C="cv", class_weight=weight).fit(TEXTS, LABELS)
    tuned = model[-1].named_estimators_["bert"][-1]
    assert searches == [tuned.Cs]
    assert tuned.scores_.shape == (3, len(tuned.Cs))
    assert model[-1].estimators_[0][-1] is tuned
    fixed = stacked(tiny_bert, C=tuned.C_, class_weight=weight).fit(TEXTS, LABELS)
    assert tuned.classes_.tolist() == fixed[-1].estimators_[0][-1].classes_.tolist()
    assert np.abs(model.predict_proba(NEW) - fixed.predict_proba(NEW)).max() < 1e-4
