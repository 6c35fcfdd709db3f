"""What users name becomes a source."""

import pandas as pd
import pytest

from pipeline.scoring.file_source import CsvSource, ParquetSource
from pipeline.scoring.frame_source import FrameSource
from pipeline.scoring.open_source import open_source


def test_the_ending_tells_parquet_from_csv_and_a_frame_is_a_frame(tmp_path):
    frame = pd.DataFrame({"text": ["a"]})
    frame.to_parquet(tmp_path / "IN.PQ")
    (tmp_path / "in.tsv").write_text("text\tn\na\t1\n")
    assert isinstance(open_source(frame, "text"), FrameSource)
    assert isinstance(open_source(tmp_path / "IN.PQ", "text"), ParquetSource)
    assert isinstance(open_source(str(tmp_path), "text"), ParquetSource)
    found = open_source([tmp_path / "in.tsv"], "text", sep="\t")
    assert isinstance(found, CsvSource)
    assert found.header == ["text", "n"]


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "in.csv").write_text("text\na\n")
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(ValueError, match="Parquet and CSV files together"):
        open_source([tmp_path / "in.csv", tmp_path / "in.parquet"], "text")
    with pytest.raises(TypeError, match="source is a int; a path, a list of paths or a pandas DataFrame"):
        open_source(3, "text")
