"""What every kind of source does with rows, cells and schemas."""

import pandas as pd
import pyarrow as pa
import pytest

from pipeline.scoring.sources import check_text_type, without_index


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
