"""The allow-list, name by name: what a new release adds, what estimators hold, groups."""

import copy
import importlib
import inspect
import pickle
import pickletools
import re

import numpy as np
import pytest
import scipy.interpolate
import scipy.sparse
import scipy.special
import scipy.stats
from sklearn._loss.loss import AbsoluteError, HalfPoissonLoss, HalfTweedieLoss, PinballLoss
from sklearn.compose import make_column_selector
from sklearn.feature_selection import f_regression, mutual_info_classif
from sklearn.gaussian_process import kernels
from sklearn.metrics import (
    DistanceMetric,
    euclidean_distances,
    fbeta_score,
    get_scorer,
    get_scorer_names,
    make_scorer,
)
from sklearn.metrics._dist_metrics import DistanceMetric64
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import (
    GroupKFold,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedKFold,
    StratifiedGroupKFold,
    TimeSeriesSplit,
    check_cv,
)
from sklearn.preprocessing import (
    FunctionTransformer,
    normalize,
    scale,
)
from sklearn.utils import all_estimators
from skops.io import _trusted_types

from pipeline.saved.allow_list import (
    CALLED,
    DISTRIBUTIONS,
    FUNCTIONS,
    MADE,
    NAMED,
    is_allowed,
    not_allowed,
    trusted_names,
)
from pipeline.saved.joblib_file import read_contents, unpickle_allowed, write_joblib
from pipeline.saved.skops_file import read_skops, skops_refused, write_skops


@pytest.fixture
def file(tmp_path):
    return tmp_path / "m.joblib"


# ---- what a new release adds

# Public, and left out: they call what they are given in threads or processes, or look up by name.
LEFT_OUT = set(
    "check_scoring get_scorer get_scorer_names make_scorer pairwise_distances "
    "pairwise_distances_argmin pairwise_distances_argmin_min pairwise_distances_chunked "
    "pairwise_kernels distance_metrics kernel_metrics check_pairwise_arrays check_paired_arrays "
    "paired_distances DistanceMetric DistanceMetric32 DistanceMetric64 "
    "Regression Classification Hyperparameter Kernel KernelOperator levy_stable_gen vonmises_gen "
    "void record".split()
)


HOLDING = (np.generic, np.random.BitGenerator, scipy.sparse.sparray, scipy.sparse.spmatrix)


def public(*modules):
    for module in map(importlib.import_module, modules):
        names = getattr(module, "__all__", vars(module))
        yield from (getattr(module, name) for name in names if not name.startswith("_"))


FUNCTIONS_OF = (
    "sklearn.metrics",
    "sklearn.metrics.pairwise",
    "sklearn.preprocessing",
    "sklearn.feature_selection",
)
CLASSES_OF = (
    "sklearn.gaussian_process.kernels",
    "sklearn.model_selection._split",
    "sklearn.metrics._dist_metrics",
    "sklearn._loss.link",
    "sklearn._loss.loss",
    "sklearn._loss._loss",
    "sklearn.linear_model._sgd_fast",
)


def added_by_scikit_learn():
    """Yield the public names of the kinds that are on the list."""
    yield from (kind for _, kind in all_estimators())
    for value in public(*FUNCTIONS_OF):
        if inspect.isfunction(value) and value.__module__.startswith(FUNCTIONS_OF):
            yield value
    for value in public(*CLASSES_OF):
        if isinstance(value, type) and value.__module__ in CLASSES_OF:
            if not value.__name__.startswith(("Base", "CyLoss")) and "Mixin" not in str(value):
                yield value


def added_by_numpy_and_scipy():
    """Yield the public names of the kinds that are on the list."""
    for value in public("numpy", "scipy.special", "numpy.random", "scipy.sparse", "scipy.stats"):
        if isinstance(value, scipy.stats.rv_continuous | scipy.stats.rv_discrete):
            yield type(value)
        elif isinstance(value, np.ufunc) or (
            isinstance(value, type) and issubclass(value, HOLDING) and value not in HOLDING
        ):
            yield value


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pickle looks into numpy.core
def test_what_a_new_release_of_the_libraries_adds_is_named_here():
    values = [*added_by_scikit_learn(), *added_by_numpy_and_scipy()]
    assert len(values) > 700
    new = {
        name
        for value in values
        for name in read_globals(value)
        if not is_allowed(name) and name.rpartition(".")[2] not in LEFT_OUT
    }
    assert not new, sorted(new)


def read_globals(value):
    """Return the names by which a pickle knows a class or function."""
    operations = [(code.name, arg) for code, arg, _ in pickletools.genops(pickle.dumps(value, 0))]
    return [arg.replace(" ", ".") for code, arg in operations if code == "GLOBAL"]


def test_every_name_on_the_list_exists():
    missing = []
    for name in FUNCTIONS | CALLED | MADE | NAMED | DISTRIBUTIONS:
        module, _, attribute = name.rpartition(".")
        if not hasattr(importlib.import_module(module), attribute):
            missing.append(name)
    assert missing == []


VALUES = [
    *(
        kernel()
        for kernel in (kernels.RBF, kernels.Matern, kernels.WhiteKernel, kernels.DotProduct)
    ),
    kernels.RBF() * kernels.ConstantKernel(2.0) + kernels.RationalQuadratic(),
    kernels.PairwiseKernel(metric="cosine"),
    *map(get_scorer, get_scorer_names()),
    make_scorer(fbeta_score, beta=2),
    *(kind() for kind in (LeaveOneOut, GroupKFold, StratifiedGroupKFold, TimeSeriesSplit)),
    RepeatedKFold(n_splits=3, random_state=np.random.RandomState(0)),
    PredefinedSplit([0, 1, 0]),
    check_cv([([0], [1]), ([1], [0])]),
    make_column_selector("^a", dtype_include=[np.number, object, float]),
    *(scipy.stats.loguniform(1, 2), scipy.stats.randint(1, 5), scipy.stats.norm(3, scale=2)),
    *(scipy.stats.binom(5, 0.2), scipy.stats.truncnorm(-1, 1), scipy.stats.uniform(0, 2)),
    scipy.interpolate.BSpline(np.arange(8.0), np.ones(4), 3),
    *(np.abs, np.log1p, np.sqrt, np.sign, np.maximum, np.nan_to_num, np.clip, np.float32, np.int8),
    *(scipy.special.expit, scipy.special.logit, scipy.special.xlogy, scipy.special.softmax),
    *(normalize, scale, cosine_similarity, euclidean_distances, mutual_info_classif, f_regression),
    np.ma.masked_array([1.0, 2.0], mask=[False, True]),
    np.ma.masked_array(["a", None], mask=[False, True], dtype=object),
    *(DistanceMetric.get_metric(m) for m in ("canberra", "hamming", "jaccard", "haversine")),
    DistanceMetric.get_metric("mahalanobis", VI=np.eye(2)),
    *(loss() for loss in (HalfPoissonLoss, AbsoluteError, PinballLoss, HalfTweedieLoss)),
    *(np.random.default_rng(0), np.random.Generator(np.random.Philox(1)), bytearray(b"a")),
    *(scipy.sparse.csr_array(np.eye(2)), scipy.sparse.coo_matrix(np.eye(2)), {1, 2}, slice(1, 2)),
]


def described(value):
    """Return what two equal values have in common."""
    if hasattr(value, "rvs"):
        return value.rvs(5, random_state=0).tolist()
    if isinstance(value, np.random.Generator):
        return value.random(3).tolist()
    if hasattr(value, "toarray"):
        return type(value), value.toarray().tolist()
    if isinstance(value, scipy.interpolate.BSpline):
        return value(np.arange(9) / 9).tolist()
    if isinstance(value, DistanceMetric64):
        return type(value), value.pairwise(np.eye(2)).tolist()
    return re.sub("0x[0-9a-fA-F]+", "", repr(value))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_estimators_hold_comes_back_in_both_formats(value, file):
    holder = FunctionTransformer(kw_args={"value": value})
    expected = described(copy.deepcopy(value))
    write_joblib(holder, file)
    assert not_allowed(read_contents(file).names) == []
    assert described(unpickle_allowed(file).kw_args["value"]) == expected
    write_skops(holder, file)
    assert skops_refused(file) == []
    assert described(read_skops(file).kw_args["value"]) == expected
    assert described(value) == expected  # what was saved is as it was


# ---- named groups


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("lightgbm", ["lightgbm.sklearn.LGBMRanker", "lightgbm.basic.Booster"]),
        ("xgboost", ["xgboost.sklearn.XGBRFClassifier", "xgboost.core.Booster"]),
        ("catboost", ["catboost.core.CatBoostClassifier"]),
        ("imblearn", ["imblearn.over_sampling._smote.base.SMOTE", "imblearn.pipeline.Pipeline"]),
    ],
)
def test_a_group_allows_the_estimators_of_its_package_and_no_more(group, names):
    assert not_allowed(names) == names
    assert not_allowed(names, [group]) == []
    outside = [
        f"{group}.callback.run",
        f"{group}.utils.load",
        f"{group}.tests.a.B",
        f"{group}.train",
    ]
    others = {"lightgbm", "xgboost", "catboost", "imblearn"} - {group}
    assert not_allowed(outside, [group]) == outside
    assert not_allowed(names, others) == names


def test_a_word_that_is_no_group_and_no_full_name_is_refused():
    for trusted in ("ligthgbm", ["lightgbm", "mine"]):
        with pytest.raises(
            ValueError, match=r"is neither a full name.* nor a group; groups are 'c"
        ):
            trusted_names(trusted)
    assert trusted_names("a.B") == {"a.B"}
    assert trusted_names(["lightgbm", "a.B"]) == {"lightgbm", "a.B"}


# ---- what skops trusts

THEIRS_ALONE = {
    "builtins.map": "it calls a function on every item",
    "numpy.void": "of structured types, which may hold objects",
    **dict.fromkeys(
        (f"numpy.random.{name}" for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")),
        "here by the module that defines it",
    ),
}
OURS_ALONE = {  # package -> how many names, and why
    "builtins": (8, "containers and types as values"),
    "collections": (2, "dicts"),
    "joblib": (1, "the description of an array"),
    "numpy": (64, "types and functions of numbers; how arrays and generators are made"),
    "operator": (1, "itemgetter, which takes items and not attributes"),
    "pipeline": (6, "our own classes"),
    "scipy._lib": (1, "asarray, as scikit-learn keeps it"),
    "scipy.interpolate": (1, "splines"),
    "scipy.sparse": (14, "skops has a loader for them"),
    "scipy.spatial": (19, "distances"),
    "scipy.special": (3, "softmax and its like"),
    "scipy.stats": (129, "distributions of searches, whose states are not followed"),
    "sklearn._loss": (16, "losses, which skops trusts for their own loader"),
    "sklearn.calibration": (1, "a part of estimators"),
    "sklearn.cluster": (5, "parts of estimators"),
    "sklearn.compose": (1, "column selectors"),
    "sklearn.ensemble": (1, "TreePredictor: believed, as every tree is"),
    "sklearn.feature_extraction": (3, "functions of strings"),
    "sklearn.feature_selection": (7, "scores of features"),
    "sklearn.gaussian_process": (12, "kernels"),
    "sklearn.impute": (1, "a part of estimators"),
    "sklearn.linear_model": (5, "losses"),
    "sklearn.metrics": (129, "metrics, scorers, distances"),
    "sklearn.model_selection": (16, "splitters"),
    "sklearn.neighbors": (8, "trees: compiled, they believe their arrays"),
    "sklearn.neural_network": (2, "optimizers"),
    "sklearn.preprocessing": (10, "functions of numbers"),
    "sklearn.tree": (1, "Tree: compiled, it believes its arrays"),
    "sklearn.utils": (3, "Bunch, requests of metadata"),
}


def test_what_skops_trusts_and_we_do_not_and_the_other_way_round_is_known():
    """A new release of skops is read before these numbers are changed."""
    theirs = {
        name
        for kind, names in vars(_trusted_types).items()
        if kind.endswith("_NAMES")
        for name in names
    }
    assert {name for name in theirs if not is_allowed(name)} == set(THEIRS_ALONE)
    ours = (FUNCTIONS | CALLED | MADE | NAMED | DISTRIBUTIONS) - theirs
    packages = [next(p for p in OURS_ALONE if name.startswith(f"{p}.")) for name in ours]
    assert {p: packages.count(p) for p in OURS_ALONE} == {p: n for p, (n, _) in OURS_ALONE.items()}
