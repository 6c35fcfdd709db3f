"""Predicting where some rows may be at fault: which ones, and why. Used by score_shard."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.answers import Answers
from pipeline.checkpoints.model_files import CheckpointError

_LONGEST_REASON = 500  # characters
# never a row's fault: the disk, the installation, the weights
_NOT_THE_ROWS = (OSError, ImportError, CheckpointError)


def predict_rows(predict: Callable[[pd.Series], Answers], texts: pd.Series, n_classes: int) -> tuple[Answers, dict[int, str]]:
    """Predict on texts, and find those that the model fails on, by halves.

    Parameters
    ----------
    predict : callable
        Gives labels and probabilities, as `pipeline.answers.ask` does.
    texts : Series
    n_classes : int

    Returns
    -------
    answers : Answers
        Of the n_texts - len(failed) others.
    failed : dict of int to str
        Their places, each with what the model said.

    Raises
    ------
    Exception
        The model's own, where it fails on a plain text too: then it is no row's fault.
    """
    failed: dict[int, str] = {}
    answers = Answers(np.empty(0, dtype=object), np.empty((0, n_classes)))
    if len(texts):
        try:
            answers = predict(texts)
        except _NOT_THE_ROWS:
            raise
        except Exception as error:
            try:
                predict(pd.Series(["a plain text"], dtype="str"))
            except Exception:
                raise error from None
            failed = _failing(predict, texts)
            kept = texts.drop(texts.index[list(failed)])
            if len(kept):  # all of them at once, whatever else was tried: so it does not matter how the bad ones were found
                answers = predict(kept)
    good = [i for i in range(len(texts)) if i not in failed]
    is_finite = np.isfinite(answers.probability).all(axis=1)
    failed.update({good[i]: "its probabilities are not finite" for i in np.flatnonzero(~is_finite)})
    return Answers(answers.labels[is_finite], answers.probability[is_finite]), failed


def _failing(predict: Callable[[pd.Series], Answers], texts: pd.Series) -> dict[int, str]:
    failed: dict[int, str] = {}
    ranges = [(0, len(texts))]
    while ranges:
        start, stop = ranges.pop()
        try:
            predict(texts.iloc[start:stop])
        except _NOT_THE_ROWS:
            raise
        except Exception as error:
            if stop - start == 1:
                failed[start] = f"{type(error).__name__}: {error}"
            else:
                middle = (start + stop) // 2
                ranges += [(start, middle), (middle, stop)]
    return failed


def in_one_line(reason: str) -> str:
    """Make one line of what a model said, however much it said."""
    line = " ".join(reason.encode("utf-8", "backslashreplace").decode().split())  # it may quote what no file can hold
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."
