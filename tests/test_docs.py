"""The pages under docs/: their blocks run and print what the page says. The benchmarks' results: all of one form, all named."""

import ast
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.paper_model import PAGE, measured_text, page_with
from benchmarks.results_file import RESULTS, read_rows
from pipeline.evaluation.baselines import ROWS, make_word2vec_baseline
from tests.markdown import run_page

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULT_FILES = sorted(RESULTS.iterdir())


@pytest.mark.parametrize(
    "page",
    [
        "bert-features.md",
        "defaults.md",
        "artifact-format.md",
        "choosing-layers.md",
        "fine-tuning.md",
        "comparison.md",
        "long-texts.md",
        "report.md",
        "scaling-out.md",
    ],
)
def test_every_block_of_the_page_prints_what_stands_below_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = run_page(DOCS / page)
    assert results
    for code, printed, shown in results:
        assert printed == (shown or ""), (
            f"\n{code}\nprinted\n{printed}\nbut the page shows\n{shown}"
        )


def test_the_table_of_defaults_is_the_one_that_was_measured():
    measured = pd.DataFrame(read_rows("defaults_reviews") + read_rows("defaults_sst2"))
    page = (DOCS / "defaults.md").read_text(encoding="utf-8")
    best = (
        measured.sort_values("accuracy", ascending=False)
        .groupby(["data", "features"], sort=False)
        .first()
        .reset_index()
    )
    for (features,), rows in best.groupby(["features"]):
        line = next(line for line in page.splitlines() if line.startswith(f"| {features} |"))
        for accuracy in rows["accuracy"]:
            assert f"{accuracy:.3f}" in line, f"{features}: {accuracy:.3f} is not in {line!r}"


def test_the_table_of_layers_is_the_one_that_was_measured():
    page = (DOCS / "choosing-layers.md").read_text(encoding="utf-8").splitlines()
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page
        if line.startswith("| ")
    ][1:]
    reviews, sst2 = read_rows("layer_study_reviews"), read_rows("layer_study_sst2")
    expected = [
        [
            f"{row['pooling']}, {row['features']}",
            *(f"{one['score']:.3f} ± {one['score_sd']:.3f}" for one in (row, other)),
        ]
        for row, other in zip(reviews[:-1], sst2[:-1], strict=True)
    ]
    assert lines[:-2] == expected
    nested = reviews[-1], sst2[-1]
    assert lines[-2] == ["the best of the table", *(f"{row['best']:.3f}" for row in nested)]
    assert any(line.startswith(f"{sst2[-1]['seconds']:.0f} seconds") for line in page)
    assert lines[-1][1:] == [f"{row['score']:.3f} ± {row['score_sd']:.3f}" for row in nested]


def test_the_table_of_fine_tuning_is_the_one_that_was_measured():
    page = (DOCS / "fine-tuning.md").read_text(encoding="utf-8")
    rows = read_rows("finetuning")
    assert len(rows) == page.count("| frozen |") + page.count("| fine-tuned |")
    for row in rows:
        numbers = f"{100 * row['accuracy']:.1f} | {row['fit_seconds']:,.0f} | {row['texts_per_second']:.0f} | {row['file_mb']:.0f}"
        assert f"| {row['task']} | {row['model']} | {numbers} |" in page
    for row in read_rows("finetuning_choice"):
        assert f"{100 * row['dev_accuracy']:.1f} %" in page


def test_the_measured_part_of_scaling_out_is_what_the_results_say():
    assert page_with(measured_text()) == PAGE.read_text(encoding="utf-8"), (
        "python -m benchmarks.paper_model --write"
    )


def comparison_lines(rows):
    """Give the two tables of a comparison as the page has to show them: scores, then costs."""
    scores, costs = [], []
    for row in rows:
        spread = {
            m: "" if row[f"{m}_sd"] is None else f" ± {row[f'{m}_sd']:.3f}"
            for m in ("accuracy", "macro_f1", "roc_auc")
        }
        shown = (
            f"{row[m]:.3f}{spread.get(m, '')}"
            for m in ("accuracy", "macro_f1", "roc_auc", "log_loss", "calibration_error")
        )
        against = f"{row['difference']:+.3f} ({row['difference_low']:+.3f} to {row['difference_high']:+.3f})"
        against = "" if row["verdict"] == "baseline" else against
        scores.append(f"| {row['name']} | {' | '.join(shown)} | {against} | {row['verdict']} |")
        shown = (
            f"{row[column]:,.1f}" for column in ("fit_seconds", "predict_seconds", "artifact_mb")
        )
        costs.append(f"| {row['name']} | {' | '.join(shown)} |")
    return scores + costs


@pytest.mark.parametrize("data", ["reviews", "sst2"])
def test_the_tables_of_the_comparison_are_the_ones_that_were_measured(data):
    page = (DOCS / "comparison.md").read_text(encoding="utf-8").splitlines()
    rows = read_rows(f"comparison_{data}")
    assert [row["name"] for row in rows] == list(ROWS.values())
    for line in comparison_lines(rows):
        assert line in page
    shares = [
        100 * row["cpu_share"]
        for name in ("reviews", "sst2")
        for row in read_rows(f"comparison_{name}")
    ]
    assert f"{min(shares):.0f} % to {max(shares):.0f} %" in " ".join(page)


def test_no_word2vec_that_was_tried_on_training_texts_is_clearly_better():
    rows = read_rows("word2vec_choice")
    means: dict[tuple, list[float]] = {}
    for row in rows:
        for C, accuracy in row["accuracy"].items():
            means.setdefault(
                (row["vector_size"], row["skip_gram"], row["epochs"], float(C)), []
            ).append(accuracy)
    model = make_word2vec_baseline()
    chosen = means[model[0].vector_size, model[0].skip_gram, model[0].epochs, model[-1].C]
    assert sum(chosen) / 2 > max(sum(both) / 2 for both in means.values()) - 0.005
    page = (DOCS / "comparison.md").read_text(encoding="utf-8")
    for accuracy in chosen:
        assert f"{accuracy:.3f}" in page


def test_the_table_of_long_texts_is_the_one_that_was_measured():
    page = (DOCS / "long-texts.md").read_text(encoding="utf-8").splitlines()

    def between(found):
        return "" if found is None else f"{found[0]:+.3f} ({found[1]:+.3f} to {found[2]:+.3f})"

    for row in read_rows("truncation"):
        length = "" if row["max_length"] is None else row["max_length"]
        head = None if row["features"] == "head" else row["against_head"]
        against = f"{between(head)} | {'' if row['features'] == 'TF-IDF' else between(row['against_tfidf'])}"
        lost, accuracy = f"{100 * row['share_lost']:.0f} %", f"{row['accuracy']:.3f}"
        cells = (row["features"], length, row["classifier"], lost, accuracy, against)
        assert f"| {' | '.join(map(str, cells))} |" in page


def test_the_table_of_latency_is_the_one_that_was_measured():
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    for row in read_rows("latency"):
        shown = f"| {row['threads']} | {row['set_up']} | {row['p50_ms']['median']:.1f} | {row['p99_ms']['median']:.1f} |"
        if "ratio_by_text" in row:
            ratios = (row[f"p{percent}_over_peer_by_round"]["median"] for percent in (50, 99))
            shown += "".join(f" {ratio:.2f} |" for ratio in ratios)
        assert shown in page


def fault_rows():
    """Give number, fault, what happens and test of every row of the page of faults."""
    lines = (DOCS / "faults.md").read_text(encoding="utf-8").splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if re.match(r"\| \d", line)
    ]
    assert {len(row) for row in rows} == {4}
    return rows


def test_every_fault_has_one_row():
    assert [int(number) for number, *_ in fault_rows()] == list(range(1, 81))


def test_every_test_that_the_page_of_faults_names_is_there():
    for number, _, _, cell in fault_rows():
        names = re.findall(r"`tests/(\w+\.py)::(\w+)`", cell)
        assert names or cell.startswith("none: "), (
            f"row {number} names no test and does not say why"
        )
    named = re.findall(
        r"`tests/([^`:]+)::([^`]+)`", (DOCS / "faults.md").read_text(encoding="utf-8")
    )
    assert len(named) > 100
    for file, name in named:
        tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
        assert name in {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        }, f"{file} has no {name}"


@pytest.mark.parametrize("path", RESULT_FILES, ids=[path.name for path in RESULT_FILES])
def test_a_result_says_what_was_run_and_on_what_and_names_no_path(path):
    text = path.read_text(encoding="utf-8")
    result = json.loads(text)
    assert list(result) == [
        "benchmark",
        "command",
        "date",
        "machine",
        "versions",
        "repeats",
        "rows",
    ]
    assert result["benchmark"] == path.stem
    assert list(result["machine"]) == [
        "cpu",
        "cores",
        "threads",
        "ram_gib",
        "cpu_capability",
        "accelerator",
    ]
    assert {
        "python",
        "torch",
        "transformers",
        "sentence-transformers",
        "scikit-learn",
        "pipeline",
    } <= set(result["versions"])
    assert result["rows"]
    assert text.endswith("}\n")
    assert not re.search(r"""[\s"'=(](/|\w:\\)\w""", text), "a path of some machine"


@pytest.mark.parametrize("path", RESULT_FILES, ids=[path.name for path in RESULT_FILES])
def test_the_page_of_the_benchmarks_names_every_result(path):
    assert f"`{path.name}`" in (RESULTS.parent / "README.md").read_text(encoding="utf-8")


def test_the_table_of_the_gpu_is_the_one_that_was_measured():
    rows, readme = read_rows("encode_cuda"), (DOCS.parent / "README.md").read_text(encoding="utf-8")
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    for row in rows:
        (line,) = [
            line
            for line in page.splitlines()
            if line.startswith("| ") and f"| {row['ours_tokens_per_s']:,} |" in line
        ]
        assert (
            f"| {row['st_default_over_ours']:.1f} | {row['st_best_over_ours']:.1f} ({row['st_best_batch_size']}) |"
            in line
        )
    for peer in ("st_default_over_ours", "st_best_over_ours"):
        assert (
            f"{min(row[peer] for row in rows):.1f} to {max(row[peer] for row in rows):.1f} times as fast"
            in readme
        )
