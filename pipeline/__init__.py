"""Frozen BERT features for scikit-learn. Public names are imported on first use."""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.datasets import load_reviews, read_table
    from pipeline.embedding_cache import cache_info, clear_cache
    from pipeline.evaluation.compare import compare
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.evaluation.failures import label_issues
    from pipeline.evaluation.layer_study import layer_study
    from pipeline.exceptions import ArtifactError, CheckpointError, TruncationWarning
    from pipeline.explanation import explain
    from pipeline.finetuning import FineTunedBertClassifier
    from pipeline.report.page import write_report
    from pipeline.saved.artifact import (
        inspect_pipeline,
        load_pipeline,
        save_pipeline,
        verify_pipeline,
    )
    from pipeline.scoring.executors import DaskExecutor
    from pipeline.scoring.score_table import score_table
    from pipeline.stacking import make_sentiment_pipeline
    from pipeline.vectorizer import BertVectorizer
    from pipeline.walk import walk_text

__version__ = "0.1.0"

# name -> module, imported on first use: torch, transformers and pandas take seconds
_HOME = {
    "ArtifactError": "exceptions",
    "BertVectorizer": "vectorizer",
    "CheckpointError": "exceptions",
    "DaskExecutor": "scoring.executors",
    "FineTunedBertClassifier": "finetuning",
    "TruncationWarning": "exceptions",
    "cache_info": "embedding_cache",
    "clear_cache": "embedding_cache",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.evaluate",
    "explain": "explanation",
    "inspect_pipeline": "saved.artifact",
    "label_issues": "evaluation.failures",
    "layer_study": "evaluation.layer_study",
    "load_pipeline": "saved.artifact",
    "load_reviews": "datasets",
    "make_sentiment_pipeline": "stacking",
    "read_table": "datasets",
    "save_pipeline": "saved.artifact",
    "score_table": "scoring.score_table",
    "verify_pipeline": "saved.artifact",
    "walk_text": "walk",
    "write_report": "report.page",
}
# old name -> new place; each warns, and goes with the next version
_MOVED = {
    "ArtifactWarning": "exceptions.ArtifactWarning",
    "BadRowError": "exceptions.BadRowError",
    "CacheWarning": "exceptions.CacheWarning",
    "ExplanationError": "exceptions.ExplanationError",
    "PlanError": "exceptions.PlanError",
    "ScoredTable": "scoring.score_table.ScoredTable",
    "catalogue": "checkpoints.catalogue.catalogue",
    "comparison_figure": "evaluation.plots.comparison_figure",
    "inspect_artifact": "saved.artifact.inspect_pipeline",
    "layer_bars": "evaluation.plots.layer_bars",
    "layer_heatmap": "evaluation.plots.layer_heatmap",
    "verify_artifact": "saved.artifact.verify_pipeline",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MOVED:
        module, _, new = _MOVED[name].rpartition(".")
        place = f"pipeline.{new}" if new in _HOME else f"pipeline.{module}.{new}"
        warnings.warn(f"pipeline.{name} is now {place}.", FutureWarning, stacklevel=2)
        return getattr(import_module(f"pipeline.{module}"), new)
    if name not in _HOME:
        raise AttributeError(
            f"module 'pipeline' has no attribute {name!r}; available are {', '.join(_HOME)}"
        )
    value = getattr(import_module(f"pipeline.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
