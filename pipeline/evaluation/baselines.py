"""The rows of a comparison: standard estimators by name, and the user's own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.layer_study import layer_study
from pipeline.evaluation.word2vec import Word2VecVectorizer, import_gensim
from pipeline.finetuning import FineTunedBertClassifier
from pipeline.sentiment import make_sentiment_pipeline
from pipeline.vectorizer import BertVectorizer

BASELINE_CS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)  # as in layer_study
FINE_TUNED_LENGTH = 128  # tokens: training on more takes too long for a comparison


def make_majority_baseline() -> DummyClassifier:
    """Return the classifier that always says the most frequent class, with the shares of the classes as probabilities."""
    return DummyClassifier(strategy="prior")


def make_tfidf_baseline() -> Pipeline:
    """Return TF-IDF + LogisticRegression, the baseline that every comparison shows.

    Words and word pairs with sublinear counts and ``C=30``, chosen by the same cross-validation as our own defaults
    (``docs/defaults.md``): a baseline is only honest if it was tuned as well.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted.
    """
    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode"),
        LogisticRegression(C=30, max_iter=1000),
    )


def make_word2vec_baseline(vectors: Any = None, *, random_state: int | None = 0) -> Pipeline:
    """Return the mean of word2vec vectors, standardised, + LogisticRegression.

    Parameters
    ----------
    vectors : gensim KeyedVectors, str, Path or None, default=None
        As for `pipeline.evaluation.word2vec.Word2VecVectorizer`: None trains them on the training texts.
    random_state : int or None, default=0
        Of that training.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted. Width, epochs and ``C=0.01`` were chosen by cross-validation on training texts (``docs/comparison.md``).
    """
    vectorizer = Word2VecVectorizer(vectors, random_state=random_state)
    return make_pipeline(vectorizer, StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))


def make_static_baseline(vectorizer: BertVectorizer) -> Pipeline:
    """Return static BERT: the mean of layer 0, where a token's vector knows its position, and nothing of its neighbours.

    Parameters
    ----------
    vectorizer : BertVectorizer
        Whose model, truncation, cache and so on are used.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted; features are standardised, and C is chosen by 3-fold cross-validation within the training texts, for one
        layer wants another C than the seven of the default pipeline.
    """
    return _single_layer(vectorizer, 0, "mean")


def make_cls_baseline(vectorizer: BertVectorizer) -> Pipeline:
    """Return what tutorials do first: [CLS] of the last layer, frozen. As `make_static_baseline`, otherwise."""
    return _single_layer(vectorizer, -1, "cls")


def _single_layer(vectorizer: BertVectorizer, layer: int, pooling: str) -> Pipeline:
    features = clone(vectorizer).set_params(layers=layer, pooling=pooling, combine="concat")
    head = LogisticRegressionCV(
        Cs=BASELINE_CS,
        cv=3,
        scoring="accuracy",
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
        max_iter=2000,
    )
    return make_pipeline(features, StandardScaler(), head)


def make_fine_tuned(vectorizer: BertVectorizer, *, random_state: int | None = 0) -> Pipeline:
    """Return a BERT that is trained on the labels, with the defaults of `pipeline.FineTunedBertClassifier`.

    Parameters
    ----------
    vectorizer : BertVectorizer
        Whose model it begins with, on whose device. Its truncation is taken too, or ``"head"`` for ``"window"``; its
        ``max_length``, or for None 128 tokens, or fewer where the model takes fewer.
    random_state : int or None, default=0
        Of the training.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted.
    """
    longest = vectorizer.max_length
    if longest is None:
        longest = min(
            FINE_TUNED_LENGTH, clone(vectorizer).fit(["film"]).max_length_
        )  # encodes nothing
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


# What can be asked for by name -> how the row is called.
ROWS = {
    "majority": "majority",
    "tfidf": "TF-IDF + LogisticRegression",
    "word2vec": "word2vec mean + LogisticRegression",
    "static": "static BERT (layer 0 mean)",
    "cls": "frozen BERT, last [CLS]",
    "default": "frozen BERT + LogisticRegression",
    "layers": "frozen BERT, best layers (nested)",
    "finetuned": "fine-tuned BERT",
}
SHORT = ("majority", "tfidf", "default")
QUICK = ("majority", "tfidf", "word2vec", "static", "cls", "default")

Fold = tuple[np.ndarray, np.ndarray]
Models = str | Mapping[str, BaseEstimator] | Iterable[str | tuple[str, BaseEstimator]] | None


class Candidate(NamedTuple):
    """One row to be: its estimator for every fold (the same one, but where something is chosen), and the seconds of choosing."""

    name: str
    by_fold: Sequence[BaseEstimator]
    choice_seconds: float = 0.0


def choose_rows(
    models: Models, model: BaseEstimator | None
) -> tuple[dict[str, BaseEstimator | None], dict[str, str]]:
    """Return the rows asked for, with the user's estimator or None for a standard one, and the reasons of those left out.

    Parameters
    ----------
    models, model
        As for `pipeline.compare`.

    Returns
    -------
    rows : dict of str to estimator or None
        In the order of the table; ``"tfidf"`` is among them.
    left_out : dict of str to str

    Raises
    ------
    TypeError, ValueError
        For names that are unknown, there twice or taken, and for what is no classifier.
    ImportError
        Where a row that was asked for needs what is not installed.
    """
    if models is None and model is None:
        if find_spec("gensim") is None:
            reason = "gensim is not installed: pip install 'bert-vectorizer[word2vec]'"
            return dict.fromkeys(name for name in QUICK if name != "word2vec"), {
                ROWS["word2vec"]: reason
            }
        return dict.fromkeys(QUICK), {}
    rows: dict[str, BaseEstimator | None] = {}
    for name, estimator in _named(SHORT if models is None else models):
        if name in rows or (estimator is not None and (name in ROWS or name in ROWS.values())):
            raise ValueError(
                f"models holds {name!r} twice, or gives it to an estimator of yours; give every row its own name."
            )
        rows[name] = estimator
    if model is not None and "default" not in rows:
        raise ValueError(
            "model is the row 'default', which is not among models. Name it there, or give model as (name, model)."
        )
    if "word2vec" in rows:
        import_gensim()
    if "finetuned" in rows and find_spec("accelerate") is None:
        raise ImportError(
            "The row 'finetuned' needs accelerate: pip install 'bert-vectorizer[finetune]', or leave it out."
        )
    return rows if "tfidf" in rows else {"tfidf": None, **rows}, {}


def _named(models: Any) -> list[tuple[str, BaseEstimator | None]]:
    """Return names, and the user's own estimators with theirs."""
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
    for one in models.items() if isinstance(models, Mapping) else models:
        if isinstance(one, str):
            if one not in ROWS:
                raise ValueError(f"models holds {one!r}; {allowed}.")
            named.append((one, None))
        elif isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str):
            named.append((one[0], _checked(*one)))
        else:
            raise TypeError(f"models holds {one!r:.100}; {allowed}.")
    return named


def _checked(name: str, estimator: Any) -> BaseEstimator:
    if (
        isinstance(estimator, type)
        or not hasattr(estimator, "fit")
        or not hasattr(estimator, "get_params")
    ):
        raise TypeError(
            f"{name!r} is {estimator!r:.100}; a scikit-learn classifier is expected, as an object."
        )
    if not hasattr(estimator, "predict_proba"):
        raise TypeError(
            f"{name!r} gives no probabilities (predict_proba), which the scores need. Take another classifier, or wrap it in "
            "CalibratedClassifierCV."
        )
    return estimator


def make_candidates(
    rows: Mapping[str, BaseEstimator | None],
    vectorizer: BertVectorizer,
    model: BaseEstimator | None,
    word_vectors: Any,
    random_state: int,
    n_folds: int,
) -> dict[str, Candidate]:
    """Return the candidates of all rows but ``"layers"``, by the names in ``rows``; for the other parameters see `compare`."""
    if word_vectors is not None and "word2vec" not in rows:
        raise ValueError(
            "word_vectors are given, and the row 'word2vec' is not among models. Name it there, or leave them out."
        )
    if isinstance(word_vectors, str | Path) and not Path(word_vectors).expanduser().is_file():
        raise FileNotFoundError(
            f"word_vectors={str(word_vectors)!r} is no file; give one in word2vec's format, or KeyedVectors."
        )
    standard: dict[str, Callable[[], BaseEstimator]] = {
        "majority": make_majority_baseline,
        "tfidf": make_tfidf_baseline,
        "word2vec": lambda: make_word2vec_baseline(word_vectors, random_state=random_state),
        "static": lambda: make_static_baseline(vectorizer),
        "cls": lambda: make_cls_baseline(vectorizer),
        "default": lambda: _default(vectorizer) if model is None else _checked("model", model),
        "finetuned": lambda: make_fine_tuned(vectorizer, random_state=random_state),
    }
    made = {
        name: standard[name]() if own is None else own
        for name, own in rows.items()
        if name != "layers"
    }
    return {
        name: Candidate(ROWS.get(name, name), [estimator] * n_folds)
        for name, estimator in made.items()
    }


def _default(vectorizer: BertVectorizer) -> BaseEstimator:
    default = make_sentiment_pipeline()
    layout = {name: getattr(default[0], name) for name in ("pooling", "layers", "combine")}
    return default.set_params(bertvectorizer=clone(vectorizer).set_params(**layout))


def bert_in(model: BaseEstimator | None) -> BertVectorizer:
    """Return the first BertVectorizer among an estimator's parameters, or the default one."""
    parameters = (
        {} if model is None or not hasattr(model, "get_params") else model.get_params(deep=True)
    )
    return next(
        (value for value in parameters.values() if isinstance(value, BertVectorizer)),
        BertVectorizer(),
    )


def best_layers(
    vectorizer: BertVectorizer,
    texts: np.ndarray,
    labels: np.ndarray,
    folds: Sequence[Fold],
    *,
    random_state: int,
    n_jobs: int | None,
) -> tuple[Candidate, list[dict[str, Any]]]:
    """Choose features and C within the training texts of every fold, by one layer study.

    Parameters
    ----------
    vectorizer, random_state, n_jobs
        As for `pipeline.compare`.
    texts, labels : ndarray of shape (n_texts,)
    folds : sequence of (train, test)
        Rows.

    Returns
    -------
    candidate : Candidate
        A pipeline for every fold.
    chosen : list of dict
        ``features``, ``pooling`` and ``C`` of each fold.
    """
    study = layer_study(
        texts,
        labels,
        vectorizer=vectorizer,
        cv=folds,
        nested=True,
        random_state=random_state,
        n_jobs=n_jobs,
    )
    chosen: list[dict[str, Any]] = study.attrs["nested"]["chosen"]
    by_name = study.set_index(["features", "pooling"])
    by_fold = []
    for choice in chosen:
        row = by_name.loc[(choice["features"], choice["pooling"])]
        layout = {"pooling": choice["pooling"], "layers": row["layers"], "combine": row["combine"]}
        head = LogisticRegression(C=choice["C"], max_iter=2000)
        by_fold.append(make_pipeline(clone(vectorizer).set_params(**layout), head))
    return Candidate(ROWS["layers"], by_fold, study.attrs["seconds"]["fit"] / len(folds)), chosen


def encode_all(estimators: Iterable[BaseEstimator], texts: np.ndarray, labels: np.ndarray) -> None:
    """Fill the caches of the vectorizers among the estimators' parameters: no row's time then hangs on which came first.

    Parameters
    ----------
    estimators : iterable of estimator
        Not fitted here, and not changed.
    texts, labels : ndarray of shape (n_texts,)
    """
    for estimator in estimators:
        for vectorizer in cached_vectorizers(estimator):
            clone(vectorizer).set_params(combine="concat").fit_transform(texts, labels)


def cached_vectorizers(estimator: BaseEstimator) -> list[BertVectorizer]:
    """Return the vectorizers among an estimator's parameters that have a cache."""
    values = estimator.get_params(deep=True).values()
    return [
        value for value in values if isinstance(value, BertVectorizer) and value.cache is not None
    ]
