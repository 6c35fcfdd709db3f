"""The decision of a fitted model as a sum over its texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, FactorAnalysis, FastICA, IncrementalPCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import StackingClassifier
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import BaseRandomProjection
from sklearn.semi_supervised import SelfTrainingClassifier

from pipeline._compat import is_linear_classifier, rows_of
from pipeline.columns import changes_rows_only, model_inside
from pipeline.exceptions import ExplanationError
from pipeline.texts import check_texts
from pipeline.vectorizer import BertVectorizer
from pipeline.word_rows import NGRAM_VECTORIZERS

# for these, transform(x) = x @ A + b
_AFFINE = (
    *(StandardScaler, RobustScaler, MinMaxScaler, MaxAbsScaler),
    *(PCA, IncrementalPCA, TruncatedSVD, FastICA, FactorAnalysis, LinearDiscriminantAnalysis),
    *(BaseRandomProjection, SelectorMixin),
)
# each output column is that column of the n-grams, scaled by a constant of the text
_WEIGHS = (TfidfTransformer, Normalizer, Binarizer)
_WRAPPERS = (
    *(FixedThresholdClassifier, TunedThresholdClassifierCV),
    *(SelfTrainingClassifier, FrozenEstimator),
)
_OF_TEXTS = (BertVectorizer, *NGRAM_VECTORIZERS)
_SPLITS = (FeatureUnion, ColumnTransformer, StackingClassifier, CalibratedClassifierCV)
_ROWS_AT_ONCE, _SPARSE_AT_ONCE = 1024, 65_536


@dataclass
class _Part:
    name: str
    vectorizer: Any
    texts: list[str]
    weights: np.ndarray


@dataclass
class TokenPart(_Part):
    """What a BertVectorizer adds: ``transform(X) @ weights``."""

    X: Any
    mean: np.ndarray | None


@dataclass
class NgramPart(_Part):
    """What a text vectorizer of scikit-learn adds: ``features @ weights``."""

    features: Any


class DecisionSum:
    """The parts of a model's decisions on some rows.

    Attributes
    ----------
    constant : ndarray of shape (n_texts, n_outputs)
        Intercepts and other columns than the text.
    tokens, ngrams : list
        The parts of the text.
    is_uncalibrated : bool
        Whether calibration was left out.
    """

    def __init__(self, n_texts: int, n_outputs: int, column: str | None) -> None:
        self.constant = np.zeros((n_texts, n_outputs))
        self.column = column
        self.tokens: list[TokenPart] = []
        self.ngrams: list[NgramPart] = []
        self.is_uncalibrated = False

    def add(
        self, model: Any, X: Any, weights: np.ndarray, name: str = "", *, decides: bool = True
    ) -> None:
        """Add ``model.decision_function(X) @ weights``, or that of transform."""
        model = unwrapped(model)
        if isinstance(model, Pipeline):
            self._add_pipeline(model, X, weights, name, decides)
        elif isinstance(model, CalibratedClassifierCV):
            self.is_uncalibrated, members = True, _members(model)
            for member in members:
                self.add(member, X, weights / len(members), name)
        elif isinstance(model, StackingClassifier):
            self._add_stack(model, X, weights, name)
        elif isinstance(model, FeatureUnion):
            self._add_union(model, X, weights, name)
        elif isinstance(model, ColumnTransformer):
            self._add_columns(model, X, weights, name)
        elif isinstance(model, BertVectorizer):
            self._add_tokens(model, X, weights, name)
        elif isinstance(model, NGRAM_VECTORIZERS):
            self._add_ngrams([model], X, weights, name)
        else:
            raise ExplanationError(
                f"The decision of a {type(model).__name__} is not a sum over the words of a text. "
                "Use method='occlusion'."
            )

    def _add_pipeline(
        self, model: Pipeline, X: Any, weights: np.ndarray, name: str, decides: bool
    ) -> None:
        steps = list(_steps(model))
        # the last step that reads texts, or else the first that has several parts
        of_texts = (i for i, (_, step) in enumerate(steps) if isinstance(step, _OF_TEXTS))
        splits = (i for i, (_, step) in enumerate(steps) if isinstance(step, _SPLITS))
        first = max(of_texts, default=next(splits, None))
        if first is None:
            raise ExplanationError(
                f"The model starts with a {type(steps[0][1]).__name__}, so its decision is not a "
                "sum over the words of a text. Use method='occlusion'."
            )
        for _, cleaning in steps[:first]:
            X = cleaning.transform(X)
        source, rest = steps[first][1], steps[first + 1 :]
        are_ngrams, weighs = isinstance(source, NGRAM_VECTORIZERS), []
        while are_ngrams and rest and isinstance(rest[0][1], _WEIGHS):
            weighs.append(rest.pop(0)[1])
        for i, (step_name, step) in reversed(list(enumerate(rest))):
            weights = self._before(step_name, step, weights, decides and i == len(rest) - 1)
        if are_ngrams:
            self._add_ngrams([source, *weighs], X, weights, name)
        else:
            self.add(source, X, weights, name, decides=decides and not rest)

    def _before(self, name: str, step: Any, weights: np.ndarray, decides: bool) -> np.ndarray:
        """Return the weights of a step's input, adding its constant."""
        if not decides:
            if not _is_affine(step):
                raise ExplanationError(
                    f"The step {name!r}, {type(step).__name__}, is not known to be affine, so the "
                    "decision may not be a sum over tokens. Affine are "
                    f"{', '.join(sorted(kind.__name__ for kind in _AFFINE))}, without clip. Use "
                    "method='occlusion'."
                )
            weights, constant = _pull_back(step.transform, step, weights)
            self.constant += constant
            return weights
        members = [step]
        if isinstance(step, CalibratedClassifierCV):
            self.is_uncalibrated, members = True, _members(step)
        for member in members:
            if not _is_linear(member):
                raise ExplanationError(
                    f"The last step, {type(member).__name__}, is not a linear classifier, so the "
                    "decision is not a sum over tokens. Use method='occlusion', or "
                    "LogisticRegression, LinearSVC, RidgeClassifier or SGDClassifier."
                )
        pulled = [_pull_back(own.decision_function, own, weights) for own in members]
        self.constant += np.mean([constant for _, constant in pulled], axis=0)
        return np.asarray(np.mean([own for own, _ in pulled], axis=0))

    def _add_stack(self, model: Any, X: Any, weights: np.ndarray, name: str) -> None:
        names = [key for key, part in model.estimators if part != "drop"]
        if model.passthrough or set(model.stack_method_) != {"decision_function"}:
            raise ExplanationError(
                f"The StackingClassifier has passthrough={model.passthrough} and uses "
                f"{', '.join(sorted(set(model.stack_method_)))} of its parts; a sum needs "
                "passthrough=False and stack_method='decision_function'. Use method='occlusion'."
            )
        weights = self._before("final_estimator", model.final_estimator_, weights, decides=True)
        width = len(weights) // len(names)
        for i, (key, part) in enumerate(zip(names, model.estimators_, strict=True)):
            self.add(part, X, weights[i * width : (i + 1) * width], _joined(name, key))

    def _add_union(self, model: FeatureUnion, X: Any, weights: np.ndarray, name: str) -> None:
        at = 0
        for key, part in model.transformer_list:
            if not (isinstance(part, str) and part == "drop"):
                factor = (model.transformer_weights or {}).get(key, 1.0)
                own = weights[at : at + _width(part, X)]
                at += len(own)
                self.add(part, X, factor * own, _joined(name, key), decides=False)

    def _add_columns(
        self, model: ColumnTransformer, X: Any, weights: np.ndarray, name: str
    ) -> None:
        for key, part, columns in model.transformers_:
            own = weights[model.output_indices_[key]]
            if len(own):
                own = (model.transformer_weights or {}).get(key, 1.0) * own
                given = rows_of(X, columns, axis=1)
                names = list(getattr(given, "columns", [getattr(given, "name", None)]))
                if self.column in [None, *names] or not hasattr(X, "columns"):
                    self.add(part, given, own, _joined(name, key), decides=False)
                else:
                    made = given if isinstance(part, str) else part.transform(given)
                    self.constant += _times(made, own)

    def _add_tokens(
        self, vectorizer: BertVectorizer, X: Any, weights: np.ndarray, name: str
    ) -> None:
        if vectorizer.pooling not in ("mean", ("mean",), ["mean"]) or vectorizer.normalize:
            raise ExplanationError(
                f"pooling={vectorizer.pooling!r}, normalize={vectorizer.normalize}: only the plain "
                "mean is a sum over tokens. Use method='occlusion', or fit with pooling='mean' and "
                "normalize=False."
            )
        texts = check_texts(X, missing=vectorizer.missing, on_invalid=vectorizer.on_invalid)
        average = getattr(vectorizer, "mean_", None)
        mean = None if average is None else average @ weights
        for part in self.tokens:  # calibration has folds: encode each text once
            if (
                part.name == name
                and part.texts == texts
                and _encode_alike(part.vectorizer, vectorizer)
            ):
                part.weights = part.weights + weights
                part.mean = None if part.mean is None or mean is None else part.mean + mean
                return
        self.tokens.append(TokenPart(name, vectorizer, texts, weights, X, mean))

    def _add_ngrams(self, steps: list[Any], X: Any, weights: np.ndarray, name: str) -> None:
        features = X
        for step in steps:
            features = step.transform(features)
        self.ngrams.append(NgramPart(name, steps[0], list(X), weights, sparse.csr_matrix(features)))


def unwrapped(model: Any) -> Any:
    """Return the model inside a search or other wrapper."""
    while hasattr(model, "best_estimator_") or isinstance(model, _WRAPPERS):
        model = model_inside(model)
    return model


def _steps(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the steps that change predictions, including those of inner pipelines."""
    for name, step in model.steps:
        step = unwrapped(step)
        if isinstance(step, Pipeline):
            yield from _steps(step)
        elif not changes_rows_only(step) and not _is_identity(step):
            yield name, step


def _is_identity(step: Any) -> bool:
    return isinstance(step, FunctionTransformer) and step.func is None


def _joined(name: str, key: str) -> str:
    return f"{name}__{key}" if name else key


def _members(model: CalibratedClassifierCV) -> list[Any]:
    return [unwrapped(one.estimator) for one in model.calibrated_classifiers_]


def _is_affine(step: Any) -> bool:
    if isinstance(step, str) or _is_identity(step):
        return True
    if isinstance(step, Pipeline):
        return all(_is_affine(part) for _, part in step.steps)
    if isinstance(step, FeatureUnion):
        return all(_is_affine(part) for _, part in step.transformer_list)
    return isinstance(step, _AFFINE) and not getattr(step, "clip", False)


def _is_linear(model: Any) -> bool:
    model = unwrapped(model)
    if isinstance(model, Pipeline):
        steps = [step for _, step in _steps(model)]
        return all(map(_is_affine, steps[:-1])) and _is_linear(steps[-1])
    if isinstance(model, StackingClassifier):
        methods = set(model.stack_method_)
        parts = [model.final_estimator_, *model.estimators_]
        return methods == {"decision_function"} and all(map(_is_linear, parts))
    if isinstance(model, OneVsRestClassifier):
        return not model.multilabel_ and all(map(_is_linear, model.estimators_))
    return is_linear_classifier(model)


def _pull_back(function: Any, step: Any, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return W, b with ``function(x) @ weights = x @ W + b``."""
    n_features = step.n_features_in_
    names = getattr(step, "feature_names_in_", None)
    # n-grams are too many for a dense matrix, and their steps accept sparse ones
    is_wide = n_features > _ROWS_AT_ONCE and names is None
    as_sparse = is_wide and step.__sklearn_tags__().input_tags.sparse
    at_once = _SPARSE_AT_ONCE if as_sparse else _ROWS_AT_ONCE

    def image(rows: Any) -> np.ndarray:
        rows = rows if as_sparse else rows.toarray()
        return _times(
            function(rows if names is None else pd.DataFrame(rows, columns=names)), weights
        )

    constant = image(sparse.csr_matrix((1, n_features)))[0]
    one_hot = sparse.eye(n_features, format="csr")
    images = [image(one_hot[at : at + at_once]) for at in range(0, n_features, at_once)]
    return np.concatenate(images) - constant, constant


def _times(table: Any, weights: np.ndarray) -> np.ndarray:
    table = table if sparse.issparse(table) else np.asarray(table, dtype=np.float64)
    return np.asarray((table if table.ndim == 2 else table[:, None]) @ weights)


def _width(part: Any, X: Any) -> int:
    try:
        return len(part.get_feature_names_out())
    except (AttributeError, ValueError):
        return int(part.transform(rows_of(X, [0])).shape[1])


def _encode_alike(one: BertVectorizer, other: BertVectorizer) -> bool:
    def settings(vectorizer: BertVectorizer) -> Any:
        own = vectorizer.get_params()
        mix = getattr(vectorizer, "layer_weights_", np.zeros(0)).tolist()
        scale = getattr(vectorizer, "layer_scale_", None)
        del own["cache"], own["cache_size"], own["progress"]
        return repr(own), vectorizer.source_, mix, scale

    return bool(settings(one) == settings(other))
