"""Find labels that are probably wrong, by confident learning."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

from pipeline._compat import rows_of
from pipeline.answers import ask, positions
from pipeline.columns import reads_columns
from pipeline.evaluation.baselines import check_classifier_to_fit, encode_all, vectorizers_of
from pipeline.evaluation.compare import silent_truncation
from pipeline.evaluation.failures import doubted_labels, texts_of
from pipeline.evaluation.folds import check_classes, keep_groups, split_folds
from pipeline.progress import progress
from pipeline.texts import class_numbers, group_numbers, labels_of_texts, text_groups


def label_issues(
    model: BaseEstimator,
    X: Any,
    y: Any,
    *,
    cv: Any = 5,
    groups: Any = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Rank texts by how much a classifier doubts their label.

    The classifier is cross-validated, so it judges labels of texts that it was not fitted to. Each
    text is encoded once.

    Parameters
    ----------
    model : estimator
        A classifier with ``predict_proba``, such as `make_sentiment_pipeline()`. A copy is fitted.
    X : iterable of str, length n_texts, or DataFrame
        Texts, or the columns that the model takes.
    y : array-like of shape (n_texts,)
        Labels.
    cv : int, splitter or iterable of (train, test), default=5
        The folds, which test every text once. A number means stratified and shuffled, with equal
        texts in one fold.
    groups : array-like of shape (n_texts,), optional
        Texts of one group, such as one author's, stay on one side of every fold.
    random_state : int, default=0
        Seed of the folds.

    Returns
    -------
    DataFrame
        One row per text, the most doubtful first, indexed by the row in X: ``text``; ``label``;
        ``suggested`` (the most probable other class); ``probability`` (of the label); ``score``
        (``probability`` minus that of ``suggested``, negative if the model disagrees); ``issue``
        (whether the label is probably wrong).

    Notes
    -----
    This is confident learning [1]_. A text belongs confidently to a class if its probability is at
    least the mean probability of the texts with that label, so that classes of which the model is
    less sure are not accused more. A label is an issue if the text belongs confidently to another
    class, and the label is not the most probable one, as in cleanlab [2]_. Look at the texts before
    changing labels: rare but correct texts are doubted too.

    References
    ----------
    .. [1] Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
       Labels", 2021.
    .. [2] https://github.com/cleanlab/cleanlab, ``find_label_issues`` with
       ``filter_by="confident_learning"``.

    Examples
    --------
    >>> from pipeline import load_reviews, make_sentiment_pipeline
    >>> few = load_reviews()[0][:200]
    >>> table = label_issues(make_sentiment_pipeline(), few["text"], few["label"], cv=3)
    >>> list(table.columns)
    ['text', 'label', 'suggested', 'probability', 'score', 'issue']
    """
    X = X if hasattr(X, "__len__") else list(X)
    texts = texts_of(X)
    classes, codes = class_numbers(labels_of_texts(y, len(texts)), len(texts))
    together = text_groups(texts, group_numbers(groups, len(texts)))
    folds = split_folds(cv, codes, random_state, together)
    check_classes(folds, classes, codes)
    tested = np.concatenate([test for _, test in folds])
    if not np.array_equal(np.sort(tested), np.arange(len(texts))):
        raise ValueError(
            "cv must test every text once, so that each label is judged. Use a number, or a "
            "splitter such as StratifiedKFold."
        )
    model, labels = clone(check_classifier_to_fit("model", model)), classes[codes]
    for vectorizer in vectorizers_of(model):  # a loaded pipeline has no cache
        vectorizer.set_params(cache=vectorizer.cache or "memory")
    shown = any(vectorizer.progress for vectorizer in vectorizers_of(model))
    probability = np.zeros((len(texts), len(classes)))
    with progress(unit="fit", shown=shown) as part:
        if warned := not reads_columns(model):
            encode_all([model], X, labels)
        for i, (train, test) in enumerate(part.folds(folds, "the classifier")):
            fitted: Any = clone(model)
            if together is not None:
                fitted = keep_groups(fitted, codes[train], together[train], random_state)
            with silent_truncation(warned or i > 0):
                fitted.fit(rows_of(X, train), labels[train])
                answers = ask(fitted, rows_of(X, test))
            known, _ = positions(np.asarray(fitted.classes_).tolist(), classes.tolist())
            probability[np.ix_(test, known)] = answers.probability
    return doubted_labels(texts, codes, classes.tolist(), probability)
