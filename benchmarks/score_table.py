"""Time the ways to label a large CSV file: score_table by each executor, plain predict_proba, and a
sentence-transformers loop.

    python -m benchmarks.score_table [--rows 100000] [--rounds 1] [--only WAYS] [--folder DIR]

Distinct short texts, the default model's mean of the last layer and a LogisticRegression. Every way
is a process of its own that reads the same CSV file and writes Parquet; timed is its work without
its imports (workers' imports are in it). The ways take turns, and every round begins with the next
one. Labels are compared across all ways, and the bytes of all parts across executors. The last row
is the driver's own work alone: reading the table and cutting it into shards. --rows below 100,000
makes a trial: nothing is written, unless by --write. --only plain,processes,dask measures these
anew, plain always among them, and keeps the other rows. Writes results/score_table.json.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.processes import PeakOfWorkers, peak_mib
from benchmarks.results_file import read_rows, spread, write_result
from benchmarks.workloads import SEED, minilm
from pipeline import (
    BertVectorizer,
    load_pipeline,
    load_reviews,
    read_table,
    save_pipeline,
    score_table,
)
from pipeline.scoring.sources import open_source

ROWS = 100_000
CHUNK = 2048  # rows the loop over sentence-transformers reads at a time: as many as a part has
# way -> threads of its process, and what it is called in the results
WAYS = {
    "plain": (2, "predict_proba, 2 threads"),
    "loop": (2, "pandas and sentence-transformers, 2 threads"),
    "serial": (2, "score_table, serial, 2 threads"),
    "processes": (2, "score_table, 2 processes"),
    "dask": (2, "score_table, Dask, 2 workers"),
}
EXECUTORS = ("serial", "processes", "dask")


def short_texts(n_texts: int) -> list[str]:
    """Make distinct texts of 5 to 14 words of the shipped reviews."""
    words = np.array(
        sorted(
            {
                word
                for part in load_reviews()
                for text in part["text"]
                for word in text.lower().split()
            }
        )
    )
    random = np.random.default_rng(SEED)
    texts: dict[str, None] = {}
    while len(texts) < n_texts:
        lengths = random.integers(5, 15, n_texts)
        texts.update(
            dict.fromkeys(
                " ".join(row)
                for row in np.split(random.choice(words, lengths.sum()), lengths.cumsum()[:-1])
            )
        )
    return list(texts)[:n_texts]


def prepare(folder: Path, n_rows: int) -> None:
    """Write the table and the model."""
    texts = short_texts(n_rows)
    pd.DataFrame({"id": range(n_rows), "text": texts}).to_csv(folder / "texts.csv", index=False)
    save_pipeline(trained(), folder / "model.joblib")


def trained() -> Any:
    """Fit the default model's mean of the last layer, which sentence-transformers can give too, and
    a LogisticRegression.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, _ = load_reviews()
    model = make_pipeline(
        BertVectorizer(pooling="mean", layers=-1), LogisticRegression(max_iter=1000)
    )
    return model.fit(train["text"], train["label"])


def by_predict_proba(folder: Path, out: Path) -> None:
    """Read the whole table, ask the model once, write."""
    table = read_table(folder / "texts.csv")
    model = load_pipeline(folder / "model.joblib")
    write_labels(table, model.predict_proba(table["text"]), model.classes_, out)


def by_loop(folder: Path, out: Path) -> None:
    """Read the table in chunks, encode by sentence-transformers as it comes, ask the same
    classifier, write at the end.
    """
    from benchmarks.encode import sentence_transformer

    encoder = sentence_transformer(minilm(), "cpu")
    classifier = load_pipeline(folder / "model.joblib")[-1]
    tables, probabilities = [], []
    for chunk in pd.read_csv(folder / "texts.csv", chunksize=CHUNK):
        tables.append(chunk)
        probabilities.append(
            classifier.predict_proba(
                encoder.encode(chunk["text"].tolist(), show_progress_bar=False)
            )
        )
    write_labels(pd.concat(tables), np.concatenate(probabilities), classifier.classes_, out)


def write_labels(
    table: pd.DataFrame, probabilities: np.ndarray, classes: np.ndarray, out: Path
) -> None:
    """Write what score_table adds, in one file."""
    labelled = table.assign(label=classes[probabilities.argmax(axis=1)])
    labelled[[f"probability_{one}" for one in classes]] = probabilities
    out.mkdir()
    labelled.to_parquet(out / "labelled.parquet", index=False)


def one_way(way: str, folder: Path) -> None:
    """Run one way in this process; print seconds and peak memory."""
    import torch

    torch.set_num_threads(WAYS[way][0])
    out = folder / way
    with PeakOfWorkers() as workers:
        start = time.perf_counter()
        label(way, folder, out)
        seconds = time.perf_counter() - start
    print(
        json.dumps(
            {"seconds": seconds, "peak_mib": peak_mib(os.getpid()), "worker_peak_mib": workers.mib}
        )
    )


def label(way: str, folder: Path, out: Path) -> None:
    """Label the table in one way."""
    model, table = folder / "model.joblib", folder / "texts.csv"
    if way in EXECUTORS:
        threads, workers = (2, None) if way == "serial" else (None, 2)
        score_table(model, table, out, text="text", executor=way, threads=threads, workers=workers)
    else:
        {"plain": by_predict_proba, "loop": by_loop}[way](folder, out)


def in_a_process(way: str, folder: Path) -> dict[str, float]:
    """Run one way in a process of its own, with as many threads as it is to have."""
    threads = {
        name: str(WAYS[way][0])
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
    }
    command = [
        sys.executable,
        "-m",
        "benchmarks.score_table",
        "--way",
        way,
        "--folder",
        str(folder),
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **threads}
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def check_same_labels(folder: Path, n_rows: int, ways: Sequence[str]) -> None:
    """Stop where a way has lost a row, or its labels are others than plain predict_proba's (but for
    ties).
    """
    expected = pd.read_parquet(folder / "plain")
    for way in ways:
        found = pd.read_parquet(folder / way)
        if found["id"].astype(int).tolist() != list(range(n_rows)):
            raise RuntimeError(f"{WAYS[way][1]}: the rows are not those of the table")
        if (found["label"].to_numpy() != expected["label"].to_numpy()).mean() > 1e-4:
            raise RuntimeError(f"{WAYS[way][1]}: other labels than those of predict_proba")
    parts = [
        [path.read_bytes() for path in sorted((folder / way).glob("part-*"))]
        for way in ways
        if way in EXECUTORS and way != "serial"  # whose two threads round in another order
    ]
    if any(some != parts[0] for some in parts):
        raise RuntimeError("the executors have written different bytes")


def reading_and_cutting(folder: Path, n_rows: int) -> dict[str, Any]:
    """Time what the driver does for a table, whoever scores it: it bounds the number of workers."""
    start = time.perf_counter()
    for rows in open_source(folder / "texts.csv", "text").rows(CHUNK, mark=False):
        pq.write_table(rows.table, folder / "shard.parquet")
    seconds = time.perf_counter() - start
    return {
        "way": "reading and cutting alone",
        "rows": n_rows,
        "seconds": spread([seconds]),
        "rows_per_s": n_rows / seconds,
    }


def measure(folder: Path, n_rows: int, rounds: int, ways: Sequence[str]) -> list[dict[str, Any]]:
    """Run the ways in turns."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    names = list(ways)
    for _ in range(rounds):
        for way in names:
            shutil.rmtree(folder / way, ignore_errors=True)
            runs[way].append(in_a_process(way, folder))
            print(f"{WAYS[way][1]}: {n_rows / runs[way][-1]['seconds']:,.0f} rows/s", flush=True)
        names = names[1:] + names[:1]
        check_same_labels(folder, n_rows, ways)
    plain = median(run["seconds"] for run in runs["plain"])
    rows = [
        {
            "way": WAYS[way][1],
            "rows": n_rows,
            "seconds": spread([run["seconds"] for run in found]),
            "rows_per_s": n_rows / median(run["seconds"] for run in found),
            "speed_over_plain": plain / median(run["seconds"] for run in found),
            "peak_mib": max(run["peak_mib"] for run in found),
            "worker_peak_mib": max(run["worker_peak_mib"] for run in found)
            if way in ("processes", "dask")
            else None,
        }
        for way, found in runs.items()
    ]
    return [*rows, reading_and_cutting(folder, n_rows)]


def main() -> None:
    """Prepare, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--only", help="ways to measure anew, such as plain,processes,dask; the other rows stay"
    )
    parser.add_argument(
        "--folder", type=Path, help="for the files, a few hundred MB; a temporary one by default"
    )
    parser.add_argument("--write", action="store_true", help="write the result of a trial too")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        one_way(arguments.way, arguments.folder)
        return
    ways = list(WAYS) if arguments.only is None else arguments.only.split(",")
    if not {"plain"} <= set(ways) <= set(WAYS):
        parser.error(
            f"--only {arguments.only}: allowed are {', '.join(WAYS)}, plain always among them"
        )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        prepare(folder, arguments.rows)
        rows = measure(folder, arguments.rows, arguments.rounds, ways)
    print(pd.DataFrame(rows).drop(columns="seconds").to_string(index=False))
    if arguments.rows >= ROWS or arguments.write:
        if arguments.only is not None:
            by_way = {row["way"]: row for row in [*read_rows("score_table"), *rows]}
            rows = list(by_way.values())
        write_result(
            "score_table",
            rows,
            repeats=arguments.rounds,
            peers=("distributed", "pandas", "pyarrow"),
        )


if __name__ == "__main__":
    main()
