"""The columns that scoring adds."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.answers import Answers
from pipeline.scoring.shard import add_predictions, added_fields

SCHEMA = pa.schema([("text", pa.string())], metadata={"k": "v"})


def test_names_are_those_of_the_smaller_tables_and_make_way_for_columns_that_are_there():
    assert [field.name for field in added_fields(SCHEMA, ["no", "yes"])] == [
        "label", "probability_no", "probability_yes", "label_error",
    ]  # fmt: skip
    taken = pa.schema(
        [(name, pa.string()) for name in ("label", "text", "label_error", "predicted_label_error")]
    )
    assert [field.name for field in added_fields(taken, [0])] == [
        "predicted_label", "probability_0", "predicted_predicted_label_error",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "kind"),
    [
        (["a", "b"], pa.string()),
        ([0, 1], pa.int64()),
        ([False, True], pa.bool_()),
        ([0.5, 1.5], pa.float64()),
    ],
)
def test_labels_have_the_type_of_the_classes(classes, kind):
    classes = np.array(classes)
    fields = added_fields(SCHEMA, classes)
    assert fields[0].type == kind
    table = add_predictions(
        pa.table({"text": ["x"]}), fields, Answers(classes[1:], np.array([[0.25, 0.75]])), {}
    )
    assert table["label"].to_pylist() == [classes.tolist()[1]]
