"""Frozen or fine-tuned: accuracy, time and size of both on the shipped reviews and on SST-2.

    python -m benchmarks.finetuning sst2.csv            # results/finetuning.json
    python -m benchmarks.finetuning sst2.csv --choose   # results/finetuning_choice.json

The file has the columns text, label and split, as for `benchmarks.sst2`. ``--choose`` compares
learning rates: trained on 2,000 texts of SST-2 train, scored on SST-2 dev. No test text is ever
used for choosing.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.pipeline import Pipeline, make_pipeline

from benchmarks.results_file import write_result
from pipeline import (
    FineTunedBertClassifier,
    load_reviews,
    make_sentiment_pipeline,
    read_table,
    save_pipeline,
)

LEARNING_RATES = (5e-5, 1e-4, 2e-4)
N_CHOOSE = 2000
SEED = 0


def models() -> dict[str, Pipeline]:
    """Return what is compared; the frozen pipeline caches nothing, so that its times are those of
    encoding.
    """
    return {
        "frozen": make_sentiment_pipeline(cache=None),
        "fine-tuned": make_pipeline(FineTunedBertClassifier(random_state=SEED)),
    }


def tasks(file: Path) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame, str]]:
    """Give name, training texts, test texts and the column of labels of each task."""
    table = read_table(file, columns=["text", "label", "split"])
    yield "SST-2", table[table["split"] == "train"], table[table["split"] == "test"], "label"
    train, test = load_reviews()
    yield "reviews, sentiment", train, test, "label"
    yield "reviews, domain", train, test, "domain"


def measure(
    model: Pipeline, train: pd.DataFrame, test: pd.DataFrame, column: str
) -> dict[str, Any]:
    """Fit, score and save one model."""
    start = time.perf_counter()
    model.fit(train["text"], train[column])
    fit_seconds = time.perf_counter() - start
    model.predict(test["text"][:3])  # what is loaded once is no part of the next time
    start = time.perf_counter()
    accuracy = float((model.predict(test["text"]) == test[column].to_numpy()).mean())
    predict_seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        size = os.path.getsize(save_pipeline(model, Path(folder) / "model.joblib"))
    return {
        "accuracy": round(accuracy, 4),
        "fit_seconds": round(fit_seconds, 1),
        "texts_per_second": round(len(test) / predict_seconds, 1),
        "file_mb": round(size / 1e6, 1),
    }


def compare(file: Path) -> None:
    """Write results/finetuning.json."""
    rows = []
    for task, train, test, column in tasks(file):
        for name, model in models().items():
            rows.append({"task": task, "model": name, "n_train": len(train), "n_test": len(test)})
            rows[-1] |= measure(model, train, test, column)
            print(rows[-1], flush=True)
    write_result("finetuning", rows, peers=("accelerate",))


def choose(file: Path) -> None:
    """Write results/finetuning_choice.json."""
    table = read_table(file, columns=["text", "label", "split"])
    train, dev = (
        table[table["split"] == "train"].sample(N_CHOOSE, random_state=SEED),
        table[table["split"] == "dev"],
    )
    rows = []
    for rate in LEARNING_RATES:
        model = FineTunedBertClassifier(learning_rate=rate, random_state=SEED).fit(
            train["text"], train["label"]
        )
        accuracy = round(float(model.score(dev["text"], dev["label"])), 4)
        rows.append(
            {
                "learning_rate": rate,
                "epochs": model.n_epochs_,
                "n_train": len(train),
                "dev_accuracy": accuracy,
            }
        )
        print(rows[-1], flush=True)
    frozen = make_sentiment_pipeline(cache=None).fit(train["text"], train["label"])
    rows.append(
        {
            "learning_rate": None,
            "epochs": 0,
            "n_train": len(train),
            "dev_accuracy": round(frozen.score(dev["text"], dev["label"]), 4),
        }
    )
    write_result("finetuning_choice", rows, peers=("accelerate",))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--choose", action="store_true", help="compare learning rates on SST-2 dev")
    options = parser.parse_args()
    (choose if options.choose else compare)(options.file)


if __name__ == "__main__":
    main()
