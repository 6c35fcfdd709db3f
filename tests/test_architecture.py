"""The package as a whole: public names, what importing costs, and paths that saved files need."""

import ast
import importlib
import re
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


def printed(code):
    """Return what a new process prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=TOP).stdout


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
    assert printed(code) == "[]\n"


def test_importing_the_package_imports_nothing_heavy_and_changes_nothing():
    code = (
        "import os, sys, warnings, logging\n"
        "def state(): return dict(os.environ), list(warnings.filters), logging.root.level\n"
        "before = state(); import pipeline; dir(pipeline)\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'pandas') if m in sys.modules], "
        "before == state())"
    )
    assert printed(code) == "[] True\n"


def test_every_public_name_is_there_and_is_documented():
    for name in set(pipeline.__all__) - {"__version__"}:
        assert getattr(pipeline, name).__doc__, name
    assert set(pipeline.__all__) <= set(dir(pipeline))
    with pytest.raises(
        AttributeError, match=r"has no attribute 'BertTransformer'; available are .*BertVectorizer"
    ):
        pipeline.BertTransformer  # noqa: B018


@pytest.mark.parametrize(
    ("old", "module", "new"),
    [
        ("inspect_artifact", "pipeline", "inspect_pipeline"),
        ("verify_artifact", "pipeline", "verify_pipeline"),
        ("PlanError", "pipeline.exceptions", "PlanError"),
        ("layer_heatmap", "pipeline.evaluation.plots", "layer_heatmap"),
        ("ScoredTable", "pipeline.scoring.score_table", "ScoredTable"),
        ("catalogue", "pipeline.checkpoints.catalogue", "catalogue"),
    ],
)
def test_a_name_that_moved_is_still_there_and_says_where_it_is_now(old, module, new):
    with pytest.warns(FutureWarning, match=rf"pipeline\.{old} is now {module}\.{new}\."):
        found = getattr(pipeline, old)
    assert found is getattr(importlib.import_module(module), new)


def test_no_module_has_a_name_that_says_nothing():
    empty = set("utils helpers common base core misc".split())
    assert not empty & {path.stem for path in MODULES.values()}


def test_the_class_stays_where_saved_files_look_for_it():
    assert pipeline.BertVectorizer.__module__ == "pipeline.vectorizer"
    assert pipeline.FineTunedBertClassifier.__module__ == "pipeline.finetuning"
    assert Word2VecVectorizer.__module__ == "pipeline.evaluation.word2vec"


PLACES_OF_PRIVATE_NAMES = {
    "_compat.py": {"sklearn.base._fit_context", "sklearn.utils._safe_indexing"},
    "bert/linear.py": {"torch.ops.mkldnn._linear_pointwise"},
    "bert/encoder.py": {"torch.cuda._is_in_bad_fork"},
    "bert/training.py": {"state._shared_state"},
}


def test_private_names_of_other_libraries_are_used_in_few_places_only():
    found = {}
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES.values()}
    own = {
        getattr(node, "name", None) or getattr(node, "attr", None) or getattr(node, "id", None)
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store))
    }
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute) and node.attr not in own | {
                "_exit",
                "_replace",
                "_asdict",
            }:
                names = [ast.unparse(node)]
            elif isinstance(node, ast.ImportFrom) and not f"{node.module}.".startswith("pipeline."):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                last = name.rpartition(".")[2]
                if re.match("_[^_]", last) and not re.match(r"self|super", name):
                    place = path.relative_to(TOP / "pipeline").as_posix()
                    found.setdefault(place, set()).add(name)
    assert set(found) == set(PLACES_OF_PRIVATE_NAMES)
    for place, some in PLACES_OF_PRIVATE_NAMES.items():
        assert some <= found[place]


def test_every_pin_stands_in_the_lock_with_hashes_and_no_address():
    """`make lock` was run after the last change of requirements.txt."""
    lock = (TOP / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?://|index-url", lock)
    locked = re.findall(
        r"^([\w.-]+==[\w.+!-]+)[^\n]*((?:\n    --hash=sha256:[0-9a-f]{64}.*)+)", lock, re.M
    )
    pins = re.findall(
        r"^[\w.-]+==[\w.+-]+", (TOP / "requirements.txt").read_text(encoding="utf-8"), re.M
    )
    assert {pin.lower().replace("_", "-") for pin in pins} <= {name for name, _ in locked}
    assert len(locked) == len(re.findall(r"^[\w.-]+==", lock, re.M))
