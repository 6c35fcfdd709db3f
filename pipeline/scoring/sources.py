"""Tables to score: CSV, JSON lines, Parquet and DataFrames."""

import contextlib
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.csv_table import (
    CsvTable,
    JsonLines,
    check_names,
    is_json_lines,
    json_columns,
    refuse_twice,
    separator,
)
from pipeline.datasets import PARQUET_SUFFIXES, is_excel, read_table
from pipeline.files import (
    file_identity,
    file_moment,
    file_size,
    is_path,
    open_binary,
    reading,
    where,
)

_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.null())
_BUFFER = 1 << 20
_BATCH_ROWS = 4096
_NAMED = "text= (--text-column)"
_UNNAMED_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a source."""

    table: pa.Table
    marked: dict[int, str]  # positions that cannot be scored, with reasons


def check_text_type(schema: pa.Schema, text: str, name: str) -> None:
    """Raise for a text column of another type."""
    kind = schema.field(text).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind not in _TEXT_TYPES:
        raise TypeError(
            f"{name}: column {text!r} holds {kind}, not text. Name another column, or convert it."
        )


def with_equal_sizes(tables: Iterator[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    """Cut a stream of tables into tables of ``n_rows`` rows."""
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
    """Make a named pandas index a column, and drop an unnamed one."""
    metadata = dict(schema.metadata or {})
    schema = pa.schema(field for field in schema if not _UNNAMED_INDEX.fullmatch(field.name))
    if b"pandas" in metadata:
        try:
            pandas = json.loads(metadata[b"pandas"])
            pandas["index_columns"] = []
            pandas["columns"] = [
                column for column in pandas["columns"] if column.get("field_name") in schema.names
            ]
            metadata[b"pandas"] = json.dumps(pandas, sort_keys=True).encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            del metadata[b"pandas"]  # damaged, and only pandas would miss it
    return schema.with_metadata(metadata)


def text_array(cells: list[Any], marked: dict[int, str]) -> pa.Array:
    """Convert cells to Arrow strings, marking those that are not."""
    if not any(isinstance(cell, bytes) for cell in cells):  # Arrow would guess their encoding
        try:
            return pa.array(cells, type=pa.large_string(), from_pandas=True)
        except (UnicodeError, TypeError, ValueError):  # Arrow's own errors are subclasses
            pass
    kept: list[str | None] = []
    for i, cell in enumerate(cells):
        if isinstance(cell, str):
            written = cell.encode("utf-8", "backslashreplace").decode()
            if written != cell:
                marked[i] = (
                    "the text contains a lone surrogate, which no file can hold; it is written as "
                    f"{written!r:.60}"
                )
            kept.append(written)
        elif pd.api.types.is_scalar(cell) and pd.isna(cell):
            kept.append(None)
        else:
            marked[i] = f"the text is of type {type(cell).__name__}, not a string"
            kept.append(str(cell))
    return pa.array(kept, type=pa.large_string())


class _Files:
    """Files in order, with their identity."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        self.name = f"{self.paths[0]}{more}"
        self._moments = [file_moment(path) for path in self.paths]

    def check_unchanged(self) -> None:
        """Raise if a file was changed since it was identified."""
        for path, moment in zip(self.paths, self._moments, strict=True):
            if file_moment(path) != moment:
                raise ValueError(
                    f"{path} was changed while it was scored, so the output may mix two tables. "
                    "Start again."
                )


class CsvSource(_Files):
    """CSV files with the same columns, all of them text."""

    _kind = "csv"

    def __init__(
        self, paths: Sequence[str], text: str, *, encoding: str = "utf-8", sep: str | None = None
    ) -> None:
        super().__init__(paths)
        self._text = text
        self._encoding = encoding
        self._sep = separator(sep, self.paths[0])
        self._n_bytes = sum(file_size(path) for path in self.paths)
        self._read_before = 0
        self._open: CsvTable | None = None
        self._read_header()

    def _read_header(self) -> None:
        with self._table(self.paths[0]) as first:
            self.header = first.header
        self.schema = pa.schema([(name, pa.large_string()) for name in self.header])

    def _table(self, path: str) -> CsvTable:
        columns = {self._text: _NAMED}
        return CsvTable(path, columns=columns, encoding=self._encoding, sep=self._sep)

    def identity(self) -> dict[str, Any]:
        """Return the files' identities and options."""
        return {
            "kind": self._kind,
            "files": [file_identity(path) for path in self.paths],
            "encoding": self._encoding,
            "sep": self._sep,
        }

    def rows(self, n_rows: int, *, mark: bool) -> Iterator[Rows]:
        """Read ``n_rows`` at a time, marking malformed ones or raising."""
        self._read_before = 0
        kept: list[list[str | None]] = []
        marked: dict[int, str] = {}
        for path in self.paths:
            with self._table(path) as table:
                if table.header != self.header:
                    raise ValueError(
                        f"{path} has the columns {table.header}, but {self.paths[0]} has "
                        f"{self.header}."
                    )
                self._open = table
                while True:
                    faults: dict[int, str] | None = {} if mark else None
                    rows = table.read(n_rows - len(kept), faults)
                    for place, reason in (faults or {}).items():
                        marked[len(kept) + place] = reason
                    kept += rows
                    if len(kept) < n_rows:
                        break
                    yield self._rows(kept, marked)
                    kept, marked = [], {}
                self._read_before += table.n_bytes_read
                self._open = None
        if kept:
            yield self._rows(kept, marked)

    def _rows(self, rows: list[list[Any]], marked: dict[int, str]) -> Rows:
        columns = []
        for field, column in zip(self.schema, zip(*rows, strict=True), strict=True):
            if field.name == self._text:
                reasons: dict[int, str] = {}
                columns.append(text_array(list(column), reasons))
                marked = {**reasons, **marked}
            elif pa.types.is_large_string(field.type):
                columns.append(text_array([_as_text(cell) for cell in column], {}))
            elif pa.types.is_floating(field.type):  # Arrow refuses integers that a float rounds
                floats = [None if cell is None else float(cell) for cell in column]
                columns.append(pa.array(floats, field.type))
            else:
                columns.append(pa.array(column, field.type))
        return Rows(pa.Table.from_arrays(columns, schema=self.schema), marked)

    def expected_rows(self, n_read: int) -> int | None:
        """Estimate the number of rows from the bytes read."""
        n_bytes = self._read_before + (self._open.n_bytes_read if self._open is not None else 0)
        return max(n_read, round(n_read * self._n_bytes / n_bytes)) if n_read and n_bytes else None


class JsonSource(CsvSource):
    """JSON-lines files with one type per column, or text."""

    _kind = "json lines"

    def _read_header(self) -> None:
        found: dict[str, set[type]] = {}
        for path in self.paths:
            for name, types in json_columns(path, encoding=self._encoding).items():
                found.setdefault(name, set()).update(types)
        check_names(list(found), {self._text: _NAMED}, self.name)
        self.header = list(found)
        self.schema = pa.schema([(name, _json_type(types)) for name, types in found.items()])
        check_text_type(self.schema, self._text, self.name)

    def _table(self, path: str) -> CsvTable:
        return JsonLines(path, names=self.header, encoding=self._encoding)


def _json_type(types: set[type]) -> pa.DataType:
    kinds: dict[frozenset[type], pa.DataType] = {
        frozenset({bool}): pa.bool_(),
        frozenset({int}): pa.int64(),
        frozenset({float}): pa.float64(),
        frozenset({int, float}): pa.float64(),
    }
    return kinds.get(frozenset(types - {type(None)}), pa.large_string())


def _as_text(cell: Any) -> str | None:
    return cell if cell is None or isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)


class ParquetSource(_Files):
    """Parquet files with the same columns and types."""

    def __init__(self, paths: Sequence[str], text: str) -> None:
        super().__init__(paths)
        self._text = text
        self._n_rows = 0
        for path in self.paths:
            with _opened(path) as file:
                refuse_twice(file.schema_arrow.names, path)
                schema = without_index(file.schema_arrow)
                check_names(schema.names, {text: _NAMED}, path)
                self._n_rows += file.metadata.num_rows
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
                f"{path} does not have the columns of {first}: it lacks {missing}, and has "
                f"{further} instead."
            )
        for field in self.schema:
            if schema.field(field.name).type != field.type:
                raise ValueError(
                    f"{path} has {schema.field(field.name).type} in column {field.name!r}, but "
                    f"{first} has {field.type}; write them with the same types."
                )

    def identity(self) -> dict[str, Any]:
        """Return the files' identities."""
        return {"kind": "parquet", "files": [file_identity(path) for path in self.paths]}

    def rows(self, n_rows: int, *, mark: bool) -> Iterator[Rows]:
        """Read one file after another, in small batches."""
        for table in with_equal_sizes(self._tables(), n_rows):
            yield Rows(table, {})

    def _tables(self) -> Iterator[pa.Table]:
        for path in self.paths:
            with _opened(path) as file:
                names = self.schema.names
                for batch in file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                    table = pa.Table.from_batches([batch]).select(names)
                    table.column(self._text).validate(full=True)  # UTF-8: here it has a file's name
                    yield table.unify_dictionaries().cast(self.schema)

    def expected_rows(self, n_read: int) -> int | None:
        """Return the number of rows in the files."""
        return self._n_rows


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Open a Parquet file, and name it in errors."""
    try:
        with (
            open_binary(path) as file,
            pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False) as parquet,
        ):
            yield parquet
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error


class FrameSource:
    """A pandas DataFrame, with named index levels as columns."""

    name = "the DataFrame"

    def __init__(self, frame: pd.DataFrame, text: str) -> None:
        refuse_twice([str(name) for name in frame.columns], self.name)
        check_names(list(frame.columns), [text], self.name)
        self.paths: list[str] = []
        named = [level for level in frame.index.names if level is not None]
        self._frame = frame.reset_index(level=named) if named else frame
        self._text = text
        self.schema = self._schema()
        check_text_type(self.schema, text, self.name)

    def _schema(self) -> pa.Schema:
        # texts are converted one by one, as Arrow refuses mixed cells
        others = self._frame.drop(columns=[self._text])
        for name, column in others.items():
            _as_array(column, name)
        schema = pa.Schema.from_pandas(others, preserve_index=False)
        texts = self._frame[self._text]
        kind = pa.large_string() if texts.dtype == object else _as_array(texts, self._text).type
        place = list(self._frame.columns).index(self._text)
        return without_index(schema.insert(place, pa.field(str(self._text), kind)))

    def identity(self) -> dict[str, Any]:
        """Return a hash of all rows, names and types."""
        digest = hashlib.sha256(
            repr([(field.name, str(field.type)) for field in self.schema]).encode()
        )
        for rows in self.rows(_BATCH_ROWS, mark=True):
            digest.update(repr(rows.marked).encode())
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows.table.schema) as writer:
                writer.write_table(rows.table)
            digest.update(sink.getvalue())
        return {
            "kind": "DataFrame",
            "files": [{"n_rows": len(self._frame), "sha256": digest.hexdigest()}],
        }

    def rows(self, n_rows: int, *, mark: bool) -> Iterator[Rows]:
        """Read the frame, marking cells that are not strings."""
        for start in range(0, len(self._frame), n_rows):
            yield self._rows(self._frame.iloc[start : start + n_rows])

    def _rows(self, frame: pd.DataFrame) -> Rows:
        marked: dict[int, str] = {}
        columns = []
        for field, name in zip(self.schema, frame.columns, strict=True):
            column = frame[name]
            if name == self._text and column.dtype == object:
                columns.append(text_array(column.tolist(), marked))
            else:
                columns.append(_as_array(column, name, field.type))
        # one chunk per column, as the identity depends on chunks
        table = pa.Table.from_arrays(columns, schema=self.schema).combine_chunks()
        return Rows(table, marked)

    def expected_rows(self, n_read: int) -> int | None:
        """Return the number of rows."""
        return len(self._frame)

    def check_unchanged(self) -> None:
        """Do nothing: only this process could change the DataFrame."""


def _as_array(column: pd.Series, name: Any, kind: pa.DataType | None = None) -> pa.Array:
    try:
        return pa.Array.from_pandas(column, type=kind)
    except (pa.ArrowException, TypeError, UnicodeError) as error:
        raise TypeError(
            f"column {name!r} of {FrameSource.name} cannot be written to Parquet: {error}. Convert "
            "it, or leave it out."
        ) from error


Source = CsvSource | ParquetSource | FrameSource


def open_source(
    source: str | os.PathLike | Sequence[str | os.PathLike] | pd.DataFrame,
    text: str,
    *,
    encoding: str = "utf-8",
    sep: str | None = None,
) -> Source:
    """Open files or a DataFrame for scoring."""
    if isinstance(source, pd.DataFrame):
        return FrameSource(source, text)
    if not is_path(source) and not isinstance(source, Sequence):
        raise TypeError(
            f"source is a {type(source).__name__}; expected a path, a list of paths or a pandas "
            "DataFrame."
        )
    files = list_files(source)
    if len(files) == 1 and is_excel(files[0]):
        return FrameSource(read_table(files[0]), text)
    kinds = {(_is_parquet(file), is_json_lines(file)) for file in files}
    if len(kinds) > 1:
        raise ValueError(
            f"Cannot score Parquet and CSV files together, or JSON lines "
            f"({', '.join(files[:3])}, ...): score them separately."
        )
    parquet, json_lines = kinds.pop()
    if parquet:
        return ParquetSource(files, text)
    kind = JsonSource if json_lines else CsvSource
    return kind(files, text, encoding=encoding, sep=sep)


def list_files(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """List the files of a path, pattern, folder or list."""
    if isinstance(source, Sequence) and not isinstance(source, str):
        files = [file for path in source for file in list_files(path)]
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
        files = [
            str(file)
            for file in Path(path).rglob("*")
            if _is_parquet(file) and not _is_hidden(file.relative_to(path).parts) and file.is_file()
        ]
        kinds = ", ".join(PARQUET_SUFFIXES)
        missing = f"{path} is a folder, not a file, and holds no Parquet files ({kinds})."
    elif not os.path.exists(path) and glob.has_magic(path):
        files = list(filter(os.path.isfile, glob.glob(path)))
        missing = f"no file matches {path}."
    else:
        files = list(filter(os.path.isfile, [path]))
        missing = f"{path} does not exist."
        if files and os.path.getsize(path) == 0:
            raise ValueError(f"{path} is empty (0 bytes); expected a table with a header line.")
    if not files:
        raise FileNotFoundError(missing)
    return sorted(files)


def _list_address(path: str) -> list[str]:
    with reading(path) as (system, inner):
        if glob.has_magic(inner) and not system.isfile(inner):
            found = system.glob(inner, detail=True)
            names = [name for name, info in found.items() if info["type"] == "file"]
        elif system.isdir(inner):
            root = inner.rstrip("/")
            names = [
                name
                for name in system.find(root)
                if _is_parquet(name) and not _is_hidden(name[len(root) + 1 :].split("/"))
            ]
        else:
            names = [inner] if system.isfile(inner) else []
    if not names:
        raise FileNotFoundError(f"{path} does not exist, or holds no Parquet files.")
    return [str(system.unstrip_protocol(name)) for name in sorted(names)]


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith((".", "_")) for part in parts)


def _is_parquet(file: Any) -> bool:
    return PurePath(file).suffix.lower() in PARQUET_SUFFIXES
