"""TextStackingClassifier. Saved artifacts name this module."""

import os
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import StackingClassifier
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from pipeline.answers import positions
from pipeline.columns import first_step
from pipeline.logistic import TunedLogisticRegression
from pipeline.text_warnings import warned_once
from pipeline.texts import check_texts, class_numbers, text_groups


class TextStackingClassifier(StackingClassifier):
    """Stack classifiers of texts.

    scikit-learn's StackingClassifier with its parameters and attributes, and these differences:

    - Every part gets the same list of str, whatever the container X.
    - With a number as ``cv``, folds are shuffled, stratified and the same in every fit, and texts
      that are equal except for case and blanks are in one fold. A class may have fewer texts than
      folds, even one: a training part that would lack a class gets all of its texts.
    - A part that chooses its own ``C`` (`pipeline.logistic.TunedLogisticRegression`) does so once,
      on all texts, and keeps it in the folds, unless sample weights are given.
    - A dict as ``class_weight`` of a part, or of the final classifier, uses the labels of y, not
      their numbers.
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
            # class numbers, as StackingClassifier gives them to the parts
            tuned = {} if fit_params else _tuned(plain, texts, numbers)
            plain.set_params(**{name: (C,) for name, (_, C) in tuned.items()})
            plain.fit(texts, classes[numbers], **fit_params)
        for name, (part, _) in tuned.items():  # which has the scores of its search
            name = name.partition("__")[0]
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
        return [(_with_every_class(train, numbers), test) for train, test in splits]

    def transform(self, X: Iterable[str]) -> np.ndarray:
        """Return the answers of the parts, the input of the final classifier.

        Parameters
        ----------
        X : iterable of str, length n_texts
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_texts, n_answers)
            One number per part for two classes, else one per part and class.
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


def _tuned(
    stack: StackingClassifier, texts: list[str], y: np.ndarray
) -> dict[str, tuple[Pipeline, float]]:
    """Fit each part that chooses its own C, by the parameter of its candidates."""
    tuned = {}
    for name, part in stack.estimators:
        last = part[-1] if isinstance(part, Pipeline) else None
        if isinstance(last, TunedLogisticRegression):
            fitted = clone(part).fit(texts, y)
            tuned[f"{name}__{part.steps[-1][0]}__Cs"] = (fitted, fitted[-1].C_)
    return tuned


def _numbered(weight: dict[Any, float], classes: np.ndarray) -> dict[int, float]:
    """Return weights by class number instead of label."""
    numbers, _ = positions(weight, classes.tolist())
    return dict(zip(numbers.tolist(), weight.values(), strict=True))


def _with_every_class(train: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    # answers for a missing class would be minus infinity, and rare classes are no reason to fail
    lacking = np.isin(numbers, numbers[train], invert=True)
    return np.union1d(train, np.flatnonzero(lacking))


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
