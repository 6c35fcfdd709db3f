"""The default classifier, and its stack with n-grams. Saved artifacts name this module."""

import os
from collections.abc import Iterable
from typing import Any, Literal, Self

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import StackingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from pipeline.answers import positions
from pipeline.columns import first_step
from pipeline.logistic import (
    DEFAULT_C,
    SOLVER,
    TiedLogisticRegression,
    TunedLogisticRegression,
)
from pipeline.text_warnings import warned_once
from pipeline.texts import check_texts, class_numbers, text_groups
from pipeline.vectorizer import BertVectorizer


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
        its cross-validated log loss is clearly lower, as with many classes: ``C_`` of the last
        step, then a `pipeline.logistic.TunedLogisticRegression`.
    ngrams : bool, default=False
        Add TF-IDF of words and word pairs with a LogisticRegression of its own, and a final one
        that learns from out-of-fold decisions to weight both (late fusion). More accurate, above
        all for long texts; six fits of each part instead of one.
    class_weight : "balanced" or dict, optional
        Weights of the labels, as in LogisticRegression; ``"balanced"`` gives each class the same
        total weight. With ``ngrams`` all three classifiers have them.
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
    With ``ngrams`` and ``cache=None``, BertVectorizer encodes each text not once but six times,
    seven with ``C="cv"``.

    With scikit-learn's metadata routing enabled, every LogisticRegression here requests
    ``sample_weight``.

    ``docs/defaults.md`` shows how the defaults were chosen: all layers together carry more about
    sentiment than the last one (compare Devlin et al. 2019, Table 7).

    Examples
    --------
    >>> texts = ["A lovely film.", "A dull film.", "Great fun.", "A bore."]
    >>> model = make_sentiment_pipeline().fit(texts, [1, 0, 1, 0])
    >>> model.predict(["What a lovely evening."])
    array([1])
    """
    own = vectorizer.get("pooling") == "checkpoint"  # works on the last layer only
    parameters: dict[str, Any] = {"pooling": "mean", "layers": -1 if own else "all", **vectorizer}
    if isinstance(C, str) and C != "cv":
        raise ValueError(f"C={C!r}; allowed are numbers above 0, and 'cv' to choose one.")
    head = (
        TunedLogisticRegression(class_weight=class_weight)
        if C == "cv"
        else LogisticRegression(C=C, class_weight=class_weight, max_iter=2000, **SOLVER)
    )
    bert = make_pipeline(BertVectorizer(**parameters), _weighted(head))
    if not ngrams:
        return bert
    stack = TextStackingClassifier(
        [("bert", bert), ("ngrams", make_ngram_classifier(class_weight=class_weight))],
        final_estimator=_weighted(TiedLogisticRegression(class_weight=class_weight)),
        stack_method="decision_function",
        cv=5,
    )
    return Pipeline([("stackingclassifier", stack)])


def make_ngram_classifier(*, class_weight: Any = None) -> Pipeline:
    """Return TF-IDF of words and word pairs + LogisticRegression, not fitted."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode")
    # chosen by cross-validation on training texts; the table is in docs/defaults.md
    head = LogisticRegression(C=30, class_weight=class_weight, max_iter=2000)
    return make_pipeline(words, _weighted(head))


def _weighted(head: LogisticRegression) -> LogisticRegression:
    """Request sample weights if metadata routing is enabled."""
    if get_config()["enable_metadata_routing"]:
        head.set_fit_request(sample_weight=True)
    return head


class TextStackingClassifier(StackingClassifier):
    """Stack classifiers of texts.

    scikit-learn's StackingClassifier, with these differences:

    - Every part gets the same list of str, whatever the container X.
    - With a number as ``cv``, folds are shuffled, stratified and the same in every fit, and texts
      that are equal except for case and blanks are in one fold. A training part that would lack a
      class, which may have one text only, gets all of its texts.
    - A part that chooses its own ``C`` (`pipeline.logistic.TunedLogisticRegression`) does so once,
      on all texts, and keeps it in the folds, unless sample weights are given.
    - A dict as ``class_weight`` of a part or the final classifier has the labels of y as keys.
    - `set_params` also reaches the fitted parts, as in a Pipeline.
    """

    def fit(self, X: Iterable[str], y: Any, **fit_params: Any) -> Self:
        """Fit the parts, and the final classifier to their out-of-fold answers.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `BertVectorizer.fit`.
        y : array-like of shape (n_texts,)
            Labels.
        **fit_params
            ``sample_weight``, if metadata routing is enabled.

        Returns
        -------
        TextStackingClassifier
            The fitted classifier.
        """
        texts = self._texts(X)
        classes, numbers = class_numbers(y, len(texts))
        params = self.get_params(deep=False)
        plain = clone(StackingClassifier(**params))
        weights = {
            name: _numbered(weight, classes)
            for name, weight in plain.get_params().items()
            if name.endswith("class_weight") and isinstance(weight, dict)
        }
        plain.set_params(cv=self._folds(texts, numbers), **weights)
        with warned_once():  # or every fold would warn of the same texts
            tuned = {
                name: clone(part).fit(texts, numbers)  # the target that a stack gives to its parts
                for name, part in plain.estimators
                if isinstance(part, Pipeline) and isinstance(part[-1], TunedLogisticRegression)
                if not fit_params
            }
            for name, part in tuned.items():
                plain.set_params(**{f"{name}__{part.steps[-1][0]}__Cs": (part[-1].C_,)})
            plain.fit(texts, classes[numbers], **fit_params)
        for name, part in tuned.items():  # which has the scores of its search
            place = plain.estimators_.index(plain.named_estimators_[name])
            plain.estimators_[place] = plain.named_estimators_[name] = part
        self.__dict__.update({n: value for n, value in vars(plain).items() if n not in params})
        return self

    def _texts(self, X: Any) -> list[str]:
        """Return the texts as the first part reads them."""
        for _, part in self.estimators:
            step = first_step(part)
            if hasattr(step, "on_invalid"):
                return check_texts(X, missing=step.missing, on_invalid=step.on_invalid)
        return check_texts(X)

    def _folds(self, texts: list[str], numbers: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        n_folds = 5 if self.cv is None else self.cv
        if isinstance(n_folds, int | np.integer) and n_folds > 1:
            keys = text_groups(texts)
            _, first, key = np.unique(
                np.arange(len(texts)) if keys is None else keys,
                return_index=True,
                return_inverse=True,
            )
            order = np.random.default_rng(0).permutation(first)
            order = order[np.argsort(numbers[order], kind="stable")]
            fold_of = np.empty(len(texts), dtype=np.int64)
            fold_of[order] = np.arange(len(first)) % n_folds
            fold = fold_of[first][key]
            splits = [
                (np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in np.unique(fold)
            ]
        else:
            splits = list(check_cv(self.cv, numbers, classifier=True).split(texts, numbers))
        # the answer for a class that a training part lacks would be minus infinity
        return [
            (np.union1d(train, np.flatnonzero(~np.isin(numbers, numbers[train]))), test)
            for train, test in splits
        ]

    def transform(self, X: Iterable[str]) -> np.ndarray:
        """Return the answers of the parts, the input of the final classifier.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts, n_answers)
            One per part for two classes, else one per part and class.
        """
        check_is_fitted(self)
        return np.asarray(super().transform(self._texts(X)))

    @available_if(lambda self: hasattr(self.final_estimator_, "predict_proba"))
    def predict_both(self, X: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and probabilities, encoding the texts once.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.

        Returns
        -------
        labels : ndarray of shape (n_texts,)
        probability : ndarray of shape (n_texts, n_classes)
        """
        answers, last = self.transform(X), self.final_estimator_
        return self.classes_[last.predict(answers)], last.predict_proba(answers)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, including those of the fitted parts.

        Parameters
        ----------
        **params
            For example ``bert__bertvectorizer__device="cpu"``.

        Returns
        -------
        TextStackingClassifier
            The estimator itself.
        """
        super().set_params(**params)
        fitted = getattr(self, "named_estimators_", {})
        for name, value in params.items():
            part, _, of_part = name.partition("__")
            if of_part and isinstance(fitted.get(part), BaseEstimator):
                fitted[part].set_params(**{of_part: value})
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return a state without the folders of this machine."""
        state = dict(super().__getstate__())
        if "estimators_" in state:
            state["estimators"] = [(name, _portable(part)) for name, part in self.estimators]
        return state


def _numbered(weight: dict[Any, float], classes: np.ndarray) -> dict[int, float]:
    """Return weights by class number instead of label."""
    numbers, _ = positions(weight, classes.tolist())
    return dict(zip(numbers.tolist(), weight.values(), strict=True))


def _portable(part: Any) -> Any:
    if not isinstance(part, BaseEstimator):
        return part
    portable = clone(part)
    for name, value in part.get_params().items():
        if name.endswith("__cache") and value is not None:
            portable.set_params(**{name: "memory"})
        elif isinstance(value, os.PathLike):
            portable.set_params(**{name: os.fspath(value)})
    return portable
