"""Choose the parameters of the word2vec baseline: 3-fold cross-validation of width, algorithm,
epochs and C on training texts.

    python -m benchmarks.choose_word2vec --sst2 sst2.csv

Writes results/word2vec_choice.json. Only training texts are used: those of the shipped reviews, and
the rows of SST-2 (columns text, label, split) with split == "train".
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.choose_defaults import training_sets
from benchmarks.results_file import write_result
from pipeline.evaluation.word2vec import Word2VecVectorizer

# vector_size, skip_gram, epochs
SETTINGS = ((100, True, 5), (100, True, 20), (100, True, 50), (300, True, 50), (100, False, 50))
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


def setting_rows(
    texts: np.ndarray, labels: np.ndarray, folds: list[Any]
) -> Iterator[dict[str, Any]]:
    """Train the vectors once per setting and fold, and score every C on them."""
    for vector_size, skip_gram, epochs in SETTINGS:
        start, accuracy = time.perf_counter(), np.zeros((len(folds), len(STRENGTHS)))
        for i, (train, test) in enumerate(folds):
            vectorizer = Word2VecVectorizer(
                vector_size=vector_size, skip_gram=skip_gram, epochs=epochs, random_state=0
            )
            X, X_test = vectorizer.fit_transform(texts[train]), vectorizer.transform(texts[test])
            for j, C in enumerate(STRENGTHS):
                model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000)).fit(
                    X, labels[train]
                )
                accuracy[i, j] = model.score(X_test, labels[test])
        by_strength = dict(
            zip(map(str, STRENGTHS), accuracy.mean(axis=0).round(4).tolist(), strict=True)
        )
        seconds = round(time.perf_counter() - start, 1)
        yield {
            "vector_size": vector_size,
            "skip_gram": skip_gram,
            "epochs": epochs,
            "accuracy": by_strength,
            "seconds": seconds,
        }


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sst2", type=Path, action="append", required=True)
    rows = []
    for data, texts, labels in training_sets(parser.parse_args().sst2):
        folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(texts, labels))
        for row in setting_rows(texts.to_numpy(dtype=object), labels, folds):
            rows.append({"data": data, **row})
            print(rows[-1], flush=True)
    write_result("word2vec_choice", rows, peers=("gensim",))


if __name__ == "__main__":
    main()
