"""What BERT is compared with: majority class, TF-IDF, word2vec, and the plain ways to use BERT. Used by comparison."""

from typing import Any

from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.evaluation.word2vec import Word2VecVectorizer
from pipeline.finetuning import FineTunedBertClassifier
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
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode"), LogisticRegression(C=30, max_iter=1000)
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
        Cs=BASELINE_CS, cv=3, scoring="accuracy", l1_ratios=(0.0,), use_legacy_attributes=False, max_iter=2000
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
        longest = min(FINE_TUNED_LENGTH, clone(vectorizer).fit(["film"]).max_length_)  # encodes nothing
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
