"""Tables in files: one or several CSV or Parquet files as one stream of rows. Used by open_source."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.csv_table import CsvTable, check_names, refuse_twice
from pipeline.files import file_identity, file_moment, file_size, open_binary
from pipeline.scoring.source import Rows, check_text_type, text_array, with_equal_sizes, without_index

_BUFFER = 1 << 20  # bytes read ahead of a Parquet column
_BATCH_ROWS = 4096


class _Files:
    """What CSV and Parquet sources have in common: an order of files, and their identity."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)
        self.name = self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"
        self._moments = [file_moment(path) for path in self.paths]

    def _files_identity(self) -> list[dict[str, Any]]:
        return [file_identity(path) for path in self.paths]

    def check_unchanged(self) -> None:
        """Refuse files that were written to since they were identified."""
        for path, moment in zip(self.paths, self._moments, strict=True):
            if file_moment(path) != moment:
                raise ValueError(f"{path} was changed while it was scored: what was written may be of two tables. Start anew.")


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

    def __init__(self, paths: Sequence[str], text: str, *, encoding: str = "utf-8", sep: str = ",") -> None:
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
        return CsvTable(path, columns=[self._text], encoding=self._encoding, sep=self._sep, open_file=open_binary)

    def identity(self) -> dict[str, Any]:
        """Return the files' contents, and how they are read."""
        return {"kind": "csv", "files": self._files_identity(), "encoding": self._encoding, "sep": self._sep}

    def rows(self, n_rows: int, *, mark: bool) -> Iterator[Rows]:
        """Read the files, one after another; see `Source.rows`."""
        self._read_before = 0
        kept: list[list[str | None]] = []
        marked: dict[int, str] = {}
        for path in self.paths:
            with self._table(path) as table:
                if table.header != self.header:
                    raise ValueError(f"{path} has the columns {table.header}, but {self.paths[0]} has {self.header}.")
                self._open = table
                while True:
                    faults: dict[int, str] | None = {} if mark else None
                    found = table.read(n_rows - len(kept), faults)
                    marked.update({len(kept) + place: reason for place, reason in (faults or {}).items()})
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
            raise ValueError(f"{path} has not the columns of {first}: it lacks {missing}, and has {further} instead.")
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
                batches = file.iter_batches(_BATCH_ROWS, columns=self.schema.names, use_threads=False)
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
            parquet = files.enter_context(pq.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False))
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
