"""What a user names as a source becomes one. Used by table."""

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd

from pipeline.datasets import PARQUET_SUFFIXES
from pipeline.scoring.file_source import CsvSource, ParquetSource
from pipeline.scoring.files import list_files
from pipeline.scoring.frame_source import FrameSource
from pipeline.scoring.source import Source


def open_source(
    source: str | os.PathLike | Sequence[str | os.PathLike] | pd.DataFrame, text: str, *, encoding: str = "utf-8", sep: str = ","
) -> Source:
    """Open a table to be scored.

    Parameters
    ----------
    source : path, sequence of paths or DataFrame
        CSV or Parquet; see `pipeline.scoring.files.list_files`.
    text : str
        The column of the texts.
    encoding, sep : str
        Of CSV files.

    Returns
    -------
    Source

    Raises
    ------
    FileNotFoundError
        For files that are not there.
    TypeError, ValueError
        For what is no table, and where the column is missing or holds no text.
    """
    if isinstance(source, pd.DataFrame):
        return FrameSource(source, text)
    if not isinstance(source, str | os.PathLike | Sequence):
        raise TypeError(f"source is a {type(source).__name__}; a path, a list of paths or a pandas DataFrame is expected.")
    files = list_files(source)
    kinds = {_is_parquet(file) for file in files}
    if len(kinds) > 1:
        raise ValueError(f"Parquet and CSV files together ({', '.join(files[:3])}, ...): score them one after another.")
    if kinds == {True}:
        return ParquetSource(files, text)
    return CsvSource(files, text, encoding=encoding, sep=sep)


def _is_parquet(file: Any) -> bool:
    return PurePath(file).suffix.lower() in PARQUET_SUFFIXES
