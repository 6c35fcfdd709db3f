"""A step that does what its texts say, in a saved pipeline. Workers import this module."""

import errno
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import save_pipeline
from pipeline.exceptions import ArtifactWarning

TRUSTED = ("tests.scoring_steps.Obeys", "tests.scoring_steps.Breaks")
BREAKS = "PIPELINE_TEST_BREAKS"  # folder, kind and number of the call that breaks, as JSON
STRUCK = "struck"  # a file beside that folder, when it did
LOVELY = [f"a lovely film, number {i}" for i in range(10)]
DULL = [f"a dull film, number {i}" for i in range(10)]


class Obeys(TransformerMixin, BaseEstimator):
    """Does what texts say: KILL, KILL ONCE file, FAIL, DISK, WARN, SLEEP seconds."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        for text in X:
            word, _, rest = text.partition(" ")
            if word == "KILL" and not (rest.startswith("ONCE ") and Path(rest[5:]).exists()):
                if rest.startswith("ONCE "):
                    Path(rest[5:]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "FAIL":
                raise ValueError(f"this text says {text!r}")
            elif word == "DISK":
                raise OSError(28, "No space left on device")
            elif word == "WARN":
                warnings.warn("a text says so", RuntimeWarning, stacklevel=2)
            elif word == "SLEEP":
                time.sleep(float(rest))
        return X


class Breaks(Obeys):
    """From its first prediction on, lets the n-th call on a folder fail, or kill, once."""

    def transform(self, X):
        if BREAKS in os.environ:
            folder, kind, left = json.loads(os.environ.pop(BREAKS))
            struck = Path(folder).parent / STRUCK

            def strike(event, arguments):
                nonlocal left
                if event not in ("open", "os.rename", "os.remove") or left < 1:
                    return
                if not str(arguments[0]).startswith(folder):
                    return
                left -= 1
                if not left and not struck.exists():
                    struck.touch()
                    if kind == "death":
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise OSError(errno.EIO, os.strerror(errno.EIO), str(arguments[0]))

            sys.addaudithook(strike)
        return X


def breaking():
    """Fit a pipeline that needs no torch and breaks as it is told."""
    model = make_pipeline(Breaks(), TfidfVectorizer(), LogisticRegression())
    return model.fit([*LOVELY, *DULL], ["good"] * 10 + ["bad"] * 10)


def save_obeying(folder):
    """Save a fitted pipeline that needs no torch, and obeys."""
    model = make_pipeline(Obeys(), TfidfVectorizer(), LogisticRegression())
    model.fit([*LOVELY, *DULL], ["good"] * 10 + ["bad"] * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ArtifactWarning)  # that it has to be trusted
        return save_pipeline(model, Path(folder) / "m.joblib")
