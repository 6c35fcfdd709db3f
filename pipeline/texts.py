"""Validate X and y: text containers, cells, labels and classes."""

import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import train_test_split
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import validate_data

Missing = Literal["error", "empty"]
OnInvalid = Literal["error", "coerce"]


@dataclass(frozen=True)
class TextColumns:
    """The cells of X, column by column."""

    columns: list[list[Any]]
    names: list[Any] | None = None
    index: pd.Index | None = None
    one_dimensional: bool = True

    @property
    def n_texts(self) -> int:
        """Number of rows."""
        return len(self.columns[0]) if self.columns else 0

    def row(self, i: int) -> str:
        """Name row ``i`` in an error message."""
        if self.index is None:
            return f"row {i}"
        label = self.index[i]
        if isinstance(label, np.generic):
            label = label.item()
        return (
            f"row {i}"
            if pd.api.types.is_number(label) and label == i
            else f"row {i} (index label {label!r})"
        )


def take_columns(X: Any, *, on_invalid: OnInvalid = "error") -> TextColumns:
    """Split any container of texts into columns."""
    # fast path for a server, which sends one text at a time
    if type(X) in (list, tuple):
        return _take_rows(X, on_invalid)
    _refuse_container(X)
    if isinstance(X, pd.Series):
        return TextColumns([_cells(X)], index=X.index)
    if isinstance(X, pd.DataFrame):
        return _take_frame(X)
    native = nw.from_native(X, allow_series=True, pass_through=True)
    if isinstance(native, nw.Series):
        return TextColumns([_cells(native)])
    if isinstance(native, nw.DataFrame):
        return _take_frame(native)
    if hasattr(X, "__array__"):
        return _take_array(np.asarray(X), on_invalid)
    return _take_rows(X, on_invalid)


def _take_rows(X: Iterable[Any], on_invalid: OnInvalid) -> TextColumns:
    rows = list(X)
    table = (
        on_invalid == "coerce"
        and bool(rows)
        and all(isinstance(row, list | tuple | np.ndarray) for row in rows)
    )
    if table and len({len(row) for row in rows}) == 1:
        return _take_array(np.array(rows, dtype=object), on_invalid)
    return TextColumns([rows])


def _refuse_container(X: Any) -> None:
    if isinstance(X, str):
        raise ValueError(
            f"X is a single string, {_shown(X)}; expected a sequence of texts. Wrap it in a list: "
            "[text]."
        )
    if sparse.issparse(X):  # before Mapping: scipy's dok_array is a dict
        raise TypeError(
            "X is a sparse matrix, and sparse input is not text. Pass the raw texts, a list of str."
        )
    if isinstance(X, Mapping):
        cure = "pass list(X.values()), or a DataFrame column"
    elif isinstance(X, Set):
        cure = "it has no fixed order of rows: pass a list"
    elif isinstance(X, bytes | bytearray):
        cure = "decode it and wrap it in a list: [data.decode('utf-8')]"
    elif isinstance(X, Iterable) or hasattr(X, "__array__"):
        return
    else:
        raise TypeError(
            f"X is a {type(X).__name__}, {_shown(X)}; expected a sequence of texts, such as a list "
            "of str."
        )
    raise TypeError(f"X is a {type(X).__name__}; expected a sequence of texts: {cure}.")


def _take_frame(X: pd.DataFrame | nw.DataFrame[Any]) -> TextColumns:
    if X.shape[1] == 0:
        raise ValueError(
            f"Found array with 0 feature(s) (shape={X.shape}) while a minimum of 1 is required: X "
            "is a DataFrame without columns; expected one column of text."
        )
    # by position, as names may be doubled
    by_position, index = (X.iloc, X.index) if isinstance(X, pd.DataFrame) else (X, None)
    columns = [_cells(by_position[:, j]) for j in range(X.shape[1])]
    return TextColumns(columns, list(X.columns), index, one_dimensional=False)


def _cells(column: Any) -> list[Any]:
    if isinstance(column, pd.Series):
        return list(column.to_numpy(dtype=object))
    return list(column.to_list())


def _take_array(array: np.ndarray, on_invalid: OnInvalid) -> TextColumns:
    if np.iscomplexobj(array):
        raise ValueError(
            "Complex data not supported: X is an array of complex numbers; expected texts."
        )
    if array.ndim == 1:
        if array.dtype.kind in "biuf" and on_invalid == "coerce":
            raise ValueError(
                "Expected 2D array, got 1D array of numbers instead. Reshape your data using "
                "array.reshape(-1, 1) to have one number per text."
            )
        return TextColumns([list(array)])
    if array.ndim == 2:
        if array.shape[1] == 0:
            raise ValueError(
                f"Found array with 0 feature(s) (shape={array.shape}) while a minimum of 1 is "
                "required: expected one column of text."
            )
        return TextColumns(
            [list(array[:, j]) for j in range(array.shape[1])], one_dimensional=False
        )
    if array.ndim == 0:
        raise ValueError(
            f"X is a single value, {_shown(array.item())}; wrap it in a list to use it as one text."
        )
    raise ValueError(
        f"X is an array of {array.ndim} dimensions, shape {array.shape}; expected one column of "
        "texts."
    )


def check_texts(
    X: Any, *, missing: Missing = "error", on_invalid: OnInvalid = "error"
) -> list[str]:
    """Return the texts of X as a list of str, or raise."""
    table = X if isinstance(X, TextColumns) else take_columns(X, on_invalid=on_invalid)
    if len(table.columns) > 1 and on_invalid == "error":
        _refuse_columns(table)
    texts = [
        [_check_cell(cell, i, table, missing, on_invalid) for i, cell in enumerate(c)]
        for c in table.columns
    ]
    if len(texts) == 1:
        return texts[0]
    return [" ".join(row) for row in zip(*texts, strict=True)]


def check_X(estimator: Any, X: Any, *, reset: bool) -> list[str]:
    """Return the texts of X, and check or set its columns."""
    on_invalid: OnInvalid = getattr(estimator, "on_invalid", "error")
    table = take_columns(X, on_invalid=on_invalid)
    unnamed = "feature_names_in_" not in estimator.__dict__
    if not (table.one_dimensional or (not reset and len(table.columns) == 1 and unnamed)):
        # scikit-learn only looks at the shape of an array
        columns = X if table.names is not None else np.empty((table.n_texts, len(table.columns)))
        validate_data(estimator, X=columns, skip_check_array=True, reset=reset)
    elif reset:  # flat texts are one unnamed column; scikit-learn's check only knows tables
        estimator.n_features_in_ = 1
        estimator.__dict__.pop("feature_names_in_", None)
    elif estimator.n_features_in_ != 1:
        raise ValueError(
            f"X has 1 features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input: it was fitted on several columns. "
            "Reshape your data to the same columns."
        )
    missing: Missing = getattr(estimator, "missing", "error")
    return check_texts(table, missing=missing, on_invalid=on_invalid)


def check_words(table: TextColumns) -> list[tuple[str, ...]] | None:
    """Return pre-split texts as tuples of words, or None."""
    rows = table.columns[0]
    split = list | tuple | np.ndarray
    if len(table.columns) > 1 or not any(isinstance(row, split) for row in rows):
        return None
    if not isinstance(rows[0], split):
        odd = next(i for i, row in enumerate(rows) if isinstance(row, split))
        raise TypeError(
            f"{table.row(odd)} of X is a list of words, row 0 is of type {type(rows[0]).__name__}; "
            "use one kind for all rows."
        )
    words = []
    for i, row in enumerate(rows):
        if not isinstance(row, split):
            raise TypeError(
                f"{table.row(i)} of X is of type {type(row).__name__}, row 0 is a list of words; "
                "use one kind for all rows."
            )
        words.append(tuple(_check_word(word, i, j, table) for j, word in enumerate(row)))
    return words


def _check_word(word: Any, i: int, j: int, table: TextColumns) -> str:
    try:
        return check_texts([word])[0]
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{table.row(i)}, {str(error).replace('row 0', f'word {j}', 1)}"
        ) from None


def _check_cell(
    cell: Any, i: int, table: TextColumns, missing: Missing, on_invalid: OnInvalid
) -> str:
    if not isinstance(cell, str):
        if _is_missing(cell):
            if missing == "error":
                raise ValueError(
                    f"{table.row(i)} of X is {cell!r} (missing; NaN, None and NA are not texts). "
                    "Drop or fill missing rows, or set missing='empty' to read them as empty texts."
                )
            return ""
        if on_invalid == "error" or isinstance(cell, bytes | bytearray | list | tuple | np.ndarray):
            raise TypeError(
                f"{table.row(i)} of X is of type {type(cell).__name__}, {_shown(cell)}; each "
                f"text's argument must be a string, not a number or another object: {_cure(cell)}."
            )
        if isinstance(cell, float | np.floating) and np.isinf(cell):
            raise ValueError(
                f"{table.row(i)} of X is {cell!r}: infinity is the result of a wrong calculation, "
                "not a text. Drop it."
            )
        cell = str(cell)
    text = str.__str__(cell)  # makes np.str_ and other subclasses plain str
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if on_invalid == "coerce":
            return repaired
        raise ValueError(
            f"{table.row(i)} of X, a str, contains a lone surrogate, {text[error.start]!a}, at "
            f"character {error.start}: half of a UTF-16 pair, which cannot be encoded. Repair it "
            "with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace'), or set "
            "on_invalid='coerce', which does the same."
        ) from None
    return text


def _refuse_columns(table: TextColumns) -> NoReturn:
    if table.names is None:
        raise ValueError(
            f"X has {len(table.columns)} columns, shape ({table.n_texts}, {len(table.columns)}); "
            "expected one column of text. Choose one, as in X[:, 0]."
        )
    raise ValueError(
        f"X is a DataFrame with {len(table.columns)} columns, {table.names}; expected one column "
        f"of text. Choose one, as in X[{table.names[0]!r}], or use a ColumnTransformer: "
        f"make_column_transformer((BertVectorizer(), {table.names[0]!r}))."
    )


def _cure(cell: Any) -> str:
    if isinstance(cell, bytes | bytearray):
        return "decode it, as in data.decode('utf-8')"
    if isinstance(cell, list | tuple | np.ndarray):
        return (
            "join the words, as in ' '.join(words); only transform_tokens takes texts that are "
            "already split"
        )
    return "convert the column, as in column.astype(str), or set on_invalid='coerce'"


def _is_missing(cell: Any) -> bool:
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return True
    if isinstance(cell, np.generic | float | complex):
        return bool(pd.isna(cell))  # type: ignore[arg-type]
    return False


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def canonical(text: Any) -> str:
    """Fold NFKC, case and blanks, for texts that count as equal."""
    return " ".join(unicodedata.normalize("NFKC", str(text)).casefold().split())


def text_groups(texts: Iterable[Any], groups: np.ndarray | None = None) -> np.ndarray | None:
    """Join equal texts and groups, (n_texts,), None if all are separate."""
    keys = _numbered(map(canonical, texts))
    if groups is not None:
        n_keys, n_groups = len(np.unique(keys)), len(np.unique(groups))
        edges = np.ones(len(keys)), (keys, n_keys + groups)
        graph = sparse.coo_array(edges, shape=(n_keys + n_groups,) * 2)
        keys = connected_components(graph, directed=False)[1][keys]
    return keys if len(np.unique(keys)) < len(keys) else None


def group_numbers(groups: Any, n_texts: int) -> np.ndarray | None:
    """Return the number of each text's group, (n_texts,)."""
    if groups is None:
        return None
    cells = label_cells(groups)
    if len(cells) != n_texts:
        raise ValueError(
            f"groups holds {len(cells)} values for {n_texts} texts; give one per text."
        )
    missing = [i for i, cell in enumerate(cells) if _is_missing(cell)]
    if missing:
        raise ValueError(
            f"groups is missing for {len(missing)} of {n_texts} texts, first for text "
            f"{missing[0]}. Give every text a group, possibly its own."
        )
    return _numbered(cells)


def _numbered(values: Iterable[Any]) -> np.ndarray:
    known: dict[Any, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def check_labels(y: Any, n_texts: int, *, warn: bool = True) -> None:
    """Raise for labels that suit no classifier."""
    if y is None:
        return
    labels = label_cells(y)
    _check_length(labels, n_texts)
    if _several(labels):
        return
    for i, label in enumerate(labels):
        if _is_missing(label):
            raise ValueError(
                f"Input y contains NaN: label {i} is {label!r} (missing). Drop the unlabelled rows "
                "before fit."
            )
    _refuse_mixed(labels, unlabelled=True)
    names = [label for label in labels if isinstance(label, str)]
    if names and warn:
        _warn_of_variants(names)


def _check_length(labels: list[Any], n_texts: int) -> None:
    if len(labels) != n_texts:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {n_texts} texts and "
            f"{len(labels)} labels. Each text needs exactly one label."
        )


def _several(labels: list[Any]) -> bool:
    """Whether some text has several labels."""
    kinds = list | tuple | set | frozenset | np.ndarray
    return any(isinstance(label, kinds) for label in labels)


def _refuse_mixed(labels: list[Any], *, unlabelled: bool = False) -> None:
    """Raise if y mixes texts with other labels, except -1 if ``unlabelled``."""
    texts = [i for i, label in enumerate(labels) if isinstance(label, str)]
    others = [
        i
        for i, label in enumerate(labels)
        if not (isinstance(label, str) or (unlabelled and label == -1))
    ]
    if texts and others:
        first, odd = sorted((texts[0], others[0]))
        raise ValueError(
            f"y mixes text with other labels: label {first} is {labels[first]!r} "
            f"({type(labels[first]).__name__}), label {odd} is {labels[odd]!r} "
            f"({type(labels[odd]).__name__}). Use one type, as in y.astype(str)."
        )


def labels_of_texts(y: Any, n_texts: int) -> list[Any]:
    """Return one label per text, or raise if there are several."""
    labels = label_cells(y)
    if _several(labels):
        raise ValueError(
            "y holds several labels per text; expected one class label per text, such as "
            "y['label']."
        )
    _check_length(labels, n_texts)
    return labels


def has_label_sets(y: Any) -> bool:
    """Return whether y holds several labels per text."""
    return y is not None and _several(label_cells(y))


def label_sets(y: Any, n_texts: int) -> tuple[np.ndarray, list[str] | None]:
    """Return 0 or 1 for each text and label, and names."""
    rows = list(y.toarray()) if sparse.issparse(y) else label_cells(y)
    _check_length(rows, n_texts)
    table = np.array([list(row) if _several([row]) else [row] for row in rows], dtype=object)
    numbers = int | float | np.number | np.bool_
    cells = table.ravel().tolist()
    odd = [cell for cell in cells if not isinstance(cell, numbers) or cell not in (0, 1)]
    if table.ndim != 2 or odd:
        example = f", such as {odd[0]!r:.60}" if odd else ""
        raise ValueError(
            f"y holds something other than 0 and 1{example}. For several labels per text, give "
            "each text a row of 0 and 1, as MultiLabelBinarizer().fit_transform(y) does."
        )
    names = [str(name) for name in y.columns] if hasattr(y, "columns") else None
    return table.astype(np.int64), names


def _warn_of_variants(labels: list[str]) -> None:
    classes = [str.__str__(name) for name in dict.fromkeys(labels)]
    spelt: dict[str, list[str]] = {}
    for name in classes:
        spelt.setdefault(name.strip().casefold(), []).append(name)
    odd = [
        f"{' and '.join(map(repr, names))} {'differ by case or blanks only' if key else 'is empty'}"
        for key, names in spelt.items()
        if len(names) > 1 or not key
    ]
    if odd:
        warnings.warn(
            f"y holds {len(classes)} classes, {_shown(classes)}: {'; '.join(odd)}. Unless this is "
            "intended, clean the column, as in y.str.strip().str.lower(), and drop unlabelled "
            "rows.",
            stacklevel=3,
        )


def label_cells(y: Any) -> list[Any]:
    """Return the label or labels of each text."""
    if y is None:
        raise ValueError(
            "The classifier requires y to be passed, but the target y is None; give one label per "
            "text."
        )
    if sparse.issparse(y):
        # the last step checks them; only their number matters here
        return [()] * y.shape[0] if y.ndim == 2 else list(y.toarray())
    if isinstance(y, pd.Series):
        return _cells(y)
    native = nw.from_native(y, allow_series=True, pass_through=True)
    if isinstance(native, nw.Series):
        return _cells(native)
    if isinstance(native, nw.DataFrame):
        rows: list[Any] = list(native.iter_rows())
    elif isinstance(y, list | tuple):
        rows = list(y)
    else:
        array = np.asarray(y)
        if array.ndim == 0:
            raise TypeError(
                f"y is a {type(y).__name__}, {_shown(y)}; expected a list, array or Series with "
                "one label per text."
            )
        rows = list(array)
    if all(isinstance(row, list | tuple | np.ndarray) and len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    return rows


def class_numbers(y: Any, n_texts: int, *, warn: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted classes and each label's class number, (n_texts,)."""
    check_labels(y, n_texts, warn=warn)
    _refuse_mixed(label_cells(y))  # which numpy would convert to text
    labels = column_or_1d(y, warn=warn)
    if labels.dtype == object and not any(isinstance(label, str) for label in labels):
        labels = np.array(labels.tolist())
    check_target(labels)
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y holds only one class, {', '.join(map(repr, classes.tolist()))}, in all {n_texts} "
            "rows; a classifier needs at least two. Check the label column."
        )
    return classes, numbers


def check_target(labels: np.ndarray) -> None:
    """Raise for numbers that are not classes."""
    if type_of_target(labels).startswith("continuous"):
        raise ValueError(of_regression(labels[labels % 1 != 0][0]))
    check_classification_targets(labels)


def of_regression(number: Any) -> str:
    """Return the message about a continuous target."""
    return (
        f"y is continuous, with numbers such as {number:.4g}: this is regression, and classes are "
        "expected here. Make classes, for example with pandas.cut, or score a regressor such as "
        "Ridge with scikit-learn's cross_val_score."
    )


def set_aside(
    numbers: np.ndarray, classes: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows in two, with every class on both sides."""
    counts = np.bincount(numbers)
    n_aside = int(np.ceil(fraction * len(numbers)))
    if counts.min() < 2:
        raise ValueError(
            "early_stopping=True holds out texts of every class, and the class "
            f"{classes.tolist()[counts.argmin()]!r} has only one text. Add texts, drop it, or use "
            "early_stopping=False."
        )
    if not len(classes) <= n_aside <= len(numbers) - len(classes):
        raise ValueError(
            f"validation_fraction={fraction} holds out {n_aside} of {len(numbers)} texts; with "
            f"{len(classes)} classes allowed are {len(classes)} to {len(numbers) - len(classes)}. "
            "Change it, or use early_stopping=False."
        )
    rows, aside = train_test_split(
        np.arange(len(numbers)), test_size=n_aside, stratify=numbers, random_state=seed
    )
    return np.sort(rows), np.sort(aside)
