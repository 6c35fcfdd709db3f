"""outline_of: what stands in a file can be read by people, is plain JSON, and ends somewhere."""

import json
import subprocess
import sys

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import ArtifactError, inspect_pipeline, save_pipeline, verify_pipeline
from pipeline.saved.joblib_file import DEEPEST, Array, Made, Name, outline_of, read_contents
from pipeline.saved.manifest import manifest_path
from pipeline.saved.skops_file import skops_root, skops_schema
from tests.test_allow_list import KERNEL
from tests.test_artifact import digest, manifest_values, weights_of
from tests.test_attacks import a_dict, a_tuple, node, plain


@pytest.fixture
def model():
    return make_pipeline(StandardScaler(), LogisticRegression(C=3)).fit(
        [[0.0], [1.0]], np.array(["no", "yes"], dtype=object)
    )


def outlined(value, tmp_path):
    joblib.dump(value, tmp_path / "m.joblib")
    return outline_of(read_contents(tmp_path / "m.joblib").root)


def test_both_formats_of_one_pipeline_have_nearly_one_outline(model, tmp_path):
    of_joblib = outlined(model, tmp_path)
    skops.io.dump(model, tmp_path / "m.skops")
    of_skops = outline_of(skops_root(skops_schema(tmp_path / "m.skops")))
    for outline in (of_joblib, of_skops):
        assert json.loads(json.dumps(outline)) == outline
        assert outline["class"] == "sklearn.pipeline.Pipeline"
        name, step = outline["steps"][1]
        assert name == "logisticregression"
        assert step["class"] == "sklearn.linear_model._logistic.LogisticRegression"
        assert (step["C"], step["dual"], step["penalty"]) == (3, False, "deprecated")
    assert of_joblib["steps"][1][1]["coef_"] == "<array float64 (1, 1)>"
    assert of_joblib["steps"][1][1]["classes_"] == {"<array object (2,)>": ["no", "yes"]}


def test_what_is_long_is_cut_and_says_so(tmp_path):
    values = {
        "text": "x" * 1000,
        "list": list(range(1000)),
        "dict": {str(i): i for i in range(1000)},
        "number": 1 << 20_000,
        "keys": {(1 << 20_000,): 1},
    }
    outline = outlined(values, tmp_path)
    assert outline["text"].endswith("... (1000 characters)")
    assert outline["list"][-1] == "... 950 more"
    assert outline["dict"]["..."] == "950 more"
    assert "digits" in outline["number"]
    assert "digits" in next(iter(outline["keys"]))
    assert len(json.dumps(outline)) < 3000


def test_what_is_deep_or_contains_itself_ends(tmp_path):
    deep = []
    for _ in range(100):
        deep = [deep]
    assert "..." in json.dumps(outlined(deep, tmp_path))
    endless = []
    endless.append(endless)
    assert "..." in json.dumps(outlined(endless, tmp_path))


def test_keys_and_values_of_any_kind_are_text(tmp_path):
    values = {1: b"x", (2,): {3}, None: 1.5, "few": frozenset({4}), "long": 1 << 9_999}
    assert outlined(values, tmp_path) == {
        "1": "b'x'",
        "(2,)": [3],
        "None": 1.5,
        "few": [4],
        "long": 1 << 9_999,
    }
    most = {"text": "x" * 200, "list": list(range(50)), "dict": {str(i): i for i in range(50)}}
    assert outlined(most, tmp_path) == most
    assert outlined([*range(51)], tmp_path)[-1] == "... 1 more"


CALLED = Name("a.B")
INSIDE = {  # what lies in another value, and how much deeper
    "list": (lambda value: [value], 1),
    "dict": (lambda value: {"a": value}, 1),
    "arguments": (lambda value: Made(CALLED, value), 1),
    "state": (lambda value: Made(CALLED, (), value), 1),
    "items": (lambda value: Made(CALLED, (), items=[value]), 2),
}


def nested(wrap, value, times):
    for _ in range(times):
        value = wrap(value)
    return value


@pytest.mark.parametrize("where", INSIDE)
def test_what_is_twelve_deep_is_shown_and_what_is_deeper_is_cut(where):
    wrap, deeper = INSIDE[where]
    shown = json.dumps(outline_of(nested(wrap, "x", DEEPEST // deeper)))
    assert '"x"' in shown
    assert "..." not in shown
    cut = json.dumps(outline_of(nested(wrap, "x", DEEPEST // deeper + 1)))
    assert '"x"' not in cut
    assert '"..."' in cut


SKOPS_INSIDE = [a_tuple, lambda value: a_dict(a=value),
                lambda value: node(KERNEL, "ObjectNode", content=value)]  # fmt: skip


@pytest.mark.parametrize("wrap", SKOPS_INSIDE, ids=["list", "dict", "state"])
def test_a_skops_description_is_shown_as_deep(wrap):
    shown = json.dumps(outline_of(skops_root(nested(wrap, plain("x"), DEEPEST))))
    assert '"x"' in shown
    assert "__class__" not in shown
    cut = json.dumps(outline_of(skops_root(nested(wrap, plain("x"), 5000))))
    assert '"..."' in cut


@pytest.mark.parametrize("value", [None, Made(Name("numpy.array"), (), (1, (), "O", False, []))])
def test_the_items_of_an_object_array_are_shown_three_deep(value):
    def outlined(item):
        of = [item] if value is None else Made(value.of, (), (*value.state[:4], [item]))
        return outline_of(Array((1,), "object", 0, 0, of))["<array object (1,)>"]

    n = 2 if value is None else 3  # the list that is no array is a level of its own
    deepest = nested(lambda item: [item], "x", n)
    assert outlined(deepest) == [deepest]
    assert "x" not in str(outlined([deepest]))


def test_the_state_and_arguments_of_an_object_have_names_of_their_own():
    made = Made(CALLED, (1,), Made(Name("a.C"), ()))
    assert outline_of(made) == {"class": "a.B", "called with": [1], "state": {"class": "a.C"}}


# ---- looking inside


def test_inspecting_imports_no_torch_and_opens_what_is_refused(fitted, tmp_path):
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    code = (
        "import sys; from pipeline import inspect_pipeline; found = inspect_pipeline(sys.argv[1]);"
        "vectorizer = found['contents']['steps'][0][1];"
        "print(found['refused'], vectorizer['layers'], 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["[]", "all", "False"]


def test_inspecting_shows_what_the_file_holds(fitted, tmp_path):
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    found = inspect_pipeline(path)
    assert json.loads(json.dumps(found))
    assert found["manifest"]["sha256"] == manifest_values(path)["sha256"]
    assert sum(array["n_bytes"] for array in found["arrays"]) <= path.stat().st_size
    vectorizer = found["contents"]["steps"][0][1]
    assert vectorizer["class"] == "pipeline.vectorizer.BertVectorizer"
    assert vectorizer["source_"]["sha256"] == fitted[0].source_["sha256"]
    manifest_path(path).write_text("{")
    assert "is damaged" in inspect_pipeline(path)["manifest"]["error"]


def test_verifying_tells_what_was_checked(fitted, tmp_path):
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    told = verify_pipeline(path, sha256=manifest_values(path)["sha256"])
    assert told["weights"] == {fitted[0].source_["model"]: digest(weights_of(fitted))}
    assert told["probes"] == {"n": 3, "difference": 0.0, "tolerance": 0.001}
    assert told["versions"] == []
    with pytest.raises(ArtifactError, match="is not the requested file"):
        verify_pipeline(path, sha256="0" * 64)
