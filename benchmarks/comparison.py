"""Every row of `pipeline.compare`: by 5 folds on the shipped training reviews, or on SST-2, from train to test.

    python -m benchmarks.comparison [--figures docs/figures]                    # results/comparison_reviews.json
    python -m benchmarks.comparison --sst2 sst2.csv [--figures docs/figures]    # results/comparison_sst2.json

The file has the columns text, label and split (full sentences of the Stanford Sentiment Treebank: 6,920 train, 1,821 test).
Nothing is chosen by these numbers: the defaults come from choose_defaults.py and choose_word2vec.py, which see training texts
only.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results_file import write_result
from pipeline import compare, comparison_figure, load_reviews, read_table


def on_reviews() -> pd.DataFrame:
    """Cross-validate on the training reviews."""
    train, _ = load_reviews()
    return compare(train["text"], train["label"], models="all")


def on_sst2(file: Path) -> pd.DataFrame:
    """Train on SST-2 train, score on SST-2 test."""
    table = read_table(file, columns=["text", "label", "split"])
    train, test = (table[table["split"] == split] for split in ("train", "test"))
    return compare(train["text"], train["label"], models="all", test=(test["text"], test["label"]))


def as_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a result file; what does not exist is None."""
    about = {name: table.attrs[name] for name in ("n_texts", "n_tested", "n_folds")}
    plain = table.astype(object).where(table.notna(), None)
    return [{"name": str(name), **{str(k): v for k, v in row.items()}, **about} for name, row in plain.to_dict("index").items()]


def main() -> None:
    """Run one of the two and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sst2", type=Path)
    parser.add_argument("--figures", type=Path)
    options = parser.parse_args()
    name = "comparison_reviews" if options.sst2 is None else "comparison_sst2"
    wall, busy = time.perf_counter(), time.process_time()
    table = on_reviews() if options.sst2 is None else on_sst2(options.sst2)
    # below 1 with one thread: the machine was shared, and the times in the table are longer by that much
    share = (time.process_time() - busy) / (time.perf_counter() - wall)
    print(table.T.to_string())
    print(table.attrs)
    write_result(name, [{**row, "cpu_share": share} for row in as_rows(table)], peers=("accelerate", "gensim"))
    if options.figures is not None:
        options.figures.mkdir(parents=True, exist_ok=True)
        comparison_figure(table).savefig(options.figures / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
