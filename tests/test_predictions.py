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


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_probabilities_have_the_type_of_the_models(kind):
    classes, probabilities = np.array([0, 1]), np.array([[0.1, 0.9]], dtype=kind)
    fields = added_fields(SCHEMA, classes, kind)
    found = add_predictions(
        pa.table({"text": ["x"]}), fields, Answers(classes[1:], probabilities), {}
    )
    assert found["probability_1"].to_numpy().dtype == kind
    assert found["probability_1"].to_numpy()[0] == probabilities[0, 1]


@pytest.mark.parametrize(
    "bad", [{}, {0: "first"}, {1: "x", 2: "y"}, {0: "a", 1: "b", 2: "c", 3: "d"}]
)
def test_bad_rows_have_nulls_and_a_reason_and_the_others_their_own_values(bad):
    classes = np.array(["no", "yes"])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    good = [i for i in range(4) if i not in bad]
    table = pa.table({"text": list("abcd")}, schema=SCHEMA)
    fields = added_fields(SCHEMA, classes)
    labels = classes[
        [1, 1, 0, 0]
    ]  # by predict, which does not ask which class is the most probable
    found = add_predictions(table, fields, Answers(labels[good], probabilities[good]), bad)
    assert found.schema.equals(with_fields(SCHEMA, fields), check_metadata=True)
    for i, row in enumerate(found.to_pylist()):
        label, p = (None, [None, None]) if i in bad else (labels[i], probabilities[i].tolist())
        assert row == {
            "text": "abcd"[i], "label": label, "probability_no": p[0], "probability_yes": p[1],
            "label_error": bad.get(i),
        }  # fmt: skip


def test_no_rows_have_the_columns_too():
    fields = added_fields(SCHEMA, [0, 1])
    found = add_predictions(
        SCHEMA.empty_table(), fields, Answers(np.empty(0), np.empty((0, 2))), {}
    )
    assert found.schema.equals(with_fields(SCHEMA, fields))
