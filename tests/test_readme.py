"""The README: its blocks run and print what it says, its commands exist, its numbers are those that were measured."""

import re
from pathlib import Path

import pytest

from benchmarks.results_file import read_rows
from tests.markdown import run_page

TOP = Path(__file__).resolve().parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")


def test_every_block_prints_what_stands_below_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = run_page(TOP / "README.md")
    assert len(results) >= 2
    for code, printed, shown in results:
        assert printed == (shown or ""), f"\n{code}\nprinted\n{printed}"


def test_every_file_it_links_to_is_there():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (TOP / link).exists()] == []


@pytest.mark.parametrize("target", ["run", "test"])
def test_its_make_commands_are_targets(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (TOP / "Makefile").read_text(), re.MULTILINE)


def test_its_results_are_those_of_the_benchmark():
    for row in read_rows("sst2"):
        assert f"| {row['model']} | {100 * row['accuracy']:.1f} |" in README


def test_its_comparison_is_that_of_the_benchmark():
    reviews = {row["name"]: row for row in read_rows("comparison_reviews")}
    for row in read_rows("comparison_sst2"):
        line = f"| {row['name']} |"
        for of in (row, reviews[row["name"]]):
            bounds = [
                f"{100 * of[name]:+.1f}"
                for name in ("difference", "difference_low", "difference_high")
            ]
            against = "" if of["verdict"] == "baseline" else "{} ({} to {})".format(*bounds)
            line += f" {100 * of['accuracy']:.1f} | {against} |"
        assert line in README


def test_what_it_says_of_long_texts_is_what_was_measured():
    rows = {(row["features"], row["classifier"]): row for row in read_rows("truncation")}
    tfidf, window = rows["TF-IDF", "default C"], rows["window", "chosen C"]
    assert (
        f"TF-IDF wins: {100 * tfidf['accuracy'] + 1e-6:.1f} % beside {100 * window['accuracy'] + 1e-6:.1f}"
        in README
    )
    gain, low, high = (100 * value for value in window["against_head"])
    assert f"by {gain:.1f} points\n({low:.1f} to {high:.1f};" in README


def test_its_counts_are_those_of_the_benchmark():
    for row in read_rows("grid_search"):
        assert f"| {row['set-up']} | {row['texts encoded']} | {row['model loads']} |" in README


def test_its_speeds_are_those_of_the_benchmark():
    model = {"minilm": "default model", "bert-base": "bert-base, random weights"}
    rows = read_rows("encode")
    assert {row["model"] for row in rows} == set(model)
    for row in rows:
        cells = (
            model[row["model"]],
            f"{row['workload']} ({row['n_texts']:,})",
            f"{row['ours_tokens_per_s']:,}",
            f"{row['st_default_over_ours']:.2f}",
            f"{row['st_best_over_ours']:.2f} ({row['st_best_batch_size']})",
            f"{100 * row['share_of_limit']:.0f} %",
        )
        assert f"| {' | '.join(cells)} |" in README


def test_its_cold_start_is_that_of_the_benchmark():
    (row,) = [row for row in read_rows("cold_start") if row["set_up"] == "load_pipeline, predict"]
    ratio = row["wall_over"]["SentenceTransformer, encode"]
    assert f"takes {row['wall_s']['median']:.1f} s, {ratio:.2f} of what" in README


def test_its_latency_is_that_of_the_benchmark():
    one, two = (row for row in read_rows("latency") if row["set_up"] == "list")
    (median, with_two), (tail, _) = (
        [row[f"p{n}_over_peer_by_round"]["median"] for row in (one, two)] for n in (50, 99)
    )
    assert (one["threads"], two["threads"]) == (1, 2)
    assert f"takes {median:.2f} of the time" in README
    assert (
        f"(median; {tail:.2f} at the 99th percentile; one thread; {with_two:.2f} with two; `benchmarks/latency.py`)"
        in README
    )


def test_its_rows_per_second_are_those_of_the_benchmark():
    rates = {row["way"]: f"{row['rows_per_s']:,.0f}" for row in read_rows("score_table")}
    said = (
        f"{rates['score_table, 2 processes']} rows per second by two processes, {rates['predict_proba, 2 threads']} by plain "
        f"`predict_proba` with two threads, {rates['pandas and sentence-transformers, 2 threads']} by a loop over "
        "sentence-transformers"
    )
    assert said in " ".join(README.split())


def test_its_million_rows_are_those_of_the_benchmark():
    (row,) = read_rows("score_million")
    assert (row["rows"], set(row["kills"])) == (1_000_000, {"worker", "driver"})
    assert "A run of a million rows" in README


def test_its_opening_times_are_those_of_the_benchmark():
    rows = {(row["pipeline"], row["format"], row["step"]): row for row in read_rows("saved_files")}
    size, hashed, probed = (
        rows["default pipeline", "joblib", f"load_pipeline(verify={verify!r})"]
        for verify in ("size", "sha256", "probes")
    )
    milliseconds = [f"{1000 * row['s']['median']:.0f}" for row in (size, hashed, probed)]
    said = "{:.0f} MB open in {} ms, {} with the hash, {} with the self-test".format(
        size["file_mb"], *milliseconds
    )
    assert said in README
    by_hash = rows["default pipeline, weights by hash", "joblib", "save_pipeline"]
    assert f"carries hashes instead, {1000 * by_hash['file_mb']:.0f} kB" in README


def test_it_names_the_pinned_torch():
    pin = re.search(r"^torch==\S+", (TOP / "requirements.txt").read_text(), re.MULTILINE)
    assert pin is not None
    assert f"pip install {pin[0]}" in README
