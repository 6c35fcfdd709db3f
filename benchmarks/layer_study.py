"""Every layer by every pooling, and the combinations of BERT's Table 7, with the default model: the
shipped reviews and SST-2.

    python -m benchmarks.layer_study [--sst2 sst2.csv]

Writes results/layer_study_reviews.json and, where the file of SST-2 is given,
results/layer_study_sst2.json. Only training texts are used: those of the shipped reviews, and the
rows of SST-2 (columns text, label, split) with split == "train".
"""

import argparse
import time
from pathlib import Path
from typing import Any

from benchmarks.choose_defaults import training_sets
from benchmarks.results_file import write_result
from pipeline import cache_info, clear_cache, layer_study


def study_rows(texts: Any, labels: Any) -> list[dict[str, Any]]:
    """Run the study, and return its rows, then one row of its honest score, its counts and its
    times.
    """
    clear_cache()
    began = time.perf_counter()
    study = layer_study(texts, labels, nested=True, n_jobs=-1)
    seconds = time.perf_counter() - began
    columns = [
        "kind",
        "features",
        "pooling",
        "layers",
        "combine",
        "dimension",
        "score",
        "score_sd",
        "C",
    ]
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()}
        for row in study[columns].to_dict("records")
    ]
    counts = {
        "n_texts": study.attrs["n_texts"],
        "texts_encoded": cache_info().texts_encoded,
        "majority": study.attrs["majority"],
    }
    times = {
        "seconds": seconds,
        **{f"seconds_{part}": value for part, value in study.attrs["seconds"].items()},
    }
    return [*rows, {"kind": "nested", **counts, **study.attrs["nested"], **times}]


def main() -> None:
    """Run it on each training set and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sst2", type=Path, action="append", default=[])
    for data, texts, labels in training_sets(parser.parse_args().sst2):
        rows = study_rows(texts, labels)
        for row in rows:
            print(row)
        write_result(f"layer_study_{data}", rows)


if __name__ == "__main__":
    main()
