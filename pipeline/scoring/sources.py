"""Tables to score: CSV, Parquet and DataFrames, as shards of rows."""

import contextlib
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.csv_table import CsvTable, check_names, refuse_twice
from pipeline.datasets import PARQUET_SUFFIXES
from pipeline.files import (
    file_identity,
    file_moment,
    file_size,
    is_path,
    open_binary,
    reading,
    where,
)

TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_null,
)
_UNNAMED_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class Rows:
    """Rows of a source, in its order.

    Attributes
    ----------
    table : pyarrow.Table
        Of the source's schema.
    marked : dict of int to str
        Rows that cannot be scored, by their place here, each with the reason: they are no rows of the file's form, or no texts.
    """

    table: pa.Table
    marked: dict[int, str]


class Source(Protocol):
    """A table that is read in order, without ever being in memory as a whole.

    Attributes
    ----------
    name : str
        For messages.
    schema : pyarrow.Schema
        Of its columns.
    n_rows : int or None
        None where only reading tells.
    """

    name: str
    schema: pa.Schema
    n_rows: int | None

    def identity(self) -> dict[str, Any]:
        """Return what tells this table from one with other rows; the same on every run."""
        ...

    def rows(self, n_rows: int, *, mark: bool) -> Iterator[Rows]:
        """Read it: ``n_rows`` rows at a time, fewer at the end.

        Parameters
        ----------
        n_rows : int
        mark : bool
            Whether rows of a wrong form are marked; else they are errors.
        """
        ...

    def expected_rows(self, n_read: int) -> int | None:
        """Estimate all rows, after ``n_read`` of them; None before anything can be said."""
        ...

    def check_unchanged(self) -> None:
        """Refuse to go on where the files are not those that were identified.

        Raises
        ------
        ValueError
            With the file.
        """
        ...


def check_text_type(schema: pa.Schema, text: str, name: str) -> None:
    """Refuse a text column that holds no text at all, before anything is read.

    Raises
    ------
    TypeError
        With the type.
    """
    kind = schema.field(text).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not any(is_text(kind) for is_text in TEXT_TYPES):
        raise TypeError(
            f"{name}: column {text!r} holds {kind}, not text. Name another column, or convert it."
        )


def with_equal_sizes(tables: Iterator[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    """Cut a stream of tables anew, into tables of ``n_rows`` rows: where they begin depends on the rows alone."""
    kept: list[pa.Table] = []
    n_kept = 0
    for table in tables:
        start = 0
        while table.num_rows - start >= n_rows - n_kept:
            stop = start + n_rows - n_kept
            yield pa.concat_tables([*kept, table.slice(start, stop - start)])
            kept, n_kept, start = [], 0, stop
        if start < table.num_rows:
            kept.append(table.slice(start))
            n_kept += table.num_rows - start
    if n_kept:
        yield pa.concat_tables(kept)


def without_index(schema: pa.Schema) -> pa.Schema:
    """Return a schema whose pandas metadata name no index: one with a name is a column like others, one without is dropped."""
    schema = pa.schema(
        [field for field in schema if not _UNNAMED_INDEX.fullmatch(field.name)],
        metadata=schema.metadata,
    )
    metadata = dict(schema.metadata or {})
    if b"pandas" in metadata:
        told = json.loads(metadata[b"pandas"])
        told["index_columns"] = []
        told["columns"] = [one for one in told["columns"] if one.get("field_name") in schema.names]
        metadata[b"pandas"] = json.dumps(told, sort_keys=True).encode()
    return schema.with_metadata(metadata or None)


def text_array(cells: list[Any], marked: dict[int, str]) -> pa.Array:
    """Make an Arrow column of cells that are texts, or should be; what is none is marked, and kept as its `str`.

    Parameters
    ----------
    cells : list
    marked : dict
        Takes the places of the cells that are no texts, with the reason. Missing ones stay missing: the model may take them.
    """
    if not any(isinstance(cell, bytes) for cell in cells):  # Arrow would decode them on a guess
        try:
            return pa.array(cells, type=pa.large_string(), from_pandas=True)
        except (UnicodeError, TypeError, ValueError):  # Arrow's own errors are of these
            pass
    kept: list[str | None] = []
    for i, cell in enumerate(cells):
        if isinstance(cell, str):
            told = cell.encode("utf-8", "backslashreplace").decode()
            if told != cell:
                marked[i] = (
                    f"the text holds a lone surrogate, which no file can; it is written as {told!r:.60}"
                )
            kept.append(told)
        elif pd.api.types.is_scalar(cell) and pd.isna(cell):
            kept.append(None)
        else:
            marked[i] = f"the text is of type {type(cell).__name__}; only text is encoded"
            kept.append(str(cell))
    return pa.array(kept, type=pa.large_string())


_BUFFER = 1 << 20  # bytes read ahead of a Parquet column
_BATCH_ROWS = 4096


class _Files:
    """What CSV and Parquet sources have in common: an order of files, and their identity."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)
        self.name = (
            self.paths[0]
            if len(self.paths) == 1
            else f"{self.paths[0]} and {len(self.paths) - 1} more"
        )
        self._moments = [file_moment(path) for path in self.paths]

    def _files_identity(self) -> list[dict[str, Any]]:
        return [file_identity(path) for path in self.paths]

    def check_unchanged(self) -> None:
        """Refuse files that were written to since they were identified."""
        for path, moment in zip(self.paths, self._moments, strict=True):
            if file_moment(path) != moment:
                raise ValueError(
                    f"{path} was changed while it was scored: what was written may be of two tables. Start anew."
                )


class CsvSource(_Files):
    """CSV files of the same columns, all of them text.

    Parameters
    ----------
    paths : sequence of str
    text : str
        The column of the texts.
    encoding, sep : str
        As for `pipeline.read_table`.
    """

    def __init__(
        self, paths: Sequence[str], text: str, *, encoding: str = "utf-8", sep: str = ","
    ) -> None:
        super().__init__(paths)
        self._text = text
        self._encoding = encoding
        self._sep = sep
        self._n_bytes = sum(file_size(path) for path in self.paths)
        self._read_before = 0
        self._open: CsvTable | None = None
        with self._table(self.paths[0]) as first:
            self.header = first.header
        self.schema = pa.schema([(name, pa.large_string()) for name in self.header])
        self.n_rows: int | None = None

    def _table(self, path: str) -> CsvTable:
        return CsvTable(
            path,
            columns=[self._text],
            encoding=self._encoding,
            sep=self._sep,
            open_file=open_binary,
        )

    def identity(self) -> dict[str, Any]:
        """Return the files' contents, and how they are read."""
        return {
            "kind": "csv",
            "files": self._files_identity(),
            "encoding": self._encoding,
            "sep": self._sep,
        }

    def rows(self, n_rows: int, *, mark: bool) -> Iterator[Rows]:
        """Read the files, one after another; see `Source.rows`."""
        self._read_before = 0
        kept: list[list[str | None]] = []
        marked: dict[int, str] = {}
        for path in self.paths:
            with self._table(path) as table:
                if table.header != self.header:
                    raise ValueError(
                        f"{path} has the columns {table.header}, but {self.paths[0]} has {self.header}."
                    )
                self._open = table
                while True:
                    faults: dict[int, str] | None = {} if mark else None
                    found = table.read(n_rows - len(kept), faults)
                    marked.update(
                        {len(kept) + place: reason for place, reason in (faults or {}).items()}
                    )
                    kept += found
                    if len(kept) < n_rows:
                        break  # the end of the file
                    yield self._rows(kept, marked)
                    kept, marked = [], {}
                self._read_before += table.n_bytes_read
                self._open = None
        if kept:
            yield self._rows(kept, marked)

    def _rows(self, rows: list[list[str | None]], marked: dict[int, str]) -> Rows:
        columns = [text_array(list(column), {}) for column in zip(*rows, strict=True)]
        return Rows(pa.Table.from_arrays(columns, schema=self.schema), marked)

    def expected_rows(self, n_read: int) -> int | None:
        """Estimate from the bytes that were read."""
        n_bytes = self._read_before + (self._open.n_bytes_read if self._open is not None else 0)
        return max(n_read, round(n_read * self._n_bytes / n_bytes)) if n_read and n_bytes else None


class ParquetSource(_Files):
    """Parquet files of the same columns and types.

    Parameters
    ----------
    paths : sequence of str
    text : str
        The column of the texts.
    """

    def __init__(self, paths: Sequence[str], text: str) -> None:
        super().__init__(paths)
        self.n_rows: int | None = 0
        for path in self.paths:
            with _opened(path) as file:
                refuse_twice(file.schema_arrow.names, path)
                schema = without_index(file.schema_arrow)
                check_names(schema.names, [text], path)
                self.n_rows += file.metadata.num_rows
            if path == self.paths[0]:
                self.schema = schema
                check_text_type(schema, text, path)
            self._check_like_first(schema, path)

    def _check_like_first(self, schema: pa.Schema, path: str) -> None:
        first = self.paths[0]
        missing = [name for name in self.schema.names if name not in schema.names]
        further = [name for name in schema.names if name not in self.schema.names]
        if missing or further:
            raise ValueError(
                f"{path} has not the columns of {first}: it lacks {missing}, and has {further} instead."
            )
        for field in self.schema:
            if schema.field(field.name).type != field.type:
                raise ValueError(
                    f"{path} has {schema.field(field.name).type} in column {field.name!r}, where {first} has {field.type}; "
                    "write them with the same types."
                )

    def identity(self) -> dict[str, Any]:
        """Return the files' contents."""
        return {"kind": "parquet", "files": self._files_identity()}

    def rows(self, n_rows: int, *, mark: bool) -> Iterator[Rows]:
        """Read the files, one after another, never a row group as a whole; see `Source.rows`."""
        for table in with_equal_sizes(self._tables(), n_rows):
            yield Rows(table, {})

    def _tables(self) -> Iterator[pa.Table]:
        for path in self.paths:
            with _opened(path) as file:
                batches = file.iter_batches(
                    _BATCH_ROWS, columns=self.schema.names, use_threads=False
                )
                while True:
                    with _named_faults(path):
                        batch = next(batches, None)
                    if batch is None:
                        break
                    table = pa.Table.from_batches([batch]).select(self.schema.names)
                    yield table.unify_dictionaries().cast(self.schema)

    def expected_rows(self, n_read: int) -> int | None:
        """Return what the files say."""
        return self.n_rows


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a Parquet file wherever it is; what is none is refused by name."""
    with contextlib.ExitStack() as files:
        with _named_faults(path):
            file = files.enter_context(open_binary(path))
            parquet = files.enter_context(
                pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
            )
        yield parquet


@contextlib.contextmanager
def _named_faults(path: str) -> Iterator[None]:
    """Say of which file it is that pyarrow complains."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error


_HASHED_ROWS = 4096


class FrameSource:
    """A pandas DataFrame. Index levels that have a name become columns, as they do in a Parquet file; others are left out.

    Parameters
    ----------
    frame : DataFrame
    text : str
        The column of the texts. Cells that are no texts are allowed here, and marked when they are read.
    """

    name = "the DataFrame"

    def __init__(self, frame: pd.DataFrame, text: str) -> None:
        refuse_twice([str(name) for name in frame.columns], self.name)
        check_names(list(frame.columns), [text], self.name)
        named = [level for level in frame.index.names if level is not None]
        self._frame = frame.reset_index(level=named) if named else frame
        self._text = text
        self.n_rows: int | None = len(frame)
        self.schema = self._schema()
        check_text_type(self.schema, text, self.name)

    def _schema(self) -> pa.Schema:
        # of mixed cells Arrow makes no column: those of the texts are made into texts one by one
        others = self._frame.drop(columns=[self._text])
        for name, column in others.items():
            _as_array(column, name)
        schema = pa.Schema.from_pandas(others, preserve_index=False)
        texts = self._frame[self._text]
        kind = (
            pa.large_string()
            if texts.dtype == object
            else pa.Schema.from_pandas(texts.to_frame()).field(self._text).type
        )
        place = list(self._frame.columns).index(self._text)
        return without_index(schema.insert(place, pa.field(str(self._text), kind)))

    def identity(self) -> dict[str, Any]:
        """Return a hash of all rows, names and types."""
        digest = hashlib.sha256(
            repr([(field.name, str(field.type)) for field in self.schema]).encode()
        )
        for rows in self.rows(_HASHED_ROWS, mark=True):
            digest.update(repr(rows.marked).encode())
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows.table.schema) as writer:
                writer.write_table(rows.table)
            digest.update(sink.getvalue())
        return {
            "kind": "DataFrame",
            "files": [{"n_rows": self.n_rows, "sha256": digest.hexdigest()}],
        }

    def rows(self, n_rows: int, *, mark: bool) -> Iterator[Rows]:
        """Read it; see `Source.rows`. Cells that are no texts are marked in any case."""
        for start in range(0, len(self._frame), n_rows):
            yield self._rows(self._frame.iloc[start : start + n_rows])

    def _rows(self, frame: pd.DataFrame) -> Rows:
        marked: dict[int, str] = {}
        columns = []
        for field, name in zip(self.schema, frame.columns, strict=True):
            column = frame[name]
            if name == self._text and column.dtype == object:
                columns.append(text_array(column.tolist(), marked))
                continue
            columns.append(_as_array(column, name, field.type))
        arrays = [
            one.combine_chunks() if isinstance(one, pa.ChunkedArray) else one for one in columns
        ]
        return Rows(pa.Table.from_arrays(arrays, schema=self.schema), marked)

    def expected_rows(self, n_read: int) -> int | None:
        """Return their number."""
        return self.n_rows

    def check_unchanged(self) -> None:
        """Do nothing: who changes a DataFrame while it is scored does so in this process."""


def _as_array(column: pd.Series, name: Any, kind: pa.DataType | None = None) -> pa.Array:
    try:
        return pa.Array.from_pandas(column, type=kind)
    except (pa.ArrowException, TypeError, UnicodeError) as error:
        raise TypeError(
            f"column {name!r} of {FrameSource.name} cannot be written to Parquet: {error}. Convert it, or leave it out."
        ) from error


def open_source(
    source: str | os.PathLike | Sequence[str | os.PathLike] | pd.DataFrame,
    text: str,
    *,
    encoding: str = "utf-8",
    sep: str = ",",
) -> Source:
    """Open a table to be scored.

    Parameters
    ----------
    source : path, sequence of paths or DataFrame
        CSV or Parquet; see `list_files`.
    text : str
        The column of the texts.
    encoding, sep : str
        Of CSV files.

    Returns
    -------
    Source

    Raises
    ------
    FileNotFoundError
        For files that are not there.
    TypeError, ValueError
        For what is no table, and where the column is missing or holds no text.
    """
    if isinstance(source, pd.DataFrame):
        return FrameSource(source, text)
    if not is_path(source) and not isinstance(source, Sequence):
        raise TypeError(
            f"source is a {type(source).__name__}; a path, a list of paths or a pandas DataFrame is expected."
        )
    files = list_files(source)
    kinds = {_is_parquet(file) for file in files}
    if len(kinds) > 1:
        raise ValueError(
            f"Parquet and CSV files together ({', '.join(files[:3])}, ...): score them one after another."
        )
    if kinds == {True}:
        return ParquetSource(files, text)
    return CsvSource(files, text, encoding=encoding, sep=sep)


def list_files(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """List the files that a source names, in the order in which their rows are taken.

    Parameters
    ----------
    source : path or sequence of paths
        Files in their given order; a folder stands for its Parquet files, a pattern with ``*`` for the files it fits, both in the
        order of their names.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        For what is not there, and for a folder or a pattern without files.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        files = [file for one in source for file in list_files(one)]
        if not files:
            raise ValueError("an empty list of files; name at least one.")
        twice = sorted({file for file in files if files.count(file) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is named twice: its rows would be scored twice.")
        return files
    place = where(source)
    return _list_address(place) if isinstance(place, str) else _list_local(str(place))


def _list_local(path: str) -> list[str]:
    if os.path.isdir(path):
        # hidden files and those that begin with _ are no part of a table: so it is with pyarrow, Spark and Dask
        found = [
            one
            for one in Path(path).rglob("*")
            if one.suffix.lower() in PARQUET_SUFFIXES and one.is_file()
        ]
        files = sorted(str(one) for one in found if not _is_hidden(one.relative_to(path).parts))
        if not files:
            raise FileNotFoundError(
                f"{path} is a folder, not a file, and holds no Parquet files ({', '.join(PARQUET_SUFFIXES)})."
            )
        return files
    if not os.path.exists(path) and glob.has_magic(path):
        files = sorted(one for one in glob.glob(path) if os.path.isfile(one))
        if not files:
            raise FileNotFoundError(f"no file fits {path}.")
        return files
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} does not exist.")
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty (0 bytes); a table with a header line is expected.")
    return [path]


def _list_address(path: str) -> list[str]:
    with reading(path) as (system, inner):
        if glob.has_magic(inner):
            names = sorted(system.glob(inner))
        elif system.isdir(inner):
            root = inner.rstrip("/")
            names = sorted(
                name for name in system.find(root)
                if name.lower().endswith(PARQUET_SUFFIXES) and not _is_hidden(name[len(root) + 1 :].split("/"))
            )  # fmt: skip
        else:
            names = [inner] if system.isfile(inner) else []
    if not names:
        raise FileNotFoundError(f"{path} does not exist, or holds no Parquet files.")
    return [str(system.unstrip_protocol(name)) for name in names]


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith((".", "_")) for part in parts)


def _is_parquet(file: Any) -> bool:
    return PurePath(file).suffix.lower() in PARQUET_SUFFIXES
