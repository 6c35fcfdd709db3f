"""Read and write tables of texts, and load the shipped reviews."""

import csv
import hashlib
import json
import os
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from pipeline.csv_table import (
    JSON_LINES,
    CsvTable,
    JsonLines,
    check_names,
    is_json_lines,
    json_columns,
    refuse_twice,
)
from pipeline.files import check_writable, fetched, put, refuse_folder, temporary_for, where
from pipeline.texts import class_numbers, group_numbers, labels_of_texts, text_groups

PARQUET_SUFFIXES = (".parquet", ".pq")
ENDINGS = (".csv", *PARQUET_SUFFIXES, *JSON_LINES)  # of tables that are written
_HERE = Path(__file__).resolve().parent
_REVIEWS = (_HERE / "_data" / "reviews.csv", _HERE.parent / "data" / "reviews.csv")
_TEST_SHARE = 0.2


def load_reviews() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Load the shipped reviews, split into train and test.

    Returns
    -------
    train, test : DataFrame
        Columns ``text``, ``label`` (``"positive"`` or ``"negative"``), ``domain`` and ``trait``.
    """
    path = next((path for path in _REVIEWS if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"reviews.csv is missing from {' or '.join(str(p.parent) for p in _REVIEWS)}: the "
            "installation is incomplete."
        )
    reviews = read_table(path, columns=["text", "label", "domain", "trait"])
    rank = reviews["text"].map(lambda text: hashlib.sha256(text.encode()).hexdigest())
    groups = rank.groupby([reviews["domain"], reviews["label"], reviews["trait"]])
    is_test = groups.rank(method="first") <= (_TEST_SHARE * groups.transform("size")).round()
    return reviews[~is_test].reset_index(drop=True), reviews[is_test].reset_index(drop=True)


def typed_labels(labels: pd.Series) -> pd.Series:
    """Convert labels to integers, floats or booleans if all cells are such."""
    cells = labels.tolist()
    for read in (int, float, {"True": True, "False": False}.__getitem__):
        try:
            values = [read(cell) for cell in cells]
        except (KeyError, TypeError, ValueError):
            continue
        # "007", "1e3" and "nan" remain texts
        if values and list(map(str, values)) == cells and np.isfinite(values).all():
            return pd.Series(values, index=labels.index, name=labels.name)
    return labels


def missing_cells(column: pd.Series) -> list[Any]:
    """Return the index of cells that are missing, empty or blank."""
    return column.index[column.isna() | (column.astype("str").str.strip() == "")].tolist()


def rare_labels(labels: pd.Series, texts: pd.Series, groups: Any, least: int) -> list[Any]:
    """Return labels with too few texts to split."""
    together = text_groups(texts, group_numbers(groups, len(texts)))
    alone = np.arange(len(texts)) if together is None else together
    counts = pd.Series(alone, index=labels.index).groupby(labels).agg(["size", "nunique"])
    rare = (counts["size"] < least) | (counts["nunique"] < 2)
    return counts.index[rare].tolist()


def split_table(
    table: pd.DataFrame,
    label: str,
    *,
    text: str = "text",
    groups: Any = None,
    random_state: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table into train (80 %) and test, stratified.

    Equal texts (ignoring case and blanks) and rows of one group (a column, or values) stay on one
    side; the shares are then as close to a fifth as possible.
    """
    rows = split_rows(table, label, text=text, groups=groups, random_state=random_state)
    train, test = (table.iloc[part].reset_index(drop=True) for part in rows)
    return train, test


def split_rows(
    table: pd.DataFrame,
    label: str,
    *,
    text: str = "text",
    groups: Any = None,
    random_state: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the row positions of `split_table`."""
    if table.empty:
        raise ValueError("The table has no rows, only a header; there is nothing to train on.")
    empty = [
        i for i, value in enumerate(table[label]) if isinstance(value, str) and not value.strip()
    ]
    if empty:
        raise ValueError(
            f"column {label!r} is empty in {len(empty)} of {len(table)} rows, first in row "
            f"{empty[0]}. Drop the unlabelled rows."
        )
    with warnings.catch_warnings():  # about too many small classes: an error follows
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        classes, numbers = class_numbers(labels_of_texts(table[label], len(table)), len(table))
    sizes = np.bincount(numbers)
    if sizes.min() < 5:
        raise ValueError(
            f"label {classes.tolist()[sizes.argmin()]!r} has only {sizes.min()} texts; at least 5 "
            "per label are needed to train and test. Leave out rare classes (--rare drop) or "
            "merge them (--rare merge)."
            + " If the labels are numbers to predict, this is regression, not classification."
            * (classes.dtype.kind in "iuf" and len(classes) > max(10, len(table) / 4))
        )
    values = table[groups] if isinstance(groups, str) else groups
    texts = table[text] if text in table else range(len(table))
    together = text_groups(texts, group_numbers(values, len(table)))
    if together is None:
        train, test = train_test_split(
            np.arange(len(table)),
            test_size=_TEST_SHARE,
            stratify=numbers,
            random_state=random_state,
        )
        return train, test
    if len(np.unique(together)) == 1:
        raise ValueError("All texts are equal or of one group; they cannot be split in two.")
    for number, name in enumerate(classes.tolist()):
        if len(np.unique(together[numbers == number])) == 1:
            raise ValueError(
                f"all texts with label {name!r} are equal or of one group, so they cannot be on "
                "both sides of a split. Use --rare drop to leave out such classes."
            )
    return _grouped_fold(numbers, together, random_state)


def _grouped_fold(
    numbers: np.ndarray, groups: np.ndarray, random_state: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the fold with class shares closest to a fifth."""
    n_splits = min(round(1 / _TEST_SHARE), len(np.unique(groups)))
    splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=random_state)
    sizes = np.bincount(numbers)

    def distance(fold: tuple[np.ndarray, np.ndarray]) -> float:
        shares = np.bincount(numbers[fold[1]], minlength=len(sizes)) / sizes
        return float(np.abs(shares - _TEST_SHARE).sum() + (shares == 1).sum() * len(sizes))

    folds: list[tuple[np.ndarray, np.ndarray]] = list(splitter.split(numbers, numbers, groups))
    return min(folds, key=distance)


def check_folder(folder: Path, place: Path) -> None:
    """Raise if a place in a folder cannot be written."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{place} cannot be written: {folder} does not exist.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            f"{place} cannot be written: {folder} is read-only. Name another folder or change its "
            "permissions."
        )


def check_output(out: str | os.PathLike, source: str | os.PathLike | None = None) -> None:
    """Raise if an output path cannot be written, before any work."""
    place = where(out)
    read = None if source is None else where(source)
    if isinstance(place, Path):
        if place.is_dir():
            raise FileNotFoundError(f"{place} cannot be written: it is a folder.")
        check_folder(place.parent, place)
        same = place.exists() and isinstance(read, Path) and place.samefile(read)
    else:
        refuse_folder(place, "table.csv")
        same = place == read
    if same:
        raise ValueError(f"{place} is the input file; name another one.")
    ending = PurePath(place).suffix
    if ending not in ENDINGS:
        raise ValueError(
            f"{place} has the ending {ending!r}; allowed are .csv, .parquet, .pq and .jsonl."
        )
    check_writable(place)


def write_table(table: pd.DataFrame, out: str | os.PathLike) -> None:
    """Write a table by the ending of ``out``, atomically."""
    place = where(out)
    with temporary_for(place) as temporary:
        if PurePath(place).suffix in PARQUET_SUFFIXES:
            table.to_parquet(temporary, index=False)
        elif is_json_lines(place):
            with temporary.open("w", encoding="utf-8") as file:
                write_json_lines(file, pa.Table.from_pandas(table, preserve_index=False))
        else:
            write_csv(table, temporary)
        put(temporary, place)


def write_csv(table: pd.DataFrame, out: Path | TextIO, *, header: bool = True) -> None:
    """Write CSV with every string quoted."""
    # else the writer leaves a lone \r or a blank line unquoted
    table.to_csv(out, index=False, header=header, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def write_json_lines(file: TextIO, table: pa.Table) -> None:
    """Write one object per row, with exact numbers."""
    for row in table.to_pylist():
        file.write(f"{json.dumps(row, ensure_ascii=False, default=str)}\n")


def read_table(
    path: str | os.PathLike,
    *,
    columns: Iterable[str] = (),
    encoding: str = "utf-8",
    sep: str | None = None,
) -> pd.DataFrame:
    """Read a CSV, TSV, Parquet, JSON-lines or Excel file, keeping texts unchanged.

    Parameters
    ----------
    path : str or Path
        The file, or its address, such as ``"s3://bucket/reviews.csv"``.
    columns : iterable of str
        Columns that the table must have.
    encoding : str, default="utf-8"
        Of a CSV or JSON-lines file.
    sep : str, optional
        A character, or tab, comma, semicolon or pipe; by default that of the file's ending.

    Returns
    -------
    DataFrame
        All columns of the table.
    """
    with fetched(where(path)) as file:
        return _read_table(file, columns, encoding, sep)


def _read_table(path: Path, columns: Iterable[str], encoding: str, sep: str | None) -> pd.DataFrame:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes); expected a table with a header line.")
    if path.suffix.lower() in PARQUET_SUFFIXES:
        table = _read_parquet(path)
    elif is_excel(path):
        table = _read_excel(path)
    elif is_json_lines(path):
        names = list(json_columns(path, encoding=encoding))
        with JsonLines(path, names=names, encoding=encoding) as lines:
            table = pd.DataFrame(lines.read(), columns=lines.header)
    else:
        with CsvTable(path, columns=columns, encoding=encoding, sep=sep) as rows:
            table = pd.DataFrame(rows.read(), columns=rows.header, dtype="str")
    check_names(list(table.columns), columns, path)
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        refuse_twice(pq.read_schema(path).names, path)
        table = pd.read_parquet(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
    # a named index is a column of the file
    named = [name for name in table.index.names if name is not None]
    if named:
        table = table.reset_index(level=named)
    return table.reset_index(drop=True)


def is_excel(path: str | os.PathLike) -> bool:
    """Recognise an Excel workbook by file name."""
    return PurePath(path).suffix.lower() in (".xlsx", ".xlsm")


def _read_excel(path: Path) -> pd.DataFrame:
    try:
        with pd.ExcelFile(path, engine="openpyxl") as book:
            first, *others = book.sheet_names
            cells = pd.read_excel(book, header=None, dtype=object, na_filter=False)
    except ImportError:
        raise ImportError(
            f"Reading {path} needs openpyxl, which is not installed: pip install openpyxl. Or "
            "export the workbook as CSV."
        ) from None
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a readable Excel workbook: {error}") from error
    if others:
        warnings.warn(
            f"{path} has {len(others) + 1} sheets; only the first, {first!r}, is read.",
            stacklevel=4,
        )
    if cells.empty:
        raise ValueError(f"{path} holds no table; expected a row of column names.")
    names = cells.iloc[0].astype(str).tolist()
    refuse_twice(names, path)
    cells = cells[1:].set_axis(names, axis=1).reset_index(drop=True)
    return cells.replace("", None).infer_objects()
