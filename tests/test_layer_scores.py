"""The layer study: rows equal a slow scikit-learn loop, and choosing leaks nothing."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from pipeline import BertVectorizer, clear_cache, layer_study
from pipeline.evaluation.layer_study import COMBINATIONS, POOLINGS
from tests.conftest import build_model

WORDS = {
    "positive": ("lovely", "quiet", "good", "beautiful"),
    "negative": ("dull", "cold", "bad", "boring"),
}
LABELS = ["positive" if i % 5 < 2 else "negative" for i in range(60)]
REVIEWS = [
    f"A {WORDS['negative' if (label == 'positive') == (i % 7 == 0) else 'positive'][i % 4]} film, "
    f"number {i}, "
    f"{'but' if i % 3 else 'and'} the soup was {'cold' if i % 4 else 'lovely'}."
    for i, label in enumerate(LABELS)
]
CS = (0.001, 0.1, 10.0)
CLASSIFIER = FunctionTransformer(np.float64), LogisticRegression(C=0.1, tol=1e-7, max_iter=5000)
SEARCHED = LogisticRegression(solver="newton-cholesky", tol=1e-9, max_iter=500)


@pytest.fixture(scope="module")
def four_layers(tmp_path_factory):
    """Give the folder of a random 4-layer BERT, deep enough for every combination."""
    return str(build_model(tmp_path_factory.mktemp("models") / "four", "bert", n_layers=4))


def rows_of(study):
    return [(row.kind, row.features, row.pooling) for row in study.itertuples()]


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


# ---- the rows


def test_there_is_a_row_for_every_layer_and_pooling_and_for_every_combination(four_layers):
    study = layer_study(REVIEWS, LABELS, vectorizer=BertVectorizer(four_layers), cv=2, Cs=CS)
    layers = [("layer", f"layer {i}", pooling) for pooling in POOLINGS for i in range(5)]
    assert rows_of(study) == [*layers, *(("combination", name, "mean") for name in COMBINATIONS)]
    wide = {"concat of last four": 128, "concat of all": 160}
    assert [wide.get(name, 32) for name in study["features"]] == study["dimension"].tolist()
    assert study["layers"].tolist()[-6:] == [(1, 2, 3, 4)] * 3 + [(0, 1, 2, 3, 4)] * 3
    assert study.attrs["left_out"] == []
    assert (study.attrs["n_layers"], study.attrs["n_texts"], study.attrs["n_folds"]) == (4, 60, 2)
    assert study.attrs["majority"] == 0.6


@pytest.mark.parametrize("unit_length", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_each_score_is_that_of_a_pipeline_searched_within_each_fold(unit_length, four_layers):
    y = np.array(LABELS)
    vectorizer = BertVectorizer(four_layers, normalize=unit_length)
    study = layer_study(REVIEWS, y, vectorizer=vectorizer, cv=4, Cs=CS, random_state=3)
    folds = StratifiedKFold(4, shuffle=True, random_state=3)
    for row in study.itertuples():
        features = clone(vectorizer).set_params(
            layers=row.layers, pooling=row.pooling, combine=row.combine
        )
        X = np.array(REVIEWS, dtype=object)
        if row.combine != "learned":  # what learns nothing may be computed before
            X, features = features.fit_transform(REVIEWS), "passthrough"
        search = GridSearchCV(
            make_pipeline(features, FunctionTransformer(np.float64), SEARCHED),
            {"logisticregression__C": CS},
            cv=StratifiedKFold(3, shuffle=True, random_state=3),
        )
        expected = cross_val_score(search, X, y, cv=folds)
        assert row.fold_scores == pytest.approx(expected, abs=1e-9), row
        assert (row.score, row.score_sd) == pytest.approx((expected.mean(), expected.std(ddof=1)))
        assert sorted(row.fold_C)[1] == row.C


def test_nested_is_a_search_over_rows_and_C_within_each_fold(four_layers):
    y = np.array(LABELS)
    names = ("second-to-last", "sum of last four", "concat of all")
    options = {"cv": 3, "Cs": CS, "poolings": ("mean",), "combinations": names, "nested": True}
    study = layer_study(REVIEWS, y, vectorizer=BertVectorizer(four_layers), **options)
    choices = [
        {
            "bertvectorizer__layers": [row.layers],
            "bertvectorizer__combine": [row.combine],
            "logisticregression__C": CS,
        }
        for row in study.itertuples()
    ]
    search = GridSearchCV(
        make_pipeline(BertVectorizer(four_layers), FunctionTransformer(np.float64), SEARCHED),
        choices,
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    )
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    expected = cross_val_score(search, np.array(REVIEWS, dtype=object), y, cv=folds)
    nested = study.attrs["nested"]
    assert nested["fold_scores"] == pytest.approx(expected)
    assert nested["score"] == pytest.approx(expected.mean())
    assert nested["best"] == study["score"].max()
    assert nested["optimism"] == pytest.approx(study["score"].max() - expected.mean())
    assert len(nested["chosen"]) == 3


@pytest.mark.parametrize(
    "derive",
    [
        pd.DataFrame.copy,
        copy.deepcopy,
        lambda study: pickle.loads(pickle.dumps(study)),
        lambda study: study[study["score"] > 0],
    ],
)
def test_attributes_survive_copies_and_pickles(derive, tiny_bert):
    options = {"cv": 2, "Cs": CS, "poolings": ("mean",), "nested": True}
    study = layer_study(REVIEWS, LABELS, vectorizer=BertVectorizer(tiny_bert), **options)
    derived = derive(study)
    assert isinstance(derived, pd.DataFrame)
    assert_same(derived, study)
    assert derived.nested == derived.attrs["nested"] == study.nested
    assert (derived.model, derived.n_texts) == (tiny_bert, 60)
    with pytest.raises(AttributeError, match="unknown"):
        derived.unknown  # noqa: B018


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")
def test_three_classes_are_told_apart(tiny_bert):
    y = [("bad", "mixed", "good")[i % 3] for i in range(60)]
    texts = [f"A {('dull', 'cold', 'lovely')[i % 3]} film, number {i % 5}." for i in range(60)]
    study = layer_study(texts, y, vectorizer=BertVectorizer(tiny_bert), cv=3)
    assert study["score"].max() == 1.0
    assert study.attrs["majority"] == pytest.approx(1 / 3)


def test_another_scoring_knows_classes_by_position(tiny_bert):
    y = np.array(LABELS)
    vectorizer = BertVectorizer(tiny_bert, layers=-1)
    study = layer_study(
        REVIEWS, y, vectorizer=vectorizer, cv=3, Cs=(0.1,), poolings=("mean",), scoring="f1"
    )
    model = make_pipeline(vectorizer, *CLASSIFIER)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    expected = cross_val_score(
        model, np.array(REVIEWS, dtype=object), y == "positive", cv=folds, scoring="f1"
    )
    assert study.set_index("features").loc["layer 3", "fold_scores"] == pytest.approx(expected)
    assert (study.attrs["scoring"], study.attrs["majority"]) == ("f1", None)


# ---- one forward pass


@pytest.mark.parametrize("cache", ["memory", None])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")
def test_each_distinct_text_is_encoded_once(nested, cache, tiny_bert, encoded):
    texts = [*REVIEWS, *REVIEWS[:7]]
    vectorizer = BertVectorizer(tiny_bert, cache=cache)
    layer_study(texts, LABELS + LABELS[:7], vectorizer=vectorizer, cv=3, Cs=CS, nested=nested)
    assert sum(encoded) == len(set(texts))


def test_the_vectorizer_given_is_neither_fitted_nor_changed(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert, pooling="cls", layers=1).set_output(transform="pandas")
    before = repr(vectorizer)
    layer_study(REVIEWS, LABELS, vectorizer=vectorizer, cv=2, Cs=CS)
    assert repr(vectorizer) == before
    assert not hasattr(vectorizer, "layers_")


# ---- no leaks


@pytest.mark.thorough
def test_on_noise_the_best_row_looks_good_and_the_nested_score_does_not(four_layers):
    words = (
        "lovely quiet film dull cold soup waiter terrace beautiful Paris spring drizzles minute "
        "days life hours love care"
    )
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words.split(), 8)) for _ in range(60)]
    best, honest = [], []
    options = {
        "vectorizer": BertVectorizer(four_layers),
        "cv": 5,
        "poolings": ("cls", "mean"),
        "combinations": (),
    }
    for seed in range(16):
        y = np.random.default_rng(seed).permutation([0, 1] * 30)
        study = layer_study(texts, y, Cs=(0.1,), nested=True, **options)
        best.append(study["score"].max())
        honest.append(study.attrs["nested"]["score"])
    assert np.mean(best) > 0.58
    assert abs(np.mean(honest) - 0.5) < 0.07  # four standard errors of sixteen labellings
    assert np.mean(best) - np.mean(honest) > 0.05


# ---- what may come in


@pytest.mark.parametrize(
    "container",
    [
        tuple,
        iter,
        np.array,
        lambda v: pd.Series(v, index=range(len(v), 0, -1)),
        lambda v: pd.DataFrame({"text": v}),
    ],
)
def test_texts_and_labels_may_come_in_any_container(container, tiny_bert):
    options = {"vectorizer": BertVectorizer(tiny_bert), "cv": 2, "Cs": CS, "poolings": ("mean",)}
    options["combinations"] = ("last", "concat of all")
    expected = layer_study(REVIEWS, LABELS, **options)
    y = pd.Series(LABELS, index=range(60, 0, -1))
    assert_same(layer_study(container(REVIEWS), y, **options), expected)


def test_the_numbers_depend_neither_on_the_threads_nor_on_the_cache(four_layers):
    options = {"vectorizer": BertVectorizer(four_layers), "cv": 3, "poolings": ("mean",)}
    first = layer_study(REVIEWS, LABELS, Cs=CS, **options)
    assert_same(layer_study(REVIEWS, LABELS, Cs=CS, n_jobs=2, **options), first)
    clear_cache()
    assert_same(layer_study(REVIEWS, LABELS, Cs=tuple(reversed(CS)), **options), first)
    other = layer_study(REVIEWS, LABELS, Cs=CS, random_state=1, **options)
    assert other["fold_scores"].tolist() != first["fold_scores"].tolist()


@pytest.mark.parametrize("cv", [KFold(3), list(KFold(3).split(REVIEWS))])
def test_folds_may_be_given(cv, tiny_bert):
    study = layer_study(
        REVIEWS, LABELS, vectorizer=BertVectorizer(tiny_bert), cv=cv, Cs=(0.1,), poolings=("mean",)
    )
    model = make_pipeline(BertVectorizer(tiny_bert), *CLASSIFIER)
    expected = cross_val_score(model, np.array(REVIEWS, dtype=object), LABELS, cv=cv)
    assert study.set_index("features").loc["last", "fold_scores"] == pytest.approx(expected)


def test_a_shallow_model_leaves_out_what_needs_four_layers(tiny_bert, encoded):
    vectorizer = BertVectorizer(tiny_bert)
    study = layer_study(REVIEWS, LABELS, vectorizer=vectorizer, cv=2, Cs=CS)
    left_out = ["sum of last four", "mean of last four", "concat of last four"]
    assert study.attrs["left_out"] == left_out
    assert len(study) == 4 * 3 + 6
    encoded.clear()
    clear_cache()
    with pytest.raises(
        ValueError, match=r"'sum of last four',.* need four layers, and this model has 3"
    ):
        layer_study(REVIEWS, LABELS, vectorizer=vectorizer, combinations=("last", left_out[0]))
    assert not encoded


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"poolings": ("cls", "pooler")},
            ValueError,
            r"poolings=\('cls', 'pooler'\); allowed is a tuple of different ones of",
        ),
        ({"poolings": "mean"}, ValueError, "poolings='mean'; allowed is a tuple"),
        (
            {"combinations": ("first",)},
            ValueError,
            r"combinations=\('first',\); allowed .*'embeddings'",
        ),
        (
            {"combination_pooling": "pooler"},
            ValueError,
            "combination_pooling='pooler'; allowed is one of",
        ),
        ({"Cs": ()}, ValueError, r"Cs=\(\); allowed are one or more finite numbers above 0"),
        (
            {"vectorizer": CountVectorizer()},
            TypeError,
            "vectorizer is a CountVectorizer; allowed is a BertVectorizer",
        ),
        ({"scoring": "acuracy"}, ValueError, "'acuracy'"),
        ({"cv": 1}, ValueError, "n_splits=1"),
        (
            {"cv": [([0, 1, 2], [2, 3])]},
            ValueError,
            "Fold 0 of cv has 2 test rows, or tests some that it trains on",
        ),
        ({"y": LABELS[1:]}, ValueError, "60 texts and 59 labels"),
        (
            {"y": [*["rare"] * 3, *LABELS[3:]], "cv": 3},
            ValueError,
            "Class 'rare' has 2 texts in the training part of fold 0",
        ),
        ({"X": [*REVIEWS[:-1], None]}, ValueError, "row 59 of X is"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_encoded(
    changes, error, message, tiny_bert, encoded
):
    arguments = {"X": REVIEWS, "y": LABELS, "vectorizer": BertVectorizer(tiny_bert), **changes}
    with pytest.raises(error, match=message):
        layer_study(arguments.pop("X"), arguments.pop("y"), **arguments)
    assert not encoded
