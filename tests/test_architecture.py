"""The house: imports go one way, rooms know only what they may, names say what is inside, importing costs little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.evaluation.word2vec import Word2VecVectorizer

TOP = Path(__file__).resolve().parent.parent
MODULES = {
    ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__"): path
    for path in TOP.glob("pipeline/**/*.py")
}


def top_level_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_imports_go_one_way():
    """The layers stand in pyproject.toml."""
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TOP)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("pipeline.bert")))
def test_the_bert_room_knows_no_scikit_learn_and_no_pandas(module):
    assert not {"sklearn", "pandas"} & {
        name.split(".")[0] for name in top_level_imports(MODULES[module])
    }


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.texts",
        "pipeline.files",
        "pipeline.datasets",
        "pipeline.checkpoints.hub",
        "pipeline.checkpoints.catalogue",
        *sorted(m for m in MODULES if m.startswith("pipeline.saved")),
    ],
)
def test_rooms_that_need_no_torch_import_none(module):
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP
        ).stdout
        == "[]\n"
    )


def test_importing_the_package_imports_nothing_heavy_and_changes_nothing():
    code = (
        "import os, sys, warnings, logging; before = dict(os.environ), list(warnings.filters), logging.root.level\n"
        "import pipeline; dir(pipeline); after = dict(os.environ), list(warnings.filters), logging.root.level\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'pandas') if m in sys.modules], before == after)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP
        ).stdout
        == "[] True\n"
    )


def test_every_public_name_is_there_and_is_documented():
    for name in set(pipeline.__all__) - {"__version__"}:
        assert getattr(pipeline, name).__doc__, name
    assert set(pipeline.__all__) <= set(dir(pipeline))
    with pytest.raises(
        AttributeError, match=r"has no attribute 'BertTransformer'; it offers .*BertVectorizer"
    ):
        pipeline.BertTransformer  # noqa: B018


@pytest.mark.parametrize("module", sorted(set(MODULES)))
def test_every_module_says_in_one_line_what_it_is_for(module):
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    assert docstring
    assert "\n" not in docstring.strip()


def test_no_room_is_called_after_nothing():
    assert not {path.stem for path in MODULES.values()} & {
        "utils",
        "helpers",
        "common",
        "base",
        "core",
        "misc",
    }


def test_the_class_stays_where_saved_files_look_for_it():
    assert pipeline.BertVectorizer.__module__ == "pipeline.vectorizer"
    assert pipeline.FineTunedBertClassifier.__module__ == "pipeline.finetuning"
    assert Word2VecVectorizer.__module__ == "pipeline.evaluation.word2vec"
