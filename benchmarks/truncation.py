"""Long texts: head, tail, head_tail and windows of several lengths, alone and stacked with n-grams,
by 5 folds on whole film reviews, beside TF-IDF on the same folds.

    python -m benchmarks.truncation movie_reviews.csv [--cache FOLDER] [--only window-128,tail-512]

The file has the columns text and label (2,000 reviews of Pang and Lee 2004, 744 words each on
average). Writes results/truncation.json; with --only other rows stay. With a cache folder a run
that was broken off goes on where it stopped.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from benchmarks.choose_defaults import NaiveBayesWeights
from benchmarks.results_file import read_rows, write_result
from pipeline import BertVectorizer, TruncationWarning, make_sentiment_pipeline, read_table
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.evaluation.metrics import paired_difference

# truncation, max_length
SETTINGS = (
    ("head", 512),
    *(("window", length) for length in (128, 256, 64, 512)),
    ("tail", 512),
    ("head_tail", 512),
)
CHOICES: tuple[Any, ...] = (0.1, "cv")


def answers(
    texts: np.ndarray, labels: np.ndarray, cache: Path, only: list[str] | None
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Give of every contender what it is, and whether it was right on each text."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    predicted = cross_val_predict(make_tfidf_baseline(), texts, labels, cv=folds)
    plain = {"max_length": None, "classifier": "C=30", "share_lost": 0.0, "cpu_seconds": 0.0}
    yield {"features": "TF-IDF", **plain}, predicted == labels
    weighted = make_tfidf_baseline()
    weighted.steps.insert(1, ("weights", NaiveBayesWeights()))
    predicted = cross_val_predict(weighted, texts, labels, cv=folds)
    yield {"features": "NB-weighted n-grams", **plain}, predicted == labels
    for truncation, max_length in SETTINGS:
        if only is not None and f"{truncation}-{max_length}" not in ["head-512", *only]:
            continue
        options: dict[str, Any] = {
            "truncation": truncation,
            "max_length": max_length,
            "cache": cache,
        }
        vectorizer = BertVectorizer(layers="all", **options)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # it is in the rows
            X = vectorizer.fit_transform(
                texts
            )  # frozen: the features of a text are the same in every fold
        row = {
            "features": truncation,
            "max_length": max_length,
            "share_lost": vectorizer.truncation_report_["share_lost"],
            "cpu_seconds": time.process_time() - start,  # of encoding, less what the cache had
        }
        for C in CHOICES:
            predicted = cross_val_predict(make_sentiment_pipeline(C=C)[-1], X, labels, cv=folds)
            yield {**row, "classifier": f"C={C}"}, predicted == labels
        if truncation == "window":  # the fits of the n-grams take minutes
            stack = make_sentiment_pipeline(ngrams=True, C="cv", **options)
            predicted = cross_val_predict(stack, texts, labels, cv=folds)
            yield {**row, "classifier": "C=cv, stacked with n-grams"}, predicted == labels


def main() -> None:
    """Score everything and hold each against head, and against TF-IDF."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--only", help="settings to measure anew, beside head-512")
    options = parser.parse_args()
    table = read_table(options.file, columns=["text", "label"])
    texts, labels = table["text"].to_numpy(dtype=object), table["label"].to_numpy()
    only = None if options.only is None else options.only.split(",")
    before = [] if only is None else read_rows("truncation")
    rows: list[dict[str, Any]] = []
    right: dict[tuple[Any, ...], np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for row, of_row in answers(texts, labels, options.cache or Path(folder), only):
            key = (row["features"], row["max_length"], row["classifier"])
            right[key] = of_row
            head = right.get(("head", 512, key[2]))
            rows.append({**row, "n_texts": len(texts), "accuracy": float(of_row.mean())})
            rows[-1]["against_head"] = (
                None if head is None else list(paired_difference(of_row, head))
            )
            rows[-1]["against_tfidf"] = list(
                paired_difference(of_row, right["TF-IDF", None, "C=30"])
            )
            print(rows[-1], flush=True)
            known = {(one["features"], one["max_length"]) for one in rows}
            kept = [one for one in before if (one["features"], one["max_length"]) not in known]
            write_result("truncation", [*rows, *kept])


if __name__ == "__main__":
    main()
