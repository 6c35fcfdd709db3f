"""A joblib file: read without running it, checked against the allow-list, then unpickled."""

import importlib
import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import joblib
import numpy as np
from joblib.numpy_pickle import NumpyArrayWrapper, NumpyUnpickler
from sklearn.base import BaseEstimator

from pipeline.exceptions import ContentsError, NotAllowedError

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
WRAPPER_STATE = {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}
_MAX_NESTED = 8  # object arrays inside object arrays


@dataclass(frozen=True)
class Name:
    """A global that the file names; nothing was imported.

    Attributes
    ----------
    name : str
        Such as ``"sklearn.pipeline.Pipeline"``.
    """

    name: str


@dataclass(eq=False)
class Made:
    """An object that unpickling would make by calling something; nothing was called.

    Attributes
    ----------
    of : Any
        What would be called: nearly always a `Name`.
    args : Any
        With what.
    state : Any
        What it would be given as its state (attributes).
    items : list
        What would be put into it.
    """

    of: Any
    args: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of its class or function."""
        return self.of.name if isinstance(self.of, Name) else "?"

    def append(self, item: Any) -> None:
        """Take one item, as a list would."""
        self.items.append(item)

    extend = add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


@dataclass(frozen=True)
class Array:
    """An array that lies in the file.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
        Such as ``"uint8"``, or ``"object"``.
    offset, n_bytes : int
        Where its data begin in the file, and their length.
    value : Any
        Of an object array: what is pickled inside; else None.
    """

    shape: tuple[int, ...]
    dtype: str
    offset: int
    n_bytes: int
    value: Any = None


@dataclass(frozen=True)
class Contents:
    """What a joblib file holds.

    Attributes
    ----------
    root : Any
        The object, with `Made`, `Name` and `Array` in the place of what unpickling would call, import and read.
    names : tuple of str
        Every global that the file names, each once, in the order of the file.
    arrays : tuple of Array
        Every array, in the order of the file.
    """

    root: Any
    names: tuple[str, ...]
    arrays: tuple[Array, ...]


def read_contents(path: Path) -> Contents:
    """Read a joblib file as data: nothing is imported, nothing is called, no array is read.

    A pickle is a program that imports names and calls them. Here its instructions are followed on paper: every name stays a
    `Name`, every call a `Made`.

    Parameters
    ----------
    path : Path
        An uncompressed file by ``joblib.dump``.

    Returns
    -------
    Contents
        Also of a file that must not be unpickled: this is how to look into one.

    Raises
    ------
    ContentsError
        Where the file is cut short, damaged, has bytes after its end, or claims arrays larger than itself.
    """
    names: dict[str, None] = {}
    arrays: list[Array] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            root = _PaperUnpickler(file, size, names, arrays).load()
        except ContentsError:
            raise
        # a damaged pickle fails in any way at all, among them those of the types its bytes happen to make
        except Exception as error:
            raise ContentsError(
                f"it is damaged or cut short ({type(error).__name__}: {error})"
            ) from error
        if file.tell() != size:
            raise ContentsError(
                f"it has {size - file.tell()} bytes after its end, which no one wrote there on purpose"
            )
    return Contents(root, tuple(names), tuple(arrays))


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _PaperUnpickler(_PythonUnpickler):
    """Follows a pickle's instructions on paper; the pure-Python base lets every single one be replaced."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(
        self, file: BinaryIO, size: int, names: dict[str, None], arrays: list[Array], depth: int = 0
    ) -> None:
        super().__init__(file)
        self._file, self._size, self._names, self._arrays, self._depth = (
            file,
            size,
            names,
            arrays,
            depth,
        )

    def find_class(self, module: str, name: str) -> Name:
        found = Name(f"{module}.{name}")
        self._names[found.name] = None
        return found

    def get_extension(self, code: int) -> None:
        raise ContentsError(
            f"it uses the extension code {code} of copyreg, which says nothing of what it stands for"
        )

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = Made(self.stack[-1], args)

    def _new(self) -> None:
        args = self.stack.pop()
        self.stack.append(Made(self.stack.pop(), args))

    def _new_with_keywords(self) -> None:
        keywords, args = self.stack.pop(), self.stack.pop()
        self.stack.append(Made(self.stack.pop(), (args, keywords)))

    def _instance(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        args = self.pop_mark()  # before append is looked up: it is another list's afterwards
        self.append(Made(self.find_class(module, name), args))

    def _object(self) -> None:
        args = self.pop_mark()
        self.append(Made(args.pop(0), args))

    def _bytearray(self) -> None:
        n_bytes = int.from_bytes(self.read(8), "little")
        if n_bytes > self._size:
            raise ContentsError(
                f"it claims {n_bytes} bytes for one value, and has {self._size} in all"
            )
        self.append(bytearray(self.read(n_bytes)))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Made) and target.name == WRAPPER:
            self.stack[-1] = self._array(state)
        elif isinstance(target, Made):
            target.state = state
        else:
            raise ContentsError(
                f"it gives a state to {target!r:.100}, which is no object of its own"
            )

    def _array(self, state: Any) -> Array:
        if not isinstance(state, dict) or not set(state) <= WRAPPER_STATE or "dtype" not in state:
            raise ContentsError("it describes an array in a way that joblib does not")
        dtype, holds_objects = _dtype(state["dtype"])
        shape = tuple(int(n) for n in state["shape"])
        if holds_objects:
            if self._depth >= _MAX_NESTED:
                raise ContentsError(f"its object arrays are nested deeper than {_MAX_NESTED}")
            start = self._file.tell()
            inner = _PaperUnpickler(
                self._file, self._size, self._names, self._arrays, self._depth + 1
            )
            return self._keep(
                Array(shape, "object", start, self._file.tell() - start, inner.load())
            )
        if state.get("numpy_array_alignment_bytes") is not None:
            self._file.seek(self._file.read(1)[0], 1)
        n_bytes = dtype.itemsize
        for n in shape:  # Python's own integers: no overflow makes a large array look small
            n_bytes *= n
        start = self._file.tell()
        if min(shape, default=0) < 0 or n_bytes > self._size - start:
            raise ContentsError(
                f"it claims an array of {n_bytes} bytes where {self._size - start} are left"
            )
        self._file.seek(n_bytes, 1)
        return self._keep(Array(shape, str(dtype), start, n_bytes))

    def _keep(self, array: Array) -> Array:
        self._arrays.append(array)
        return array

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.NEWOBJ[0]] = _new
    dispatch[pickle.NEWOBJ_EX[0]] = _new_with_keywords
    dispatch[pickle.INST[0]] = _instance
    dispatch[pickle.OBJ[0]] = _object
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.BYTEARRAY8[0]] = _bytearray


def _dtype(made: Any) -> tuple[np.dtype, bool]:
    """Return the dtype that a pickle describes, and whether it holds Python objects."""
    if not (
        isinstance(made, Made) and made.name == "numpy.dtype" and isinstance(made.args[0], str)
    ):
        raise ContentsError("it describes the type of an array in a way that numpy does not")
    dtype = np.dtype(
        made.args[0]
    )  # of a structured type this is V and its size, all that is needed here
    flags = made.state[-1] if isinstance(made.state, tuple) and len(made.state) == 9 else 0
    return dtype, dtype.hasobject or bool(isinstance(flags, int) and flags & 1)


_LONGEST_TEXT, _MOST_ITEMS, _DEEPEST = 200, 50, 12


def outline_of(value: Any, depth: int = 0) -> Any:
    """Turn what `read_contents` found into plain values; what is long or deep is cut, and says so.

    Parameters
    ----------
    value : Any
        `Contents.root`, or a part of it.
    depth : int
        How deep it stands.

    Returns
    -------
    dict, list, str or number
        An object is a dict with its class under ``"class"``.
    """
    if depth > _DEEPEST:
        return "..."
    if isinstance(value, Name):
        return f"<{value.name}>"
    if isinstance(value, Array):
        shape = f"<array {value.dtype} {value.shape}>"
        return shape if value.value is None else {shape: _listed(value.value)}
    if isinstance(value, Made):
        return _outline_of_made(value, depth)
    if isinstance(value, dict):
        shown = {
            _key(key): outline_of(one, depth + 1) for key, one in list(value.items())[:_MOST_ITEMS]
        }
        return shown | (
            {"...": f"{len(value) - _MOST_ITEMS} more"} if len(value) > _MOST_ITEMS else {}
        )
    if isinstance(value, (list, tuple, set, frozenset)):
        shown_items = [outline_of(one, depth + 1) for one in list(value)[:_MOST_ITEMS]]
        return shown_items + (
            [f"... {len(value) - _MOST_ITEMS} more"] if len(value) > _MOST_ITEMS else []
        )
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _cut(value if isinstance(value, str) else repr(value))


def _outline_of_made(made: Made, depth: int) -> Any:
    shown: dict[str, Any] = {"class": made.name}
    if made.args not in ((), []):
        shown["called with"] = outline_of(made.args, depth + 1)
    if made.state is not None:
        state = outline_of(made.state, depth + 1)  # too deep inside, a dict is "..." too
        shown |= (
            state if isinstance(state, dict) and isinstance(made.state, dict) else {"state": state}
        )
    if made.items:
        shown["items"] = outline_of(made.items, depth + 1)
    return shown


def _listed(value: Any) -> Any:
    """Return the items of an object array: the last part of the state that numpy gives it."""
    state = value.state if isinstance(value, Made) else None
    if isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], list):
        return [outline_of(one, _DEEPEST - 3) for one in state[4][:_MOST_ITEMS]]
    return outline_of(value, _DEEPEST - 3)


def outline_of_skops(schema: Any, depth: int = 0) -> Any:
    """Turn the description in a .skops file into the same kind of outline."""
    if depth > _DEEPEST:
        return "..."
    content = schema.get("content") if isinstance(schema, dict) else None
    if not isinstance(schema, dict) or "__class__" not in schema:
        return outline_of(schema, depth)
    if schema.get("is_json") and isinstance(content, str):
        return outline_of(json.loads(content), depth)
    name = f"{schema.get('__module__')}.{schema['__class__']}"
    if name in ("builtins.list", "builtins.tuple", "builtins.set") and isinstance(content, list):
        return [outline_of_skops(one, depth + 1) for one in content[:_MOST_ITEMS]]
    if name == "builtins.dict" and isinstance(content, dict):
        return {
            _key(key): outline_of_skops(one, depth + 1)
            for key, one in list(content.items())[:_MOST_ITEMS]
        }
    if content is None or isinstance(content, (str, bool, int, float)):
        return outline_of(content, depth) if name.startswith("builtins.") else f"<{name}>"
    inner = outline_of_skops(content, depth + 1)
    return (
        {"class": name, **inner}
        if isinstance(inner, dict) and "class" not in inner
        else {"class": name, "content": inner}
    )


def _key(key: Any) -> str:
    return _cut(key if isinstance(key, str) else repr(key))


def _cut(text: str) -> str:
    return (
        text
        if len(text) <= _LONGEST_TEXT
        else f"{text[:_LONGEST_TEXT]}... ({len(text)} characters)"
    )


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
        *(
            f"sklearn._loss.{'_loss' if name.startswith('Cy') else 'loss'}.{name}"
            for name in _LOSSES
        ),
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
        *(
            f"numpy.{name}"
            for name in (
                "bool",
                "int32",
                "int64",
                "float16",
                "float32",
                "float64",
                "str_",
                "object_",
            )
        ),
        "numpy.random._mt19937.MT19937",
        "numpy.random._pcg64.PCG64",
        "numpy.random.bit_generator.SeedSequence",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neighbors._kd_tree.KDTree64",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._ball_tree.BallTree64",
        *(
            f"sklearn.metrics._dist_metrics.{name}64"
            for name in ("EuclideanDistance", "ManhattanDistance", "MinkowskiDistance")
        ),
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.chi2",
    }
)
_MAP_FROM = 1 << 16  # bytes: smaller arrays are read


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
    if (
        parts[0] != "sklearn"
        or not qualified.isidentifier()
        or not all(part.isidentifier() for part in parts)
    ):
        return False
    if {"tests", "conftest", "externals"} & set(parts):
        return False
    try:
        found = getattr(importlib.import_module(module), qualified, None)
    except ImportError:
        return False
    # the class itself, from where it is defined: not what a module merely imports
    return (
        isinstance(found, type) and issubclass(found, BaseEstimator) and found.__module__ == module
    )


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


class _AllowedUnpickler(NumpyUnpickler):
    """joblib's unpickler, which imports and calls only what is allowed."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(NumpyUnpickler.dispatch)

    def __init__(
        self, filename: str, file: BinaryIO, trusted: frozenset[str], mapped: bool
    ) -> None:
        super().__init__(filename, file, ensure_native_byte_order=False, mmap_mode="c")
        self._trusted = trusted
        self._mapped = mapped
        self._named: dict[int, str] = {}  # id of what was imported -> its name
        self._kept: list[Any] = []  # so that no id is given away twice

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if not is_allowed(full, self._trusted):
            raise NotAllowedError(
                f"it names {full}, which is not on the list of what a saved pipeline may name"
            )
        found: Any = importlib.import_module(module)
        for part in name.split("."):  # only trusted names have several
            found = getattr(found, part)
        self._named[id(found)] = full
        self._kept.append(found)
        return found

    def get_extension(self, code: int) -> None:
        raise NotAllowedError(
            f"it uses the extension code {code} of copyreg, which no saved pipeline does"
        )

    def _check_made_empty(self, what: Any) -> None:
        name = self._named.get(id(what))
        if name is None or name in NAMED:
            raise NotAllowedError(f"it calls {name or repr(what)}, which no saved pipeline does")

    def _check_called(self, what: Any) -> None:
        self._check_made_empty(what)
        if (
            isinstance(what, type)
            and issubclass(what, BaseEstimator)
            and self._named[id(what)] not in self._trusted
        ):
            raise NotAllowedError(
                f"it calls {self._named[id(what)]} instead of giving it its state"
            )

    def _reduce(self) -> None:
        what, args = self.stack[-2], self.stack[-1]
        self._check_called(what)
        if self._named[id(what)].startswith("numpy._core") and any(
            isinstance(a, np.dtype) and a.hasobject for a in args
        ):
            raise NotAllowedError("it makes Python objects of bytes")
        _PythonUnpickler.load_reduce(self)

    def _new(self) -> None:
        self._check_made_empty(self.stack[-2])
        _PythonUnpickler.load_newobj(self)

    def _new_with_keywords(self) -> None:
        self._check_made_empty(self.stack[-3])
        _PythonUnpickler.load_newobj_ex(self)

    def _refuse(self) -> None:
        raise NotAllowedError(
            "it makes objects in the way of pickle protocol 1, which no saved pipeline does"
        )

    def _build(self) -> None:
        target, state = self.stack[-2], self.stack[-1]
        if isinstance(target, type) or id(target) in self._named:
            raise NotAllowedError(
                f"it changes {target!r:.100} itself instead of an object of its own"
            )
        if isinstance(target, NumpyArrayWrapper):
            self._check_wrapper(state)
        _PythonUnpickler.load_build(self)
        if isinstance(target, np.dtype):
            _check_dtype(target)
        if isinstance(target, NumpyArrayWrapper):
            self.stack[-1] = self._read(target)

    def _check_wrapper(self, state: Any) -> None:
        if (
            not isinstance(state, dict)
            or not set(state) <= WRAPPER_STATE
            or state.get("subclass") is not np.ndarray
        ):
            raise NotAllowedError("it describes an array in a way that joblib does not")
        _check_dtype(state["dtype"])

    def _read(self, wrapper: Any) -> np.ndarray:
        if wrapper.dtype.hasobject:  # with all checks of this class, where joblib's inner unpickler would have find_class only
            array = _AllowedUnpickler(
                self.filename, self.file_handle, self._trusted, self._mapped
            ).load()
            if type(array) is not np.ndarray:
                raise NotAllowedError(
                    f"it puts a {type(array).__name__} where an array is announced"
                )
            return array
        n_bytes = wrapper.dtype.itemsize * int(
            np.prod([int(n) for n in wrapper.shape], dtype=object)
        )
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
