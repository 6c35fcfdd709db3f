"""Labels and probabilities of a fitted classifier."""

import warnings
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.base import is_regressor
from sklearn.pipeline import Pipeline

from pipeline.exceptions import LabelWarning

_ROUNDING = 1e-6  # a label may have this much less than the highest probability


class Answers(NamedTuple):
    """Labels, (n_rows,), and probabilities, (n_rows, n_classes)."""

    labels: np.ndarray
    probability: np.ndarray  # NaN without predict_proba
    decision: np.ndarray | None = None  # of a model without probabilities

    @property
    def ranking(self) -> np.ndarray:
        """Scores that rank the texts of each class, (n_rows, n_classes)."""
        if self.decision is None:
            return self.probability
        decision = self.decision
        return np.stack([-decision, decision], axis=1) if decision.ndim == 1 else decision


class Judged(NamedTuple):
    """True and predicted labels, as positions in ``labels``."""

    true: np.ndarray
    predicted: np.ndarray
    sure: np.ndarray
    labels: list[Any]
    has_probability: bool = True

    def said(self, row: int) -> dict[str, Any]:
        """Return ``true``, ``predicted`` and ``probability`` of a row."""
        sure = float(self.sure[row])
        return {
            "true": self.labels[self.true[row]],
            "predicted": self.labels[self.predicted[row]],
            "probability": sure if self.has_probability and not np.isnan(sure) else None,
        }


def ask(model: Any, X: Any, *, need_probability: bool = True) -> Answers:
    """Return the labels and probabilities of each row of X."""
    features = features_before_last_step(model, X)
    return answer_features(model, features, need_probability=need_probability)


def features_before_last_step(model: Any, X: Any) -> Any:
    """Run all steps but the last, to encode texts only once."""
    return model[:-1].transform(X) if type(model) is Pipeline and len(model.steps) > 1 else X


def answer_features(model: Any, features: Any, *, need_probability: bool = True) -> Answers:
    """Return the answers for the result of `features_before_last_step`."""
    check_classifier(model, need_probability=need_probability)
    last = model[-1] if type(model) is Pipeline else model
    if hasattr(last, "predict_both"):  # would encode the texts twice otherwise
        return Answers(*last.predict_both(features))
    labels, n_classes = last.predict(features), len(model.classes_)
    decision = None
    if hasattr(last, "predict_proba"):
        probability = last.predict_proba(features)
    else:
        probability = np.full((len(labels), n_classes), np.nan)
        if hasattr(last, "decision_function"):
            decision = np.asarray(last.decision_function(features))
            if decision.shape[1:] != (() if n_classes == 2 else (n_classes,)):
                decision = None
    is_list = isinstance(probability, list)
    if issparse(labels) or np.ndim(labels) != 1 or is_list or np.ndim(probability) != 2:
        raise several_labels(model)
    return Answers(np.asarray(labels), np.asarray(probability), decision)


def check_classifier(model: Any, *, need_probability: bool = True) -> None:
    """Raise unless a model gives one label per row, and probabilities if needed."""
    if isinstance(getattr(model, "classes_", None), list):
        raise several_labels(model)
    if not hasattr(model, "classes_"):
        cure = "Call fit first, or use a search with refit=True."
        if is_regressor(model):
            cure = "Score a regression with sklearn.metrics, such as r2_score(y, model.predict(X))."
        raise ValueError(
            f"The {_name(model)} has no classes_; expected a fitted scikit-learn classifier. {cure}"
        )
    if need_probability and not hasattr(model, "predict_proba"):
        raise ValueError(
            f"The {_name(model)} gives no probabilities (no predict_proba), which are needed here. "
            "Train another classifier, or wrap it in CalibratedClassifierCV."
        )


def several_labels(model: Any) -> ValueError:
    """Return the error for a multi-label or multi-output model."""
    return ValueError(
        f"The {_name(model)} gives several labels per text (multi-label or multi-output); expected "
        "one. Call its predict and predict_proba yourself, or train one classifier per label."
    )


def _name(model: Any) -> str:
    return type(model[-1] if isinstance(model, Pipeline) else model).__name__


def positions(labels: Iterable[Any], classes: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
    """Return class positions, (n_rows,), and the labels outside the classes.

    Labels match by value, then by text, then by number.
    """
    by_value = {label: place for place, label in enumerate(classes)}
    by_text = {str(label): place for place, label in enumerate(classes)}
    by_number: dict[Any, int | None] = {}
    for i, label in enumerate(classes):
        number = _number(label)
        by_number[number] = None if number in by_number else i
    others: list[Any] = []
    places = []
    for label in labels:
        place = by_value.get(label)
        if place is None:
            place = by_text.get(str(label))
        if place is None:
            place = by_number.get(_number(label))
        if place is None:
            place = len(classes) + len(others)
            others.append(label.item() if isinstance(label, np.generic) else label)
        by_value[label] = place
        places.append(place)
    return np.array(places, dtype=np.int64), others


def _number(label: Any) -> Any:
    """Return the number that a label stands for, else its text."""
    text = str(label)
    try:
        number = Decimal({"true": "1", "false": "0"}.get(text.strip().lower(), text))
    except InvalidOperation:
        return text
    return number if number.is_finite() else text


def is_most_probable(predicted: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return whether each label is the most probable, (n_rows,), True without any."""
    own = label_probability(predicted, probability, other=-1.0)
    is_near = probability.max(axis=1, initial=0.0) - own <= _ROUNDING
    return np.asarray(is_near | np.isnan(probability).all(axis=1))


def label_probability(
    predicted: np.ndarray, probability: np.ndarray, *, other: float = np.nan
) -> np.ndarray:
    """Return the probability of each label, (n_rows,), or ``other``."""
    n_classes = probability.shape[1]
    column = np.minimum(predicted, n_classes - 1)
    return np.where(predicted < n_classes, probability[np.arange(len(predicted)), column], other)


def warn_of_other_labels(
    most_probable: np.ndarray, name: str, *, counted: bool = True, stacklevel: int = 3
) -> None:
    """Warn once if labels are not the most probable classes."""
    n_others = int((~most_probable).sum())
    if n_others:
        which = f"{n_others} of {len(most_probable)} texts" if counted else "some texts"
        warnings.warn(
            f"predict of {name} does not give {which} the most probable class, which is normal "
            "for a tuned threshold, SVC or a reject option. Labels are those of predict; "
            "probabilities are shown unchanged.",
            LabelWarning,
            stacklevel=stacklevel,
        )


def outputs_of(model: Any) -> list[tuple[str, list[Any]]]:
    """Return name and classes of each output, 0 and 1 if multi-label."""
    if isinstance(model.classes_, list):
        return [(str(i), np.asarray(c).tolist()) for i, c in enumerate(model.classes_)]
    return [(str(label), [0, 1]) for label in np.asarray(model.classes_).tolist()]


def is_yes_or_no(classes: Sequence[Any]) -> bool:
    """Return whether an output has the classes 0 and 1 only."""
    return set(classes) <= {0, 1}


def gives_several(model: Any, X: Any) -> bool:
    """Return whether a fitted model gives several labels per text."""
    classes = getattr(model, "classes_", None)
    return classes is not None and (isinstance(classes, list) or np.ndim(model.predict(X)) == 2)


def ask_each(model: Any, X: Any, *, need_probability: bool = True) -> Answers:
    """Return labels, (n_rows, n_outputs), and probabilities, (n_rows, n_columns).

    An output of 0 and 1 has one column, the probability of 1; others have one per class.
    """
    if need_probability and not hasattr(model, "predict_proba"):
        raise ValueError(
            f"The {_name(model)} gives no probabilities (no predict_proba) for its labels. Train "
            "another classifier, or wrap its own in CalibratedClassifierCV."
        )
    features = features_before_last_step(model, X)
    last: Any = model[-1] if type(model) is Pipeline else model
    labels, outputs, decision = last.predict(features), outputs_of(model), None
    if hasattr(last, "predict_proba"):
        probability = last.predict_proba(features)
    else:
        probability = np.full((labels.shape[0], len(outputs)), np.nan)
        if hasattr(last, "decision_function"):
            decision = np.asarray(last.decision_function(features))
        elif all(hasattr(one, "decision_function") for one in getattr(last, "estimators_", [0])):
            each = [one.decision_function(features) for one in last.estimators_]
            decision = np.stack(each, axis=1)  # MultiOutputClassifier itself has none
    if isinstance(probability, list):
        columns = []
        for (_, classes), own in zip(outputs, probability, strict=True):
            if not is_yes_or_no(classes):
                columns.append(own)
            elif 1 in classes:
                columns.append(own[:, [classes.index(1)]])
            else:
                columns.append(np.zeros((len(own), 1)))
        probability = np.hstack(columns)
    elif any(not is_yes_or_no(classes) for _, classes in outputs):
        raise ValueError(
            f"The {_name(model)} gives one probability per output, and an output has other classes "
            "than 0 and 1. Train it on 0 and 1, or wrap its classifier in MultiOutputClassifier."
        )
    labels = np.asarray(labels.toarray() if issparse(labels) else labels)
    labels = labels.astype(np.int64) if labels.dtype == bool else labels
    return Answers(labels, np.asarray(probability), decision)


def most_confused(matrix: Sequence[Sequence[int]], most: int) -> list[int]:
    """Return the classes of the most frequent confusions, in class order."""
    counts = np.asarray(matrix)
    if len(counts) <= most:
        return list(range(len(counts)))
    wrong = counts * (1 - np.eye(len(counts), dtype=int))
    pairs = np.argsort(-wrong, axis=None, kind="stable")
    classes = dict.fromkeys(np.stack(np.unravel_index(pairs, wrong.shape), axis=1).ravel().tolist())
    return sorted(list(classes)[:most])
