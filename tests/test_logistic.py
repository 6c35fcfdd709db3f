"""TunedLogisticRegression: the C of LogisticRegressionCV, in less time, and nothing else."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline

from pipeline import load_pipeline, make_sentiment_pipeline, save_pipeline, score_table
from pipeline.logistic import CS, DEFAULT_C, TiedLogisticRegression, TunedLogisticRegression
from tests.commands import ROWS
from tests.test_sums import check_sums

TEXTS, LABELS = [text for text, _ in ROWS], [label for _, label in ROWS]
ENGLISH = {0: "no", 1: "yes", 2: "maybe"}


def table(n_classes=2, n_rows=240, n_features=20, seed=0):
    X, y = make_classification(
        n_rows, n_features, n_informative=6, n_classes=n_classes, flip_y=0.2, random_state=seed
    )
    return X.astype(np.float32), np.array([ENGLISH[label] for label in y], dtype=object)


def by_the_library(X, y, cv=None):
    cv = StratifiedKFold(3, shuffle=True, random_state=0) if cv is None else cv
    options = {"scoring": "neg_log_loss", "l1_ratios": (0.0,), "use_legacy_attributes": False}
    return LogisticRegressionCV(Cs=CS, cv=cv, max_iter=5000, **options).fit(X, y)


def at_once(C, X, y):
    return LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(X.astype(float), y)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("scale", [1, 0.02])  # small features need a large C
def test_it_chooses_as_logistic_regression_cv_does(scale, n_classes):
    X, y = table(n_classes)
    X = X * np.float32(scale)
    ours = TunedLogisticRegression().fit(X, y)
    theirs = by_the_library(X, y)
    losses = -theirs.scores_[:, 0].mean(axis=0)
    clearly = losses.min() <= 0.95 * losses[CS.index(DEFAULT_C)]
    assert ours.C_ == (theirs.C_ if clearly else DEFAULT_C)
    assert np.abs(ours.scores_ - theirs.scores_[:, 0]).max() < 1e-3
    plain = at_once(ours.C_, X, y)
    assert np.abs(ours.predict_proba(X) - plain.predict_proba(X)).max() < 1e-3
    assert ours.predict(X).tolist() == plain.predict(X).tolist()
    assert ours.score(X, y) == plain.score(X, y)  # accuracy, not the log loss


def test_on_more_features_than_directions_the_choice_is_that_of_all_features():
    random = np.random.default_rng(0)
    scales = np.geomspace(3, 0.01, 500)  # as of BERT's vectors: few directions hold the most
    X = (random.normal(size=(600, 500)) * scales).astype(np.float32)
    logits = X @ (random.normal(size=500) / np.sqrt(scales)) / 3
    y = (logits + random.logistic(size=600) > 0).astype(int)
    ours = TunedLogisticRegression().fit(X, y)
    theirs = by_the_library(X, y)
    losses = -theirs.scores_[:, 0].mean(axis=0)
    assert losses[CS.index(ours.C_)] < 1.06 * losses.min()
    plain = at_once(ours.C_, X, y)
    assert np.abs(ours.predict_proba(X) - plain.predict_proba(X)).max() < 1e-3


@pytest.mark.parametrize("C", [DEFAULT_C, "cv"])
def test_a_rounding_of_the_features_moves_no_probability_by_a_thousandth(C):
    random = np.random.default_rng(1)
    X = (random.normal(size=(500, 900)) * np.geomspace(3, 0.01, 900)).astype(np.float32)
    y = (X[:, :40].sum(axis=1) + random.logistic(size=500) > 0).astype(int)
    rounded = X + random.choice([-2e-6, 2e-6], size=X.shape).astype(np.float32)
    head = make_sentiment_pipeline(C=C)[-1]
    before = clone(head).fit(X[:400], y[:400]).predict_proba(X[400:])
    after = clone(head).fit(rounded[:400], y[:400]).predict_proba(rounded[400:])
    assert np.abs(before - after).max() < 1e-3


def test_equal_rows_stay_in_one_fold():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(60, 30)), random.integers(2, size=60)
    X, y = np.repeat(X, 3, axis=0), np.repeat(y, 3)  # noise: only what is known by heart is known
    ours = TunedLogisticRegression().fit(X, y)
    assert ours.C_ <= DEFAULT_C
    assert by_the_library(X, y).C_ > DEFAULT_C
    folds = StratifiedGroupKFold(3, shuffle=True, random_state=0)
    kept = list(folds.split(X, y, np.repeat(np.arange(60), 3)))
    theirs = by_the_library(X, y, kept)
    assert np.abs(ours.scores_ - theirs.scores_[:, 0]).max() < 1e-3


def test_the_folds_may_be_given():
    X, y = table()
    folds = list(GroupKFold(4).split(X, y, np.arange(len(y)) // 10))
    ours = TunedLogisticRegression(cv=folds, Cs=(0.1, 1.0)).fit(X, y)
    assert ours.scores_.shape == (4, 2)
    assert ours.C_ in (0.1, 1.0)


def test_classes_of_one_text_are_learnt_and_decide_nothing():
    X, y = table()
    rare = [f"rare {i}" for i in range(9)]
    model = TunedLogisticRegression().fit(np.append(X, X[:9] + 9, axis=0), np.append(y, rare))
    assert model.classes_.tolist() == sorted({*y, *rare})
    assert model.C_ in CS
    assert model.scores_.max() > -0.8  # a text of an unknown class costs 36: 1.3 on average


@pytest.mark.parametrize(
    "labels", [["a", "b", "c", "d"], ["a", "a", "a", "b"]], ids=["one each", "one class of one"]
)
def test_with_too_few_texts_to_choose_by_it_says_which_c_it_took(labels):
    with pytest.warns(UserWarning, match=r"two classes of two texts .* using C=0\.1"):
        model = TunedLogisticRegression().fit(np.eye(4), labels)
    assert (model.C_, model.scores_) == (DEFAULT_C, None)
    assert model.classes_.tolist() == sorted(set(labels))


def test_two_texts_of_each_class_are_enough():
    X, y = table(n_rows=40)
    rows = [*np.flatnonzero(y == "no")[:2], *np.flatnonzero(y == "yes")[:2]]
    assert TunedLogisticRegression().fit(X[rows], y[rows]).C_ in CS


def test_class_weights_are_weights_of_rows_in_the_fit_and_in_the_choice():
    X, y = table(3)
    rare = np.flatnonzero((y != "yes") | (np.arange(len(y)) % 5 == 0))
    X, y = X[rare], y[rare]
    weights = {label: len(y) / 3 / (y == label).sum() for label in ENGLISH.values()}
    balanced = TunedLogisticRegression(class_weight="balanced").fit(X, y)
    same = TunedLogisticRegression().fit(X, y, sample_weight=[weights[label] for label in y])
    assert balanced.C_ == same.C_
    assert np.abs(balanced.scores_ - same.scores_).max() < 1e-9
    assert np.abs(balanced.predict_proba(X) - same.predict_proba(X)).max() < 1e-3
    plain = TunedLogisticRegression().fit(X, y)
    assert (balanced.predict(X) == "yes").sum() > (plain.predict(X) == "yes").sum()


def test_rows_without_weight_count_for_nothing():
    X, y = table()
    weights = (np.arange(len(y)) % 4 > 0).astype(float)
    wrong = np.where(weights > 0, y, np.where(y == "no", "yes", "no"))
    right = TunedLogisticRegression(cv=folds_of(y)).fit(X, y, sample_weight=weights)
    other = TunedLogisticRegression(cv=folds_of(y)).fit(X, wrong, sample_weight=weights)
    assert right.C_ == other.C_
    assert np.abs(right.scores_ - other.scores_).max() < 1e-9


def folds_of(y):
    return list(StratifiedKFold(3, shuffle=True, random_state=1).split(y, y))


def test_routed_weights_reach_it():
    X, y = table()
    weights = np.random.default_rng(0).random(len(y))
    expected = TunedLogisticRegression().fit(X, y, sample_weight=weights)
    with config_context(enable_metadata_routing=True):
        head = TunedLogisticRegression().set_fit_request(sample_weight=True)
        routed = make_pipeline(head).fit(X, y, sample_weight=weights)
    assert np.array_equal(routed.predict_proba(X), expected.predict_proba(X))


def test_columns_of_a_frame_keep_their_names():
    X, y = table()
    frame = pd.DataFrame(X, columns=[f"c{i}" for i in range(X.shape[1])])
    model = TunedLogisticRegression().fit(frame, y)
    assert model.feature_names_in_.tolist() == list(frame.columns)
    assert model.predict(frame).tolist() == TunedLogisticRegression().fit(X, y).predict(X).tolist()


# ---- in a pipeline


@pytest.fixture(scope="module")
def model(tiny_bert):
    return make_sentiment_pipeline(C="cv", model=tiny_bert).fit(TEXTS, LABELS)


def test_the_pipeline_has_it_as_its_last_step(model):
    assert type(model[-1]) is TunedLogisticRegression
    assert [name for name, _ in model.steps] == ["bertvectorizer", "tunedlogisticregression"]
    assert model[-1].C_ in CS
    assert "C_" not in vars(clone(model)[-1])


@pytest.mark.parametrize("C", ["CV", "auto", ""])
def test_another_word_is_refused_at_once(C):
    with pytest.raises(ValueError, match=rf"C='{C}'; allowed are numbers above 0, and 'cv'"):
        make_sentiment_pipeline(C=C)


@pytest.mark.parametrize("ending", ["joblib", "skops"])
def test_it_is_saved_and_opened_with_its_choice(ending, model, tmp_path):
    path = save_pipeline(model, tmp_path / f"m.{ending}", format=ending)
    opened = load_pipeline(path)
    assert opened[-1].C_ == model[-1].C_
    assert np.array_equal(opened[-1].scores_, model[-1].scores_)
    assert np.abs(opened.predict_proba(TEXTS) - model.predict_proba(TEXTS)).max() < 1e-6


def test_it_is_explained_exactly(model):
    check_sums(model, TEXTS[:3], method="exact")


def test_a_table_is_scored_by_it(model, tmp_path):
    path = save_pipeline(model, tmp_path / "m.joblib")
    texts = pd.DataFrame({"text": TEXTS})
    texts.to_csv(tmp_path / "in.csv", index=False)
    score_table(path, tmp_path / "in.csv", tmp_path / "out.csv", text="text", executor="serial")
    scored = pd.read_csv(tmp_path / "out.csv")
    assert scored.iloc[:, 1].tolist() == model.predict(TEXTS).tolist()


@pytest.mark.parametrize("method", ["temperature", "isotonic", "sigmoid"])
@pytest.mark.parametrize("ending", ["joblib", "skops"])
def test_a_calibrated_head_is_saved_and_opened(ending, method, tiny_bert, tmp_path):
    vectorizer, head = make_sentiment_pipeline(model=tiny_bert)
    calibrated = make_pipeline(vectorizer, CalibratedClassifierCV(head, method=method, cv=3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        calibrated.fit(TEXTS, LABELS)
    opened = load_pipeline(save_pipeline(calibrated, tmp_path / f"m.{ending}", format=ending))
    assert np.abs(opened.predict_proba(TEXTS) - calibrated.predict_proba(TEXTS)).max() < 1e-6


# ---- one weight for each of several classifiers


def decisions_of(n_classes, n_rows=300, seed=0):
    """Give the decisions of a good classifier and of a worse one, and the labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n_rows)
    right = np.eye(n_classes)[y]
    return np.hstack([right * s + rng.normal(size=right.shape) for s in (2.5, 0.7)]), y


def test_the_weights_are_those_of_the_least_regularised_log_loss():
    X, y = decisions_of(4)
    model = TiedLogisticRegression(C=0.5).fit(X, y)

    def objective(weights):
        blended = X[:, :4] * weights[0] + X[:, 4:] * weights[1]
        probability = np.exp(log_softmax(blended, axis=1))
        return len(y) * log_loss(y, probability) + weights @ weights / (2 * 0.5)

    found = minimize(objective, [1, 1], method="Nelder-Mead", options={"xatol": 1e-6})
    assert np.abs(model.weights_ - found.x).max() < 1e-3
    blocks = [model.coef_[:, :4], model.coef_[:, 4:]]
    for block, weight in zip(blocks, model.weights_, strict=True):
        assert np.array_equal(block, weight * np.eye(4))
    assert np.abs(model.predict_proba(X) - softmax(model.decision_function(X), axis=1)).max() < 1e-9


def test_of_two_classes_it_is_a_logistic_regression():
    X, y = decisions_of(2)
    two = X[:, [1, 3]]
    model = TiedLogisticRegression(C=2.0, class_weight="balanced").fit(two, y)
    plain = LogisticRegression(C=2.0, class_weight="balanced", tol=1e-6).fit(two, y)
    assert np.abs(model.coef_ - plain.coef_).max() < 1e-3


def test_it_beats_a_weight_for_every_pair_on_texts_it_has_not_seen():
    X, y = decisions_of(20, 400)
    X_test, y_test = decisions_of(20, 2000, seed=1)
    tied = TiedLogisticRegression().fit(X, y).score(X_test, y_test)
    assert tied > LogisticRegression(max_iter=2000).fit(X, y).score(X_test, y_test) + 0.02


def test_weights_of_rows_and_classes_count_as_repeated_rows():
    X, y = decisions_of(3, 90)
    weights = np.random.default_rng(0).integers(1, 4, size=len(y))
    weighted = TiedLogisticRegression().fit(X, y, weights)
    repeated = TiedLogisticRegression().fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    assert np.abs(weighted.weights_ - repeated.weights_).max() < 1e-4
    by_class = TiedLogisticRegression(class_weight={0: 3, 1: 1, 2: 1}).fit(X, y)
    by_row = TiedLogisticRegression().fit(X, y, np.where(y == 0, 3, 1))
    assert np.abs(by_class.weights_ - by_row.weights_).max() < 1e-6
