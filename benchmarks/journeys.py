"""Count what a call passes through: calls, functions, files and hops between files of the package.

    python -m benchmarks.journeys

Everything is warm but what the journey is about, so that what is loaded once does not count.
Writes results/journeys.json.
"""

import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import pipeline
from benchmarks.results_file import write_result

ROOT = str(Path(pipeline.__file__).parent)


def count(call: Callable[[], object]) -> dict[str, int]:
    """Run a call, and count the package's own part of it; threads and processes are left out."""
    calls: list[tuple[str, str, int]] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            code = frame.f_code
            calls.append((code.co_filename, code.co_qualname, code.co_firstlineno))

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    files = [file for file, _, _ in calls]
    return {
        "calls": len(calls),
        "functions": len(set(calls)),
        "files": len(set(files)),
        "hops": sum(a != b for a, b in itertools.pairwise(files)),
    }


def main() -> None:
    """Count every journey, print a table and write the result."""
    train, test = pipeline.load_reviews()
    texts, labels = train["text"][:60].tolist(), train["label"][:60].tolist()
    model = pipeline.make_sentiment_pipeline().fit(texts, labels)
    vectorizer = model[0]
    rows = test[["text"]][:8]
    with tempfile.TemporaryDirectory() as temporary:
        path = pipeline.save_pipeline(model, Path(temporary) / "model.joblib")
        loaded = pipeline.load_pipeline(path)
        loaded.predict(texts[:1])
        pipeline.score_table(path, rows, Path(temporary) / "warm", text="text")
        pipeline.evaluate(model, texts[:30], labels[:30], n_bootstrap=10)
        journeys: dict[str, Callable[[], object]] = {
            "`transform`, 2 new texts": lambda: vectorizer.transform(
                ["A new film.", "Another one."]
            ),
            "`transform`, 2 texts from the cache": lambda: vectorizer.transform(texts[:2]),
            "`predict`, 1 text, loaded pipeline": lambda: loaded.predict(["A lovely film."]),
            "`load_pipeline`": lambda: pipeline.load_pipeline(path),
            "`score_table`, 8 rows": lambda: pipeline.score_table(
                path, rows, Path(temporary) / "scored", text="text"
            ),
            "`evaluate`, 30 texts": lambda: pipeline.evaluate(model, texts[:30], labels[:30]),
        }
        counted = [{"journey": name, **count(call)} for name, call in journeys.items()]
    print(pd.DataFrame(counted).to_string(index=False))
    write_result("journeys", counted)


if __name__ == "__main__":
    main()
