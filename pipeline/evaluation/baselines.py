"""The rows of a comparison: standard estimators by name, and the user's own."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.folds import Data
from pipeline.evaluation.layer_study import DEFAULT_CS, layer_study
from pipeline.evaluation.word2vec import Word2VecVectorizer, import_gensim
from pipeline.exceptions import LeakWarning
from pipeline.finetuning import FineTunedBertClassifier
from pipeline.stacking import (
    TextStackingClassifier,
    make_ngram_classifier,
    make_sentiment_pipeline,
)
from pipeline.vectorizer import BertVectorizer

FINE_TUNED_LENGTH = 128  # tokens; longer texts would take too long


def make_tfidf_baseline() -> Pipeline:
    """Return TF-IDF + LogisticRegression, the baseline of every comparison.

    Words and word pairs with sublinear counts and ``C=30``, tuned as our own defaults are
    (``docs/defaults.md``); the part ``ngrams`` of ``make_sentiment_pipeline(ngrams=True)``.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted.
    """
    return make_ngram_classifier()


def make_word2vec_baseline(vectors: Any = None, *, random_state: int | None = 0) -> Pipeline:
    """Return mean word2vec vectors, standardised, + LogisticRegression."""
    # width, epochs and C come from cross-validation (docs/comparison.md)
    vectorizer = Word2VecVectorizer(vectors, random_state=random_state)
    return make_pipeline(vectorizer, StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))


def make_single_layer(vectorizer: BertVectorizer, layer: int, pooling: str) -> Pipeline:
    """Return one frozen layer of BERT + LogisticRegression."""
    features = clone(vectorizer).set_params(layers=layer, pooling=pooling, combine="concat")
    # one layer needs another C than the seven of the default pipeline
    head = LogisticRegressionCV(
        Cs=DEFAULT_CS,
        cv=3,
        scoring="accuracy",
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
        max_iter=2000,
    )
    return make_pipeline(features, StandardScaler(), head)


def make_fine_tuned(vectorizer: BertVectorizer, *, random_state: int | None = 0) -> Pipeline:
    """Return FineTunedBertClassifier with its defaults, for a vectorizer's model."""
    longest = vectorizer.max_length
    if longest is None:
        fitted = clone(vectorizer).fit(["film"])  # encodes nothing
        longest = min(FINE_TUNED_LENGTH, fitted.max_length_)
    return make_pipeline(
        FineTunedBertClassifier(
            vectorizer.model,
            revision=vectorizer.revision,
            max_length=longest,
            truncation="head" if vectorizer.truncation == "window" else vectorizer.truncation,
            device=vectorizer.device,
            local_files_only=vectorizer.local_files_only,
            progress=vectorizer.progress,
            random_state=random_state,
        )
    )


ROWS = {
    "majority": "majority",
    "tfidf": "TF-IDF + LogisticRegression",
    "word2vec": "word2vec mean + LogisticRegression",
    "static": "static BERT (layer 0 mean)",
    "cls": "frozen BERT, last [CLS]",
    "default": "frozen BERT + LogisticRegression",
    "ngrams": "frozen BERT and TF-IDF, stacked",
    "layers": "frozen BERT, best layers (nested)",
    "finetuned": "fine-tuned BERT",
}
SHORT = ("majority", "tfidf", "default")
QUICK = ("majority", "tfidf", "word2vec", "static", "cls", "default", "ngrams")

Models = str | Mapping[str, BaseEstimator] | Iterable[str | tuple[str, BaseEstimator]] | None


class Candidate(NamedTuple):
    """A row to score."""

    name: str
    by_fold: Sequence[BaseEstimator]  # one per fold, all the same unless layers are chosen
    choice_seconds: float = 0.0


def choose_rows(
    models: Models, model: BaseEstimator | None
) -> tuple[dict[str, BaseEstimator | None], dict[str, str]]:
    """Return the requested rows, and why others are left out."""
    rows: dict[str, BaseEstimator | None] = {}
    if models is None and model is None:
        rows = dict.fromkeys(QUICK)
        if find_spec("gensim") is not None:
            return rows, {}
        del rows["word2vec"]
        reason = "gensim is not installed: pip install '.[word2vec]' in a checkout, or gensim"
        return rows, {ROWS["word2vec"]: reason}
    own = row_of(model)
    short = [own if name == "default" else name for name in SHORT]
    for name, estimator in _named(short if models is None else models):
        if name in rows or (estimator is not None and (name in ROWS or name in ROWS.values())):
            raise ValueError(
                f"models holds {name!r} twice, or uses it for an estimator of yours; give every "
                "row its own name."
            )
        rows[name] = estimator
    if model is not None and own not in rows:
        raise ValueError(
            f"model is the row {own!r}, which is not among models. Name it there, or pass model "
            "as (name, model)."
        )
    if "word2vec" in rows:
        import_gensim()
    if "finetuned" in rows and find_spec("accelerate") is None:
        raise ImportError(
            "The row 'finetuned' needs accelerate: pip install '.[finetune]' in a checkout, or pip "
            "install accelerate; or leave the row out."
        )
    return rows if "tfidf" in rows else {"tfidf": None, **rows}, {}


def row_of(model: BaseEstimator | None) -> str:
    """Return the standard row that the user's model replaces."""
    last = model[-1] if isinstance(model, Pipeline) else model
    return "ngrams" if isinstance(last, TextStackingClassifier) else "default"


def _named(models: Any) -> list[tuple[str, BaseEstimator | None]]:
    """Return (name, estimator) of each row, None for a standard one."""
    allowed = (
        f"allowed are 'all', or a list of {', '.join(map(repr, ROWS))} and of (name, estimator)"
    )
    if isinstance(models, str):
        if models != "all":
            raise ValueError(f"models={models!r}; {allowed}.")
        return [(name, None) for name in ROWS]
    if not isinstance(models, Iterable):
        raise TypeError(f"models is a {type(models).__name__}; {allowed}.")
    named: list[tuple[str, BaseEstimator | None]] = []
    for row in models.items() if isinstance(models, Mapping) else models:
        if isinstance(row, str):
            if row not in ROWS:
                raise ValueError(f"models holds {row!r}; {allowed}.")
            named.append((row, None))
        elif isinstance(row, tuple) and len(row) == 2 and isinstance(row[0], str):
            named.append((row[0], check_classifier_to_fit(*row)))
        else:
            raise TypeError(f"models holds {row!r:.100}; {allowed}.")
    return named


def check_classifier_to_fit(name: str, estimator: Any) -> BaseEstimator:
    """Raise unless this is an unfitted classifier."""
    if (
        isinstance(estimator, type)
        or not hasattr(estimator, "fit")
        or not hasattr(estimator, "get_params")
    ):
        raise TypeError(
            f"{name!r} is {estimator!r:.100}; expected a scikit-learn classifier, as an object."
        )
    # an unfitted StackingClassifier does not show its predict
    if is_regressor(estimator) or not (is_classifier(estimator) or hasattr(estimator, "predict")):
        raise TypeError(
            f"{name!r} is a {type(estimator).__name__}, which predicts no classes; expected a "
            "scikit-learn classifier. Regression is scored with cross_val_score."
        )
    return estimator


def make_candidates(
    rows: Mapping[str, BaseEstimator | None],
    vectorizer: BertVectorizer,
    model: BaseEstimator | None,
    word_vectors: Any,
    random_state: int,
    n_folds: int,
    *,
    label_sets: bool = False,
) -> dict[str, Candidate]:
    """Return the candidates of all rows but "layers"."""
    if label_sets and (alone := {"layers", "finetuned"} & set(rows)):
        raise ValueError(
            f"models holds {', '.join(map(repr, sorted(alone)))}, which take one label per text, "
            "but y holds several. Leave them out."
        )
    if word_vectors is not None and "word2vec" not in rows:
        raise ValueError(
            "word_vectors are given, but the row 'word2vec' is not among models. Name it there, or "
            "leave them out."
        )
    if isinstance(word_vectors, str | Path) and not Path(word_vectors).expanduser().is_file():
        raise FileNotFoundError(
            f"word_vectors={str(word_vectors)!r} is not a file; give one in word2vec's format, or "
            "KeyedVectors."
        )
    standard: dict[str, Callable[[], BaseEstimator]] = {
        "majority": lambda: DummyClassifier(strategy="prior"),
        "tfidf": make_tfidf_baseline,
        "word2vec": lambda: make_word2vec_baseline(word_vectors, random_state=random_state),
        "static": lambda: make_single_layer(vectorizer, 0, "mean"),
        "cls": lambda: make_single_layer(vectorizer, -1, "cls"),
        "default": lambda: _default(vectorizer),
        "ngrams": lambda: _default(vectorizer, ngrams=True),
        "finetuned": lambda: make_fine_tuned(vectorizer, random_state=random_state),
    }
    if label_sets:
        standard = {name: partial(_for_label_sets, make) for name, make in standard.items()}
    if model is not None:
        standard[row_of(model)] = lambda: check_classifier_to_fit("model", model)
    return {
        name: Candidate(ROWS.get(name, name), [standard[name]() if own is None else own] * n_folds)
        for name, own in rows.items()
        if name != "layers"
    }


def _for_label_sets(make: Callable[[], Any]) -> BaseEstimator:
    estimator = make()
    if isinstance(estimator, DummyClassifier):
        return estimator
    if not isinstance(estimator, Pipeline) or len(estimator.steps) == 1:
        return OneVsRestClassifier(estimator)
    *steps, (name, last) = estimator.steps
    return Pipeline([*steps, (name, OneVsRestClassifier(last))])


def _default(vectorizer: BertVectorizer, *, ngrams: bool = False) -> BaseEstimator:
    default = make_sentiment_pipeline(ngrams=ngrams)
    (bert,) = vectorizers_of(default)
    layout = {name: getattr(bert, name) for name in ("pooling", "layers", "combine")}
    bert.set_params(**{**vectorizer.get_params(), **layout})
    return default


def bert_in(model: BaseEstimator | None) -> BertVectorizer:
    """Return the first BertVectorizer among the parameters, or the default."""
    return next(iter(vectorizers_of(model)), BertVectorizer())


def best_layers(
    vectorizer: BertVectorizer, data: Data, random_state: int, n_jobs: int | None
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Choose features and C of each fold by one nested layer study."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakWarning)  # given for the same folds already
        study = layer_study(
            data.texts,
            data.labels,
            vectorizer=vectorizer,
            cv=data.folds,
            groups=data.groups,
            nested=True,
            random_state=random_state,
            n_jobs=n_jobs,
        )
    chosen: list[dict[str, Any]] = study.attrs["nested"]["chosen"]
    by_name = study.set_index(["features", "pooling"])
    by_fold = []
    for choice in chosen:
        pooling = choice["pooling"]
        layers, combine = by_name.loc[(choice["features"], pooling), ["layers", "combine"]]
        features = clone(vectorizer).set_params(pooling=pooling, layers=layers, combine=combine)
        head = LogisticRegression(C=choice["C"], max_iter=2000)
        by_fold.append(make_pipeline(features, head))
    seconds = study.attrs["seconds"]["fit"] / len(chosen)
    return Candidate(ROWS["layers"], by_fold, seconds), chosen


def encode_all(estimators: Iterable[BaseEstimator], texts: np.ndarray, labels: np.ndarray) -> None:
    """Fill the caches, so that no row is timed with encoding."""
    for estimator in estimators:
        for vectorizer in cached_vectorizers(estimator):
            clone(vectorizer).set_params(combine="concat").fit_transform(texts, labels)


def cached_vectorizers(estimator: BaseEstimator) -> list[BertVectorizer]:
    """Return the vectorizers with a cache among the parameters."""
    return [vectorizer for vectorizer in vectorizers_of(estimator) if vectorizer.cache is not None]


def vectorizers_of(estimator: Any) -> list[BertVectorizer]:
    """Return the vectorizers among the parameters."""
    parameters = estimator.get_params() if hasattr(estimator, "get_params") else {}
    return [value for value in parameters.values() if isinstance(value, BertVectorizer)]
