"""Every row of `pipeline.compare`: by 5 folds on the shipped training reviews, or on a file.

    python -m benchmarks.comparison [FILE] [--figures docs/figures]
    python -m benchmarks.comparison --chart docs/figures

Writes results/comparison_reviews.json, or comparison_NAME.json for NAME.csv; --chart draws the
results of all sets into one picture. A file has the columns
text and label, and a column split with "train" and "test", unless it is scored by 5 folds (--cv).
docs/comparison.md shows SST-2 (full sentences of the Stanford Sentiment Treebank: 6,920 train,
1,821 test), banking77 (10,003 train, 3,080 test, 77 intents) and 2,000 film reviews (--cv
--truncation window --max-length 128). Nothing is chosen by these numbers: the defaults come from
choose_defaults.py and choose_word2vec.py, which see training texts only.
"""

import argparse
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.results_file import RESULTS, read_rows, write_result
from pipeline import BertVectorizer, compare, load_reviews, read_table
from pipeline.evaluation.baselines import ROWS
from pipeline.evaluation.plots import comparison_figure

SETS = {
    "reviews": "reviews, 2 or 3 sentences",
    "sst2": "SST-2, one sentence",
    "movie_reviews": "film reviews, 744 words",
    "banking77": "banking, 77 classes",
}
SHOWN = {"default": "frozen BERT", "ngrams": "frozen BERT + n-grams"}
# ground, text, rule, and a colour for each of SHOWN
THEMES = {
    "light": ("#ffffff", "#1f2328", "#8c959f", "#5b8db8", "#d9822b"),
    "dark": ("#0d1117", "#e6edf3", "#7d8590", "#79b0e0", "#f0a35a"),
}
QUICK = ["majority", "tfidf", "word2vec", "static", "cls", "default", "ngrams", "layers"]


def texts_of(file: Path | None, *, folds: bool) -> dict[str, Any]:
    """Return the arguments of `compare` that say what is compared on."""
    if file is None:
        train, _ = load_reviews()
        return {"X": train["text"], "y": train["label"]}
    table = read_table(file, columns=["text", "label", "split"])
    if folds:
        return {"X": table["text"], "y": table["label"]}
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


def measure(
    texts: dict[str, Any], models: list[str], vectorizer: BertVectorizer
) -> list[dict[str, Any]]:
    """Compare some of the models, TF-IDF among them, and return their rows alone."""
    wall, busy = time.perf_counter(), time.process_time()
    # seconds of the processor: with one thread those of a quiet machine, whatever else runs on it
    with patch("pipeline.evaluation.compare.time.perf_counter", time.process_time):
        table = compare(**texts, models=models, vectorizer=vectorizer)
    # below 1 with one thread: the machine was shared
    table["cpu_share"] = (time.process_time() - busy) / (time.perf_counter() - wall)
    print(table.T.to_string(), table.attrs, flush=True)
    return [row for row in as_rows(table) if row["name"] in {ROWS[model] for model in models}]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the picture of a result file."""
    table = pd.DataFrame(rows).set_index("name")
    table.attrs = {name: rows[0][name] for name in ("n_tested", "n_folds")}
    path.parent.mkdir(parents=True, exist_ok=True)
    comparison_figure(table).savefig(path, dpi=120)


def draw_chart(folder: Path) -> None:
    """Draw the lead over TF-IDF on every set, on a light and on a dark ground."""
    names = {"tfidf": ROWS["tfidf"], **{model: ROWS[model] for model in SHOWN}}
    sets = [{row["name"]: row for row in read_rows(f"comparison_{data}")} for data in SETS]
    for theme, (ground, ink, rule, *colours) in THEMES.items():
        style: dict[Any, Any] = {
            "svg.hashsalt": theme,
            "svg.fonttype": "none",  # text stays text
            "font.family": "sans-serif",
            **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink),
        }
        with rc_context(style):
            figure = Figure(figsize=(7.6, 3.2), layout="constrained", facecolor=ground)
            axes = figure.add_subplot(facecolor=ground)
            axes.axvline(0, color=rule, linewidth=1)
            for place, rows in enumerate(sets):
                for shift, model, colour in zip((-0.16, 0.16), SHOWN, colours, strict=True):
                    row, y = rows[names[model]], place + shift
                    low, middle, high = (
                        100 * row[name]
                        for name in ("difference_low", "difference", "difference_high")
                    )
                    label = SHOWN[model] if place == 0 else None
                    axes.plot([low, high], [y, y], color=colour, linewidth=2.5)
                    axes.plot(middle, y, "o", color=colour, markersize=7, label=label)
                    axes.text(high + 0.25, y, f"{100 * row['accuracy']:.1f}", va="center", size=9)
            axes.set_yticks(
                range(len(SETS)),
                [
                    f"{title}\nTF-IDF {100 * rows[names['tfidf']]['accuracy']:.1f} %"
                    for title, rows in zip(SETS.values(), sets, strict=True)
                ],
            )
            axes.tick_params(length=0)
            axes.invert_yaxis()
            for spine in axes.spines.values():
                spine.set_visible(False)
            axes.set_xlabel("accuracy minus that of TF-IDF, points, with 95 % interval")
            figure.legend(loc="outside upper right", ncols=2, frameon=False)
            folder.mkdir(parents=True, exist_ok=True)
            figure.savefig(folder / f"accuracy_{theme}.svg", metadata={"Date": None})


def main() -> None:
    """Run what is quick, then fine-tuning, or what --only names; write the table after each, with
    the rows that were there.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--cv", action="store_true", help="5 folds of all rows of the file")
    parser.add_argument("--truncation", default="head")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--cache", default="memory", help="a folder for the vectors")
    parser.add_argument("--figures", type=Path)
    parser.add_argument(
        "--only", help="models to measure anew, such as word2vec,finetuned; the other rows stay"
    )
    parser.add_argument("--chart", type=Path, metavar="FOLDER", help="draw what was measured")
    options = parser.parse_args()
    if options.chart is not None:
        draw_chart(options.chart)
        return
    name = f"comparison_{'reviews' if options.file is None else options.file.stem}"
    texts = texts_of(options.file, folds=options.cv)
    vectorizer = BertVectorizer(
        truncation=options.truncation, max_length=options.max_length, cache=options.cache
    )
    for models in [QUICK, ["finetuned"]] if options.only is None else [options.only.split(",")]:
        measured = measure(texts, models, vectorizer)
        before = read_rows(name) if (RESULTS / f"{name}.json").exists() else []
        n_texts = measured[0]["n_texts"]  # of other texts no row stays
        before = [row for row in before if row["n_texts"] == n_texts]
        by_name = {row["name"]: row for row in [*before, *measured]}
        rows = [by_name[row] for row in ROWS.values() if row in by_name]
        write_result(name, rows, peers=("accelerate", "gensim"))
        if options.figures is not None:
            draw(rows, options.figures / f"{name}.png")


if __name__ == "__main__":
    main()
