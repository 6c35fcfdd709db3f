"""Rows of a CSV or JSON-lines file, and malformed ones by line."""

import bz2
import codecs
import contextlib
import csv
import difflib
import gzip
import io
import itertools
import json
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Self

from pipeline.files import open_binary

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_LONGEST_CELL = 1 << 27  # characters: limits the memory of an unclosed quote
_PIECE = 1 << 20
_LINES = 1024
# first bytes of files often called .csv: kind and right ending
_MAGIC = (
    (rb"\x1f\x8b", "compressed by gzip", ".gz"),
    (rb"BZh\d1AY&SY", "compressed by bzip2", ".bz2"),
    (rb"\xfd7zXZ\x00", "compressed by xz", ".xz"),
    (rb"PK\x03\x04", "a zip archive or an Excel workbook", ""),
    (rb"PAR1[\x00-\x1f]", "a Parquet file", ".parquet"),
    (rb"ARROW1|FEA1", "a Feather (Arrow) file", ""),
    (rb"\xd0\xcf\x11\xe0", "an Excel workbook", ""),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd", ""),
    (rb"\x80[\x02-\x05]", "a pickle", ""),
    (rb"\x89HDF|SQLite |ORC|Obj\x01", "a database or a table of another format", ""),
)
JSON_LINES = (".jsonl", ".ndjson")
_SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


def inner_suffix(path: str | os.PathLike) -> str:
    """Return the lower-case ending before that of a compression."""
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes[-2:]]
    if suffixes and (suffixes[-1] in _OPENERS or suffixes[-1] == ".zip"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_json_lines(path: str | os.PathLike) -> bool:
    """Recognise JSON lines by file name, compressed or not."""
    return inner_suffix(path) in JSON_LINES


def separator(sep: str | None, path: str | os.PathLike) -> str:
    """Return the character between columns."""
    if sep is None:
        return "\t" if inner_suffix(path) in (".tsv", ".tab") else ","
    sep = _SEPARATORS.get(sep, sep)
    if len(sep) != 1:
        raise ValueError(
            f"sep={sep!r}; expected a single character such as ',' or ';', or one of "
            f"{', '.join(_SEPARATORS)}."
        )
    return sep


class CsvTable:
    """Reads the rows of a CSV file as text. A context manager."""

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        columns: Iterable[str] = (),
        encoding: str = "utf-8",
        sep: str | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.header: list[str] = []
        self._columns = columns
        self._encoding = encoding
        self.sep = separator(sep, self.path)
        self._suffix = PurePath(self.path).suffix
        self._files = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._refuse_binary()
        with self._files, self._named_faults():
            self._raw = self._files.enter_context(open_binary(self.path))
            self._begin(self._files.enter_context(self._unpacked()))
            check_names(self.header, self._columns, self.path)
            self._files = self._files.pop_all()
        return self

    def _begin(self, text: io.TextIOWrapper) -> None:
        self._reader = csv.reader(text, delimiter=self.sep, strict=True)
        header = next((row for row in self._reader if row), None)
        if header is None:
            raise ValueError(f"{self.path} holds no table; expected a header line.")
        refuse_twice(header, self.path)
        self.header = header

    def __exit__(self, *_: object) -> None:
        self._files.close()

    @property
    def n_bytes_read(self) -> int:
        """Bytes of the (compressed) file read so far."""
        return self._raw.tell()

    def read(self, n_rows: int | None = None, faults: dict[int, str] | None = None) -> list[Any]:
        """Return the next rows, empty at the end."""
        rows: list[Any] = []
        with self._named_faults():
            while n_rows is None or len(rows) < n_rows:
                row = self._next(len(rows), faults)
                if row is None:
                    break
                rows.append(row)
        return rows

    def _next(self, place: int, faults: dict[int, str] | None) -> list[Any] | None:
        """Return the next row or None, and note its fault or raise."""
        try:
            row = next(filter(None, self._reader), None)
        except csv.Error as error:
            # after these two errors the start of the next row is unknown
            lost = "unexpected end" in str(error) or "field larger" in str(error)
            if faults is None or lost:
                raise
            faults[place] = f"line {self._reader.line_num}: {error}"
            return [None] * len(self.header)
        if row is None or len(row) == len(self.header):
            return row
        return self._ragged(row, place, faults)

    def _ragged(
        self, row: list[str], place: int, faults: dict[int, str] | None
    ) -> list[str | None]:
        n = len(self.header)
        message = f"line {self._reader.line_num} has {len(row)} cells, the header has {n}"
        if faults is None:
            cure = (
                _separator_hint(self.header)
                or f" Put texts that contain {self.sep!r} in double quotes."
            )
            raise ValueError(f"{self.path} is not a well-formed CSV table: {message}.{cure}")
        cells = io.StringIO()
        csv.writer(cells, delimiter=self.sep, lineterminator="").writerow(row)
        faults[place] = f"{message}: {cells.getvalue()}"
        return [*row[:n], *[None] * (n - len(row))]

    def _unpacked(self) -> io.TextIOWrapper:
        encoding = "utf-8-sig" if codecs.lookup(self._encoding).name == "utf-8" else self._encoding
        file: Any = self._raw
        if self._suffix == ".zip":
            archive = self._files.enter_context(zipfile.ZipFile(file))
            if len(archive.namelist()) != 1:
                raise ValueError(
                    f"{self.path} holds {len(archive.namelist())} files; expected one."
                )
            file = archive.open(archive.namelist()[0])
        elif self._suffix in _OPENERS:
            file = _OPENERS[self._suffix](file)
        return io.TextIOWrapper(file, encoding=encoding, newline="")

    @contextlib.contextmanager
    def _named_faults(self) -> Iterator[None]:
        limit = csv.field_size_limit(_LONGEST_CELL)
        try:
            yield
        except UnicodeError as error:
            raise ValueError(
                f"{self.path} is not {self._encoding} text: {self._first_bad_byte() or error}. "
                "Set its encoding, for example encoding='latin-1' (--encoding latin-1; also "
                "common: cp1252, utf-16)."
            ) from error
        except LookupError as error:
            raise ValueError(f"encoding={self._encoding!r} is unknown: {error}.") from error
        except csv.Error as error:
            hint = " Is there a quote that is never closed?" if "field larger" in str(error) else ""
            raise ValueError(
                f"{self.path} is not a well-formed CSV table: line {self._reader.line_num}: "
                f"{error}.{hint}"
            ) from error
        except (EOFError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, OSError) as error:
            raise ValueError(f"{self.path} cannot be unpacked: {error}") from error
        finally:
            csv.field_size_limit(limit)

    def _refuse_binary(self) -> None:
        if self._suffix in (*_OPENERS, ".zip"):
            return
        if self._suffix.lower() == ".json":
            raise ValueError(
                f"{self.path}: JSON is not supported. Write it as JSON lines (.jsonl, one object "
                "per line), as CSV or as Parquet."
            )
        with open_binary(self.path) as file:
            head = file.read(10)
        for magic, kind, ending in _MAGIC:
            if re.match(magic, head):
                cure = (
                    f"Rename it to end in {ending}." if ending else "Export it as CSV or Parquet."
                )
                raise ValueError(f"{self.path} is {kind}, not CSV text. {cure}")

    def _first_bad_byte(self) -> str | None:
        if self._suffix not in ("", ".csv", ".tsv", ".txt"):
            return None
        decoder = codecs.getincrementaldecoder(self._encoding)()
        at = 0
        with open_binary(self.path) as file:
            for piece in itertools.chain(iter(lambda: file.read(_PIECE), b""), [b""]):
                begun = len(decoder.getstate()[0])
                try:
                    decoder.decode(piece, final=not piece)
                except UnicodeDecodeError as error:
                    byte = error.object[error.start]
                    return f"byte {at - begun + error.start} is 0x{byte:02x} ({error.reason})"
                except UnicodeError:
                    return None
                at += len(piece)
        return None


class JsonLines(CsvTable):
    """Reads the rows of a JSON-lines file, keeping types."""

    def __init__(
        self, path: str | os.PathLike, *, names: Sequence[str] = (), **options: Any
    ) -> None:
        super().__init__(path, **options)
        self.header = list(names)  # keys of the values to return; if empty, whole objects

    def _begin(self, text: io.TextIOWrapper) -> None:
        self._lines = enumerate(text, 1)

    def _next(self, place: int, faults: dict[int, str] | None) -> Any:
        number, line = next(((i, line) for i, line in self._lines if line.strip()), (0, None))
        if line is None:
            return None
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"expected an object, not {line.strip():.40}")
        except (ValueError, RecursionError) as error:
            fault = f"line {number}: {error}"
            if faults is None:
                raise ValueError(f"{self.path} is not well-formed: {fault}") from None
            faults[place], row = fault, {}
        return [row.get(name) for name in self.header] if self.header else row


def json_columns(path: str | os.PathLike, **options: Any) -> dict[str, set[type]]:
    """Return names and types of the values in a JSON-lines file."""
    found: dict[str, set[type]] = {}
    with JsonLines(path, **options) as lines:
        while rows := lines.read(_LINES, {}):
            for row in rows:
                for name, value in row.items():
                    # tables have no type for larger numbers
                    huge = type(value) is int and not -(1 << 63) <= value < 1 << 63
                    found.setdefault(name, set()).add(str if huge else type(value))
    if not found:
        raise ValueError(f"{os.fspath(path)} holds no table; expected one object per line.")
    return found


def check_names(there: Sequence[Any], columns: Iterable[str], path: str | os.PathLike) -> None:
    """Raise if a table lacks a column, hinting at its option."""
    for column in columns:
        if column not in there:
            names = [str(name) for name in there]
            lower = {name.lower(): name for name in names}
            near = lower.get(column.lower()) or next(
                iter(difflib.get_close_matches(column, names, 1)), None
            )
            hint = f" Did you mean {near!r}?" if near else ""
            hint = _separator_hint(names) or hint
            error = ValueError(
                f"{os.fspath(path)} has no column {column!r}; its columns are "
                f"{', '.join(map(repr, names))}.{hint}"
            )
            if isinstance(columns, Mapping):
                error.add_note(f"{columns[column]} names another.")
            raise error


def refuse_twice(names: Sequence[str], path: str | os.PathLike) -> None:
    """Raise if two columns of a table have the same name."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(
            f"{os.fspath(path)} has several columns called {', '.join(map(repr, twice))}; rename "
            "them."
        )


def _separator_hint(header: Sequence[str]) -> str:
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|,"):
        return (
            " Its columns seem to be separated by another character: set sep (--sep), for example "
            "to tab."
        )
    return ""
