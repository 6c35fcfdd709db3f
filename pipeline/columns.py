"""The columns that a model was fitted on, and tables in that form."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer

from pipeline._compat import rows_of
from pipeline.csv_table import check_names

Kind = Literal["text", "number", "any"]


def fitted_columns(model: Any) -> dict[str, Kind] | None:
    """Return a model's columns and their kinds, None for flat texts."""
    names = getattr(model, "feature_names_in_", None)
    if names is not None:
        return _read_by(model, list(names))
    n_columns = getattr(model, "n_features_in_", 1)
    if n_columns > 1:
        raise ValueError(
            f"The model was fitted on {n_columns} columns without names, so they cannot be found "
            "in a table. Fit it on a DataFrame."
        )
    return None


def columns_for(model: Any, there: Sequence[str], text: str, source: str) -> dict[str, Kind] | None:
    """Return a model's columns, checked to be in a table."""
    columns = fitted_columns(model)
    if columns is not None and len(columns) > 1:
        fitted_on = f"The model was fitted on {', '.join(map(repr, columns))}"
        if text not in columns:
            raise ValueError(f"text={text!r}: {fitted_on}; name its text column.")
        try:
            check_names(there, list(columns), source)
        except ValueError as error:
            raise ValueError(f"{error} {fitted_on}.") from None
    return columns


def free_names(taken: Iterable[Any], wanted: Iterable[str]) -> list[str]:
    """Return column names that are not taken yet."""
    names, free = set(taken), list[str]()
    for name in wanted:
        while name in names:
            name = f"predicted_{name}"
        names.add(name)
        free.append(name)
    return free


def text_column(X: pd.DataFrame, text: str | None) -> str:
    """Return the named text column of a table, or its only column."""
    names = [name for name in X if all(isinstance(cell, str) for cell in X[name])]
    if text is None and len(names) == 1:
        return str(names[0])
    if text not in X:
        raise ValueError(
            f"text={text!r} is not a column of X, which has {', '.join(map(repr, X))}; name the "
            "one with the texts."
        )
    return str(text)


def reads_columns(estimator: Any) -> bool:
    """Return whether an unfitted estimator takes a table rather than texts."""
    while True:
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[0][1]
        elif hasattr(estimator, "estimator"):
            estimator = estimator.estimator
        elif hasattr(estimator, "estimators"):
            estimator = estimator.estimators[0][1]
        else:
            return _kind(estimator, 0) != "text"


def from_texts(model: Any, texts: list[str], what: str) -> Any:
    """Turn texts into the input of a model, if possible."""
    columns = fitted_columns(model)
    if columns is None:
        return texts
    if len(columns) > 1:
        raise ValueError(
            f"The model was fitted on the columns {', '.join(map(repr, columns))}, and {what}."
        )
    return as_fitted(columns, pd.DataFrame({"text": texts}, dtype="str"), "text")


def as_fitted(columns: dict[str, Kind] | None, table: pd.DataFrame, text: str) -> Any:
    """Turn a table into the input of a model."""
    if columns is None:
        return table[text]
    if len(columns) == 1:  # whatever its name is here
        return table[[text]].set_axis(list(columns), axis=1)
    return pd.DataFrame(
        {
            name: _to_numbers(table[name]) if kind == "number" else table[name]
            for name, kind in columns.items()
        },
        index=table.index,
    )


def _to_numbers(column: pd.Series) -> pd.Series:
    """Read cells as numbers, leaving others as they are."""
    if pd.api.types.is_numeric_dtype(column) or not pd.api.types.is_string_dtype(column):
        return column
    numbers = pd.to_numeric(column, errors="coerce")
    odd = numbers.isna() & column.notna() & (column.str.strip() != "")
    return numbers.astype(object).where(~odd, column) if odd.any() else numbers


def _read_by(step: Any, names: list[str]) -> dict[str, Kind]:
    step = first_step(step)
    found: list[tuple[str, Kind]] = []
    if isinstance(step, ColumnTransformer):
        frame = pd.DataFrame(columns=names)
        for _, part, key in step.transformers_:
            if not (isinstance(part, str) and part == "drop"):
                own = rows_of(frame, [key] if isinstance(key, str) else key, axis=1)
                found += [(name, _kind(part, place)) for place, name in enumerate(own)]
    elif isinstance(step, FeatureUnion):
        for _, part in step.transformer_list:
            if not isinstance(part, str):
                found += _read_by(part, names).items()
    else:
        return dict.fromkeys(names, _kind(step, 0) if len(names) == 1 else "any")
    read: dict[str, Kind] = {}
    for name, kind in found:
        read[name] = kind if read.get(name, kind) == kind else "any"
    return {name: read[name] for name in names if name in read}


def first_step(model: Any) -> Any:
    """Return the step that gets X first."""
    while True:
        if isinstance(model, Pipeline):
            model = next(part for _, part in model.steps if not changes_rows_only(part))
        elif (inside := model_inside(model)) is not None:
            model = inside
        else:
            return model


def model_inside(model: Any) -> Any:
    """Return the first model inside a fitted search or meta-estimator."""
    if hasattr(model, "best_estimator_"):
        return model.best_estimator_
    if isinstance(model, FrozenEstimator):
        return model.estimator
    members = [one.estimator for one in getattr(model, "calibrated_classifiers_", ())]
    members += list(getattr(model, "estimators_", ()))
    # OneVsRest has a constant, y_, for a label that all texts have
    models = [one for one in members if isinstance(one, BaseEstimator) and not hasattr(one, "y_")]
    return models[0] if models else getattr(model, "estimator_", None)


def _kind(part: Any, place: int) -> Kind:
    """Return the kind of column that a transformer was fitted on."""
    for step in [step for _, step in part.steps] if isinstance(part, Pipeline) else [part]:
        if changes_rows_only(step) or (isinstance(step, FunctionTransformer) and step.func is None):
            continue
        categories = getattr(step, "categories_", ())
        if place < len(categories):
            return "number" if np.asarray(categories[place]).dtype.kind in "iufb" else "any"
        if not hasattr(step, "__sklearn_tags__"):
            return "any"
        tags = step.__sklearn_tags__()
        if tags.input_tags.string:
            return "text"
        if tags.no_validation:
            return "any"
    return "number"


def changes_rows_only(step: Any) -> bool:
    """Return whether a step passes tables through, like a sampler."""
    return step in (None, "passthrough") or (
        hasattr(step, "fit_resample") and not hasattr(step, "transform")
    )
