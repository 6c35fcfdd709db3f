"""Choose the defaults of make_sentiment_pipeline: cross-validate poolings, layers, combinations,
scaling and C.

    python -m benchmarks.choose_defaults [--sst2 sst2.csv]

Writes results/defaults_reviews.json and, where the file of SST-2 is given,
results/defaults_sst2.json. Only training texts are used: those of the shipped reviews, and the rows
of SST-2 (columns text, label, split) with split == "train".
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.results_file import write_result
from pipeline import BertVectorizer, load_reviews, read_table
from pipeline.bert.pooling import Pooling

POOLINGS: tuple[Pooling, ...] = ("cls", "mean", "max")
LAST, LAST_FOUR, ALL = (6,), (3, 4, 5, 6), tuple(range(7))
# name -> poolings, layers, combine
FEATURES: dict[str, tuple[tuple[str, ...], tuple[int, ...], str]] = {
    "[CLS], last": (("cls",), LAST, "concat"),
    "[CLS], concat of all": (("cls",), ALL, "concat"),
    "mean, last": (("mean",), LAST, "concat"),
    "mean, sum of last four": (("mean",), LAST_FOUR, "sum"),
    "mean, concat of last four": (("mean",), LAST_FOUR, "concat"),
    "mean, mean of all": (("mean",), ALL, "mean"),
    "mean, concat of all": (("mean",), ALL, "concat"),
    "max, concat of all": (("max",), ALL, "concat"),
    "[CLS] and mean, concat of last four": (("cls", "mean"), LAST_FOUR, "concat"),
    "[CLS] and mean, concat of all": (("cls", "mean"), ALL, "concat"),
    "mean and max, concat of all": (("mean", "max"), ALL, "concat"),
}
SCALED_C = (0.0003, 0.001, 0.003, 0.01)
RAW_C = (0.03, 0.1, 1.0)
TFIDF_C = (1.0, 3.0, 10.0, 30.0)


def training_sets(sst2: Path | None) -> Iterator[tuple[str, pd.Series, np.ndarray]]:
    """Give name, texts and labels of each training set."""
    reviews, _ = load_reviews()
    yield "reviews", reviews["text"], reviews["label"].to_numpy()
    if sst2 is not None:
        table = read_table(sst2, columns=["text", "label", "split"])
        table = table[table["split"] == "train"]
        yield "sst2", table["text"], table["label"].to_numpy()


def feature_rows(
    texts: pd.Series, labels: np.ndarray, folds: StratifiedKFold
) -> Iterator[dict[str, object]]:
    """Encode once, then score every choice of features, scaling and C on the same folds."""
    vectors = BertVectorizer(pooling=POOLINGS, layers="all").fit_transform(texts)
    vectors = vectors.reshape(
        len(texts), len(POOLINGS), len(ALL), -1
    )  # (n_texts, n_poolings, n_layers, hidden_size)
    for name, (poolings, layers, combine) in FEATURES.items():
        chosen = vectors[:, [POOLINGS.index(p) for p in poolings]][:, :, list(layers)]
        if combine == "concat":
            X = chosen.reshape(len(texts), -1)
        else:
            X = (chosen.sum(axis=2) if combine == "sum" else chosen.mean(axis=2)).reshape(
                len(texts), -1
            )
        for scaling, C in [("standard", C) for C in SCALED_C] + [("none", C) for C in RAW_C]:
            head: BaseEstimator = LogisticRegression(C=C, max_iter=3000)
            model = make_pipeline(StandardScaler(), head) if scaling == "standard" else head
            yield {
                "features": name,
                "n_features": X.shape[1],
                "scaling": scaling,
                "C": C,
                **scores(model, X, labels, folds),
            }


def tfidf_rows(
    texts: pd.Series, labels: np.ndarray, folds: StratifiedKFold
) -> Iterator[dict[str, object]]:
    """Score the baseline's own choices on the same folds: it is tuned as carefully as ours."""
    for ngrams, sublinear, C in itertools.product([(1, 1), (1, 2)], [False, True], TFIDF_C):
        vectorizer = TfidfVectorizer(
            ngram_range=ngrams, sublinear_tf=sublinear, strip_accents="unicode"
        )
        model = make_pipeline(vectorizer, LogisticRegression(C=C, max_iter=3000))
        words = "words" if ngrams == (1, 1) else "words and pairs"
        name = f"TF-IDF, {words}{', sublinear' if sublinear else ''}"
        yield {
            "features": name,
            "n_features": 0,
            "scaling": "none",
            "C": C,
            **scores(model, texts, labels, folds),
        }


def scores(
    model: BaseEstimator, X: object, y: np.ndarray, folds: StratifiedKFold
) -> dict[str, float]:
    """Accuracy over the folds and its standard deviation."""
    accuracy = cross_val_score(model, X, y, cv=folds)
    return {
        "accuracy": round(float(accuracy.mean()), 4),
        "sd": round(float(accuracy.std(ddof=1)), 4),
    }


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sst2", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    arguments = parser.parse_args()
    folds = StratifiedKFold(arguments.folds, shuffle=True, random_state=0)
    for data, texts, labels in training_sets(arguments.sst2):
        rows = []
        for row in itertools.chain(
            tfidf_rows(texts, labels, folds), feature_rows(texts, labels, folds)
        ):
            rows.append({"data": data, **row})
            print(rows[-1], flush=True)
        write_result(f"defaults_{data}", rows)


if __name__ == "__main__":
    main()
