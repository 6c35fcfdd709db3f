"""Frozen BERT inside scikit-learn: the shop window; every public name, each imported on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.artifact import ArtifactWarning, inspect_artifact, load_pipeline, save_pipeline, verify_artifact
    from pipeline.bert.tokenizing import TruncationWarning
    from pipeline.checkpoints.catalogue import catalogue
    from pipeline.checkpoints.model_files import CheckpointError
    from pipeline.datasets import load_reviews, read_table
    from pipeline.embedding_cache import cache_info, clear_cache
    from pipeline.evaluation.comparison import compare
    from pipeline.evaluation.figures import comparison_figure, layer_bars, layer_heatmap
    from pipeline.evaluation.layer_scores import layer_study
    from pipeline.evaluation.scores import evaluate
    from pipeline.explanation import ExplanationError, explain
    from pipeline.finetuning import FineTunedBertClassifier
    from pipeline.report.page import write_report
    from pipeline.saved.file_kind import ArtifactError
    from pipeline.scoring.dask_executor import DaskExecutor
    from pipeline.scoring.plan import PlanError
    from pipeline.scoring.score_shard import BadRowError
    from pipeline.scoring.table import ScoredTable, score_table
    from pipeline.sentiment import make_sentiment_pipeline
    from pipeline.vector_store import CacheWarning
    from pipeline.vectorizer import BertVectorizer
    from pipeline.walk import walk_text

__version__ = "0.1.0"

# name -> module: torch, transformers and pandas are imported when one of these is first touched.
_HOME = {
    "ArtifactError": "pipeline.saved.file_kind",
    "ArtifactWarning": "pipeline.artifact",
    "BadRowError": "pipeline.scoring.score_shard",
    "BertVectorizer": "pipeline.vectorizer",
    "CacheWarning": "pipeline.vector_store",
    "CheckpointError": "pipeline.checkpoints.model_files",
    "DaskExecutor": "pipeline.scoring.dask_executor",
    "ExplanationError": "pipeline.explanation",
    "FineTunedBertClassifier": "pipeline.finetuning",
    "PlanError": "pipeline.scoring.plan",
    "ScoredTable": "pipeline.scoring.table",
    "TruncationWarning": "pipeline.bert.tokenizing",
    "cache_info": "pipeline.embedding_cache",
    "catalogue": "pipeline.checkpoints.catalogue",
    "clear_cache": "pipeline.embedding_cache",
    "compare": "pipeline.evaluation.comparison",
    "comparison_figure": "pipeline.evaluation.figures",
    "evaluate": "pipeline.evaluation.scores",
    "explain": "pipeline.explanation",
    "inspect_artifact": "pipeline.artifact",
    "layer_bars": "pipeline.evaluation.figures",
    "layer_heatmap": "pipeline.evaluation.figures",
    "layer_study": "pipeline.evaluation.layer_scores",
    "load_pipeline": "pipeline.artifact",
    "load_reviews": "pipeline.datasets",
    "make_sentiment_pipeline": "pipeline.sentiment",
    "read_table": "pipeline.datasets",
    "save_pipeline": "pipeline.artifact",
    "score_table": "pipeline.scoring.table",
    "verify_artifact": "pipeline.artifact",
    "walk_text": "pipeline.walk",
    "write_report": "pipeline.report.page",
}

__all__ = [
    "ArtifactError",
    "ArtifactWarning",
    "BadRowError",
    "BertVectorizer",
    "CacheWarning",
    "CheckpointError",
    "DaskExecutor",
    "ExplanationError",
    "FineTunedBertClassifier",
    "PlanError",
    "ScoredTable",
    "TruncationWarning",
    "__version__",
    "cache_info",
    "catalogue",
    "clear_cache",
    "compare",
    "comparison_figure",
    "evaluate",
    "explain",
    "inspect_artifact",
    "layer_bars",
    "layer_heatmap",
    "layer_study",
    "load_pipeline",
    "load_reviews",
    "make_sentiment_pipeline",
    "read_table",
    "save_pipeline",
    "score_table",
    "verify_artifact",
    "walk_text",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
