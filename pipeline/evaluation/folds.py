"""Folds that keep groups together and have all classes, without leaks."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
    check_cv,
)

from pipeline.answers import positions
from pipeline.exceptions import LeakWarning
from pipeline.texts import (
    check_texts,
    class_numbers,
    group_numbers,
    has_label_sets,
    label_cells,
    label_sets,
    labels_of_texts,
    text_groups,
)

Fold = tuple[np.ndarray, np.ndarray]


def split_folds(
    cv: Any, codes: np.ndarray, random_state: int, groups: np.ndarray | None = None
) -> list[Fold]:
    """Return training and test rows of every fold."""
    if isinstance(cv, int | np.integer):
        most = int(np.bincount(codes).max()) if codes.ndim == 1 and len(codes) else len(codes)
        if not 2 <= cv <= most:
            raise ValueError(
                f"n_splits={cv} folds (cv=, --cv) cannot be made; allowed are 2 to {most}, the "
                "number of texts in the largest class."
            )
        kinds = (StratifiedKFold, StratifiedGroupKFold) if codes.ndim == 1 else (KFold, GroupKFold)
        kind: Any = kinds[groups is not None]
        cv = kind(int(cv), shuffle=True, random_state=random_state)
    with warnings.catch_warnings():  # `check_classes` raises if it matters
        warnings.filterwarnings("ignore", "The (least populated class|groups parameter is ignored)")
        splitter = check_cv(cv, codes, classifier=True)
        try:
            splits = list(splitter.split(codes, codes, groups))
        except ValueError as error:
            if groups is None and "groups" in str(error):
                name = type(cv).__name__
                raise ValueError(f"cv is a {name}, which needs groups; pass groups=.") from error
            raise
    folds = [(np.asarray(train), np.asarray(test)) for train, test in splits]
    for i, (train, test) in enumerate(folds):
        if groups is not None and np.isin(groups[test], groups[train]).any():
            raise ValueError(
                f"Fold {i} of cv has texts of one group in its training and its test part. Use a "
                "number, or a splitter that keeps groups together, such as GroupKFold."
            )
    return folds


def check_classes(folds: Sequence[Fold], classes: np.ndarray, codes: np.ndarray) -> None:
    """Raise for folds that test a class they do not train on."""
    for i, (train, test) in enumerate(folds):
        known, tested = np.unique(codes[train]), codes[test]
        lacking = np.setdiff1d(tested, known)
        if len(lacking):
            n_tested = int((tested == lacking[0]).sum())
            raise ValueError(
                f"Class {classes.tolist()[lacking[0]]!r} has no text in the training part of fold "
                f"{i}, but {n_tested} in its test part, which no model could label correctly. "
                "Merge or drop rare classes, or choose other folds."
            )
        if len(known) < 2:
            raise ValueError(
                f"The training part of fold {i} holds only one class, "
                f"{classes.tolist()[known[0]]!r}; a classifier needs at least two. Choose other "
                "folds."
            )


def keep_groups(
    estimator: BaseEstimator, codes: np.ndarray, groups: np.ndarray, random_state: int
) -> BaseEstimator:
    """Return a copy whose own folds keep groups together."""
    copy: Any = clone(estimator)
    parameters = copy.get_params()
    names = [name for name in parameters if name == "cv" or name.endswith("__cv")]
    for name in names:
        # a nested one, such as a LogisticRegressionCV in a search, sees parts of the texts
        inner = any(name != other and name.startswith(other[:-2]) for other in names)
        cv = 5 if parameters[name] is None else parameters[name]
        if not inner and (isinstance(cv, int | np.integer) or hasattr(cv, "split")):
            cv = cv if hasattr(cv, "split") else min(cv, len(np.unique(groups)))
            copy.set_params(**{name: split_folds(cv, codes, random_state, groups)})
    return copy


def warn_of_leaking_folds(
    texts: Iterable[Any], folds: Sequence[Fold], *, stacklevel: int = 4
) -> None:
    """Warn of test texts that a fold trains on."""
    keys = text_groups(texts)
    if keys is not None:
        n_leaked = sum(int(np.isin(keys[test], keys[train]).sum()) for train, test in folds)
        cure = "Drop them, or keep equal texts together, for example with groups=X"
        warn_of_leaks(n_leaked, sum(len(test) for _, test in folds), cure, stacklevel=stacklevel)


def warn_of_leaks(
    n_leaked: int, n_scored: int, cure: str = "Drop them", *, stacklevel: int = 3
) -> None:
    """Warn of scored texts that were trained on."""
    if n_leaked:
        warnings.warn(
            f"{n_leaked} of {n_scored} texts to score also occur in the training part (ignoring "
            "case and blanks). A model can memorise their labels, so the scores are too high. "
            f"{cure}.",
            LeakWarning,
            stacklevel=stacklevel,
        )


class Data(NamedTuple):
    """The texts, labels and folds of a comparison."""

    texts: np.ndarray
    classes: np.ndarray
    numbers: np.ndarray  # of the classes, or 0 and 1 of several labels, (n_texts, n_labels)
    folds: list[Fold]
    groups: np.ndarray | None

    @property
    def has_sets(self) -> bool:
        """Whether texts have several labels."""
        return self.numbers.ndim == 2

    @property
    def labels(self) -> np.ndarray:
        """The class of each text, or its 0 and 1 of several labels."""
        return self.numbers if self.has_sets else self.classes[self.numbers]


def check_data(
    X: Any, y: Any, test: tuple[Any, Any] | None, cv: Any, groups: Any, random_state: int
) -> Data:
    """Check texts, labels and folds. Test texts follow the training texts."""
    texts = check_texts(X)
    if sets := has_label_sets(y):
        numbers, names = label_sets(y, len(texts))
        classes = np.array(names or [str(i) for i in range(numbers.shape[1])], dtype=object)
    else:
        classes, numbers = class_numbers(labels_of_texts(y, len(texts)), len(texts))
    together = group_numbers(groups, len(texts))
    if test is None:
        folds = split_folds(cv, numbers, random_state, together)
        _check_folds(folds)
        if not sets:
            check_classes(folds, classes, numbers)
        return Data(np.array(texts, dtype=object), classes, numbers, folds, together)
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise TypeError(f"test is a {type(test).__name__}; allowed is a pair, (X_test, y_test).")
    tested, expected = check_texts(test[0]), label_cells(test[1])
    if len(tested) != len(expected) or not tested:
        raise ValueError(
            f"test holds {len(tested)} texts and {len(expected)} labels; it needs at least one "
            "text, and one label per text."
        )
    if sets:
        places, _ = label_sets(test[1], len(tested))
        if places.shape[1] != len(classes):
            raise ValueError(
                f"y holds {len(classes)} labels per text, but test {places.shape[1]}; both need "
                "the same labels in the same order."
            )
    else:
        places, unknown = positions(labels_of_texts(expected, len(tested)), classes.tolist())
        if unknown:
            raise ValueError(
                "test holds labels that are not in y: "
                f"{', '.join(sorted(repr(str(label)) for label in unknown))}; y has "
                f"{', '.join(repr(str(label)) for label in classes.tolist())}."
            )
    rows = np.arange(len(texts) + len(tested))
    folds = [(rows[: len(texts)], rows[len(texts) :])]
    if together is not None:  # each test text is its own group
        together = np.concatenate([together, rows[len(texts) :] + together.max() + 1])
    every = np.array(texts + tested, dtype=object)
    return Data(every, classes, np.concatenate([numbers, places]), folds, together)


def _check_folds(folds: Sequence[Fold]) -> None:
    every = np.concatenate([tested for _, tested in folds])
    if len(np.unique(every)) < len(every) or any(
        np.isin(tested, train).any() or not len(tested) for train, tested in folds
    ):
        raise ValueError(
            "cv tests some text twice, tests one that it trains on, or has an empty test part: "
            "intervals would be wrong. Use disjoint folds, such as cv=5 or StratifiedKFold."
        )
