"""skops files: the same object comes back, and what is not allowed is refused."""

import sys
import zipfile

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from pipeline import inspect_pipeline, load_pipeline, save_pipeline, verify_pipeline
from pipeline.saved.skops_file import (
    read_skops,
    skops_names,
    skops_refused,
    skops_schema,
    write_skops,
)
from tests.conftest import TEXTS


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.skops"


@pytest.fixture
def model():
    return LogisticRegression(C=3).fit([[0.0], [1.0]], ["no", "yes"])


def test_it_is_a_file_that_skops_alone_can_read(path, model):
    write_skops(model, path)
    assert skops.io.get_untrusted_types(file=path) == []
    assert skops.io.load(path).C == 3


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
    with pytest.raises(ImportError, match=r"need skops: pip install '\.\[skops\]'"):
        call(path)


def test_another_zip_has_no_schema(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "x")
    assert skops_schema(path) is None
    path.write_bytes(b"PK no zip")
    assert skops_schema(path) is None


# ---- files that execute nothing


def test_skops_gives_the_probabilities_of_joblib_bit_for_bit(fitted, tmp_path):
    by_joblib = load_pipeline(save_pipeline(fitted, tmp_path / "m.joblib"))
    by_skops = load_pipeline(save_pipeline(fitted, tmp_path / "m.skops", format="skops"))
    assert np.array_equal(by_skops.predict_proba(TEXTS), by_joblib.predict_proba(TEXTS))
    assert verify_pipeline(tmp_path / "m.skops")["probes"]["difference"] == 0


@pytest.mark.parametrize("load", [load_pipeline, lambda path: joblib.load(path, mmap_mode="c")])
def test_a_mapped_pipeline_can_be_saved_as_skops_and_back(load, fitted, tmp_path):
    loaded = load(save_pipeline(fitted, tmp_path / "m.joblib"))
    again = load_pipeline(save_pipeline(loaded, tmp_path / "m.skops", format="skops"))
    back = load_pipeline(save_pipeline(again, tmp_path / "back.joblib"))
    assert np.array_equal(back.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_a_skops_file_may_be_called_joblib_and_the_other_way_round(fitted, tmp_path):
    save_pipeline(fitted, tmp_path / "m.joblib", format="skops")
    save_pipeline(fitted, tmp_path / "m.skops")
    assert inspect_pipeline(tmp_path / "m.joblib")["format"] == "skops"
    assert inspect_pipeline(tmp_path / "m.skops")["format"] == "joblib"
    assert (
        load_pipeline(tmp_path / "m.joblib").predict(TEXTS).tolist()
        == load_pipeline(tmp_path / "m.skops").predict(TEXTS).tolist()
    )
