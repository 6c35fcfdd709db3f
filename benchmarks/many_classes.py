"""Time and memory of evaluate, compare and the report with many classes; encoding and fitting
apart.

    python -m benchmarks.many_classes [--classes 1000] [--texts 20000]

The classifier is a lookup: its fit and its predictions cost nothing, so that what is measured is
the evaluation. The texts have a hundred words, for the baseline that compare fits; its fitting is
told apart. Peak memory is that of the process, with all imports and the probabilities themselves.
Writes results/many_classes.json.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from benchmarks.results_file import write_result
from pipeline import compare, evaluate, write_report

WORDS = 40  # a text is two words: the number of its class, modulo this and divided by it


class Lookup(ClassifierMixin, BaseEstimator):
    """A classifier that knows the class of every text, and is not quite sure of it."""

    def fit(self, X: Any, y: Any) -> "Lookup":
        """Remember the classes."""
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities that lean to the number that a text stands for: right in about two
        of three.
        """
        random = np.random.default_rng(0)
        numbers = np.array(
            [int(text.split()[0][1:]) + WORDS * int(text.split()[1][1:]) for text in X]
        )
        logits = random.normal(size=(len(numbers), len(self.classes_)))
        logits[np.arange(len(numbers)), np.searchsorted(self.classes_, numbers)] += 3.5
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return logits

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])


def peak_gib() -> float:
    """Return the highest memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--texts", type=int, default=20_000)
    arguments = parser.parse_args()
    numbers = np.arange(arguments.texts) % arguments.classes
    texts = [f"a{number % WORDS} b{number // WORDS}" for number in numbers]
    model, rows = Lookup().fit(texts, numbers), []

    def measure(what: str, call: Any) -> Any:
        start = time.perf_counter()
        result = call()
        rows.append(
            {
                "what": what,
                "seconds": round(time.perf_counter() - start, 1),
                "peak_gib": round(peak_gib(), 2),
            }
        )
        print(rows[-1])
        return result

    scores = measure("evaluate", lambda: evaluate(model, texts, numbers))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        measure("write_report", lambda: write_report(scores, page))
        rows[-1]["page_mb"] = round(page.stat().st_size / 1e6, 1)
    table = measure(
        "compare",
        lambda: compare(texts, numbers, models=["majority", ("lookup", Lookup())], cv=3, n_timed=0),
    )
    rows[-1]["of_which_fitting"] = round(3 * table["fit_seconds"].sum(), 1)
    if (arguments.classes, arguments.texts) == (1000, 20_000):
        write_result("many_classes", rows, repeats=1)


if __name__ == "__main__":
    main()
