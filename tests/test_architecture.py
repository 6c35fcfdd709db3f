"""The house: imports go one way, rooms know only what they may, names say what is inside, importing costs little."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.evaluation.word2vec import Word2VecVectorizer

TOP = Path(__file__).resolve().parent.parent
MODULES = {
    ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__"): path for path in TOP.glob("pipeline/**/*.py")
}
# Who may import whom among our own modules; a module that is not here may import nothing of ours.
ARROWS = {
    "pipeline.texts": set(),
    "pipeline.answers": set(),
    "pipeline.forks": set(),
    "pipeline.file_systems": set(),
    "pipeline.files": set(),
    "pipeline.csv_table": set(),
    "pipeline.datasets": {"csv_table", "files", "texts"},
    "pipeline.checkpoints.provenance": {"forks"},
    "pipeline.checkpoints.transfer": {"checkpoints.provenance"},
    "pipeline.checkpoints.hub": {"checkpoints.provenance", "checkpoints.transfer"},
    "pipeline.checkpoints.catalogue": set(),
    "pipeline.checkpoints.model_files": {"checkpoints.hub"},
    "pipeline.checkpoints.checkpoint": {"checkpoints.hub", "checkpoints.model_files", "checkpoints.provenance"},
    "pipeline.checkpoints.model_folder": {
        "checkpoints.checkpoint",
        "checkpoints.model_files",
        "checkpoints.hub",
        "checkpoints.provenance",
    },
    "pipeline.bert.tokenizing": {"checkpoints.model_files"},
    "pipeline.bert.batching": set(),
    "pipeline.bert.shape": {"checkpoints.model_files"},
    "pipeline.bert.tensors": {"checkpoints.model_files", "bert.shape"},
    "pipeline.bert.attention": {"bert.batching"},
    "pipeline.bert.pooling": {"bert.batching"},
    "pipeline.bert.layer_weights": {"bert.shape"},
    "pipeline.bert.short": {"bert.batching", "bert.layer_weights", "forks"},
    "pipeline.bert.packed": {
        "bert.attention",
        "bert.batching",
        "bert.layer_weights",
        "checkpoints.model_files",
        "bert.pooling",
        "bert.shape",
        "bert.short",
        "bert.tensors",
    },
    "pipeline.bert.hugging_face": {"bert.batching", "checkpoints.model_files", "bert.pooling", "bert.shape", "bert.tensors"},
    "pipeline.bert.trainable": {"bert.hugging_face", "checkpoints.model_files", "bert.pooling", "bert.shape", "bert.tensors"},
    "pipeline.bert.training": {"forks", "checkpoints.model_files", "bert.pooling", "bert.trainable"},
    "pipeline.bert.encoder": {
        "forks",
        "bert.batching",
        "checkpoints.model_files",
        "bert.hugging_face",
        "bert.packed",
        "bert.pooling",
    },
    "pipeline.bert.inference": {"bert.batching", "bert.encoder"},
    "pipeline.bert.embedding": {"bert.batching", "bert.encoder", "bert.inference", "bert.pooling", "bert.tokenizing"},
    "pipeline.bert.frozen": {
        "bert.batching",
        "checkpoints.model_files",
        "bert.embedding",
        "bert.encoder",
        "bert.packed",
        "bert.pooling",
        "bert.shape",
        "bert.tokenizing",
    },
    "pipeline.bert.cut": {"forks", "checkpoints.model_files", "bert.shape"},
    "pipeline.vector_store": {"file_systems", "files", "forks"},
    "pipeline.saved.versions": {"", "checkpoints.model_files"},
    "pipeline.saved.joblib_contents": set(),
    "pipeline.saved.allow_list": {"saved.joblib_contents"},
    "pipeline.saved.skops_file": {"saved.allow_list"},
    "pipeline.saved.file_kind": {"saved.skops_file"},
    "pipeline.saved.manifest": {"files"},
    "pipeline.saved.opening": {
        "checkpoints.model_files",
        "files",
        "saved.allow_list",
        "saved.file_kind",
        "saved.joblib_contents",
        "saved.manifest",
        "saved.skops_file",
    },
    "pipeline.saved.outline": {"saved.joblib_contents"},
    "pipeline.saved.estimators": set(),
    "pipeline.saved.description": {"saved.estimators"},
    "pipeline.saved.probes": {"vector_store"},
    "pipeline.printing": set(),
    "pipeline.layer_mix": set(),
    "pipeline.embedding_cache": {"forks", "vector_store", "bert.encoder", "bert.embedding", "bert.frozen", "bert.pooling"},
    "pipeline.encoding": {"embedding_cache", "vector_store", "bert.embedding", "bert.frozen", "bert.tokenizing"},
    "pipeline.token_frames": {"bert.embedding", "bert.tokenizing"},
    "pipeline.token_shares": {"bert.tokenizing"},
    "pipeline.token_level": {"texts", "token_frames", "token_shares", "bert.embedding", "bert.frozen", "bert.pooling"},
    "pipeline.explanation": {"texts", "token_shares", "vectorizer"},
    "pipeline.vectorizer": {
        "texts",
        "token_level",
        "embedding_cache",
        "encoding",
        "layer_mix",
        "saved.versions",
        "checkpoints.checkpoint",
        "checkpoints.model_files",
        "bert.cut",
        "bert.encoder",
        "bert.frozen",
        "bert.pooling",
        "bert.tokenizing",
    },
    "pipeline.evaluation.logistic_path": set(),
    "pipeline.evaluation.fold_scores": {"bert.pooling", "evaluation.logistic_path", "layer_mix"},
    "pipeline.evaluation.layer_scores": {"evaluation.fold_scores", "texts", "vectorizer"},
    "pipeline.evaluation.figures": set(),
    "pipeline.labels": {"texts"},
    "pipeline.finetuning": {
        "labels",
        "texts",
        "vectorizer",
        "saved.versions",
        "checkpoints.checkpoint",
        "bert.encoder",
        "bert.frozen",
        "checkpoints.model_files",
        "bert.tokenizing",
        "bert.trainable",
        "bert.training",
    },
    "pipeline.walk": {"texts", "vectorizer", "checkpoints.checkpoint", "bert.encoder", "bert.shape", "bert.tokenizing"},
    "pipeline.sentiment": {"vectorizer"},
    "pipeline.artifact": {
        "checkpoints.model_files",
        "files",
        *(
            f"saved.{room}"
            for room in (
                "allow_list description estimators file_kind joblib_contents manifest opening outline probes skops_file versions"
            ).split()
        ),
    },
    "pipeline.scoring.shard": set(),
    "pipeline.scoring.executors": {"scoring.shard"},
    "pipeline.scoring.worker": set(),
    "pipeline.scoring.processes": {"scoring.executors", "scoring.shard", "scoring.worker"},
    "pipeline.scoring.dask_tasks": {"saved.versions", "scoring.executors", "scoring.shard"},
    "pipeline.scoring.dask_executor": {"scoring.dask_tasks", "scoring.executors", "scoring.shard"},
    "pipeline.scoring.by_size": {"scoring.executors", "scoring.processes", "scoring.shard"},
    "pipeline.scoring.choose_executor": {"scoring.by_size", "scoring.dask_executor", "scoring.executors", "scoring.processes"},
    "pipeline.scoring.isolate": {"scoring.executors", "scoring.shard"},
    "pipeline.scoring.source": set(),
    "pipeline.scoring.file_source": {"csv_table", "files", "scoring.source"},
    "pipeline.scoring.frame_source": {"csv_table", "scoring.source"},
    "pipeline.scoring.open_source": {
        "datasets",
        "files",
        "scoring.file_source",
        "scoring.frame_source",
        "scoring.source",
    },
    "pipeline.scoring.parts": set(),
    "pipeline.scoring.plan": {"scoring.parts"},
    "pipeline.scoring.run_folder": {"scoring.parts", "scoring.plan"},
    "pipeline.scoring.progress": set(),
    "pipeline.scoring.predictions": {"answers", "datasets"},
    "pipeline.scoring.bad_rows": {"answers", "checkpoints.model_files"},
    "pipeline.scoring.score_shard": {
        "answers",
        "artifact",
        "scoring.bad_rows",
        "scoring.parts",
        "scoring.predictions",
        "scoring.shard",
    },
    "pipeline.scoring.target": {"datasets", "files", "scoring.parts", "scoring.run_folder"},
    "pipeline.scoring.driver": {
        "files",
        *(f"scoring.{one}" for one in "executors isolate plan progress run_folder score_shard shard source".split()),
    },
    "pipeline.scoring.table": {
        "answers",
        "artifact",
        "files",
        "saved.versions",
        *(f"scoring.{one}" for one in "choose_executor driver open_source plan predictions progress score_shard target".split()),
    },
    "pipeline.evaluation.metrics": set(),
    "pipeline.evaluation.failures": {"answers", "bert.tokenizing", "explanation", "evaluation.metrics", "texts", "vectorizer"},
    "pipeline.evaluation.word2vec": {"texts"},
    "pipeline.evaluation.baselines": {"evaluation.word2vec", "finetuning", "vectorizer"},
    "pipeline.evaluation.candidates": {
        "evaluation.baselines",
        "evaluation.layer_scores",
        "evaluation.word2vec",
        "sentiment",
        "vectorizer",
    },
    "pipeline.evaluation.cold_times": set(),
    "pipeline.evaluation.paired": set(),
    "pipeline.evaluation.comparison": {
        "answers",
        "bert.tokenizing",
        "embedding_cache",
        "evaluation.candidates",
        "evaluation.cold_times",
        "evaluation.metrics",
        "evaluation.paired",
        "evaluation.scores",
        "labels",
        "texts",
        "vectorizer",
    },
    "pipeline.evaluation.curves": set(),
    "pipeline.evaluation.embedding_map": {"answers"},
    "pipeline.evaluation.scores": {
        "answers",
        "evaluation.curves",
        "evaluation.embedding_map",
        "evaluation.failures",
        "evaluation.metrics",
    },
    "pipeline.report.readable": set(),
    "pipeline.report.contents": set(),
    "pipeline.report.svg": {"report.readable"},
    "pipeline.report.pictures": {"report.readable", "report.svg"},
    "pipeline.report.tables": {"report.readable"},
    "pipeline.report.sections": {"report.contents", "report.pictures", "report.readable", "report.tables"},
    "pipeline.report.page": {"files", "report.contents", "report.readable", "report.sections", "report.tables"},
    "pipeline.report.lineage": {"files", "saved.description", "saved.manifest", "saved.versions"},
    "pipeline.commands.options": {"datasets"},
    "pipeline.commands.labelling": {
        "answers",
        "artifact",
        "commands.options",
        "printing",
        "scoring.dask_executor",
        "scoring.table",
    },
    "pipeline.commands.reporting": {
        "artifact",
        "commands.options",
        "datasets",
        "evaluation.comparison",
        "evaluation.layer_scores",
        "evaluation.scores",
        "files",
        "report.lineage",
        "report.page",
        "vectorizer",
    },
    "pipeline.commands.fitting": {
        "artifact",
        "commands.labelling",
        "commands.options",
        "commands.reporting",
        "datasets",
        "evaluation.comparison",
        "evaluation.scores",
        "files",
        "printing",
        "sentiment",
    },
    "pipeline.commands.judging": {
        "artifact",
        "commands.options",
        "datasets",
        "evaluation.candidates",
        "evaluation.comparison",
        "evaluation.figures",
        "evaluation.layer_scores",
        "evaluation.scores",
        "explanation",
        "files",
        "printing",
        "vectorizer",
    },
    "pipeline.commands.artifacts": {
        "artifact",
        "checkpoints.model_folder",
        "checkpoints.provenance",
        "commands.options",
        "files",
        "printing",
    },
    "pipeline.commands.showing": {"checkpoints.catalogue", "checkpoints.checkpoint", "vectorizer", "walk"},
    "pipeline.cli": {f"commands.{one}" for one in "artifacts fitting judging labelling reporting showing".split()},
}


def own_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "pipeline"}
    return {name.removeprefix("pipeline").removeprefix(".") for name in found}


def top_level_imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"pipeline"}))
def test_a_module_imports_only_those_below_it(module):
    assert own_imports(MODULES[module]) <= ARROWS.get(module, set())


def test_the_arrows_make_no_circle():
    order: list[str] = []

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join((*above, module))}"
        if module not in order:
            for below in ARROWS.get(module, set()) - {""}:
                visit(f"pipeline.{below}", (*above, module))
            order.append(module)

    for module in ARROWS:
        visit(module, ())
    assert set(order) == set(ARROWS)


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("pipeline.bert")))
def test_the_bert_room_knows_no_scikit_learn_and_no_pandas(module):
    assert not {"sklearn", "pandas"} & {name.split(".")[0] for name in top_level_imports(MODULES[module])}


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.texts",
        "pipeline.files",
        "pipeline.datasets",
        "pipeline.checkpoints.hub",
        "pipeline.checkpoints.catalogue",
        "pipeline.artifact",
        *sorted(m for m in MODULES if m.startswith("pipeline.saved")),
    ],
)
def test_rooms_that_need_no_torch_import_none(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP).stdout == "[]\n"


def test_importing_the_package_imports_nothing_heavy_and_changes_nothing():
    code = (
        "import os, sys, warnings, logging; before = dict(os.environ), list(warnings.filters), logging.root.level\n"
        "import pipeline; dir(pipeline); after = dict(os.environ), list(warnings.filters), logging.root.level\n"
        "print([m for m in ('torch', 'transformers', 'sklearn', 'pandas') if m in sys.modules], before == after)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TOP).stdout == "[] True\n"


def test_every_public_name_is_there_and_is_documented():
    for name in set(pipeline.__all__) - {"__version__"}:
        assert getattr(pipeline, name).__doc__, name
    assert set(pipeline.__all__) <= set(dir(pipeline))
    with pytest.raises(AttributeError, match=r"has no attribute 'BertTransformer'; it offers .*BertVectorizer"):
        pipeline.BertTransformer  # noqa: B018


@pytest.mark.parametrize("module", sorted(set(MODULES)))
def test_every_module_says_in_one_line_what_it_is_for(module):
    docstring = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))
    assert docstring
    assert "\n" not in docstring.strip()


def test_no_room_is_called_after_nothing():
    assert not {path.stem for path in MODULES.values()} & {"utils", "helpers", "common", "base", "core", "misc"}


@pytest.mark.parametrize("module", sorted(m for m in MODULES if not MODULES[m].name.startswith("__")))
def test_every_module_has_a_test_file_with_tests(module):
    path = TOP / "tests" / f"test_{module.rsplit('.', 1)[1]}.py"
    assert re.search(r"^def test_", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_class_stays_where_saved_files_look_for_it():
    assert pipeline.BertVectorizer.__module__ == "pipeline.vectorizer"
    assert pipeline.FineTunedBertClassifier.__module__ == "pipeline.finetuning"
    assert Word2VecVectorizer.__module__ == "pipeline.evaluation.word2vec"
