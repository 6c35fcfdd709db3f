"""Choose the defaults of make_sentiment_pipeline: cross-validate poolings, layers, combinations,
scaling and C; with --stack what stands beside BERT under ngrams=True.

    python -m benchmarks.choose_defaults [--sst2 sst2.csv]
    python -m benchmarks.choose_defaults --stack sst2.csv banking77.csv ... [--cache FOLDER]

Writes results/defaults_reviews.json and, where the file of SST-2 is given,
results/defaults_sst2.json; with --stack results/defaults_stack.json, on the reviews and the files.
Only training texts are used: those of the shipped reviews, and the rows of a file (columns text,
label, split) with split == "train", or all of them where there are none.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.results_file import write_result
from pipeline import BertVectorizer, load_reviews, read_table
from pipeline.bert.pooling import Pooling
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.logistic import TiedLogisticRegression

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
MOST_TEXTS = 3000  # of a set of many classes, of which each fit takes long
MANY_CLASSES = 20
WINDOW_WORDS = 90  # of a text cut for "BERT by window"
# what a stack may be made of: parts of `part_logits`, and C of the last classifier
PLAIN = ("BERT, C=0.1", "n-grams, C=30")
STACKS: list[tuple[tuple[str, ...], float]] = [
    *(((part,), 1.0) for part in PLAIN),
    (PLAIN, 1.0),
    (PLAIN, 0.1),
    (PLAIN, 10.0),
    *(((f"BERT, C={C:g}", PLAIN[1]), 1.0) for C in (0.03, 0.3, 1)),
    *(((PLAIN[0], f"n-grams, C={C:g}"), 1.0) for C in (3, 10, 100)),
    ((PLAIN[0], "n-grams in two texts or more"), 1.0),
    ((PLAIN[0], "n-grams with punctuation"), 1.0),
    ((PLAIN[0], "NB-weighted n-grams"), 1.0),
    ((PLAIN[0], "characters 2-5"), 1.0),
    (("BERT by window", PLAIN[1]), 1.0),
    ((*PLAIN, "NB-weighted n-grams"), 1.0),
    ((*PLAIN, "characters 2-5"), 1.0),
    ((*PLAIN, "NB-weighted n-grams", "characters 2-5"), 1.0),
]


def training_sets(files: Sequence[Path]) -> Iterator[tuple[str, pd.Series, np.ndarray]]:
    """Give name, texts and labels of each training set: the reviews, and those of files."""
    reviews, _ = load_reviews()
    yield "reviews", reviews["text"], reviews["label"].to_numpy()
    for file in files:
        table = read_table(file, columns=["text", "label", "split"])
        if (table["split"] == "train").any():
            table = table[table["split"] == "train"]
        yield file.stem, table["text"], table["label"].to_numpy()


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


def stack_rows(
    texts: pd.Series, labels: np.ndarray, folds: StratifiedKFold, cache: Path | None
) -> Iterator[dict[str, object]]:
    """Score every stack on the same folds, from out-of-fold logits of its parts.

    The vocabulary of n-grams is taken from all texts at once, which see no label.
    """
    if len(np.unique(labels)) > MANY_CLASSES and len(texts) > MOST_TEXTS:
        texts, _, labels, _ = train_test_split(
            texts, labels, train_size=MOST_TEXTS, stratify=labels, random_state=0
        )
    logits = {
        name: cross_val_predict(model, X, labels, cv=folds, method="decision_function")
        for name, (X, model) in stack_parts(texts, labels, cache).items()
    }
    for parts, C in STACKS:
        X = np.column_stack([logits[part] for part in parts])
        last = TiedLogisticRegression(C=C)
        found = cross_val_predict(last, X, labels, cv=folds, method="predict_proba")
        yield {
            "features": " + ".join(parts),
            "C": C,
            **scores(last, X, labels, folds),
            "log_loss": log_loss(labels, found),
        }


def stack_parts(
    texts: pd.Series, labels: np.ndarray, cache: Path | None
) -> dict[str, tuple[Any, BaseEstimator]]:
    """Return features and classifier of each part of `STACKS`."""
    # windows, for the film reviews; short texts are one window
    bert = BertVectorizer(layers="all", truncation="window", max_length=128, cache=cache)
    vectors = bert.fit_transform(texts)
    words = clone(make_tfidf_baseline()[0])
    tfidf = words.fit_transform(texts)
    punctuation = clone(words).set_params(token_pattern=r"\w+|[^\w\s]")
    windows = [split_words(text) for text in texts]
    by_window = np.empty(len(windows), dtype=object)
    ends = np.cumsum([len(parts) for parts in windows])[:-1]
    by_window[:] = np.split(bert.transform(list(itertools.chain(*windows))), ends)
    characters = clone(words).set_params(analyzer="char_wb", ngram_range=(2, 5), min_df=2)
    weighted: BaseEstimator = make_pipeline(NaiveBayesWeights(), LogisticRegression(C=10))
    if len(np.unique(labels)) > 2:
        weighted = OneVsRestClassifier(weighted)

    def head(C: float) -> BaseEstimator:
        return LogisticRegression(C=C, max_iter=3000)

    return {
        **{f"BERT, C={C:g}": (vectors, head(C)) for C in (0.03, 0.1, 0.3, 1)},
        **{f"n-grams, C={C:g}": (tfidf, head(C)) for C in (3, 10, 30, 100)},
        "n-grams in two texts or more": (
            clone(words).set_params(min_df=2).fit_transform(texts),
            head(30),
        ),
        "n-grams with punctuation": (punctuation.fit_transform(texts), head(30)),
        "NB-weighted n-grams": (tfidf, weighted),
        "BERT by window": (by_window, WindowClassifier(C=0.1, max_iter=3000)),
        "characters 2-5": (characters.fit_transform(texts), head(30)),
    }


def split_words(text: str) -> list[str]:
    """Cut a text into parts of 90 words, about a window of 128 tokens each."""
    words = text.split()
    if len(words) <= WINDOW_WORDS:
        return [text]
    return [
        " ".join(words[start : start + WINDOW_WORDS])
        for start in range(0, len(words), WINDOW_WORDS)
    ]


class WindowClassifier(LogisticRegression):
    """Learn the label of a text from each of its windows; the decision is their mean.

    X is an array of objects, of each text the vectors of its windows, (n_windows, n_features).
    """

    def fit(self, X: Any, y: np.ndarray) -> Self:
        """Fit a classifier to all windows; those of one text weigh as much as one text."""
        counts = np.array([len(windows) for windows in X])
        super().fit(np.concatenate(X), np.repeat(y, counts), np.repeat(1 / counts, counts))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the mean decision over the windows of each text."""
        counts = np.array([len(windows) for windows in X])
        sums = np.add.reduceat(
            super().decision_function(np.concatenate(X)), np.cumsum([0, *counts[:-1]])
        )
        return np.asarray((sums.T / counts).T)


class NaiveBayesWeights(TransformerMixin, BaseEstimator):
    """Multiply each column by its log-count ratio (Wang and Manning 2012)."""

    def fit(self, X: Any, y: np.ndarray) -> Self:
        """Count in how many texts of each of two classes a column is."""
        is_second = np.asarray(y) == np.unique(y)[-1]
        first, second = (
            np.asarray((X[side] > 0).sum(axis=0)).ravel() + 1 for side in (~is_second, is_second)
        )
        self.ratio_ = np.log((second / second.sum()) / (first / first.sum()))
        return self

    def transform(self, X: Any) -> Any:
        """Return the weighted columns."""
        return X.multiply(self.ratio_).tocsr()


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
    parser.add_argument("--stack", type=Path, nargs="*")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    arguments = parser.parse_args()
    folds = StratifiedKFold(arguments.folds, shuffle=True, random_state=0)
    if arguments.stack is not None:
        rows = []
        for data, texts, labels in training_sets(arguments.stack):
            for row in stack_rows(texts, labels, folds, arguments.cache):
                rows.append({"data": data, **row})
                print(rows[-1], flush=True)
            write_result("defaults_stack", rows)
        return
    for data, texts, labels in training_sets([arguments.sst2] if arguments.sst2 else []):
        rows = []
        for row in itertools.chain(
            tfidf_rows(texts, labels, folds), feature_rows(texts, labels, folds)
        ):
            rows.append({"data": data, **row})
            print(rows[-1], flush=True)
        write_result(f"defaults_{data}", rows)


if __name__ == "__main__":
    main()
