"""A fixed C against one that is chosen inside fit, and the solver and tolerance of the last fit.

    python -m benchmarks.choose_C [NAME=FILE] [--folds 5] [--fitted 5] [--cache FOLDER]

Writes results/choose_C_NAME.json, of the shipped reviews or of a file (columns text, label, split):
log loss, accuracy and calibration error of both heads on vectors of the default pipeline, out of
fold on the training texts, and, where the set has a test part, on that, fitted to all training
texts; nothing was chosen there. `--fitted` says how many of the folds are fitted, where all take
too long. And, of two classes, results/tolerance_NAME.json: by how much the probabilities of texts
out of fold move where the features are moved by 2e-6, for each solver and tolerance. Seconds are of
one core.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from benchmarks.results_file import write_result
from pipeline import load_reviews, make_sentiment_pipeline, read_table
from pipeline.evaluation.metrics import classification_scores

CHOICES: tuple[Any, ...] = (0.1, "cv")
SOLVERS = (("lbfgs", 1e-4), ("lbfgs", 1e-5), ("newton-cg", 1e-4), ("newton-cg", 1e-5))
ROUNDING = 2e-6
SCORES = ("accuracy", "log_loss", "calibration_error")


def fitted(head: BaseEstimator, X: np.ndarray, y: np.ndarray) -> tuple[Any, float]:
    """Return a fitted copy and its processor seconds."""
    begun = time.process_time()  # of the only thread: a busy machine does not lengthen it
    copy = clone(head).fit(X, y)
    return copy, time.process_time() - begun


def scored(codes: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
    """Return the scores that a choice of C changes."""
    scores = classification_scores(codes, probability.argmax(axis=1), probability)
    return {name: scores[name] for name in SCORES}


def choices(
    X: np.ndarray, y: np.ndarray, held_out: Any, n_folds: int, n_fitted: int
) -> Iterator[dict[str, Any]]:
    """Score both choices of C out of fold, and on the test part."""
    classes, codes = np.unique(y, return_inverse=True)
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=0)
    folds = list(splitter.split(X, codes))[:n_fitted]
    for C in CHOICES:
        head = make_sentiment_pipeline(C=C)[-1]
        row = {"n_texts": len(y), "n_classes": len(classes), "C": C}
        if folds:
            models = [fitted(head, X[train], codes[train]) for train, _ in folds]
            probability = [
                model.predict_proba(X[test])
                for (model, _), (_, test) in zip(models, folds, strict=True)
            ]
            tested = np.concatenate([test for _, test in folds])
            yield {
                **row,
                "scored on": f"{n_fitted} of {n_folds} folds",
                **scored(codes[tested], np.concatenate(probability)),
                "chosen": [getattr(model, "C_", C) for model, _ in models],
                "fit_seconds": float(np.median([seconds for _, seconds in models])),
            }
        if held_out is not None:
            model, seconds = fitted(head, X, codes)
            given = np.searchsorted(classes, held_out[1])
            yield {
                **row,
                "scored on": "test",
                **scored(given, model.predict_proba(held_out[0])),
                "chosen": [getattr(model, "C_", C)],
                "fit_seconds": seconds,
            }


def tolerances(X: np.ndarray, y: np.ndarray) -> Iterator[dict[str, Any]]:
    """Say how far rounded features move probabilities, for each solver and tolerance."""
    random = np.random.default_rng(0)
    train, test = next(StratifiedKFold(5, shuffle=True, random_state=0).split(X, y))
    rounded = X + random.choice([-ROUNDING, ROUNDING], size=X.shape).astype(np.float32)
    for solver, tol in SOLVERS:
        head = LogisticRegression(C=0.1, solver=solver, tol=tol, max_iter=5000)
        before, seconds = fitted(head, X[train], y[train])
        after, _ = fitted(head, rounded[train], y[train])
        moved = before.predict_proba(X[test]) - after.predict_proba(rounded[test])
        yield {
            "solver": solver,
            "tol": tol,
            "moved": float(np.abs(moved).max()),
            "fit_seconds": seconds,
        }


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", metavar="NAME=FILE")
    parser.add_argument("--cache", default="memory")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--fitted", type=int)
    arguments = parser.parse_args()
    data, test = "reviews", None
    if arguments.file is None:
        train, _ = load_reviews()
    else:
        data, path = arguments.file.split("=", 1)
        table = read_table(path, columns=["text", "label", "split"])
        train, test = (table[table["split"] == part] for part in ("train", "test"))
    vectorizer = make_sentiment_pipeline(cache=arguments.cache)[0]
    X, y = vectorizer.fit_transform(train["text"]), train["label"].to_numpy()
    held_out = None
    if test is not None and len(test):
        held_out = vectorizer.transform(test["text"]), test["label"].to_numpy()
    rows: list[dict[str, Any]] = []
    with threadpool_limits(limits=1, user_api="blas"):
        n_fitted = arguments.folds if arguments.fitted is None else arguments.fitted
        for row in choices(X, y, held_out, arguments.folds, n_fitted):
            rows.append(row)
            print(row, flush=True)
        write_result(f"choose_C_{data}", rows)
        if len(np.unique(y)) == 2:
            write_result(f"tolerance_{data}", list(tolerances(X, y)))


if __name__ == "__main__":
    main()
