"""save_pipeline and load_pipeline: one fitted Pipeline, one joblib file. Used by cli."""

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import joblib
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from pipeline.bert.checkpoint import CheckpointError


def save_pipeline(pipeline: Pipeline, path: str | Path) -> Path:
    """Write a fitted pipeline to one file: whole or not at all.

    The file is an ordinary joblib file, written beside its target under another name, flushed to the disk and then renamed, so
    that no reader ever sees half of it, and one that has the old file open keeps it.

    Parameters
    ----------
    pipeline : sklearn.pipeline.Pipeline
        Fitted.
    path : str or Path
        Such as ``models/sentiment.joblib``; missing folders are made.

    Returns
    -------
    Path
        Where it was written.

    Raises
    ------
    NotFittedError
        Before ``fit``.
    """
    if not isinstance(pipeline, Pipeline):
        raise TypeError(f"pipeline is a {type(pipeline).__name__}; a fitted scikit-learn Pipeline is expected.")
    check_is_fitted(pipeline)
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file, such as {path / 'sentiment.joblib'}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            joblib.dump(pipeline, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def load_pipeline(path: str | Path) -> Pipeline:
    """Open a file written by `save_pipeline`; its weights are memory-mapped, so opening is fast and processes share them.

    A joblib file is a pickle: opening one runs what its author put into it. Open only files you trust.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Ready for ``predict``.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where the file is empty, damaged, or no pipeline.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} {'is a folder, not a file' if path.is_dir() else 'does not exist'}; train writes one.")
    with path.open("rb") as file:
        head = file.read(64)
    if not head.startswith(b"\x80"):  # every pickle of protocol 2 or later starts so
        raise ValueError(f"{path} is no saved pipeline: {_what_it_is(head)}.")
    try:
        loaded: Any = joblib.load(path, mmap_mode="c")  # "c": a stray write stays in this process
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} needs the module {error.name!r}, which is not to be had here. If that is 'pipeline...', another folder "
            "or file called 'pipeline' may stand in its place; start Python elsewhere."
        ) from error
    except AttributeError as error:
        raise ValueError(
            f"{path} needs something that its module does not have here: {error}. Define or import it first."
        ) from error
    except CheckpointError as error:
        raise ValueError(f"{path}: {error}") from error
    except (pickle.UnpicklingError, EOFError, KeyError, ValueError, IndexError, MemoryError) as error:
        raise ValueError(f"{path} is damaged or cut short ({type(error).__name__}: {error}). Copy or train it again.") from error
    if not isinstance(loaded, Pipeline):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not a Pipeline.")
    return loaded


def _what_it_is(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page; the download went wrong"
    if head.startswith(b"PK"):
        return "it is a zip archive"
    if head.startswith((b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22M\x18")):
        return "it is compressed, and a compressed file cannot be memory-mapped; load it with joblib.load and save it again"
    return "it is not a joblib file"
