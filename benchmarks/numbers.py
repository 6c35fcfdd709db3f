"""The numbers of README and docs, from the results.

    python -m benchmarks.numbers [--write]

A page marks what comes from here: `<!-- n:NAME -->...<!-- /n -->` holds the table or the number of
that name. Without --write the program says which pages are out of date, and exits with 1.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results_file import RESULTS, read_rows

TOP = Path(__file__).resolve().parent.parent
MARKED = re.compile(r"<!-- n:([\w.]+) -->(.*?)<!-- /n -->", re.DOTALL)
MODELS = {"minilm": "default model", "bert-base": "bert-base, random weights"}
# of a table of 100 million rows, on paper
ROWS, SHARD_ROWS = 100_000_000, 2048
HOURS = (24, 8, 1)
SETS = {  # of the comparison, those that were measured
    data: title
    for data, title in (
        ("reviews", "reviews, 5 folds"),
        ("sst2", "SST-2, test"),
        ("movie_reviews", "long film reviews, 5 folds"),
        ("banking77", "77 intents, test"),
    )
    if (RESULTS / f"comparison_{data}.json").exists()
}
DEFAULT = "frozen BERT + LogisticRegression"
STACK = "frozen BERT and TF-IDF, stacked"
STACKED = "C=cv, stacked with n-grams"


def pages() -> list[Path]:
    """Return the READMEs, ARCHITECTURE and the pages under docs/."""
    tops = ("README.md", "README.ko.md", "ARCHITECTURE.md")
    return [*(TOP / name for name in tops), *sorted((TOP / "docs").glob("*.md"))]


def with_numbers(page: str) -> str:
    """Return a page with all that is marked made anew."""
    return MARKED.sub(lambda m: f"<!-- n:{m[1]} -->{NUMBERS[m[1]]()}<!-- /n -->", page)


def table(header: str, rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table on lines of its own."""
    lines = [header, "|" + "---|" * (header.count("|") - 1)]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n" + "\n".join(lines) + "\n"


def interval(values: Iterable[float] | None, form: str = "{:+.3f}") -> str:
    """Return ``difference (low to high)``; nothing for None."""
    return "" if values is None else "{} ({} to {})".format(*map(form.format, values))


def differences(row: dict[str, Any], scale: float = 1.0) -> list[float] | None:
    """Return a row's difference to TF-IDF with its interval; None for TF-IDF itself."""
    names = ("difference", "difference_low", "difference_high")
    return None if row["verdict"] == "baseline" else [scale * row[name] for name in names]


# ---- tables


def sst2() -> str:
    """Return accuracies on SST-2."""
    rows = read_rows("sst2")
    return table(
        "| model | accuracy, % |", ((r["model"], f"{100 * r['accuracy']:.1f}") for r in rows)
    )


def comparison() -> str:
    """Return accuracies, differences and seconds on all sets."""
    sets = {data: {row["name"]: row for row in read_rows(f"comparison_{data}")} for data in SETS}
    rows = []
    for name in sets["sst2"]:
        cells = [name]
        for measured in sets.values():
            row = measured.get(name)
            against = "" if row is None else interval(differences(row, 100), "{:+.1f}")
            cells.append(
                ""
                if row is None
                else f"{100 * row['accuracy']:.1f}, {against or 'baseline'}, "
                f"{row['fit_seconds']:,.0f} s"
            )
        rows.append(cells)
    return table(f"| accuracy, against TF-IDF (95 %), fit | {' | '.join(SETS.values())} |", rows)


def comparison_row(data: str, name: str) -> str:
    """Return a row's difference to TF-IDF in points, with its interval."""
    (row,) = (row for row in read_rows(f"comparison_{data}") if row["name"] == name)
    return interval(differences(row, 100), "{:+.1f}")


def comparison_scores(data: str) -> str:
    """Return the scores of a comparison."""
    rows = []
    for row in read_rows(f"comparison_{data}"):
        cells = [row["name"]]
        for metric in ("accuracy", "macro_f1", "roc_auc"):
            spread = row[f"{metric}_sd"]
            cells.append(f"{row[metric]:.3f}" + ("" if spread is None else f" ± {spread:.3f}"))
        cells += [f"{row[metric]:.3f}" for metric in ("log_loss", "calibration_error")]
        rows.append([*cells, interval(differences(row)), row["verdict"]])
    return table(
        "| row | accuracy | macro F1 | ROC-AUC | log loss | calibration error "
        "| accuracy against TF-IDF (95 %) | verdict |",
        rows,
    )


def comparison_costs(data: str) -> str:
    """Return the costs of a comparison."""
    columns = ("fit_seconds", "predict_seconds", "artifact_mb")
    rows = [
        [row["name"], *(f"{row[column]:,.1f}" for column in columns)]
        for row in read_rows(f"comparison_{data}")
    ]
    return table("| row | first fit, s | predict 1,000 texts, s | file, MB |", rows)


def grid_search() -> str:
    """Return texts encoded and models loaded in a grid search."""
    rows = read_rows("grid_search")
    cells = ((row["set-up"], row["texts encoded"], row["model loads"]) for row in rows)
    return table("| set-up | texts encoded | models loaded |", cells)


def encode() -> str:
    """Return encoding speed on the CPU beside sentence-transformers."""
    rows = [
        (
            MODELS[row["model"]],
            f"{row['workload']} ({row['n_texts']:,})",
            f"{row['ours_tokens_per_s']:,}",
            f"{row['st_default_over_ours']:.2f}",
            f"{row['st_best_over_ours']:.2f} ({row['st_best_batch_size']})",
            f"{100 * row['share_of_limit']:.0f} %",
        )
        for row in read_rows("encode")
    ]
    return table(
        "| model | texts | tokens per second | times sentence-transformers "
        "| times its best batch size | of the limit |",
        rows,
    )


def encode_cuda() -> str:
    """Return encoding speed on a GPU beside sentence-transformers."""
    rows = [
        (
            MODELS[row["model"]],
            f"{row['workload']} ({row['n_texts']:,})",
            f"{row['ours_tokens_per_s']:,}",
            f"{row['st_default_over_ours']:.1f}",
            f"{row['st_best_over_ours']:.1f} ({row['st_best_batch_size']})",
            f"{row['tokenize_s']['median']:.2f} s of {row['ours_s']['median']:.2f}",
        )
        for row in read_rows("encode_cuda")
    ]
    return table(
        "| model | texts | tokens per second | times sentence-transformers "
        "| times its best batch size | tokenising |",
        rows,
    )


def cuda_range(peer: str) -> str:
    """Return lowest and highest speed-up on the GPU."""
    ratios = [row[f"{peer}_over_ours"] for row in read_rows("encode_cuda")]
    return f"{min(ratios):.1f} to {max(ratios):.1f}"


def latency() -> str:
    """Return the latency of one text."""
    rows = []
    for row in read_rows("latency"):
        times = [f"{row[f'p{percent}_ms']['median']:.1f}" for percent in (50, 99)]
        ratios = ["1", "1"]
        if "ratio_by_text" in row:
            ratios = [f"{row[f'p{p}_over_peer_by_round']['median']:.2f}" for p in (50, 99)]
        rows.append([row["threads"], row["set_up"], *times, *ratios])
    return table(
        "| threads | input | p50, ms | p99, ms | p50, times the peer's | p99, times the peer's |",
        rows,
    )


def latency_ratio(threads: int, percent: int) -> str:
    """Return the latency of one text in a list, as a ratio to the peer's."""
    rows = read_rows("latency")
    (row,) = [row for row in rows if row["set_up"] == "list" and row["threads"] == threads]
    return f"{row[f'p{percent}_over_peer_by_round']['median']:.2f}"


def defaults() -> str:
    """Return the best classifier of every kind of features."""
    measured = pd.DataFrame(read_rows("defaults_reviews") + read_rows("defaults_sst2"))
    best = measured.sort_values(["accuracy", "sd"], ascending=[False, True])
    best = best.groupby(["data", "features"], sort=False).first().reset_index()
    rows = []
    for features in dict.fromkeys(measured["features"]):
        cells = [features]
        for data in dict.fromkeys(measured["data"]):
            row = best[(best["features"] == features) & (best["data"] == data)].iloc[0]
            cells.append(_default_cell(row))
        rows.append(cells)
    return table("| features | reviews | SST-2 |", rows)


def _default_cell(row: Any) -> str:
    words = {"none": "raw, ", "standard": "standardised, "}
    scaling = "" if row["features"].startswith("TF-IDF") else words[row["scaling"]]
    return f"{row['accuracy']:.3f} ± {row['sd']:.3f} ({scaling}C={row['C']:g})"


def defaults_stack() -> str:
    """Return the accuracy of every stack on every set."""
    measured = pd.DataFrame(read_rows("defaults_stack"))
    by_set = measured.pivot_table(
        index=["features", "C"], columns="data", values="accuracy", sort=False
    )
    rows = [
        [*index, *(f"{100 * score:.1f}" for score in row), f"{100 * row.mean():.2f}"]
        for index, row in zip(by_set.index, by_set.to_numpy(), strict=True)
    ]
    return table(f"| parts | C of the last | {' | '.join(map(str, by_set.columns))} | mean |", rows)


_SETS = {"reviews": "reviews", "sst2": "SST-2", "movie_reviews": "whole film reviews",
         "banking77": "77 banking intents"}  # fmt: skip


def choose_C() -> str:
    """Return what a chosen C changes, by texts."""
    rows = [
        [
            name,
            row["scored on"],
            row["C"],
            "{:g} to {:g}".format(min(row["chosen"]), max(row["chosen"]))
            if len(set(row["chosen"])) > 1
            else f"{row['chosen'][0]:g}",
            *(f"{row[name]:.3f}" for name in ("accuracy", "log_loss", "calibration_error")),
            f"{row['fit_seconds']:.1f}",
        ]
        for data, name in _SETS.items()
        if (RESULTS / f"choose_C_{data}.json").is_file()
        for row in read_rows(f"choose_C_{data}")
    ]
    return table(
        "| texts | scored on | `C` | taken | accuracy | log loss | calibration error | fit, s |",
        rows,
    )


def tolerance() -> str:
    """Return how far rounding moves probabilities, by tolerance."""
    rows = [
        (_SETS[data], row["solver"], f"{row['tol']:g}", f"{row['moved']:.1g}",
         f"{row['fit_seconds']:.1f}")
        for data in ("reviews", "sst2")
        for row in read_rows(f"tolerance_{data}")
    ]  # fmt: skip
    return table("| texts | solver | `tol` | moved by | fit, s |", rows)


def label_errors() -> str:
    """Return precision and recall of label_issues, means over the seeds."""
    mean = pd.DataFrame(read_rows("label_errors")).mean()
    cells = [f"{100 * mean[name]:.0f} %" for name in
             ("precision_at_5", "precision_of_issues", "recall_of_issues")]  # fmt: skip
    return table(
        "| precision and recall of the first 5 % | precision of `issue` | recall of `issue` "
        "| texts with `issue` |",
        [[*cells, f"{mean['n_issues']:.0f}"]],
    )


def layer_study() -> str:
    """Return the scores of every layer and combination, and of taking the best."""
    reviews, sst2_rows = read_rows("layer_study_reviews"), read_rows("layer_study_sst2")
    pairs = list(zip(reviews, sst2_rows, strict=True))
    score = "{score:.3f} ± {score_sd:.3f}".format_map
    rows = [[f"{a['pooling']}, {a['features']}", score(a), score(b)] for a, b in pairs[:-1]]
    nested = pairs[-1]
    rows.append(["the best of the table", *(f"{row['best']:.3f}" for row in nested)])
    rows.append(["honest score of taking the best", *map(score, nested)])
    return table("| features | reviews | SST-2 |", rows)


def finetuning() -> str:
    """Return frozen and fine-tuned accuracies and costs."""
    rows = [
        (
            row["task"],
            row["model"],
            f"{100 * row['accuracy']:.1f}",
            f"{row['fit_seconds']:,.0f}",
            f"{row['texts_per_second']:.0f}",
            f"{row['file_mb']:.0f}",
        )
        for row in read_rows("finetuning")
    ]
    return table(
        "| task | model | accuracy, % | fit, seconds | predicted texts per second | file, MB |",
        rows,
    )


def truncation() -> str:
    """Return accuracies on long reviews by truncation."""
    rows = []
    for row in read_rows("truncation"):
        head = None if row["features"] == "head" else row["against_head"]
        tfidf = None if row["features"] == "TF-IDF" else row["against_tfidf"]
        length = "" if row["max_length"] is None else row["max_length"]
        numbers = (f"{100 * row['share_lost']:.0f} %", f"{row['accuracy']:.3f}")
        rows.append(
            (row["features"], length, row["classifier"], *numbers, interval(head), interval(tfidf))
        )
    return table(
        "| features | max_length | classifier | tokens lost | accuracy "
        "| against head (95 %) | against TF-IDF (95 %) |",
        rows,
    )


def journeys() -> str:
    """Return what the main calls pass through."""
    columns = ("journey", "calls", "functions", "files", "hops")
    rows = ([row[column] for column in columns] for row in read_rows("journeys"))
    return table("| call | calls | functions | files | hops between files |", rows)


# ---- single numbers


def of_long(features: str, max_length: int | None, classifier: str) -> dict[str, Any]:
    """Return a row of long reviews."""
    key = (features, max_length, classifier)
    return next(
        row
        for row in read_rows("truncation")
        if (row["features"], row["max_length"], row["classifier"]) == key
    )


def percent(*key: Any) -> str:
    """Return an accuracy on long reviews."""
    return f"{100 * of_long(*key)['accuracy'] + 1e-6:.1f}"


def accuracy(results: str, name: str) -> str:
    """Return the accuracy of a model in per cent."""
    (row,) = (row for row in read_rows(results) if name in (row.get("model"), row.get("name")))
    return f"{100 * row['accuracy']:.1f}"


def encoded(set_up: str) -> str:
    """Return how many texts a grid search encodes."""
    (row,) = (row for row in read_rows("grid_search") if row["set-up"] == set_up)
    return str(row["texts encoded"])


def window_gain(place: int) -> str:
    """Return what windows gain over the head: the points, or a bound of their interval."""
    return f"{100 * of_long('window', 128, 'C=cv')['against_head'][place]:.1f}"


def stack_gain() -> str:
    """Return what BERT in windows adds to TF-IDF on long reviews."""
    return interval(
        [100 * value for value in of_long("window", 128, STACKED)["against_tfidf"]], "{:+.1f}"
    )


def cold_start(what: str) -> str:
    """Return seconds or ratio of a fresh process that predicts one text."""
    rows = {row["set_up"]: row for row in read_rows("cold_start")}
    row = rows["load_pipeline, predict"]
    if what == "seconds":
        return f"{row['wall_s']['median']:.1f}"
    return f"{row['wall_over']['SentenceTransformer, encode']:.2f}"


def opening(verify: str) -> str:
    """Return the milliseconds of opening the default pipeline."""
    row = _saved("default pipeline", f"load_pipeline(verify={verify!r})")
    return f"{1000 * row['s']['median']:.0f}"


def file_size(pipeline: str) -> str:
    """Return the size of a saved file: MB, or kB where it holds no weights."""
    size = _saved(pipeline, "save_pipeline")["file_mb"]
    return f"{size:.0f}" if size >= 1 else f"{1000 * size:.0f}"


def _saved(pipeline: str, step: str) -> dict[str, Any]:
    rows = {(row["pipeline"], row["format"], row["step"]): row for row in read_rows("saved_files")}
    return rows[pipeline, "joblib", step]


# ---- scoring


def scored_ways() -> dict[str, dict[str, Any]]:
    """Return the rows of score_table by their way."""
    return {row["way"]: row for row in read_rows("score_table")}


def processor(results: str) -> str:
    """Return the processor that results were measured on."""
    name: str = json.loads((RESULTS / f"{results}.json").read_text("utf-8"))["machine"]["cpu"]
    return name


def score_table() -> str:
    """Return how fast each way of scoring was."""
    rows = [
        (
            row["way"],
            f"{row['rows_per_s']:,.0f}",
            f"{row['speed_over_plain']:.2f}",
            f"{row['peak_mib']:,}",
            row["worker_peak_mib"] or "-",
        )
        for row in scored_ways().values()
        if "peak_mib" in row
    ]
    return table("| way | rows per second | of plain | peak memory, MiB | of a worker |", rows)


def million(column: str) -> str:
    """Return a number of the run over two kills."""
    (row,) = read_rows("score_million")
    return f"{row[column]:,.0f}"


def on_paper() -> str:
    """Compute shards, workers, hours and storage for ROWS rows."""
    rate = scored_ways()["score_table, 2 processes"]["rows_per_s"] / 2
    cutting = scored_ways()["reading and cutting alone"]["rows_per_s"]
    (run,) = read_rows("score_million")
    size = run["output_bytes_per_row"]
    hours = ROWS / rate / 3600
    rows = [
        ("r, rows per second and worker", "half of two processes'", f"{rate:,.0f}"),
        ("d, rows per second a driver cuts", "measured", f"{cutting:,.0f}"),
        ("b, bytes of output per row", "measured", f"{size:.0f}"),
        ("parts", f"rows / {SHARD_ROWS:,}", f"{math.ceil(ROWS / SHARD_ROWS):,}"),
        ("seconds per part", f"{SHARD_ROWS:,} / r", f"{SHARD_ROWS / rate:.1f}"),
        ("core hours", "rows / r / 3,600", f"{hours:,.0f}"),
        *(
            (f"workers for {limit} h", f"core hours / {limit}", f"{math.ceil(hours / limit):,}")
            for limit in HOURS
        ),
        ("most workers one driver feeds", "d / r", f"{cutting / rate:,.0f}"),
        ("output", "rows x b", f"{ROWS * size / 1e9:.1f} GB"),
    ]
    return table("| quantity | formula | value |", rows)


NUMBERS: dict[str, Callable[[], str]] = {
    "sst2": sst2,
    "sst2.tfidf": partial(accuracy, "sst2", "TF-IDF + LogisticRegression, tuned"),
    "sst2.last": partial(accuracy, "sst2", "default model, last layer mean"),
    "sst2.ours": partial(accuracy, "sst2", "default pipeline (mean of all layers, concatenated)"),
    "sst2.finetuned": partial(accuracy, "comparison_sst2", "fine-tuned BERT"),
    "grid.skrub": partial(encoded, "skrub LLMEncoder"),
    "grid.ours": partial(encoded, "BertVectorizer()"),
    "comparison": comparison,
    "stack.sst2": partial(accuracy, "comparison_sst2", STACK),
    "stack.sst2.gain": partial(comparison_row, "sst2", STACK),
    "movie.stack": partial(comparison_row, "movie_reviews", STACK),
    "movie.default": lambda: comparison_row("movie_reviews", DEFAULT).split()[0].lstrip("-"),
    "banking.stack": partial(comparison_row, "banking77", STACK),
    **{f"comparison.{data}.scores": partial(comparison_scores, data) for data in SETS},
    **{f"comparison.{data}.costs": partial(comparison_costs, data) for data in ("reviews", "sst2")},
    "grid_search": grid_search,
    "journeys": journeys,
    "encode": encode,
    "encode_cuda": encode_cuda,
    "cuda.default": partial(cuda_range, "st_default"),
    "cuda.best": partial(cuda_range, "st_best"),
    "latency": latency,
    "latency.1.p50": partial(latency_ratio, 1, 50),
    "latency.1.p99": partial(latency_ratio, 1, 99),
    "latency.2.p50": partial(latency_ratio, 2, 50),
    "defaults": defaults,
    "defaults_stack": defaults_stack,
    "choose_C": choose_C,
    "tolerance": tolerance,
    "label_errors": label_errors,
    "layer_study": layer_study,
    "finetuning": finetuning,
    "truncation": truncation,
    "truncation.tfidf": partial(percent, "TF-IDF", None, "C=30"),
    "truncation.window": partial(percent, "window", 128, "C=cv"),
    "truncation.stack": partial(percent, "window", 128, STACKED),
    "truncation.stack.gain": stack_gain,
    "truncation.gain": partial(window_gain, 0),
    "truncation.gain.low": partial(window_gain, 1),
    "truncation.gain.high": partial(window_gain, 2),
    "cold_start.seconds": partial(cold_start, "seconds"),
    "cold_start.ratio": partial(cold_start, "ratio"),
    "saved.mb": partial(file_size, "default pipeline"),
    "saved.by_hash.kb": partial(file_size, "default pipeline, weights by hash"),
    "saved.size.ms": partial(opening, "size"),
    "saved.sha256.ms": partial(opening, "sha256"),
    "saved.probes.ms": partial(opening, "probes"),
    "score_table": score_table,
    "score_table.rows": lambda: f"{next(iter(scored_ways().values()))['rows']:,}",
    "score_table.cpu": partial(processor, "score_table"),
    **{
        f"million.{column}": partial(million, column)
        for column in ("seconds", "rows_per_s", "driver_peak_mib", "worker_peak_mib")
    },
    "on_paper": on_paper,
}


def main() -> int:
    """Say which pages are out of date, or write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    out_of_date = []
    for path in pages():
        page = path.read_text(encoding="utf-8")
        if (now := with_numbers(page)) != page:
            out_of_date.append(path)
            if arguments.write:
                path.write_text(now, encoding="utf-8")
    for path in out_of_date:
        print(f"{path.relative_to(TOP)}: {'written' if arguments.write else 'out of date'}")
    return 1 if out_of_date and not arguments.write else 0


if __name__ == "__main__":
    raise SystemExit(main())
