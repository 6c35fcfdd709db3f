"""make_sentiment_pipeline: the default classifier, with or without n-grams."""

from typing import Any, Literal

from sklearn import get_config
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from pipeline.logistic import (
    DEFAULT_C,
    SOLVER,
    TiedLogisticRegression,
    TunedLogisticRegression,
)
from pipeline.stacking import TextStackingClassifier
from pipeline.vectorizer import BertVectorizer

# Chosen by cross-validation on training texts; the tables are in docs/defaults.md.
NGRAMS_C = 30
STACK_C = 1.0


def make_sentiment_pipeline(
    *,
    C: float | Literal["cv"] = DEFAULT_C,
    ngrams: bool = False,
    class_weight: Any = None,
    **vectorizer: Any,
) -> Pipeline:
    """Return the default classifier: mean vectors of all layers, LogisticRegression.

    Parameters
    ----------
    C : float or "cv", default=0.1
        Inverse regularisation of the LogisticRegression. ``"cv"`` chooses another in each fit if
        its cross-validated log loss is clearly lower, as with many classes. The last step is then a
        `pipeline.logistic.TunedLogisticRegression`, and its ``C_`` is the choice.
    ngrams : bool, default=False
        Add TF-IDF of words and word pairs with a LogisticRegression of its own. A final
        LogisticRegression weights both decisions, learned from out-of-fold decisions (late fusion).
        More accurate, above all for long texts; six fits of each part instead of one.
    class_weight : "balanced" or dict, optional
        Weights of the classes, as in LogisticRegression. ``"balanced"`` gives each class the same
        total weight; a dict gives the weight of each label. With ``ngrams`` all three have it.
    **vectorizer
        Parameters of `BertVectorizer` that differ from ``pooling="mean", layers="all"``; unknown
        names raise an error.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted; steps ``bertvectorizer`` and ``logisticregression``, or
        ``tunedlogisticregression`` for ``C="cv"``. With ``ngrams`` one step,
        ``stackingclassifier``, a `pipeline.stacking.TextStackingClassifier` of the parts ``bert``
        (these two steps) and ``ngrams``.

    Notes
    -----
    With ``ngrams``, the cache of BertVectorizer encodes each text once for all folds; with
    ``cache=None`` it is encoded six times, seven with ``C="cv"``.

    With scikit-learn's metadata routing enabled, every LogisticRegression here requests
    ``sample_weight``.

    ``docs/defaults.md`` shows how the defaults were chosen: the vectors of all layers together
    carry more about sentiment than those of the last one (compare Devlin et al. 2019, Table 7).

    Examples
    --------
    >>> texts = ["A lovely film.", "A dull film.", "Great fun.", "A bore."]
    >>> model = make_sentiment_pipeline().fit(texts, [1, 0, 1, 0])
    >>> model.predict(["What a lovely evening."])
    array([1])
    """
    own = vectorizer.get("pooling") == "checkpoint"  # works on the last layer only
    parameters: dict[str, Any] = {"pooling": "mean", "layers": -1 if own else "all", **vectorizer}
    bert = make_pipeline(BertVectorizer(**parameters), make_head(C, class_weight))
    if not ngrams:
        return bert
    stack = TextStackingClassifier(
        [("bert", bert), ("ngrams", make_ngram_classifier(class_weight=class_weight))],
        final_estimator=_weighted(TiedLogisticRegression(C=STACK_C, class_weight=class_weight)),
        stack_method="decision_function",
        cv=5,
    )
    return Pipeline([("stackingclassifier", stack)])


def make_ngram_classifier(*, class_weight: Any = None) -> Pipeline:
    """Return TF-IDF of words and word pairs + LogisticRegression, not fitted."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode")
    head = LogisticRegression(C=NGRAMS_C, class_weight=class_weight, max_iter=2000)
    return make_pipeline(words, _weighted(head))


def make_head(C: float | Literal["cv"] = DEFAULT_C, class_weight: Any = None) -> LogisticRegression:
    """Return the linear classifier on BERT's vectors."""
    if not isinstance(C, str):
        head = LogisticRegression(C=C, class_weight=class_weight, max_iter=2000, **SOLVER)
        return _weighted(head)
    if C != "cv":
        raise ValueError(f"C={C!r}; allowed are numbers above 0, and 'cv' to choose one.")
    return _weighted(TunedLogisticRegression(class_weight=class_weight))


def _weighted(head: LogisticRegression) -> LogisticRegression:
    """Request sample weights if metadata routing is enabled."""
    if get_config()["enable_metadata_routing"]:
        head.set_fit_request(sample_weight=True)
    return head
