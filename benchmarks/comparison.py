"""Every row of `pipeline.compare`: by 5 folds on the shipped training reviews, or on SST-2, from
train to test.

    python -m benchmarks.comparison [--figures docs/figures]                    #
    results/comparison_reviews.json python -m benchmarks.comparison --sst2 sst2.csv [--figures
    docs/figures]    # results/comparison_sst2.json

The file has the columns text, label and split (full sentences of the Stanford Sentiment Treebank:
6,920 train, 1,821 test). Nothing is chosen by these numbers: the defaults come from
choose_defaults.py and choose_word2vec.py, which see training texts only.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results_file import RESULTS, read_rows, write_result
from pipeline import compare, load_reviews, read_table
from pipeline.evaluation.baselines import ROWS
from pipeline.evaluation.plots import comparison_figure

QUICK = ["majority", "tfidf", "word2vec", "static", "cls", "default", "layers"]


def texts_of(sst2: Path | None) -> dict[str, Any]:
    """Return the arguments of `compare` that say what is compared on."""
    if sst2 is None:
        train, _ = load_reviews()
        return {"X": train["text"], "y": train["label"]}
    table = read_table(sst2, columns=["text", "label", "split"])
    train, test = (table[table["split"] == split] for split in ("train", "test"))
    return {"X": train["text"], "y": train["label"], "test": (test["text"], test["label"])}


def as_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a result file; what does not exist is None."""
    about = {name: table.attrs[name] for name in ("n_texts", "n_tested", "n_folds")}
    plain = table.astype(object).where(table.notna(), None)
    return [
        {"name": str(name), **{str(k): v for k, v in row.items()}, **about}
        for name, row in plain.to_dict("index").items()
    ]


def measure(texts: dict[str, Any], models: list[str]) -> list[dict[str, Any]]:
    """Compare some of the models, TF-IDF among them, and return their rows alone."""
    wall, busy = time.perf_counter(), time.process_time()
    table = compare(**texts, models=models)
    # below 1 with one thread: the machine was shared, and the times in the table are longer by that
    # much
    table["cpu_share"] = (time.process_time() - busy) / (time.perf_counter() - wall)
    print(table.T.to_string(), table.attrs, flush=True)
    return [row for row in as_rows(table) if row["name"] in {ROWS[model] for model in models}]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the picture of a result file."""
    table = pd.DataFrame(rows).set_index("name")
    table.attrs = {name: rows[0][name] for name in ("n_tested", "n_folds")}
    path.parent.mkdir(parents=True, exist_ok=True)
    comparison_figure(table).savefig(path, dpi=120)


def main() -> None:
    """Run what is quick, then fine-tuning, or what --only names; write the table after each, with
    the rows that were there.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sst2", type=Path)
    parser.add_argument("--figures", type=Path)
    parser.add_argument(
        "--only", help="models to measure anew, such as word2vec,finetuned; the other rows stay"
    )
    options = parser.parse_args()
    name = "comparison_reviews" if options.sst2 is None else "comparison_sst2"
    texts = texts_of(options.sst2)
    for models in [QUICK, ["finetuned"]] if options.only is None else [options.only.split(",")]:
        measured = measure(texts, models)
        before = read_rows(name) if (RESULTS / f"{name}.json").exists() else []
        by_name = {row["name"]: row for row in [*before, *measured]}
        rows = [by_name[row] for row in ROWS.values() if row in by_name]
        write_result(name, rows, peers=("accelerate", "gensim"))
        if options.figures is not None:
            draw(rows, options.figures / f"{name}.png")


if __name__ == "__main__":
    main()
