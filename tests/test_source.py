"""What every kind of source does with rows, cells and schemas."""

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.scoring.sources import check_text_type, text_array, with_equal_sizes, without_index


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("sizes", [[], [0], [5], [3, 0, 3], [1, 1, 1, 1, 9, 2]])
def test_tables_of_any_size_are_cut_into_those_of_one_size(n_rows, sizes):
    numbers = iter(range(100))
    tables = [
        pa.table({"a": pa.array(list(itertools.islice(numbers, size)), pa.int64())})
        for size in sizes
    ]
    found = list(with_equal_sizes(iter(tables), n_rows))
    assert [row for table in found for row in table["a"].to_pylist()] == list(range(sum(sizes)))
    assert all(table.num_rows == n_rows for table in found[:-1])
    assert all(0 < table.num_rows <= n_rows for table in found)


def test_cells_that_are_no_texts_are_marked_and_kept_and_missing_ones_stay_missing():
    cells = ["a", None, float("nan"), pd.NA, 3, b"x", "\ud800!", np.str_("b"), ["c"], "", "é"]
    marked = {}
    found = text_array(cells, marked)
    assert found.to_pylist() == [
        "a",
        None,
        None,
        None,
        "3",
        "b'x'",
        "\\ud800!",
        "b",
        "['c']",
        "",
        "é",
    ]
    assert {i: reason.split(";")[0] for i, reason in marked.items()} == {
        4: "the text is of type int",
        5: "the text is of type bytes",
        6: "the text holds a lone surrogate, which no file can",
        8: "the text is of type list",
    }


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.null(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_texts_of_every_kind_are_texts(kind):
    assert check_text_type(pa.schema([("text", kind)]), "text", "t") is None


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.binary(), pa.list_(pa.string()), pa.dictionary(pa.int8(), pa.int64())]
)
def test_columns_of_anything_else_are_refused_with_their_type(kind):
    with pytest.raises(TypeError, match=r"t: column 'text' holds .*, not text"):
        check_text_type(pa.schema([("text", kind)]), "text", "t")


def test_an_index_with_a_name_becomes_a_column_and_one_without_is_dropped():
    frame = pd.DataFrame({"a": [1, 2]}, index=pd.Index([5, 7], name="key"))
    schema = without_index(pa.Schema.from_pandas(frame))
    assert schema.names == ["a", "key"]
    assert pa.Table.from_pandas(frame).cast(schema).to_pandas().columns.tolist() == ["a", "key"]
    assert without_index(pa.Schema.from_pandas(frame.rename_axis(None))).names == ["a"]
