"""Time `predict` of one short text on a warm pipeline: ours beside sentence-transformers with a
LogisticRegression.

    python -m benchmarks.latency [--rounds 5] [--texts-per-round 200] [--threads 1 2]

One process, the same model files, threads and precision, mean of the last layer, the same kind of
classifier. Every text is distinct and of 6 to 18 tokens, and is given to every contender once, in
turns, text by text, each text beginning with the next contender: what slows the machine down slows
all of them. Ours is a fitted pipeline without a cache, given a list, a Series and a DataFrame, and
one that comes from a file. Before anything is timed, labels are compared. One process per number of
threads. Writes results/latency.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from benchmarks.encode import sentence_transformer
from benchmarks.results_file import spread, write_result
from benchmarks.workloads import generated, minilm
from pipeline import BertVectorizer, load_pipeline, load_reviews, save_pipeline

PEER = "sentence-transformers, LogisticRegression"
OURS = "list"
WARM = 100  # texts before the clock counts

Predict = Callable[[str], Any]


def contenders(folder: Path) -> tuple[dict[str, Predict], BertVectorizer]:
    """Fit ours and the peer's classifier, and say how each is given one text."""
    train = load_reviews()[0]
    texts, labels = list(train["text"]), list(train["label"])
    vectorizer = BertVectorizer(minilm(), cache=None, device="cpu")
    ours = make_pipeline(clone(vectorizer), LogisticRegression(max_iter=2000)).fit(texts, labels)
    named = make_pipeline(
        vectorizer.fit(train[["text"]]), ours[1]
    )  # remembers the name of its column, and compares it
    loaded = load_pipeline(save_pipeline(ours, folder / "latency.joblib"))
    encode = partial(
        sentence_transformer(minilm(), "cpu").encode, show_progress_bar=False, convert_to_numpy=True
    )
    classifier = LogisticRegression(max_iter=2000).fit(encode(texts), labels)
    found: dict[str, Predict] = {
        OURS: lambda text: ours.predict([text]),
        "Series": lambda text: ours.predict(pd.Series([text])),
        "DataFrame": lambda text: named.predict(pd.DataFrame({"text": [text]})),
        "list, loaded from a file": lambda text: loaded.predict([text]),
        PEER: lambda text: classifier.predict(encode([text])),
    }
    return found, ours[0]


def milliseconds(predict: Predict, text: str) -> float:
    """Time one call."""
    start = time.perf_counter()
    predict(text)
    return 1e3 * (time.perf_counter() - start)


def take_turns(found: dict[str, Predict], texts: list[str]) -> dict[str, np.ndarray]:
    """Give every text to every contender, beginning with the next one at each text."""
    times: dict[str, list[float]] = {name: [] for name in found}
    names = list(found)
    for text in texts:
        for name in names:
            times[name].append(milliseconds(found[name], text))
        names = names[1:] + names[:1]
    return {name: np.array(values) for name, values in times.items()}


def measure(threads: int, rounds: int, n_texts: int) -> list[dict[str, Any]]:
    """Return one row per contender: p50 and p99 of each round, and both as a share of the peer's of
    the same round.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        found, vectorizer = contenders(Path(folder))
        texts = generated("short", WARM + rounds * n_texts, vectorizer)
        for text in texts[:WARM]:
            labels = {name: predict(text)[0] for name, predict in found.items()}
            if len(set(labels.values())) > 1:
                raise RuntimeError(f"The contenders disagree on {text!r}: {labels}")
        take_turns(found, texts[:WARM])
        by_round = [
            take_turns(found, texts[start : start + n_texts])
            for start in range(WARM, len(texts), n_texts)
        ]
    rows = []
    for name in found:
        row: dict[str, Any] = {"threads": threads, "set_up": name, "n_texts": n_texts}
        for percent in (50, 99):
            values = [float(np.percentile(one[name], percent)) for one in by_round]
            peers = [float(np.percentile(one[PEER], percent)) for one in by_round]
            row[f"p{percent}_ms"] = spread(values)
            if name != PEER:
                row[f"p{percent}_over_peer_by_round"] = spread(
                    [a / b for a, b in zip(values, peers, strict=True)]
                )
        if name != PEER:  # of the same text at almost the same moment
            row["ratio_by_text"] = float(
                np.median(np.concatenate([one[name] / one[PEER] for one in by_round]))
            )
        rows.append(row)
    return rows


def main() -> None:
    """Measure in one process per number of threads, print a table and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts-per-round", type=int, default=200)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--dry", action="store_true", help="a trial: nothing is written")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(
            json.dumps(measure(arguments.threads[0], arguments.rounds, arguments.texts_per_round))
        )
        return
    rows: list[dict[str, Any]] = []
    for threads in arguments.threads:
        counts = [
            "--rounds",
            str(arguments.rounds),
            "--texts-per-round",
            str(arguments.texts_per_round),
        ]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.latency",
                "--one",
                "--threads",
                str(threads),
                *counts,
            ],
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows += json.loads(done.stdout.splitlines()[-1])
    for row in rows:
        print(row)
    if not arguments.dry:
        write_result("latency", rows, repeats=arguments.rounds)


if __name__ == "__main__":
    main()
