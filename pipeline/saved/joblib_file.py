"""Read a joblib file without running it, check its names, then unpickle it."""

import copyreg
import importlib
import pickle
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import count, islice
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn

import joblib
import numpy as np

from pipeline._compat import NumpyArrayWrapper, NumpyPickler, NumpyUnpickler, PythonUnpickler
from pipeline.exceptions import ArtifactError
from pipeline.saved.allow_list import (
    CALLED,
    DISTRIBUTIONS,
    FUNCTIONS,
    NAMED,
    NDARRAY,
    WRAPPER,
    is_allowed,
    name_of,
    not_allowed,
    refuse_names,
    refused_file,
    restore_distribution,
)

WRAPPER_STATE = {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}


def _is_wrapper_state(state: Any) -> bool:
    """Whether an array is described as in joblib."""
    return isinstance(state, dict) and "dtype" in state and set(state) <= WRAPPER_STATE


_OLD_CALL = "it makes objects in the way of pickle protocol 1, which no saved pipeline does"


def _name_an_array(keys: Iterable[Any]) -> bool:
    """Whether an attribute makes numpy take its object for an array."""
    return any(isinstance(key, str) and key.startswith("__array_") for key in keys)


# ---- reading without running


@dataclass(frozen=True)
class Name:
    """A global that the file names, not imported."""

    name: str


@dataclass(eq=False, repr=False)
class Made:
    """An object that a call would make, not called."""

    of: Any
    args: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of its class or function."""
        return self.of.name if isinstance(self.of, Name) else "?"

    def __repr__(self) -> str:
        return f"<{self.name}>"  # what is inside may have no end

    def append(self, item: Any) -> None:
        """Add one item, like a list."""
        self.items.append(item)

    extend = add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


@dataclass(frozen=True, eq=False)  # a hash of its value would take forever
class Array:
    """An array in the file."""

    shape: tuple[int, ...]
    dtype: str
    offset: int  # of its data in the file
    n_bytes: int
    value: Any = None  # the pickle inside an object array


@dataclass
class Contents:
    """Contents of a joblib file, in its order."""

    root: Any = None  # `Made`, `Name`, `Array` for what unpickling would call, import and read
    names: dict[str, None] = field(default_factory=dict)
    arrays: list[Array] = field(default_factory=list)
    problems: dict[str, None] = field(default_factory=dict)  # misuse of allowed names


def read_contents(path: Path) -> Contents:
    """Read a joblib file as data, without importing or calling anything."""
    # A pickle is a program. Here its instructions are only recorded: every name stays a `Name`,
    # every call a `Made`.
    contents = Contents()
    with path.open("rb") as file:
        try:
            contents.root = _PaperUnpickler(path, file, contents).load()
        except ArtifactError:
            raise
        # a damaged pickle can raise anything, even errors of types that its bytes happen to make
        except Exception as error:
            raise _unreadable(
                path, f"it is damaged or truncated ({type(error).__name__}: {error})"
            ) from error
        if extra := path.stat().st_size - file.tell():
            raise _unreadable(path, f"it has {extra} bytes after its end")
    return contents


def _unreadable(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{path} cannot be read: {reason}. Copy it again or train a new one.")


_MAX_NESTED = 8  # object arrays inside object arrays
_MAX_KEY = 1000  # tuples and their items, in one key


def _is_endless(key: Any) -> bool:
    """Whether hashing a key takes too long, or too much stack."""
    # 40 bytes can nest pairs 20 deep, of which Python hashes a million
    waiting, n = [key], 0
    while waiting and n <= _MAX_KEY:
        part = waiting.pop()
        n += 1
        if isinstance(part, (tuple, frozenset)):
            waiting += islice(part, _MAX_KEY + 1)
    return bool(waiting)


class _CheckingUnpickler(PythonUnpickler):
    """What both unpicklers below check, each with its own `_refuse` and `_check_keys`."""

    def get_extension(self, code: int) -> None:
        self._refuse(f"it uses the extension code {code} of copyreg, which no saved pipeline does")

    def _set_items(self) -> None:
        self._check_keys(self.stack[::2])
        PythonUnpickler.load_setitems(self)

    def _set_item(self) -> None:
        self._check_keys(self.stack[-2:-1])
        PythonUnpickler.load_setitem(self)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
    }


class _PaperUnpickler(_CheckingUnpickler):
    """Records the instructions of a pickle instead of running them."""

    def __init__(self, path: Path, file: BinaryIO, contents: Contents, depth: int = 0) -> None:
        super().__init__(file)
        self._path, self._file, self._contents, self._depth = path, file, contents, depth
        self._problems = contents.problems
        self._size = path.stat().st_size

    def _refuse(self, reason: str) -> NoReturn:
        raise _unreadable(self._path, reason)

    def find_class(self, module: str, name: str) -> Name:
        full = f"{module}.{name}"
        self._contents.names[full] = None
        return Name(full)

    # These note what the unpickler below refuses, for names that it allows.

    def _reduce(self) -> None:
        called, args = self.stack[-2:]
        name = called.name if isinstance(called, Name) else None
        if name is None:
            shown = called.name if isinstance(called, Made) else type(called).__name__
            self._problems[f"it calls what {shown} gives"] = None
        elif name == NDARRAY or (name not in FUNCTIONS | CALLED and is_allowed(name)):
            self._problems[f"it calls {name} instead of giving it its state"] = None
        elif name in FUNCTIONS and any(
            isinstance(arg, Made) and arg.name == "numpy.dtype" and self._dtype(arg)[1]
            for arg in args
        ):
            self._problems["it makes Python objects of bytes"] = None
        self._make()

    def _make(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = Made(self.stack[-1], args)

    def _new_with_keywords(self) -> None:
        keywords, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = Made(self.stack[-1], (args, keywords))

    def _add_items(self) -> None:
        self._check_hash(self.stack)
        PythonUnpickler.load_additems(self)

    def _frozen_set(self) -> None:
        self._check_hash(self.stack)
        PythonUnpickler.load_frozenset(self)

    def _dict(self) -> None:
        self._check_keys(self.stack[::2])
        PythonUnpickler.load_dict(self)

    def _check_hash(self, keys: Iterable[Any]) -> None:
        if any(map(_is_endless, keys)):
            self._refuse(f"it has a key of more than {_MAX_KEY} parts")

    def _check_keys(self, keys: list[Any]) -> None:
        self._check_hash(keys)
        if _name_an_array(keys):
            self._problems["it gives an object the attributes of an array"] = None

    def _instance(self) -> None:
        self._problems[_OLD_CALL] = None
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        args = self.pop_mark()  # before append is looked up, which then belongs to another list
        self.append(Made(self.find_class(module, name), args))

    def _object(self) -> None:
        self._problems[_OLD_CALL] = None
        args = self.pop_mark()
        self.append(Made(args.pop(0), args))

    def _bytearray(self) -> None:
        n_bytes = int.from_bytes(self.read(8), "little")
        if n_bytes > self._size:
            self._refuse(f"it claims {n_bytes} bytes for one value, but has only {self._size}")
        self.append(bytearray(self.read(n_bytes)))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Made):
            self._refuse(f"it gives a state to a {type(target).__name__}, not an object of its own")
        if target.name == WRAPPER:
            self.stack[-1] = array = self._array(state)
            self._contents.arrays.append(array)
        else:
            target.state = state

    def _array(self, state: Any) -> Array:
        if not _is_wrapper_state(state):
            self._refuse("it describes an array in a way that joblib does not")
        dtype, holds_objects = self._dtype(state["dtype"])
        shape = tuple(int(n) for n in state["shape"])
        start = self._file.tell()
        if holds_objects:
            if self._depth >= _MAX_NESTED:
                self._refuse(f"its object arrays are nested deeper than {_MAX_NESTED}")
            inner = _PaperUnpickler(self._path, self._file, self._contents, self._depth + 1)
            value = inner.load()
            return Array(shape, "object", start, self._file.tell() - start, value)
        if state.get("numpy_array_alignment_bytes") is not None:
            start = self._file.seek(self._file.read(1)[0], 1)
        n_bytes = prod(shape, start=dtype.itemsize)  # Python's integers do not overflow
        if min(shape, default=0) < 0 or n_bytes > self._size - start:
            left = self._size - start
            self._refuse(f"it claims an array of {n_bytes} bytes where {left} are left")
        self._file.seek(n_bytes, 1)
        return Array(shape, str(dtype), start, n_bytes)

    def _dtype(self, call: Any) -> tuple[np.dtype, bool]:
        """Return the dtype in a pickle, and whether it holds Python objects."""
        if not (
            isinstance(call, Made) and call.name == "numpy.dtype" and isinstance(call.args[0], str)
        ):
            self._refuse("it describes the type of an array in a way that numpy does not")
        dtype = np.dtype(call.args[0])  # of a structured type V and its size: all that is needed
        # version, order, (subtype, shape), names, {name: (type, offset)}, size, alignment, flags
        known = isinstance(call.state, tuple) and len(call.state) >= 8
        state = call.state if known else (None,) * 8
        holds = dtype.hasobject or bool(isinstance(state[7], int) and state[7] & 1)
        inner = [state[2], *(state[4].values() if isinstance(state[4], dict) else ())]
        parts = [part[0] for part in inner if isinstance(part, tuple) and part]
        if (dtype.kind == "O") != holds or any(self._dtype(part)[1] for part in parts):
            self._problems["it hides Python objects in the type of an array"] = None
        return dtype, holds

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **PythonUnpickler.dispatch,
        **_CheckingUnpickler.dispatch,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _make,
        pickle.NEWOBJ_EX[0]: _new_with_keywords,
        pickle.DICT[0]: _dict,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _frozen_set,
        pickle.INST[0]: _instance,
        pickle.OBJ[0]: _object,
        pickle.BUILD[0]: _build,
        pickle.BYTEARRAY8[0]: _bytearray,
    }


def write_joblib(pipeline: Any, path: Path) -> None:
    """Write a fitted pipeline as a joblib file."""
    with path.open("wb") as file:
        _Pickler(file).dump(pipeline)


class _Pickler(NumpyPickler):
    """joblib's pickler, without methods in the states of scipy's distributions."""

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if name_of(kind) not in DISTRIBUTIONS:
            return NotImplemented
        state = value.__getstate__()  # scipy makes the methods again
        state = {name: part for name, part in state.items() if not callable(part)}
        return copyreg.__newobj__, (kind,), state  # type: ignore[attr-defined]


_MAP_FROM = 1 << 16  # bytes: smaller arrays are read


def unpickle_allowed(path: Path, trusted: Collection[str] = (), *, mapped: bool = True) -> Any:
    """Unpickle a joblib file that uses only allowed names."""
    # Not a sandbox: allowed objects are made as the file says, and scikit-learn's compiled classes
    # trust their arrays.
    if tuple(map(int, joblib.__version__.split(".")[:2])) < (1, 6):
        raise refused_file(
            path,
            f"joblib {joblib.__version__} reads some arrays past any allow-list "
            "(GHSA-m62q-453p-gv66); pip install 'joblib>=1.6'",
        )
    with path.open("rb") as file:
        return _AllowedUnpickler(path, file, trusted, mapped).load()


@dataclass(frozen=True, repr=False)
class _Function:
    """Stands for one of `FUNCTIONS` until it is called."""

    name: str
    value: Any

    def __repr__(self) -> str:
        return self.name


# A number, range or array would take as much memory and time as it says.
_ARGUMENTS: dict[str, Any] = {
    "builtins.bytearray": (bytes, str),
    "builtins.frozenset": (list, tuple, set, frozenset),
    "builtins.set": (list, tuple, set, frozenset),
    "collections.OrderedDict": (list, tuple, dict),
    "collections.defaultdict": (list, tuple, dict, Callable),
    "numpy.dtype": (str, bool, int),
}


def _is_numpys(state: Any, of: np.dtype) -> bool:
    """Whether numpy, which believes any state, gives such a one to such a dtype."""
    try:
        order, inner, names, fields, size = state[1:6]
        same = of.newbyteorder(order)
        if inner is not None:
            same = np.dtype((inner[0], inner[1]))
        elif names is not None:
            entries = [(*fields[name], None)[:3] for name in names]
            if any(_depth(entry[0]) > _MAX_NESTED for entry in entries):
                return False
            columns = zip(*entries, strict=True)
            formats, offsets, titles = (list(column) for column in columns)
            parts = {"names": list(names), "formats": formats, "offsets": offsets}
            parts |= {"titles": titles, "itemsize": size}
            same = np.dtype(parts, align=bool(state[7] & 0x80))  # type: ignore[call-overload]
        further = tuple if of.kind in "mM" else dict  # units, or what users note
        known = len(state) == 8 or (len(state) == 9 and type(state[8]) is further)
        return known and type(state[0]) is int and same.__reduce__()[2][1:8] == state[1:8]
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return False


def _depth(dtype: np.dtype) -> int:
    fields = (dtype.fields or {}).values()
    return max((1 + _depth(field[0]) for field in fields), default=0)


class _AllowedUnpickler(_CheckingUnpickler, NumpyUnpickler):
    """joblib's unpickler, importing and calling only what is allowed."""

    def __init__(self, path: Path, file: BinaryIO, trusted: Collection[str], mapped: bool) -> None:
        super().__init__(str(path), file, ensure_native_byte_order=False, mmap_mode="c")
        self._path, self._trusted, self._mapped = path, trusted, mapped
        self._named: dict[int, str] = {}  # id of an imported object -> its name
        self._kept: list[Any] = []  # keeps ids unique

    def _refuse(self, reason: str) -> NoReturn:
        raise refused_file(self._path, reason)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        refuse_names(self._path, not_allowed([full], self._trusted))
        value: Any = importlib.import_module(module)
        for part in name.split("."):  # only trusted names have several
            value = getattr(value, part)
        if full in FUNCTIONS:
            return _Function(full, value)
        self._named[id(value)] = full
        self._kept.append(value)
        return value

    def _check_callable(self, called: Any) -> str:
        name = self._named.get(id(called))
        if name is None or (name in NAMED and name not in self._trusted):
            kind = type(called).__name__  # another repr may have no end
            shown = name or (repr(called) if isinstance(called, (_Function, str)) else kind)
            self._refuse(f"it calls {shown}, which no saved pipeline does")
        return name

    def _reduce(self) -> None:
        called, args = self.stack[-2:]
        if isinstance(called, _Function) and called.name != NDARRAY:
            if any(isinstance(arg, np.dtype) and arg.hasobject for arg in args):
                self._refuse("it makes Python objects from bytes")
            args = tuple(arg.value if isinstance(arg, _Function) else arg for arg in args)
            self.stack[-2:] = [called.value, args]
        else:
            name = self._check_callable(called)
            if name not in CALLED and name not in self._trusted:
                self._refuse(f"it calls {name} instead of giving it its state")
            if name == "numpy.dtype" and (len(args) < 3 or args[1] or not args[2]):
                self._refuse("it calls numpy.dtype for no copy")  # it could change numpy's own
            for arg in args:
                keys = arg if isinstance(arg, (list, tuple)) else ()
                if not isinstance(arg, _ARGUMENTS.get(name, object)) or any(map(_is_endless, keys)):
                    self._refuse(f"it calls {name} with what no saved pipeline does")
        PythonUnpickler.load_reduce(self)

    def _new(self) -> None:
        name = self._check_callable(self.stack[-2])
        PythonUnpickler.load_newobj(self)
        if name in DISTRIBUTIONS:
            restore_distribution(self.stack[-1])

    def _new_with_keywords(self) -> None:
        if self._check_callable(self.stack[-3]) in DISTRIBUTIONS:
            self._refuse("it makes a distribution in a way that scipy does not")
        PythonUnpickler.load_newobj_ex(self)

    def _refuse_old_call(self) -> None:
        self._refuse(_OLD_CALL)

    def _build(self) -> None:
        target, state = self.stack[-2:]
        if isinstance(target, (type, _Function)) or id(target) in self._named:
            self._refuse(f"it changes {target!r:.100} itself instead of an object of its own")
        for part in state if isinstance(state, tuple) else (state,):
            self._check_keys(part if isinstance(part, dict) else ())
        if name_of(type(target)) in DISTRIBUTIONS:
            del self.stack[-1]  # it has its state already, and this one may be a program
            return
        if isinstance(target, np.dtype) and not _is_numpys(state, target):
            self._refuse("it gives the type of an array a state that numpy does not")
        is_wrapper = isinstance(target, NumpyArrayWrapper)
        if is_wrapper:
            ndarray = _Function(NDARRAY, np.ndarray)
            if not _is_wrapper_state(state) or state.get("subclass") != ndarray:
                self._refuse("it describes an array in a way that joblib does not")
            self._check_dtype(state["dtype"])
        PythonUnpickler.load_build(self)
        if isinstance(target, np.dtype):
            self._check_dtype(target)
        if is_wrapper:
            self.stack[-1] = self._array(target)

    def _check_keys(self, keys: Iterable[Any]) -> None:
        """Refuse attributes by which numpy would read any address."""
        if _name_an_array(keys):
            self._refuse("it gives an object the attributes of an array")

    def _check_dtype(self, dtype: Any) -> None:
        """Raise for types with objects in fields, whose bytes would become pointers."""
        if not isinstance(dtype, np.dtype):
            self._refuse(f"it gives a {type(dtype).__name__} as the type of an array")
        if dtype.hasobject and dtype.kind != "O":  # the flag is true, or `_is_numpys` said no
            self._refuse("it hides Python objects in the type of an array")

    def _array(self, wrapper: Any) -> np.ndarray:
        # with all checks of this class; joblib's inner unpickler would only have find_class
        if wrapper.dtype.hasobject:
            inner = _AllowedUnpickler(self._path, self.file_handle, self._trusted, self._mapped)
            array = inner.load()
            if type(array) is not np.ndarray:
                self._refuse(f"it puts a {type(array).__name__} where an array is announced")
            return array
        # Only weights are mapped, which carry their hash: workers get a mapped array as file name
        # and offset, whatever is there by then.
        is_large = prod(int(n) for n in wrapper.shape) >= _MAP_FROM
        if self._mapped and is_large and wrapper.dtype == np.uint8:
            return np.asarray(wrapper.read_mmap(self))  # a plain array over the mapping
        return np.asarray(wrapper.read_array(self, ensure_native_byte_order=False))

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **NumpyUnpickler.dispatch,
        **_CheckingUnpickler.dispatch,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _new,
        pickle.NEWOBJ_EX[0]: _new_with_keywords,
        pickle.BUILD[0]: _build,
        pickle.INST[0]: _refuse_old_call,
        pickle.OBJ[0]: _refuse_old_call,
    }


_LONGEST_TEXT, _MOST_ITEMS, DEEPEST = 200, 50, 12
_MOST_BITS, _LONG_NUMBER = 10_000, "a number of thousands of digits"
_MOST_PARTS = 20_000  # a few bytes can hold one list many times


def outline_of(value: Any) -> Any:
    """Turn the result of `read_contents` into plain values, marking cuts."""
    return _outline(value, 0, count())


def _outline(value: Any, depth: int, parts: "count[int]") -> Any:
    if next(parts) > _MOST_PARTS or depth > DEEPEST:
        return "..."
    if isinstance(value, Name):
        return f"<{value.name}>"
    if isinstance(value, Array):
        text = f"<array {value.dtype} {value.shape}>"
        return text if value.value is None else {text: _object_array(value.value, parts)}
    if isinstance(value, Made):
        return _outline_of_call(value, depth, parts)
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        more = f"{len(value) - _MOST_ITEMS} more" if len(value) > _MOST_ITEMS else None
        if isinstance(value, dict):
            outline = {
                _cut(key): _outline(item, depth + 1, parts)
                for key, item in islice(value.items(), _MOST_ITEMS)
            }
            return {**outline, "...": more} if more else outline
        items = [_outline(item, depth + 1, parts) for item in islice(value, _MOST_ITEMS)]
        return [*items, f"... {more}"] if more else items
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return _LONG_NUMBER
    return value if value is None or isinstance(value, (int, float)) else _cut(value)


def _outline_of_call(call: Made, depth: int, parts: "count[int]") -> dict[str, Any]:
    outline: dict[str, Any] = {"class": call.name}
    if call.args not in ((), []):
        outline["called with"] = _outline(call.args, depth + 1, parts)
    if call.state is not None:
        state = _outline(call.state, depth + 1, parts)  # too deep inside, a dict is "..." too
        is_dict = isinstance(state, dict) and isinstance(call.state, dict)
        outline |= state if is_dict else {"state": state}
    if call.items:
        outline["items"] = _outline(call.items, depth + 1, parts)
    return outline


def _object_array(value: Any, parts: "count[int]") -> Any:
    """Return the items of an object array."""
    state = value.state if isinstance(value, Made) else None
    if isinstance(state, tuple) and len(state) == 5 and isinstance(state[4], list):
        return [_outline(item, DEEPEST - 3, parts) for item in state[4][:_MOST_ITEMS]]
    return _outline(value, DEEPEST - 3, parts)


def _cut(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = _LONG_NUMBER
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]}... ({len(text)} characters)"
