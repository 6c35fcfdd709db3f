"""The columns that scoring adds to a table: names, types, values. Used by score_shard and table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.answers import Answers
from pipeline.datasets import prediction_names

ERROR = "label_error"


def added_fields(schema: pa.Schema, classes: Sequence[Any], kind: str = "float64") -> list[pa.Field]:
    """Return the fields that predictions add to a schema: label, one probability per class, and why there is no label.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the table that is scored.
    classes : sequence
        The classifier's classes, of which the label has its type.
    kind : {"float32", "float64"}
        Of the model's probabilities.
    """
    names = prediction_names(schema.names, classes)
    error = ERROR
    while error in {*schema.names, *names}:
        error = f"predicted_{error}"
    fields = [pa.field(names[0], label_type(classes)), *(pa.field(name, pa.from_numpy_dtype(kind)) for name in names[1:])]
    return [*fields, pa.field(error, pa.string())]


def with_fields(schema: pa.Schema, fields: Iterable[pa.Field]) -> pa.Schema:
    """Append fields to a schema, keeping its metadata."""
    return pa.schema([*schema, *fields], metadata=schema.metadata)


def label_type(classes: Sequence[Any]) -> pa.DataType:
    """Return the type of the label's column: that of the classes."""
    return pa.array(np.asarray(classes).tolist()).type


def add_predictions(table: pa.Table, fields: Sequence[pa.Field], answers: Answers, bad: Mapping[int, str]) -> pa.Table:
    """Add the columns of predictions to a table.

    Parameters
    ----------
    table : pyarrow.Table of n_rows rows
    fields : sequence of pyarrow.Field
        From `added_fields`.
    answers : Answers
        Of the n_rows - len(bad) rows that are not bad, in their order.
    bad : mapping of int to str
        Rows without a label, by their place, with the reason.

    Returns
    -------
    pyarrow.Table
    """
    is_good = np.ones(table.num_rows, bool)
    is_good[list(bad)] = False
    place = np.cumsum(is_good) - 1  # of each row among the good ones
    place = pa.array(place, mask=~is_good)
    label, *numbers, error = fields
    columns = [pa.array(answers.labels.tolist(), label.type)]
    columns += [pa.array(np.ascontiguousarray(column)) for column in answers.probability.T]
    for field, column in zip([label, *numbers], columns, strict=True):
        table = table.append_column(field, column.take(place).cast(field.type))
    return table.append_column(error, pa.array([bad.get(i) for i in range(table.num_rows)], error.type))
