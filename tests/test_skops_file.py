"""skops files: the same object comes back, and what is not allowed is refused."""

import json
import sys
import zipfile

import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from pipeline.exceptions import ArtifactError
from pipeline.saved.skops_file import (
    read_skops,
    skops_names,
    skops_refused,
    skops_schema,
    write_skops,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.skops"


@pytest.fixture
def model():
    return LogisticRegression(C=3).fit([[0.0], [1.0]], ["no", "yes"])


def test_what_was_written_is_read(path, model):
    write_skops(model, path)
    read = read_skops(path)
    assert np.array_equal(read.coef_, model.coef_)
    assert read.classes_.tolist() == ["no", "yes"]
    assert skops_refused(path) == []


def test_it_is_a_file_that_skops_alone_can_read(path, model):
    write_skops(model, path)
    assert skops.io.get_untrusted_types(file=path) == []
    assert skops.io.load(path).C == 3


@pytest.mark.parametrize("inside", [lambda m: m, lambda m: [m], lambda m: {"a": (m,)}])
def test_memory_maps_are_written_as_arrays_wherever_they_are(inside, path, model, tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    model.extra_ = inside(np.load(tmp_path / "a.npy", mmap_mode="c"))
    write_skops(model, path)
    np.testing.assert_equal(read_skops(path).extra_, inside(np.ones(3)))


def test_a_name_that_is_not_allowed_is_refused_unless_it_is_trusted(path):
    write_skops(FunctionTransformer(np.testing.measure), path)
    with pytest.raises(ArtifactError, match=r"it names numpy\.testing.*measure: not on the list"):
        read_skops(path)
    refused = skops_refused(path)
    assert len(refused) == 1
    assert read_skops(path, refused).func is np.testing.measure


def test_names_are_listed_without_skops(path, model, monkeypatch):
    write_skops(model, path)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    names = skops_names(skops_schema(path))
    assert "sklearn.linear_model._logistic.LogisticRegression" in names
    assert len(names) == len(set(names))
    assert skops_refused(path) is None


@pytest.mark.parametrize("call", [lambda path: write_skops(1, path), read_skops])
def test_without_skops_the_extra_is_named(call, path, monkeypatch):
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(ImportError, match=r"need skops: pip install 'bert-vectorizer\[skops\]'"):
        call(path)


def test_another_zip_has_no_schema(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    assert skops_schema(path) is None
    path.write_bytes(b"PK no zip")
    assert skops_schema(path) is None


def test_a_schema_that_names_code_is_listed_and_not_run(path, tmp_path):
    schema = {
        "__class__": "mkdir",
        "__module__": "os",
        "__loader__": "FunctionNode",
        "content": str(tmp_path / "was run"),
        "__id__": 1,
        "protocol": 2,
        "_skops_version": skops.__version__,
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
    assert skops_names(skops_schema(path)) == ["os.mkdir"]
    with pytest.raises(ArtifactError, match=r"names os\.mkdir"):
        read_skops(path)
    assert not (tmp_path / "was run").exists()
