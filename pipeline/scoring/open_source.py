"""What a user names as a source becomes one. Used by table."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from pipeline.datasets import PARQUET_SUFFIXES
from pipeline.files import is_path, reading, where
from pipeline.scoring.file_source import CsvSource, ParquetSource
from pipeline.scoring.frame_source import FrameSource
from pipeline.scoring.source import Source


def open_source(
    source: str | os.PathLike | Sequence[str | os.PathLike] | pd.DataFrame, text: str, *, encoding: str = "utf-8", sep: str = ","
) -> Source:
    """Open a table to be scored.

    Parameters
    ----------
    source : path, sequence of paths or DataFrame
        CSV or Parquet; see `list_files`.
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
    if not is_path(source) and not isinstance(source, Sequence):
        raise TypeError(f"source is a {type(source).__name__}; a path, a list of paths or a pandas DataFrame is expected.")
    files = list_files(source)
    kinds = {_is_parquet(file) for file in files}
    if len(kinds) > 1:
        raise ValueError(f"Parquet and CSV files together ({', '.join(files[:3])}, ...): score them one after another.")
    if kinds == {True}:
        return ParquetSource(files, text)
    return CsvSource(files, text, encoding=encoding, sep=sep)


def list_files(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """List the files that a source names, in the order in which their rows are taken.

    Parameters
    ----------
    source : path or sequence of paths
        Files in their given order; a folder stands for its Parquet files, a pattern with ``*`` for the files it fits, both in the
        order of their names.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        For what is not there, and for a folder or a pattern without files.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        files = [file for one in source for file in list_files(one)]
        if not files:
            raise ValueError("an empty list of files; name at least one.")
        twice = sorted({file for file in files if files.count(file) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is named twice: its rows would be scored twice.")
        return files
    place = where(source)
    return _list_address(place) if isinstance(place, str) else _list_local(str(place))


def _list_local(path: str) -> list[str]:
    if os.path.isdir(path):
        # hidden files and those that begin with _ are no part of a table: so it is with pyarrow, Spark and Dask
        found = [one for one in Path(path).rglob("*") if one.suffix.lower() in PARQUET_SUFFIXES and one.is_file()]
        files = sorted(str(one) for one in found if not _is_hidden(one.relative_to(path).parts))
        if not files:
            raise FileNotFoundError(
                f"{path} is a folder, not a file, and holds no Parquet files ({', '.join(PARQUET_SUFFIXES)})."
            )
        return files
    if not os.path.exists(path) and glob.has_magic(path):
        files = sorted(one for one in glob.glob(path) if os.path.isfile(one))
        if not files:
            raise FileNotFoundError(f"no file fits {path}.")
        return files
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} does not exist.")
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty (0 bytes); a table with a header line is expected.")
    return [path]


def _list_address(path: str) -> list[str]:
    with reading(path) as (system, inner):
        if glob.has_magic(inner):
            names = sorted(system.glob(inner))
        elif system.isdir(inner):
            root = inner.rstrip("/")
            names = sorted(
                name for name in system.find(root)
                if name.lower().endswith(PARQUET_SUFFIXES) and not _is_hidden(name[len(root) + 1 :].split("/"))
            )  # fmt: skip
        else:
            names = [inner] if system.isfile(inner) else []
    if not names:
        raise FileNotFoundError(f"{path} does not exist, or holds no Parquet files.")
    return [str(system.unstrip_protocol(name)) for name in names]


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith((".", "_")) for part in parts)


def _is_parquet(file: Any) -> bool:
    return PurePath(file).suffix.lower() in PARQUET_SUFFIXES
