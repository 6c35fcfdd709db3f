"""make_sentiment_pipeline: BertVectorizer and LogisticRegression."""

from typing import Any, Literal

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from pipeline.logistic import DEFAULT_C, SOLVER, TunedLogisticRegression
from pipeline.vectorizer import BertVectorizer


def make_sentiment_pipeline(
    *, C: float | Literal["cv"] = DEFAULT_C, class_weight: Any = None, **vectorizer: Any
) -> Pipeline:
    """Return the default classifier: mean vectors of all layers, LogisticRegression.

    Parameters
    ----------
    C : float or "cv", default=0.1
        Inverse regularisation of the LogisticRegression. ``"cv"`` chooses another in each fit where
        its cross-validated log loss is clearly lower, as with many classes: see
        `pipeline.logistic.TunedLogisticRegression`, the last step then; its ``C_`` is the choice.
    class_weight : "balanced" or dict, optional
        Weights of the classes, for classes of unequal size: ``"balanced"`` makes each count the
        same, a dict says how much each label does. As in LogisticRegression.
    **vectorizer
        Parameters of `BertVectorizer` that differ from ``pooling="mean", layers="all"``; a wrong
        name is an error.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Not fitted; steps ``bertvectorizer`` and ``logisticregression``, or
        ``tunedlogisticregression`` for ``C="cv"``.

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
    parameters: dict[str, Any] = {"pooling": "mean", "layers": "all", **vectorizer}
    return make_pipeline(BertVectorizer(**parameters), make_head(C, class_weight))


def make_head(C: float | Literal["cv"] = DEFAULT_C, class_weight: Any = None) -> LogisticRegression:
    """Return the linear classifier on BERT's vectors."""
    if isinstance(C, str):
        if C != "cv":
            raise ValueError(f"C={C!r}; allowed are numbers above 0, and 'cv' to choose one.")
        return TunedLogisticRegression(class_weight=class_weight)
    return LogisticRegression(C=C, class_weight=class_weight, max_iter=2000, **SOLVER)
