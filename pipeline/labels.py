"""Labels -> class numbers, and texts of every class set aside to stop by. Used by finetuning."""

from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from pipeline.texts import check_labels


def class_numbers(y: Any, n_texts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes, and of each label the number of its class.

    Parameters
    ----------
    y : array-like of shape (n_texts,)
        Labels: strings, integers or booleans.
    n_texts : int
        How many there must be.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        Sorted, in the type of the labels.
    numbers : ndarray of shape (n_texts,), int64
        ``classes[numbers]`` are the labels.

    Raises
    ------
    ValueError
        For labels that are missing, too few, mixed, continuous, or of one class only.

    Examples
    --------
    >>> class_numbers(["good", "bad", "good"], 3)
    (array(['bad', 'good'], dtype='<U4'), array([1, 0, 1]))
    """
    if y is None:
        raise ValueError("The classifier requires y to be passed, but the target y is None; give one label per text.")
    check_labels(y, n_texts)
    labels = column_or_1d(y, warn=True)
    check_classification_targets(labels)
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y holds one class only, {classes.tolist()[0]!r}; a classifier needs at least two. Check the label column."
        )
    return classes, numbers


def set_aside(numbers: np.ndarray, classes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows in two, with every class on both sides.

    Parameters
    ----------
    numbers : ndarray of shape (n_texts,), int64
        From `class_numbers`.
    classes : ndarray of shape (n_classes,)
        From `class_numbers`.
    fraction : float
        Share of the rows to set aside, between 0 and 1.
    seed : int
        Which ones.

    Returns
    -------
    rows, aside : ndarray of int64
        Row numbers, both ascending; together all of them.

    Raises
    ------
    ValueError
        Where a class has one text only, or the share leaves one side with fewer texts than there are classes.
    """
    counts = np.bincount(numbers)
    n_aside = int(np.ceil(fraction * len(numbers)))
    if counts.min() < 2:
        raise ValueError(
            f"early_stopping=True sets texts of every class aside, and the class {classes.tolist()[counts.argmin()]!r} has one "
            "text only. Give it more, drop it, or use early_stopping=False."
        )
    if not len(classes) <= n_aside <= len(numbers) - len(classes):
        raise ValueError(
            f"validation_fraction={fraction} sets {n_aside} of {len(numbers)} texts aside; with {len(classes)} classes allowed "
            f"are {len(classes)} to {len(numbers) - len(classes)}. Change it, or use early_stopping=False."
        )
    rows, aside = train_test_split(np.arange(len(numbers)), test_size=n_aside, stratify=numbers, random_state=seed)
    return np.sort(rows), np.sort(aside)
