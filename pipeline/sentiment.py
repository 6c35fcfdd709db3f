"""make_sentiment_pipeline: BertVectorizer and LogisticRegression."""

from typing import Any

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from pipeline.vectorizer import BertVectorizer

# Chosen by cross-validation on the shipped reviews and on SST-2 train; the table is in
# docs/defaults.md.
DEFAULT_C = 0.1


def make_sentiment_pipeline(
    *, C: float = DEFAULT_C, class_weight: Any = None, **vectorizer: Any
) -> Pipeline:
    """Return the default classifier: mean vectors of all layers, LogisticRegression.

    Parameters
    ----------
    C : float, default=0.1
        Inverse regularisation of the LogisticRegression.
    class_weight : "balanced" or dict, optional
        Weights of the classes, for classes of unequal size: ``"balanced"`` makes each count the
        same, a dict says how much each label does. As in LogisticRegression.
    **vectorizer
        Parameters of `BertVectorizer` that differ from ``pooling="mean", layers="all"``; a wrong
        name is an error.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted; steps ``bertvectorizer`` and ``logisticregression``.

    Notes
    -----
    How the defaults were chosen, with every number, stands in ``docs/defaults.md``: the vectors of
    all layers together carry more about sentiment than those of the last one (compare Devlin et al.
    2019, Table 7).

    Examples
    --------
    >>> texts = ["A lovely film.", "A dull film.", "Great fun.", "A bore."]
    >>> model = make_sentiment_pipeline().fit(texts, [1, 0, 1, 0])
    >>> model.predict(["What a lovely evening."])
    array([1])
    """
    own = vectorizer.get("pooling") == "checkpoint"  # made for the last layer
    parameters: dict[str, Any] = {"pooling": "mean", "layers": -1 if own else "all", **vectorizer}
    head = LogisticRegression(C=C, class_weight=class_weight, max_iter=2000)
    return make_pipeline(BertVectorizer(**parameters), head)
