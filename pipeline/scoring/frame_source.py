"""A DataFrame as a stream of rows. Used by open_source."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa

from pipeline.csv_table import check_names, refuse_twice
from pipeline.scoring.source import Rows, check_text_type, text_array, without_index

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
        kind = pa.large_string() if texts.dtype == object else pa.Schema.from_pandas(texts.to_frame()).field(self._text).type
        place = list(self._frame.columns).index(self._text)
        return without_index(schema.insert(place, pa.field(str(self._text), kind)))

    def identity(self) -> dict[str, Any]:
        """Return a hash of all rows, names and types."""
        digest = hashlib.sha256(repr([(field.name, str(field.type)) for field in self.schema]).encode())
        for rows in self.rows(_HASHED_ROWS, mark=True):
            digest.update(repr(rows.marked).encode())
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows.table.schema) as writer:
                writer.write_table(rows.table)
            digest.update(sink.getvalue())
        return {"kind": "DataFrame", "files": [{"n_rows": self.n_rows, "sha256": digest.hexdigest()}]}

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
        arrays = [one.combine_chunks() if isinstance(one, pa.ChunkedArray) else one for one in columns]
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
