"""Which names a saved file may name, and an unpickler that follows no others. Used by artifact and skops_file."""

import importlib
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import joblib
import numpy as np
from joblib.numpy_pickle import NumpyArrayWrapper, NumpyUnpickler
from sklearn.base import BaseEstimator

from pipeline.saved.joblib_contents import WRAPPER, WRAPPER_STATE

# What scikit-learn's own classifiers and transformers leave in a file beside estimators. Pinned by a test that saves them all.
_LOSSES = (
    "HalfBinomialLoss",
    "HalfMultinomialLoss",
    "CyHalfBinomialLoss",
    "CyHalfMultinomialLoss",
    "CyHalfSquaredError",
    "CyHuberLoss",
)
MADE = frozenset(
    {
        WRAPPER,
        "numpy.dtype",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy._core.numeric._frombuffer",
        "numpy.random._pickle.__randomstate_ctor",
        "numpy.random._pickle.__generator_ctor",
        "numpy.random._pickle.__bit_generator_ctor",
        "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
        "collections.OrderedDict",
        "builtins.slice",
        "builtins.range",
        "pipeline.vectorizer.BertVectorizer",
        "pipeline.finetuning.FineTunedBertClassifier",
        "pipeline.evaluation.word2vec.Word2VecVectorizer",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.utils._bunch.Bunch",
        "sklearn.tree._tree.Tree",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        *(f"sklearn._loss.{'_loss' if name.startswith('Cy') else 'loss'}.{name}" for name in _LOSSES),
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.link.Interval",
        "sklearn.linear_model._sgd_fast.Hinge",
        "sklearn.linear_model._sgd_fast.SquaredHinge",
        "sklearn.linear_model._sgd_fast.ModifiedHuber",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.neighbors._kd_tree.newObj",
        "sklearn.neighbors._ball_tree.newObj",
        "sklearn.metrics._dist_metrics.newObj",
        "sklearn.model_selection._split.KFold",
        "sklearn.model_selection._split.StratifiedKFold",
    }
)
# These may stand in a file as values, and may not be called: numpy.ndarray would make pointers of any bytes.
NAMED = frozenset(
    {
        "numpy.ndarray",
        *(f"numpy.{name}" for name in ("bool", "int32", "int64", "float16", "float32", "float64", "str_", "object_")),
        "numpy.random._mt19937.MT19937",
        "numpy.random._pcg64.PCG64",
        "numpy.random.bit_generator.SeedSequence",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neighbors._kd_tree.KDTree64",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._ball_tree.BallTree64",
        *(f"sklearn.metrics._dist_metrics.{name}64" for name in ("EuclideanDistance", "ManhattanDistance", "MinkowskiDistance")),
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.chi2",
    }
)
_MAP_FROM = 1 << 16  # bytes: smaller arrays are read


class NotAllowedError(ValueError):
    """A file names something that is not on the list, or uses a name in a way that no saved estimator does."""


def is_allowed(name: str, trusted: Iterable[str] = ()) -> bool:
    """Say whether a saved file may name a global.

    Allowed are `MADE` and `NAMED`, the estimators of scikit-learn (classes of ``sklearn`` that derive from BaseEstimator), and
    what the user trusts. Of the name, nothing is imported but where it is scikit-learn's.

    Parameters
    ----------
    name : str
        Such as ``"sklearn.pipeline.Pipeline"``.
    trusted : iterable of str
        Further names.
    """
    return name in MADE or name in NAMED or name in set(trusted) or _is_estimator(name)


def not_allowed(names: Iterable[str], trusted: Iterable[str] = ()) -> list[str]:
    """Return those names that are not allowed, in their order."""
    trusted = set(trusted)
    return [name for name in names if not is_allowed(name, trusted)]


def _is_estimator(name: str) -> bool:
    module, _, qualified = name.rpartition(".")
    parts = module.split(".")
    if parts[0] != "sklearn" or not qualified.isidentifier() or not all(part.isidentifier() for part in parts):
        return False
    if {"tests", "conftest", "externals"} & set(parts):
        return False
    try:
        found = getattr(importlib.import_module(module), qualified, None)
    except ImportError:
        return False
    # the class itself, from where it is defined: not what a module merely imports
    return isinstance(found, type) and issubclass(found, BaseEstimator) and found.__module__ == module


def unpickle_allowed(path: Path, trusted: Iterable[str] = (), *, mapped: bool = True) -> Any:
    """Unpickle a joblib file that names nothing but what is allowed; large uint8 arrays, the weights, are memory-mapped.

    No sandbox: what is allowed is made as the file says, and scikit-learn's compiled classes believe the arrays they are given.

    Parameters
    ----------
    path : Path
        An uncompressed file by ``joblib.dump``.
    trusted : iterable of str
        Names allowed beside those of `is_allowed`, and callable.
    mapped : bool, default=True
        Whether the file stays, so that the weights can be mapped; else all is read.

    Returns
    -------
    Any
        The object.

    Raises
    ------
    NotAllowedError
        At the first name that is not allowed; nothing of it was imported or called.
    """
    if tuple(map(int, joblib.__version__.split(".")[:2])) < (1, 6):
        raise NotAllowedError(
            f"joblib {joblib.__version__} reads some arrays past any allow-list (GHSA-m62q-453p-gv66); pip install 'joblib>=1.6'."
        )
    with path.open("rb") as file:
        return _AllowedUnpickler(str(path), file, frozenset(trusted), mapped).load()


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _AllowedUnpickler(NumpyUnpickler):
    """joblib's unpickler, which imports and calls only what is allowed."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(NumpyUnpickler.dispatch)

    def __init__(self, filename: str, file: BinaryIO, trusted: frozenset[str], mapped: bool) -> None:
        super().__init__(filename, file, ensure_native_byte_order=False, mmap_mode="c")
        self._trusted = trusted
        self._mapped = mapped
        self._named: dict[int, str] = {}  # id of what was imported -> its name
        self._kept: list[Any] = []  # so that no id is given away twice

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if not is_allowed(full, self._trusted):
            raise NotAllowedError(f"it names {full}, which is not on the list of what a saved pipeline may name")
        found: Any = importlib.import_module(module)
        for part in name.split("."):  # only trusted names have several
            found = getattr(found, part)
        self._named[id(found)] = full
        self._kept.append(found)
        return found

    def get_extension(self, code: int) -> None:
        raise NotAllowedError(f"it uses the extension code {code} of copyreg, which no saved pipeline does")

    def _check_made_empty(self, what: Any) -> None:
        name = self._named.get(id(what))
        if name is None or name in NAMED:
            raise NotAllowedError(f"it calls {name or repr(what)}, which no saved pipeline does")

    def _check_called(self, what: Any) -> None:
        self._check_made_empty(what)
        if isinstance(what, type) and issubclass(what, BaseEstimator) and self._named[id(what)] not in self._trusted:
            raise NotAllowedError(f"it calls {self._named[id(what)]} instead of giving it its state")

    def _reduce(self) -> None:
        what, args = self.stack[-2], self.stack[-1]
        self._check_called(what)
        if self._named[id(what)].startswith("numpy._core") and any(isinstance(a, np.dtype) and a.hasobject for a in args):
            raise NotAllowedError("it makes Python objects of bytes")
        _PythonUnpickler.load_reduce(self)

    def _new(self) -> None:
        self._check_made_empty(self.stack[-2])
        _PythonUnpickler.load_newobj(self)

    def _new_with_keywords(self) -> None:
        self._check_made_empty(self.stack[-3])
        _PythonUnpickler.load_newobj_ex(self)

    def _refuse(self) -> None:
        raise NotAllowedError("it makes objects in the way of pickle protocol 1, which no saved pipeline does")

    def _build(self) -> None:
        target, state = self.stack[-2], self.stack[-1]
        if isinstance(target, type) or id(target) in self._named:
            raise NotAllowedError(f"it changes {target!r:.100} itself instead of an object of its own")
        if isinstance(target, NumpyArrayWrapper):
            self._check_wrapper(state)
        _PythonUnpickler.load_build(self)
        if isinstance(target, np.dtype):
            _check_dtype(target)
        if isinstance(target, NumpyArrayWrapper):
            self.stack[-1] = self._read(target)

    def _check_wrapper(self, state: Any) -> None:
        if not isinstance(state, dict) or not set(state) <= WRAPPER_STATE or state.get("subclass") is not np.ndarray:
            raise NotAllowedError("it describes an array in a way that joblib does not")
        _check_dtype(state["dtype"])

    def _read(self, wrapper: Any) -> np.ndarray:
        if wrapper.dtype.hasobject:  # with all checks of this class, where joblib's inner unpickler would have find_class only
            array = _AllowedUnpickler(self.filename, self.file_handle, self._trusted, self._mapped).load()
            if type(array) is not np.ndarray:
                raise NotAllowedError(f"it puts a {type(array).__name__} where an array is announced")
            return array
        n_bytes = wrapper.dtype.itemsize * int(np.prod([int(n) for n in wrapper.shape], dtype=object))
        # Weights alone are mapped: they carry their hash. joblib hands a mapped array on to workers as a file's name and an
        # offset, whatever stands there by then.
        if not self._mapped or n_bytes < _MAP_FROM or wrapper.dtype != np.uint8:
            return np.asarray(wrapper.read_array(self, ensure_native_byte_order=False))
        return np.asarray(wrapper.read_mmap(self))  # a plain array over the mapping

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.NEWOBJ[0]] = _new
    dispatch[pickle.NEWOBJ_EX[0]] = _new_with_keywords
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.INST[0]] = _refuse
    dispatch[pickle.OBJ[0]] = _refuse


def _check_dtype(dtype: Any) -> None:
    """Refuse types that hide Python objects among their fields: their bytes would be taken for pointers."""
    if not isinstance(dtype, np.dtype):
        raise NotAllowedError(f"it gives a {type(dtype).__name__} for the type of an array")
    hides = (dtype.kind == "O") != dtype.hasobject or (
        dtype.fields is not None and any(field[0].hasobject for field in dtype.fields.values())
    )
    if hides or (dtype.subdtype is not None and dtype.subdtype[0].hasobject):
        raise NotAllowedError("it hides Python objects in the type of an array")
