"""Every classifier, transformer, meta-estimator and search of scikit-learn, saved and opened."""

import importlib
import inspect
import pickle
import warnings

import numpy as np
import pytest
import sklearn.experimental.enable_halving_search_cv
import sklearn.experimental.enable_iterative_imputer  # noqa: F401
from scipy.spatial.distance import canberra
from scipy.stats import loguniform, randint
from sklearn.base import is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.feature_selection import SelectKBest, mutual_info_classif
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessClassifier, kernels
from sklearn.linear_model import (
    LogisticRegression,
    LogisticRegressionCV,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.metrics import fbeta_score, make_scorer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    RepeatedStratifiedKFold,
    StratifiedShuffleSplit,
    TunedThresholdClassifierCV,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, SplineTransformer
from sklearn.semi_supervised import LabelPropagation
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

from pipeline import (
    ArtifactError,
    BertVectorizer,
    evaluate,
    load_pipeline,
    save_pipeline,
    verify_pipeline,
)
from pipeline.exceptions import ArtifactWarning
from pipeline.saved.opening import PROBES

GOOD, BAD = ("a lovely film", "warm and quiet", "beautiful days"), ("cold soup", "dull", "a waste")
X = [f"{text} {word}" for word in ("today", "again", "here", "once") for text in (*GOOD, *BAD)]
Y = np.array(["good", "good", "good", "bad", "bad", "bad"] * 4, dtype=object)
# they are fitted on what is no table of numbers, or need numbers for y
NO_VECTORS = set(
    "CountVectorizer TfidfVectorizer DictVectorizer FeatureHasher HashingVectorizer PatchExtractor "
    "LabelBinarizer LabelEncoder MultiLabelBinarizer IsotonicRegression KernelCenterer "
    "PLSSVD SparseCoder".split()
)
SMALL = {"n_estimators": 2, "n_components": 2, "max_iter": 50, "cv": 2, "n_jobs": None}
SPECIAL = {
    "CategoricalNB": {"min_categories": 3},
    "ColumnTransformer": {"transformers": [("a", MinMaxScaler(), [0, 2])]},
    "FeatureUnion": {"transformer_list": [("a", MinMaxScaler()), ("b", "passthrough")]},
    "FrozenEstimator": {"estimator": LogisticRegression().fit(np.eye(8), Y[:8])},
    "GenericUnivariateSelect": {"param": 50},
    "GridSearchCV": {"param_grid": {"C": [1, 2]}},
    "HalvingGridSearchCV": {"param_grid": {"C": [1, 2]}},
    "HalvingRandomSearchCV": {"param_distributions": {"C": loguniform(1, 9)}, "n_candidates": 2},
    "LinearDiscriminantAnalysis": {"n_components": 1},
    "MissingIndicator": {"features": "all"},
    "OneHotEncoder": {"handle_unknown": "ignore"},
    "OrdinalEncoder": {"handle_unknown": "use_encoded_value", "unknown_value": -1},
    "QuadraticDiscriminantAnalysis": {"reg_param": 0.5},
    "RadiusNeighborsClassifier": {"radius": 100.0},
    "RandomizedSearchCV": {"param_distributions": {"C": loguniform(1, 9)}, "n_iter": 2},
    "SelectFdr": {"alpha": 0.9},
    "SelectFwe": {"alpha": 0.9},
    "SelfTrainingClassifier": {"estimator": GaussianNB()},
    "SequentialFeatureSelector": {"n_features_to_select": 1, "estimator": RidgeClassifier()},
    "TunedThresholdClassifierCV": {"estimator": GaussianNB()},
}
ONE_TEXT_FAILS = {"SparsePCA", "MiniBatchSparsePCA"}  # scikit-learn makes a vector of its row
TWO_LABELS = {"ClassifierChain", "MultiOutputClassifier"}


def made(name, kind):
    """Make an estimator that is fitted in no time."""
    accepted = inspect.signature(kind).parameters
    values = {key: value for key, value in SMALL.items() if key in accepted}
    if "estimators" in accepted:
        values["estimators"] = [("a", LogisticRegression()), ("b", GaussianNB())]
    if "estimator" in accepted and accepted["estimator"].default is inspect.Parameter.empty:
        values["estimator"] = LogisticRegression()
    return kind(**{**values, **SPECIAL.get(name, {})})


def steps_of_scikit_learn():
    """Yield every classifier alone, and every transformer with a classifier behind it."""
    for name, kind in all_estimators():
        if name in NO_VECTORS or kind is Pipeline:
            continue
        if hasattr(kind, "predict") and name in dict(all_estimators("classifier")) | SPECIAL:
            yield pytest.param([name, kind], id=name)
        elif hasattr(kind, "transform") and name not in dict(all_estimators("regressor")):
            yield pytest.param([name, kind], id=name)


@pytest.fixture(scope="module")
def vectorizer(tiny_bert):
    return BertVectorizer(tiny_bert)


@pytest.fixture
def saved(tmp_path):
    """Save a fitted estimator in both formats, and give what is opened."""

    def there_and_back(model, **options):
        for format in ("joblib", "skops"):
            if format == "skops" and "Birch" in repr(model):
                continue  # skops refuses to write it
            path = save_pipeline(model, tmp_path / f"m.{format}", format=format, **options)
            yield load_pipeline(path)

    return there_and_back


def same(loaded, model):
    method = "predict" if hasattr(model, "predict") else "transform"
    ours, theirs = (np.asarray(getattr(m, method)(X)) for m in (loaded, model))
    return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("step", [*steps_of_scikit_learn()])
def test_what_scikit_learn_has_is_saved_and_opened(step, vectorizer, saved):
    name, _ = step
    model = make_pipeline(vectorizer, PCA(8), MinMaxScaler(clip=True), made(*step))
    if not is_classifier(model):
        model.steps.append(("last", DecisionTreeClassifier(max_depth=2)))
    y = np.column_stack([Y == "good", np.arange(24) % 2]) if name in TWO_LABELS else Y
    model.fit(X, y)
    if name not in TWO_LABELS | ONE_TEXT_FAILS and hasattr(model, "predict_proba"):
        scores = evaluate(model, X, Y, n_bootstrap=0)
        assert scores["accuracy"] == np.mean(model.predict(X) == Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ArtifactWarning)
        assert all(same(loaded, model) for loaded in saved(model))


def searches():
    logistic = LogisticRegression()
    yield GridSearchCV(logistic, {"C": [1, 2], "fit_intercept": [True, False]}, scoring="f1_macro")
    yield GridSearchCV(
        make_pipeline(SelectKBest(mutual_info_classif, k=3), KNeighborsClassifier()),
        {"kneighborsclassifier__metric": ["cosine", "manhattan"]},
        scoring=["accuracy", "neg_log_loss"],
        refit="accuracy",
        cv=StratifiedShuffleSplit(2),
    )
    yield RandomizedSearchCV(
        RandomForestClassifier(2),
        {"max_depth": randint(1, 4), "min_samples_leaf": [1, 2]},
        n_iter=2,
        scoring=make_scorer(fbeta_score, beta=2, pos_label="good"),
        cv=2,
    )
    yield RandomizedSearchCV(
        logistic, [{"C": loguniform(0.1, 9)}], n_iter=2, random_state=np.random.RandomState(0), cv=2
    )
    yield HalvingGridSearchCV(logistic, {"C": [1, 2]}, cv=2)
    yield HalvingRandomSearchCV(
        logistic, {"C": loguniform(1, 2)}, cv=2, n_candidates=2, min_resources=12
    )
    yield LogisticRegressionCV(
        Cs=2, cv=RepeatedStratifiedKFold(n_splits=2), scoring="roc_auc", use_legacy_attributes=False
    )
    yield TunedThresholdClassifierCV(GaussianNB(), scoring="balanced_accuracy", cv=2)
    yield CalibratedClassifierCV(
        GaussianNB(), cv=RepeatedStratifiedKFold(n_splits=2, n_repeats=2), method="isotonic"
    )
    yield GaussianProcessClassifier(kernels.RBF() * 2.0 + kernels.WhiteKernel())
    yield make_pipeline(SplineTransformer(n_knots=3), logistic)
    yield make_pipeline(FunctionTransformer(np.abs), logistic)
    yield SGDClassifier(loss="log_loss")
    yield MLPClassifier((4,), solver="sgd", max_iter=9, random_state=np.random.RandomState(0))
    yield KNeighborsClassifier(3, metric="manhattan", algorithm="kd_tree")
    yield KNeighborsClassifier(3, metric=canberra, algorithm="ball_tree")
    yield make_pipeline(
        MinMaxScaler().set_output(transform="pandas"),
        make_column_transformer((PCA(1), make_column_selector("^x[0-9]$"))),
        logistic,
    )


@pytest.mark.filterwarnings("ignore:l1_ratios parameter is only used::sklearn")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("last", [*searches()], ids=lambda last: type(last).__name__)
def test_searches_with_their_scorers_splits_and_distributions_are_saved(last, vectorizer, saved):
    model = make_pipeline(vectorizer, PCA(8), last).fit(X, Y)
    for loaded in saved(model):
        assert same(loaded, model)
        if hasattr(last, "param_distributions"):  # what was opened can be fitted again
            assert loaded.fit(X, Y)[-1].best_score_ >= 0


def around(vectorizer):
    """Yield what is no Pipeline: estimators around pipelines."""
    inner = make_pipeline(vectorizer, LogisticRegression())
    yield GridSearchCV(inner, {"logisticregression__C": [1, 2]}, cv=2)
    yield RandomizedSearchCV(inner, {"logisticregression__C": loguniform(1, 2)}, n_iter=1, cv=2)
    yield VotingClassifier([("a", inner), ("b", make_pipeline(vectorizer, GaussianNB()))])
    yield CalibratedClassifierCV(inner, cv=2)
    yield CalibratedClassifierCV(FrozenEstimator(inner.fit(X, Y)))
    yield vectorizer


def test_estimators_around_pipelines_and_a_vectorizer_alone_are_saved(vectorizer, saved, tmp_path):
    for model in around(vectorizer):
        model.fit(X, Y)
        for loaded in saved(model):
            assert same(loaded, model)
            assert [type(step) for _, step in loaded.steps] == [type(model)]
        assert verify_pipeline(tmp_path / "m.joblib")["probes"]["n"] == 3


def test_a_classifier_whose_probabilities_are_nan_is_saved(vectorizer, saved):
    with np.errstate(all="ignore"):
        model = make_pipeline(vectorizer, LabelPropagation(gamma=1e9)).fit(X, Y)
        assert np.isnan(model.predict_proba(PROBES)).all()
        for loaded in saved(model):
            assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X), equal_nan=True)


def test_what_answers_otherwise_each_time_is_saved_without_a_self_test(vectorizer, saved):
    model = make_pipeline(
        vectorizer, DummyClassifier(strategy="stratified", random_state=np.random.RandomState(0))
    ).fit(X, Y)
    with pytest.warns(ArtifactWarning, match="answers differently each time"):
        assert [loaded.classes_.tolist() for loaded in saved(model)] == [["bad", "good"]] * 2


@pytest.mark.parametrize("labels", [np.array(["2020-01-01", "2021-05-05"], "M8[D]")])
def test_labels_that_are_dates_are_saved(labels, vectorizer, saved):
    model = make_pipeline(vectorizer, LogisticRegression()).fit(X, labels[np.arange(24) % 2])
    assert all(same(loaded, model) for loaded in saved(model))


@pytest.mark.parametrize("format", ["joblib", "skops"])
def test_a_lambda_is_refused_when_it_is_saved(format, vectorizer, tmp_path):
    model = make_pipeline(FunctionTransformer(lambda texts: texts), vectorizer).fit(X)
    with pytest.raises((ValueError, pickle.PicklingError), match="lambda"):
        save_pipeline(model, tmp_path / "m", format=format)
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_cannot_predict_is_saved_without_a_self_test(vectorizer, tmp_path):
    last = GridSearchCV(LogisticRegression(), {"C": [1, 2]}, cv=2, refit=False)
    model = make_pipeline(vectorizer, last).fit(X, Y)
    with pytest.warns(ArtifactWarning, match="it has none of predict_proba, .*has no self-test"):
        path = save_pipeline(model, tmp_path / "m.joblib")
    assert load_pipeline(path)[-1].best_params_ == last.best_params_


# ---- steps of other packages


def with_group(package, module, name, **parameters):
    """Return a classifier of another package; the test is skipped where it is not installed."""
    pytest.importorskip(package, reason=f"needs {package}")
    return getattr(importlib.import_module(module), name)(**parameters)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("format", ["joblib", "skops"])
@pytest.mark.parametrize(
    ("group", "module", "name", "parameters"),
    [
        ("lightgbm", "lightgbm", "LGBMClassifier", {"n_estimators": 2, "verbose": -1}),
        ("xgboost", "xgboost", "XGBClassifier", {"n_estimators": 2}),
        ("catboost", "catboost", "CatBoostClassifier", {"iterations": 2, "verbose": 0,
                                                        "allow_writing_files": False}),
        ("imblearn", "imblearn.ensemble", "BalancedRandomForestClassifier", {"n_estimators": 2}),
        ("imblearn", "imblearn.ensemble", "EasyEnsembleClassifier", {"n_estimators": 2}),
    ],
)  # fmt: skip
def test_what_other_packages_save_is_opened_by_the_name_of_their_group(
    group, module, name, parameters, format, vectorizer, tmp_path
):
    last = with_group(group, module, name, **parameters)
    model = make_pipeline(vectorizer, last).fit(X, (Y == "good").astype(int))
    with pytest.warns(ArtifactWarning, match=rf"will refuse .*{name}.*trusted='{group}'\)"):
        path = save_pipeline(model, tmp_path / f"m.{format}", format=format)
    with pytest.raises(ArtifactError, match=rf"names .*{name}.*such as trusted='{group}'"):
        load_pipeline(path)
    assert same(load_pipeline(path, trusted=group), model)
    assert verify_pipeline(path, trusted=[group])["probes"]["difference"] == 0


@pytest.mark.parametrize("format", ["joblib", "skops"])
def test_a_sampler_in_the_pipeline_is_saved(format, vectorizer, tmp_path):
    sampler = with_group("imblearn", "imblearn.over_sampling", "SMOTE", k_neighbors=2)
    with_sampler = importlib.import_module("imblearn.pipeline").make_pipeline
    model = with_sampler(vectorizer, sampler, LogisticRegression()).fit(X[2:], Y[2:])
    with pytest.warns(ArtifactWarning, match=r"names imblearn.*trusted='imblearn'\)"):
        path = save_pipeline(model, tmp_path / f"m.{format}", format=format)
    assert same(load_pipeline(path, trusted="imblearn"), model)
