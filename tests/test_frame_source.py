"""DataFrames as streams of rows."""

import pandas as pd
import pyarrow as pa
import pytest

from pipeline.scoring.sources import FrameSource

FRAME = pd.DataFrame(
    {
        "text": ["a", None, "c", "d", "e"],
        "n": [1, 2, 3, 4, 5],
        "kind": pd.Categorical(list("xyxyz")),
        "f": [0.5] * 5,
    },
    index=pd.Index([9, 8, 8, 7, 6], name="key"),
)


def table_of(source, n_rows):
    tables = [rows.table for rows in source.rows(n_rows, mark=False)]
    assert all(table.schema.equals(source.schema, check_metadata=True) for table in tables)
    return pa.concat_tables(tables)


@pytest.mark.parametrize("n_rows", [1, 2, 100])
def test_rows_keep_order_and_types_and_a_named_index_is_a_column(n_rows):
    before = FRAME.copy()
    found = table_of(FrameSource(FRAME, "text"), n_rows).to_pandas()
    pd.testing.assert_frame_equal(found, FRAME.reset_index())
    pd.testing.assert_frame_equal(FRAME, before)
    assert "key" not in table_of(FrameSource(FRAME.rename_axis(None), "text"), n_rows).column_names


def test_cells_that_are_no_texts_are_marked_even_where_nothing_is_to_be_marked():
    source = FrameSource(pd.DataFrame({"text": ["a", 1, None, "\udc00"]}, dtype=object), "text")
    rows = list(source.rows(2, mark=False))
    assert [sorted(one.marked) for one in rows] == [[1], [1]]


def test_identities_tell_values_types_and_names_apart_and_are_the_same_again():
    frame = pd.DataFrame({"text": ["a", "b", 3], "n": [1, 2, 3]})
    identity = FrameSource(frame, "text").identity()
    assert FrameSource(frame.copy(), "text").identity() == identity
    for other in (
        frame.assign(n=[1, 2, 4]),
        frame.assign(n=[1.0, 2, 3]),
        frame.assign(text=["a", "b", "3"]),
        frame[::-1],
        frame[:2],
        frame.rename(columns={"n": "m"}),
    ):
        assert FrameSource(other, "text").identity() != identity


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        (
            pd.DataFrame({"text": ["a", "b"], "x": [1, "b"]}),
            TypeError,
            "column 'x' of the DataFrame cannot be written to Parquet",
        ),
        (pd.DataFrame({"text": [1, 2]}), TypeError, "column 'text' holds int64, not text"),
        (pd.DataFrame({"Text": ["a"]}), ValueError, "no column 'text'.*Did you mean 'Text'"),
        (
            pd.DataFrame([["a", "b"]], columns=["text", "text"]),
            ValueError,
            "several columns called 'text'",
        ),
    ],
)
def test_tables_that_cannot_be_scored_are_refused_at_once(frame, error, message):
    with pytest.raises(error, match=message):
        FrameSource(frame, "text")


def test_a_frame_without_rows_has_its_columns():
    source = FrameSource(FRAME[:0], "text")
    assert source.schema.names == ["key", "text", "n", "kind", "f"]
    assert (source.expected_rows(0), list(source.rows(3, mark=False))) == (0, [])
    assert source.check_unchanged() is None
