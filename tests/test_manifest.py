"""The manifest: it describes the pipeline, and every file has its own at every moment."""

import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import BertVectorizer
from pipeline.exceptions import ArtifactError
from pipeline.files import sha256_of, temporary_for
from pipeline.saved import manifest as room
from pipeline.saved.manifest import (
    Manifest,
    columns_of,
    describe,
    fitting,
    manifest_path,
    parts_of,
    plain,
    put_in_place,
    put_scores,
    read_manifest,
    vectorizers_in,
)


def manifest_of(path, **changes):
    values = {
        "file": path.name,
        "format": "joblib",
        "size": path.stat().st_size,
        "sha256": sha256_of(path),
        "created": "2026-11-22T12:00:00+00:00",
        "versions": {"pipeline": "0.1.0"},
        "steps": [["a", "B"]],
        "classes": ["no", "yes"],
        "vectorizers": [],
        "probes": None,
    }
    return Manifest(**{**values, **changes})


def put(path, content):
    with temporary_for(path) as temporary:
        temporary.write_bytes(content)
        put_in_place(temporary, path, replace(manifest_of(temporary), file=path.name))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.joblib"


def fits(path):
    return fitting(read_manifest(path) or {}, path.stat().st_size, sha256_of(path)) != []


@pytest.mark.parametrize("first", ["with a manifest", "with that of another", "without", "none"])
@pytest.mark.parametrize("crash_at", range(3))
def test_whenever_the_process_dies_the_file_that_lies_there_has_its_manifest(
    first, crash_at, path, monkeypatch
):
    if first != "none":
        put(path, b"one")
    if first == "without":
        manifest_path(path).unlink()
    if first == "with that of another":
        path.write_bytes(b"two")
    real, calls = os.replace, []

    class KilledError(BaseException):
        pass

    def dying(source, target):
        if len(calls) == crash_at:
            raise KilledError
        calls.append(target)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(room.os, "replace", dying)
        if first == "none" and crash_at == 2:
            put(path, b"other")  # a new file takes two steps only
        else:
            with pytest.raises(KilledError):
                put(path, b"other")
    if path.exists():
        assert path.read_bytes() in (b"one", b"two", b"other")
        wrong_before = first in ("without", "with that of another")
        assert fits(path) or (wrong_before and crash_at == 0)
    else:
        assert first == "none"
    put(path, b"third")
    assert fits(path)
    assert path.read_bytes() == b"third"


def test_many_savers_take_turns_and_leave_a_whole_pair(path):
    contents = [bytes([65 + i]) * (i + 1) for i in range(8)]
    threads = [
        threading.Thread(target=lambda c=c: [put(path, c) for _ in range(5)]) for c in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert Manifest.read(path) == manifest_of(path)
    assert len(list(path.parent.iterdir())) == 2


def test_the_one_being_replaced_fits_too_with_all_it_said(path):
    path.write_bytes(b"one")
    old = vars(manifest_of(path, n_training_texts=5))
    new = {**old, "size": 99, "sha256": "f" * 64}
    both = {**new, "replaces": old}
    assert fitting(both, 3, old["sha256"]) == fitting(both, 3, None) == [old]
    assert fitting(both, 99, "f" * 64) == fitting(both, 99, None) == [new]
    assert fitting(both, 99, "0" * 64) == fitting(both, 4, None) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged: .*Delete it to open the file unverified"),
        ('{"file": "m', "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"format_version": 2, "scores": NaN}', "is damaged: .* JSON"),
        ('{"format_version": 2, "scores": 1e999}', "is damaged: .* JSON"),
        (r'{"format_version": 2, "file": "\ud800"}', "is damaged: 'utf-8'"),
        ("[]", "is not the manifest of a saved pipeline"),
        ("{}", "is not the manifest of a saved pipeline"),
        ('{"format_version": "1"}', "is not the manifest"),
        ('{"format_version": 1, "file": "m.joblib"}', "is damaged: missing .*'sha256'"),
        ('{"format_version": 3}', r"was written by version \? of pipeline in format 3"),
        ('{"format_version": 3, "versions": []}', r"was written by version \? of pipeline"),
        ('{"format_version": 3, "versions": {}}', r"was written by version \? of pipeline"),
        (
            '{"format_version": 3, "versions": {"pipeline": "3.0"}}',
            r"was written by version 3\.0 of pipeline in format 3; .* knows up to 2\. Upgrade",
        ),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_with_a_way_out(content, message, path):
    manifest_path(path).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        Manifest.read(path)


def test_a_field_of_the_future_is_refused(path):
    put(path, b"one")
    values = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**values, "colour": "red"}))
    with pytest.raises(ArtifactError, match=r"unknown \['colour'\]"):
        Manifest.read(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", "1"),
        ("classes", {}),
        ("probes", []),
        ("versions", ["torch"]),
        ("versions", {"torch": 2}),
        ("replaces", []),
        ("replaces", {"replaces": {"size": 1}}),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_name(name, value, path):
    put(path, b"one")
    values = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps({**values, name: value}))
    with pytest.raises(ArtifactError, match=f"is damaged: {name} is nothing that"):
        Manifest.read(path)


def test_a_file_without_a_manifest_gets_none_for_its_scores_and_has_no_columns(path):
    path.write_bytes(b"one")
    put_scores(path, {"accuracy": 1.0})
    assert list(path.parent.iterdir()) == [path]
    assert columns_of(path) == {}
    manifest_path(path).write_text("{")
    assert columns_of(path) == {}


def test_scores_and_columns_are_read_back_and_nothing_else_changes(path):
    path.write_bytes(b"one")
    saved = manifest_of(path, columns={"text": "review", "label": "stars"})
    manifest_path(path).write_text(json.dumps(vars(saved)))
    put_scores(path, {"accuracy": 1.0})
    assert columns_of(path) == {"text": "review", "label": "stars"}
    assert Manifest.read(path) == replace(saved, scores={"accuracy": 1.0})


# ---- what it says about the pipeline


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        ({"a": (1, None, True, "x")}, {"a": [1, None, True, "x"]}),
        ({1: np.nan, "b": float("inf")}, {"1": None, "b": None}),
        (np.array(["a", None], dtype=object), ["a", None]),
    ],
)
def test_values_become_those_of_json(value, expected):
    assert plain(value, "it") == expected


@pytest.mark.parametrize(
    ("value", "place"),
    [([1, {2}], r"it\[1\] is a set"), ({"a": [{2}]}, r"it\['a'\]\[0\] is a set")],
)
def test_what_no_manifest_holds_is_refused_by_its_place(value, place):
    with pytest.raises(TypeError, match=place):
        plain(value, "it")


# ---- what is inside a pipeline

X, Y = np.arange(12.0).reshape(6, 2), [0, 1] * 3


def kinds(value):
    return [type(part).__name__ for part in parts_of(value) if isinstance(part, BaseEstimator)]


def test_an_estimator_that_stands_in_two_places_or_in_itself_is_found_once():
    scaler = StandardScaler()
    scaler.myself_ = scaler
    assert kinds([scaler, {"again": scaler}]) == ["StandardScaler"]


def test_plain_values_are_no_parts():
    parts = [{"a": 1, "b": "text", "c": (b"bytes", 2.5, None, X)}]
    assert [type(part) for part in parts_of(parts)] == [list, dict, tuple, np.ndarray]


DAYS = np.array([1, 2], "timedelta64[D]")


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (["no", "yes"], ["no", "yes"]),
        ([1, 0], [0, 1]),
        ([b"a", b"b"], ["a", "b"]),
        (np.array(["2026-01-31", "2025-01-31"], "datetime64[D]"), ["2025-01-31", "2026-01-31"]),
        (DAYS, DAYS.astype(str).tolist()),
        ([0.5, 1.5], None),
    ],
)
def test_steps_and_classes_are_described_in_words_of_json(y, classes):
    model = make_pipeline("passthrough", LinearRegression() if classes is None else Classes())
    told = describe(model.fit([[0], [1]], y), None, None)
    assert json.loads(json.dumps(told)) == {
        "steps": [
            ["passthrough", "passthrough"],
            [model.steps[1][0], f"{type(model[1]).__module__}.{type(model[1]).__name__}"],
        ],
        "classes": classes,
        "vectorizers": [],
        "n_training_texts": None,
        "columns": None,
    }


class Classes(BaseEstimator):
    """Has the labels that it is fitted on, and needs no numbers."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self


def test_what_is_given_for_the_manifest_is_described_and_refused_by_its_name():
    model = make_pipeline(DummyClassifier()).fit(X, Y)
    told = describe(model, np.int64(5), {"text": "review"})
    assert (told["n_training_texts"], told["columns"]) == (5, {"text": "review"})
    assert type(told["n_training_texts"]) is int
    with pytest.raises(TypeError, match=r"columns\['text'\] is a set"):
        describe(model, None, {"text": {"review"}})
    model[0].classes_ = [{1}]
    with pytest.raises(TypeError, match=r"classes_\[0\] is a set"):
        describe(model, None, None)


def test_a_fitted_vectorizer_is_described_and_no_other_estimator(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert, layers=(1, 2), device="cpu", cache=None)
    assert vectorizers_in([vectorizer]) == []
    vectorizer.fit(["a film", "a quiet film", "film"])
    scaler = StandardScaler()
    scaler.source_ = "somewhere"
    model = make_pipeline(scaler, vectorizer)
    assert vectorizers_in(model) == [vectorizer]
    told = describe(model, None, None)
    assert told["n_training_texts"] == 3
    assert told["vectorizers"] == [
        {
            "model": tiny_bert,
            "source": plain(vectorizer.source_, ""),
            "layers": [1, 2],
            "max_length": vectorizer.max_length_,
            "pooling": vectorizer.pooling,
            "prompt": vectorizer.prompt_,
            "combine": vectorizer.combine,
            "truncation": vectorizer.truncation,
            "normalize": vectorizer.normalize,
            "weights_in_artifact": vectorizer.weights_in_artifact,
            "device": "cpu",
            "dtype": "float32",
        }
    ]
    assert describe(model, 9, None)["n_training_texts"] == 9
