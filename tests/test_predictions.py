"""The columns that scoring adds."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.answers import Answers
from pipeline.scoring.shard import add_predictions, added_fields, with_fields

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


def test_of_several_outputs_each_has_its_label_and_a_probability_of_one_or_of_each_class():
    outputs = [
        ("cold", [0, 1]),
        ("far", [False, True]),
        ("never", [0]),
        ("kind", ["food", "walk"]),
    ]
    fields = added_fields(SCHEMA, [], "float32", outputs)
    assert [(field.name, field.type) for field in fields] == [
        ("label_cold", pa.int64()),
        ("label_far", pa.int64()),
        ("label_never", pa.int64()),
        ("label_kind", pa.string()),
        ("probability_cold", pa.float32()),
        ("probability_far", pa.float32()),
        ("probability_never", pa.float32()),
        ("probability_kind_food", pa.float32()),
        ("probability_kind_walk", pa.float32()),
        ("label_error", pa.string()),
    ]


def test_the_added_fields_come_last_and_the_metadata_stay():
    fields = added_fields(SCHEMA, ["no", "yes"])
    schema = with_fields(SCHEMA, fields)
    assert schema.names == ["text", "label", "probability_no", "probability_yes", "label_error"]
    assert schema.metadata == {b"k": b"v"}


@pytest.mark.parametrize("bad", [{}, {0: "why"}, {1: "why", 2: "so"}, {0: "a", 1: "b", 2: "c"}])
def test_bad_rows_have_a_reason_alone_and_the_others_their_own_answers(bad):
    labels, probability = np.array(["no", "yes", "no"]), np.array([[0.75], [0.5], [0.25]])
    good = [i for i in range(3) if i not in bad]
    table = add_predictions(
        pa.table({"text": ["x", "y", "z"]}),
        added_fields(SCHEMA, ["no"]),
        Answers(labels[good], probability[good]),
        bad,
    )
    assert table.to_pydict() == {
        "text": ["x", "y", "z"],
        "label": [None if i in bad else labels[i] for i in range(3)],
        "probability_no": [None if i in bad else probability[i, 0] for i in range(3)],
        "label_error": [bad.get(i) for i in range(3)],
    }
