"""DataFrames as streams of rows."""

import pandas as pd
import pytest

from pipeline.scoring.sources import FrameSource


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
