"""The pages under docs/: their blocks run and print what the page says."""

from pathlib import Path

import pandas as pd
import pytest

from tests.markdown import run_page

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("page", ["bert-features.md", "defaults.md"])
def test_every_block_of_the_page_prints_what_stands_below_it(page):
    results = run_page(DOCS / page)
    assert results
    for code, printed, shown in results:
        assert printed == (shown or ""), f"\n{code}\nprinted\n{printed}\nbut the page shows\n{shown}"


def test_the_table_of_defaults_is_the_one_that_was_measured():
    measured = pd.read_csv(DOCS.parent / "benchmarks" / "results" / "defaults.csv")
    page = (DOCS / "defaults.md").read_text(encoding="utf-8")
    best = measured.sort_values("accuracy", ascending=False).groupby(["data", "features"], sort=False).first().reset_index()
    for (features,), rows in best.groupby(["features"]):
        line = next(line for line in page.splitlines() if line.startswith(f"| {features} |"))
        for accuracy in rows["accuracy"]:
            assert f"{accuracy:.3f}" in line, f"{features}: {accuracy:.3f} is not in {line!r}"
