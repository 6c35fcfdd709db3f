"""What a joblib file holds, read without unpickling: its names, arrays and values. Used by allow_list and artifact."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

WRAPPER = "joblib.numpy_pickle.NumpyArrayWrapper"
WRAPPER_STATE = {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}
_MAX_NESTED = 8  # object arrays inside object arrays


class ContentsError(ValueError):
    """A file is cut short, damaged, or lies about itself."""


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
            raise ContentsError(f"it is damaged or cut short ({type(error).__name__}: {error})") from error
        if file.tell() != size:
            raise ContentsError(f"it has {size - file.tell()} bytes after its end, which no one wrote there on purpose")
    return Contents(root, tuple(names), tuple(arrays))


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _PaperUnpickler(_PythonUnpickler):
    """Follows a pickle's instructions on paper; the pure-Python base lets every single one be replaced."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: BinaryIO, size: int, names: dict[str, None], arrays: list[Array], depth: int = 0) -> None:
        super().__init__(file)
        self._file, self._size, self._names, self._arrays, self._depth = file, size, names, arrays, depth

    def find_class(self, module: str, name: str) -> Name:
        found = Name(f"{module}.{name}")
        self._names[found.name] = None
        return found

    def get_extension(self, code: int) -> None:
        raise ContentsError(f"it uses the extension code {code} of copyreg, which says nothing of what it stands for")

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
            raise ContentsError(f"it claims {n_bytes} bytes for one value, and has {self._size} in all")
        self.append(bytearray(self.read(n_bytes)))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Made) and target.name == WRAPPER:
            self.stack[-1] = self._array(state)
        elif isinstance(target, Made):
            target.state = state
        else:
            raise ContentsError(f"it gives a state to {target!r:.100}, which is no object of its own")

    def _array(self, state: Any) -> Array:
        if not isinstance(state, dict) or not set(state) <= WRAPPER_STATE or "dtype" not in state:
            raise ContentsError("it describes an array in a way that joblib does not")
        dtype, holds_objects = _dtype(state["dtype"])
        shape = tuple(int(n) for n in state["shape"])
        if holds_objects:
            if self._depth >= _MAX_NESTED:
                raise ContentsError(f"its object arrays are nested deeper than {_MAX_NESTED}")
            start = self._file.tell()
            inner = _PaperUnpickler(self._file, self._size, self._names, self._arrays, self._depth + 1)
            return self._keep(Array(shape, "object", start, self._file.tell() - start, inner.load()))
        if state.get("numpy_array_alignment_bytes") is not None:
            self._file.seek(self._file.read(1)[0], 1)
        n_bytes = dtype.itemsize
        for n in shape:  # Python's own integers: no overflow makes a large array look small
            n_bytes *= n
        start = self._file.tell()
        if min(shape, default=0) < 0 or n_bytes > self._size - start:
            raise ContentsError(f"it claims an array of {n_bytes} bytes where {self._size - start} are left")
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
    if not (isinstance(made, Made) and made.name == "numpy.dtype" and isinstance(made.args[0], str)):
        raise ContentsError("it describes the type of an array in a way that numpy does not")
    dtype = np.dtype(made.args[0])  # of a structured type this is V and its size, all that is needed here
    flags = made.state[-1] if isinstance(made.state, tuple) and len(made.state) == 9 else 0
    return dtype, dtype.hasobject or bool(isinstance(flags, int) and flags & 1)
