"""How well label_issues finds labels that were flipped.

    python -m benchmarks.label_errors --sst2 sst2.csv [--cache FOLDER]

Of the training texts of SST-2 (columns text, label, split), 5 % of the labels are flipped, three
times; texts whose own label is wrong count against us. Writes results/label_errors.json: of the 5 %
of texts that are doubted most, and of those marked as issues, how many were flipped (precision),
and how many of the flipped ones these are (recall).
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.results_file import write_result
from pipeline import label_issues, make_sentiment_pipeline, read_table

SHARE = 0.05


def main() -> None:
    """Flip, look, print and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sst2", type=Path, required=True)
    parser.add_argument("--cache", default="memory")
    arguments = parser.parse_args()
    table = read_table(arguments.sst2, columns=["text", "label", "split"])
    table = table[table["split"] == "train"].reset_index(drop=True)
    rows = []
    for seed in range(3):
        flipped = np.zeros(len(table), dtype=bool)
        n_flipped = round(SHARE * len(table))
        flipped[np.random.default_rng(seed).choice(len(table), n_flipped, replace=False)] = True
        true = table["label"].astype(int).to_numpy()
        labels = np.where(flipped, 1 - true, true)
        begun = time.process_time()
        model = make_sentiment_pipeline(cache=arguments.cache)
        issues = label_issues(model, table["text"], labels)
        seconds = time.process_time() - begun
        found = flipped[issues.index]
        marked = issues["issue"].to_numpy()
        rows.append(
            {
                "seed": seed,
                "n_texts": len(table),
                "n_flipped": n_flipped,
                "precision_at_5": float(found[:n_flipped].mean()),
                "n_issues": int(marked.sum()),
                "precision_of_issues": float(found[marked].mean()),
                "recall_of_issues": float(found[marked].sum() / n_flipped),
                "seconds": seconds,
            }
        )
        print(rows[-1], flush=True)
    write_result("label_errors", rows)


if __name__ == "__main__":
    main()
