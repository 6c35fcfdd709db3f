"""The pages under docs/: their blocks run, and their numbers are those that were measured."""

import ast
import json
import re
from pathlib import Path

import pytest

from benchmarks import numbers
from benchmarks.results_file import RESULTS, read_rows
from pipeline.evaluation.baselines import make_word2vec_baseline
from tests.markdown import BLOCK, run_page

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULT_FILES = sorted(RESULTS.iterdir())


@pytest.mark.parametrize(
    "page",
    [
        *"""bert-features defaults artifact-format comparison long-texts models explaining report
        scaling-out""".split(),
        pytest.param("choosing-layers", marks=pytest.mark.thorough),
        pytest.param("fine-tuning", marks=pytest.mark.thorough),
    ],
)
def test_every_block_of_the_page_prints_what_stands_below_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = run_page(DOCS / f"{page}.md")
    assert results
    for code, printed, shown in results:
        assert printed == (shown or ""), (
            f"\n{code}\nprinted\n{printed}\nbut the page shows\n{shown}"
        )


@pytest.mark.parametrize("page", ["README", "docs/bert-features"])
def test_a_korean_page_has_the_code_the_output_and_the_numbers_of_the_english_one(page):
    english, korean = (
        (DOCS.parent / f"{page}{end}").read_text(encoding="utf-8") for end in (".md", ".ko.md")
    )

    def blocks(text):  # without comments; the English ones are run
        return [
            (ast.dump(ast.parse(block["code"])), block["shown"]) for block in BLOCK.finditer(text)
        ]

    assert blocks(korean) == blocks(english)
    assert sorted(numbers.MARKED.findall(korean)) == sorted(numbers.MARKED.findall(english))


@pytest.mark.parametrize("path", numbers.pages(), ids=lambda path: path.name)
def test_the_numbers_of_a_page_are_those_of_the_results(path):
    page = path.read_text(encoding="utf-8")
    assert numbers.with_numbers(page) == page, "python -m benchmarks.numbers --write"


def test_every_number_that_is_made_stands_on_a_page():
    marked = {
        name
        for path in numbers.pages()
        for name, _ in numbers.MARKED.findall(path.read_text("utf-8"))
    }
    assert marked == set(numbers.NUMBERS)


def test_no_word2vec_that_was_tried_on_training_texts_is_clearly_better():
    rows = read_rows("word2vec_choice")
    means: dict[tuple, list[float]] = {}
    for row in rows:
        for C, accuracy in row["accuracy"].items():
            tried = (row["vector_size"], row["skip_gram"], row["epochs"], float(C))
            means.setdefault(tried, []).append(accuracy)
    model = make_word2vec_baseline()
    chosen = means[model[0].vector_size, model[0].skip_gram, model[0].epochs, model[-1].C]
    assert sum(chosen) / 2 > max(sum(both) / 2 for both in means.values()) - 0.005
    page = (DOCS / "comparison.md").read_text(encoding="utf-8")
    for accuracy in chosen:
        assert f"{accuracy:.3f}" in page


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
    for file in {file for file, _ in named}:
        tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
        there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        missing = {name for own, name in named if own == file} - there
        assert not missing, f"{file} has no {missing}"


@pytest.mark.parametrize("path", RESULT_FILES, ids=[path.name for path in RESULT_FILES])
def test_a_result_says_what_was_run_and_on_what_and_names_no_path(path):
    text = path.read_text(encoding="utf-8")
    result = json.loads(text)
    assert [*result] == "benchmark command date machine versions repeats rows".split()
    assert result["benchmark"] == path.stem
    machine = "cpu cores threads ram_gib cpu_capability accelerator"
    assert [*result["machine"]] == machine.split()
    versions = "python torch transformers sentence-transformers scikit-learn pipeline"
    assert set(versions.split()) <= set(result["versions"])
    assert result["rows"]
    assert text.endswith("}\n")
    assert not re.search(r"""[\s"'=(](/|\w:\\)\w""", text), "a path of some machine"


@pytest.mark.parametrize("path", RESULT_FILES, ids=[path.name for path in RESULT_FILES])
def test_the_page_of_the_benchmarks_names_every_result(path):
    assert f"`{path.name}`" in (RESULTS.parent / "README.md").read_text(encoding="utf-8")
