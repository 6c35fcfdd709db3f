"""The notebook of the docs runs in a kernel of its own, and what is committed is readable."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PATH = Path(__file__).parent.parent / "docs/notebooks/first_hour.ipynb"


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(PATH, as_version=4)


def codes(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """Return what the output of a cell can be shown as, by kind."""
    return [sorted(output.data) for output in cell.outputs if "data" in output]


def test_it_runs_on_few_texts_and_shows_what_is_committed(committed, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PATH.parent.parent.parent))
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.source) for cell in codes(committed)]
    )
    again = "%matplotlib inline\nlayer_heatmap(study)"
    notebook.cells.append(nbformat.v4.new_code_cell(again))
    few = {"sample(800": "sample(90", "cv=5": "cv=2", "cv=3": "cv=2", "n_map=150": "n_map=0"}
    for old, new in few.items():
        assert any(old in cell.source for cell in notebook.cells), old
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises what a cell raises
    assert kinds(notebook.cells.pop()) == [["image/png", "text/plain"]]  # one picture, not two
    assert [*map(kinds, codes(notebook))] == [*map(kinds, codes(committed))]
    assert {path.name for path in tmp_path.iterdir()} >= {"first_hour.html", "first_hour.joblib"}


def test_every_cell_is_committed_with_what_it_shows(committed):
    assert PATH.stat().st_size < 1_500_000
    assert [cell.execution_count for cell in codes(committed)] == [
        *range(1, len(codes(committed)) + 1)
    ]
    for cell in codes(committed):
        assert kinds(cell), cell.source
        assert all(output.output_type == "execute_result" for output in cell.outputs)
    assert "bert-vectorizer" in codes(committed)[-1].outputs[0].data["text/html"]
