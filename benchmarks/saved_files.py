"""Size of a saved pipeline, and time to save and to open it, by format and by how far it is
verified.

    python -m benchmarks.saved_files [--rounds 15]

The default pipeline, fitted on a few of the shipped reviews (its size does not depend on how many),
with its weights and by their hash, and one that uses two layers of six; as joblib and as skops.
Everything is imported and every file is in the page cache before anything is timed; the encoder is
loaded already, so that the self-test costs its three texts alone. The contenders take turns. Writes
results/saved_files.json.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib

from benchmarks.results_file import spread, write_result
from pipeline import load_pipeline, load_reviews, make_sentiment_pipeline, save_pipeline

SET_UPS: dict[str, dict[str, Any]] = {
    "default pipeline": {},
    "default pipeline, weights by hash": {"weights_in_artifact": False},
    "layers 0 to 2 of 6": {"layers": (0, 1, 2)},
}


def main() -> None:
    """Save and open in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    train, _ = load_reviews()
    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[tuple[str, str, str], Callable[[], Any]] = {}
        files: dict[tuple[str, str], Path] = {}
        for name, parameters in SET_UPS.items():
            model = make_sentiment_pipeline(**parameters).fit(
                train["text"][:40], train["label"][:40]
            )
            for kind in ("joblib", "skops"):
                path = files[name, kind] = Path(folder) / f"{len(files)}.{kind}"
                contenders[name, kind, "save_pipeline"] = partial(
                    save_pipeline, model, path, format=kind
                )
                for verify in ("probes", "sha256", "size"):
                    step = f"load_pipeline(verify={verify!r})"
                    contenders[name, kind, step] = partial(load_pipeline, path, verify=verify)
                if kind == "joblib":
                    contenders[name, kind, "joblib.load"] = partial(joblib.load, path)
                    contenders[name, kind, "joblib.load(mmap_mode='c')"] = partial(
                        joblib.load, path, mmap_mode="c"
                    )
        seconds: dict[tuple[str, str, str], list[float]] = {key: [] for key in contenders}
        order = list(contenders)
        for turn in range(rounds + 1):
            shift = (
                0 if turn == 0 else turn % len(order)
            )  # the first turn saves before it opens, and is not counted
            for key in order[shift:] + order[:shift]:
                start = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    contenders[key]()
                if turn:
                    seconds[key].append(time.perf_counter() - start)
        sizes = {key: path.stat().st_size / 1e6 for key, path in files.items()}
    rows: list[dict[str, Any]] = [
        {
            "pipeline": name,
            "format": kind,
            "step": step,
            "file_mb": sizes[name, kind],
            "s": spread(times),
        }
        for (name, kind, step), times in seconds.items()
    ]
    for row in rows:
        numbers = f"{row['file_mb']:6.1f} MB {1000 * row['s']['median']:8.1f} ms"
        print(f"{row['pipeline']:36} {row['format']:7} {row['step']:34} {numbers}")
    write_result("saved_files", rows, repeats=rounds, peers=("skops", "joblib"))


if __name__ == "__main__":
    main()
