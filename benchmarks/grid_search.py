"""Count the texts that a grid search sends through BERT, and the models it loads: ours, and the
peers that are installed.

    python -m benchmarks.grid_search

GridSearchCV over 3 values of C, 5 folds, refit, 40 distinct texts. Peers (pip install embetter
skrub) are run with the same model files, and counted where they call SentenceTransformer. Counts,
not times. Writes results/grid_search.json.
"""

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from benchmarks.results_file import write_result
from pipeline import BertVectorizer, cache_info
from pipeline.checkpoints.checkpoint import installed_folder
from pipeline.vectorizer import DEFAULT_MODEL

N_TEXTS = 40
TEXTS = pd.Series(
    [f"{'A lovely' if i % 2 else 'A dull'} film, number {i}." for i in range(N_TEXTS + 1)]
)
LABELS = [i % 2 for i in range(N_TEXTS + 1)]
OVER_C: dict[str, list[Any]] = {"classifier__C": [0.1, 1, 10]}
OVER_LAYERS: dict[str, list[Any]] = {
    **OVER_C,
    "features__layers": [0, 1, 2, 3, 4, 5, 6],
    "features__pooling": ["cls", "mean", "max"],
}


def search(
    features: Any, grid: dict[str, list[Any]], n_texts: int = N_TEXTS, memory: str | None = None
) -> None:
    """Run one grid search."""
    steps = [("features", features), ("classifier", LogisticRegression(max_iter=2000))]
    GridSearchCV(Pipeline(steps, memory=memory), grid, cv=5).fit(TEXTS[:n_texts], LABELS[:n_texts])


def ours(name: str, cache: str | None, grid: dict[str, list[Any]], n_texts: int) -> dict[str, Any]:
    """Count one of our own searches."""
    search(BertVectorizer(cache=cache), grid, n_texts)
    return {
        "set-up": name,
        "texts encoded": cache_info().texts_encoded,
        "model loads": cache_info().model_loads,
    }


def counted_score(model: Any, X: Any, y: Any, *, log: Path) -> float:
    """Score as GridSearchCV does by itself, and note what this process has encoded and loaded so
    far.
    """
    with log.open("a") as file:
        file.write(f"{os.getpid()} {cache_info().texts_encoded} {cache_info().model_loads}\n")
    return float(model.score(X, y))


def ours_in_two_processes(name: str, cache: str) -> dict[str, Any]:
    """Count one of our own searches under ``n_jobs=2``, over all processes."""
    from benchmarks.grid_search import (
        counted_score,
    )  # by its own name: workers cannot import what is __main__ here

    log = Path(cache, "counts.txt")
    steps = [
        ("features", BertVectorizer(cache=cache)),
        ("classifier", LogisticRegression(max_iter=2000)),
    ]
    search = GridSearchCV(
        Pipeline(steps), OVER_C, cv=5, n_jobs=2, scoring=partial(counted_score, log=log)
    )
    search.fit(TEXTS[:N_TEXTS], LABELS[:N_TEXTS])
    lines = [list(map(int, line.split())) for line in log.read_text().splitlines()]
    workers = (
        pd.DataFrame(lines, columns=["process", "texts", "loads"]).groupby("process").max().sum()
    )
    here = cache_info()  # the refit is done in this process
    return {
        "set-up": name,
        "texts encoded": int(workers["texts"]) + here.texts_encoded,
        "model loads": int(workers["loads"]) + here.model_loads,
    }


def peers() -> dict[str, Callable[[str], Any]]:
    """Return the peers that are installed: name -> how to make one from a model folder."""
    found: dict[str, Callable[[str], Any]] = {}
    try:
        from embetter.text import SentenceEncoder

        found["embetter SentenceEncoder"] = SentenceEncoder
    except ImportError:
        print("embetter is not installed: left out")
    try:
        from skrub import LLMEncoder

        found["skrub LLMEncoder"] = lambda folder: LLMEncoder(folder, n_components=None)
    except ImportError:
        print("skrub is not installed: left out")
    return found


def peer(name: str, make: Callable[[str], Any], memory: str | None) -> dict[str, Any]:
    """Count one search of a peer."""
    from sentence_transformers import SentenceTransformer

    counts = {"texts": 0, "loads": 0}
    encode, load = SentenceTransformer.encode, SentenceTransformer.__init__

    def counted_encode(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        counts["texts"] += len(inputs)
        return encode(self, inputs, *args, **kwargs)

    def counted_load(self: Any, *args: Any, **kwargs: Any) -> None:
        counts["loads"] += 1
        load(self, *args, **kwargs)

    SentenceTransformer.encode, SentenceTransformer.__init__ = counted_encode, counted_load  # type: ignore[method-assign]
    try:
        search(make(str(installed_folder(DEFAULT_MODEL))), OVER_C, memory=memory)
    finally:
        SentenceTransformer.encode, SentenceTransformer.__init__ = encode, load  # type: ignore[method-assign]
    return {"set-up": name, "texts encoded": counts["texts"], "model loads": counts["loads"]}


def main() -> None:
    """Count everything and write the table."""
    rows = []
    for name, make in peers().items():
        rows.append(peer(name, make, None))
        with tempfile.TemporaryDirectory() as folder:
            rows.append(peer(f"{name}, Pipeline(memory=)", make, folder))
    with tempfile.TemporaryDirectory() as folder:
        searches = [
            ("BertVectorizer(cache=None)", None, OVER_C, N_TEXTS),
            ("BertVectorizer()", "memory", OVER_C, N_TEXTS),
            (
                "BertVectorizer(), the grid also over 7 layers and 3 poolings",
                "memory",
                OVER_LAYERS,
                N_TEXTS,
            ),
            ("BertVectorizer(cache=folder)", folder, OVER_C, N_TEXTS),
            ("the same, run again in a new process", folder, OVER_C, N_TEXTS),
            ("the same, one row added", folder, OVER_C, N_TEXTS + 1),
        ]
        for arguments in searches:  # a process each: what one has loaded must not help the next
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                rows.append(process.submit(ours, *arguments).result())
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process,
    ):
        rows.append(
            process.submit(
                ours_in_two_processes, "BertVectorizer(cache=folder), n_jobs=2", folder
            ).result()
        )
    print(pd.DataFrame(rows).to_string(index=False))
    write_result("grid_search", rows, peers=("embetter", "skrub"))


if __name__ == "__main__":
    main()
