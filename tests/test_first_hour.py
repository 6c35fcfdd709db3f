"""The notebooks of the docs run in kernels of their own, and what is committed is readable."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "docs/notebooks"
# what the test makes smaller
FEWER = {
    "first_hour": {
        "sample(800": "sample(90", "cv=5": "cv=2", "cv=3": "cv=2", "n_map=150": "n_map=0"
    },
    "reviews_with_columns": {"sample(700": "sample(120", "cv=5": "cv=2", "n_map=150": "n_map=0"},
    "many_intents": {"cv=4": "cv=2", "MESSAGES.items()": "[*MESSAGES.items()][:5]"},
    "tokens_and_layers": {"sample(500": "sample(90", "350": "60", "cv=3": "cv=2"},
}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[name if name == "first_hour" else pytest.param(name, marks=pytest.mark.thorough)
            for name in FEWER],
)  # fmt: skip
def committed(request):
    notebook = nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)
    notebook.metadata["name"] = request.param
    return notebook


def test_each_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(FEWER)


def codes(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """Return what the output of a cell can be shown as, by kind."""
    return [sorted(output.data) for output in cell.outputs if "data" in output]


def test_it_runs_on_few_texts_and_shows_what_is_committed(committed, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent.parent))
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.source) for cell in codes(committed)]
    )
    again = "%matplotlib inline\nfrom pipeline.evaluation import plots\nplots."
    studies = any("study = " in cell.source for cell in notebook.cells)
    again += "layer_heatmap(study)" if studies else "comparison_figure(comparison)"
    notebook.cells.append(nbformat.v4.new_code_cell(again))
    for old, new in FEWER[committed.metadata["name"]].items():
        assert any(old in cell.source for cell in notebook.cells), old
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises what a cell raises
    assert kinds(notebook.cells.pop()) == [["image/png", "text/plain"]]  # one picture, not two
    assert [*map(kinds, codes(notebook))] == [*map(kinds, codes(committed))]
    assert {path.suffix for path in tmp_path.iterdir()} >= {".html", ".joblib"}


def test_every_cell_is_committed_with_what_it_shows(committed):
    assert len(nbformat.writes(committed)) < 1_500_000
    assert [cell.execution_count for cell in codes(committed)] == [
        *range(1, len(codes(committed)) + 1)
    ]
    for cell in codes(committed):
        assert kinds(cell), cell.source
        assert all(output.output_type == "execute_result" for output in cell.outputs)
    assert "bert-vectorizer" in codes(committed)[-1].outputs[0].data["text/html"]
