"""A table to be scored, read once from top to bottom, so many rows at a time: what every kind of source offers. Used by table."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import pyarrow as pa

TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
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
        raise TypeError(f"{name}: column {text!r} holds {kind}, not text. Name another column, or convert it.")


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
    schema = pa.schema([field for field in schema if not _UNNAMED_INDEX.fullmatch(field.name)], metadata=schema.metadata)
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
                marked[i] = f"the text holds a lone surrogate, which no file can; it is written as {told!r:.60}"
            kept.append(told)
        elif pd.api.types.is_scalar(cell) and pd.isna(cell):
            kept.append(None)
        else:
            marked[i] = f"the text is of type {type(cell).__name__}; only text is encoded"
            kept.append(str(cell))
    return pa.array(kept, type=pa.large_string())
