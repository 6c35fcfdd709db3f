"""save_pipeline and load_pipeline: the same bits come back, no half file is ever seen, and every wrong file is named."""

import hashlib
import pickle
import sys
import types
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from pipeline import load_pipeline, make_sentiment_pipeline, save_pipeline
from tests.conftest import TEXTS, build_model

LABELS = ["positive" if i % 3 else "negative" for i in range(len(TEXTS))]


@pytest.fixture(scope="module")
def fitted(tiny_bert):
    return make_sentiment_pipeline(model=tiny_bert).fit(TEXTS, LABELS)


def weights_of(loaded):
    """Of the vectorizer's own state: an encoder may be shared with the model folder, and would hide a damaged file."""
    return loaded[0].__getstate__()["_checkpoint"]["weights"]


def digest(weights):
    return hashlib.sha256(np.asarray(weights).tobytes()).hexdigest()


# ---- there and back


def test_a_loaded_pipeline_gives_the_same_bits(fitted, tmp_path):
    loaded = load_pipeline(save_pipeline(fitted, tmp_path / "m.joblib"))
    assert type(loaded) is Pipeline
    assert np.array_equal(loaded[:-1].transform(TEXTS), fitted[:-1].transform(TEXTS))
    assert np.array_equal(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert loaded.predict(TEXTS).tolist() == fitted.predict(TEXTS).tolist()
    assert repr(loaded) == repr(fitted).replace("BertVectorizer(", "BertVectorizer(cache=None, ")


def test_the_file_is_an_ordinary_joblib_file_that_needs_no_model_folder(tmp_path):
    folder = build_model(tmp_path / "model", "bert", seed=7)
    pipeline = make_sentiment_pipeline(model=str(folder)).fit(TEXTS, LABELS)
    before = pipeline.predict_proba(TEXTS)
    path = save_pipeline(pipeline, tmp_path / "m.joblib")
    for file in folder.iterdir():
        file.rename(file.with_name(f"gone-{file.name}"))
    assert np.array_equal(joblib.load(path).predict_proba(TEXTS), before)
    assert np.array_equal(load_pipeline(path).predict_proba(TEXTS), before)


@pytest.mark.parametrize("kind", [str, Path])
def test_missing_folders_are_made_and_the_path_is_returned(kind, fitted, tmp_path):
    path = tmp_path / "a" / "b" / "m.joblib"
    assert save_pipeline(fitted, kind(path)) == path
    assert [p.name for p in path.parent.iterdir()] == ["m.joblib"]
    assert np.array_equal(load_pipeline(kind(path)).predict_proba(["film"]), fitted.predict_proba(["film"]))


def test_the_weights_of_a_loaded_pipeline_are_mapped_from_its_file_and_a_stray_write_stays_in_memory(fitted, tmp_path):
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    before = path.read_bytes()
    weights = weights_of(load_pipeline(path))
    mapped = weights
    while not isinstance(mapped, np.memmap):
        assert mapped.base is not None, "the weights were copied into memory"
        mapped = mapped.base
    assert Path(mapped.filename) == path
    weights[:8] = 255
    assert path.read_bytes() == before
    assert digest(weights_of(load_pipeline(path))) == digest(weights_of(fitted))


# ---- whole or not at all


class Bomb:
    """A part that fails in the middle of being written."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("disk on fire"), KeyboardInterrupt("Ctrl-C")])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(error, fitted, tiny_bert, tmp_path):
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    before = path.read_bytes()
    broken = make_sentiment_pipeline(model=tiny_bert).fit(TEXTS, LABELS)
    broken[-1].bomb_ = Bomb(error)
    with pytest.raises(type(error), match=str(error)):
        save_pipeline(broken, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_while_writing_a_new_file_leaves_no_file(tiny_bert, tmp_path):
    broken = make_sentiment_pipeline(model=tiny_bert).fit(TEXTS, LABELS)
    broken[-1].bomb_ = Bomb(RuntimeError("disk on fire"))
    with pytest.raises(RuntimeError, match="disk on fire"):
        save_pipeline(broken, tmp_path / "m.joblib")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_of_the_old_file_keeps_it_when_it_is_overwritten(fitted, tmp_path):
    other_folder = build_model(tmp_path / "model", "bert", seed=8)
    other = make_sentiment_pipeline(model=str(other_folder)).fit(TEXTS, LABELS[::-1])
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    reader = load_pipeline(path)
    save_pipeline(other, path)
    assert digest(weights_of(reader)) == digest(weights_of(fitted)) != digest(weights_of(other))
    assert np.array_equal(reader.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert np.array_equal(load_pipeline(path).predict_proba(TEXTS), other.predict_proba(TEXTS))


def test_a_loaded_pipeline_can_be_saved_over_its_own_file(fitted, tmp_path):
    path = save_pipeline(fitted, tmp_path / "m.joblib")
    loaded = load_pipeline(path)
    loaded.set_params(bertvectorizer__batch_tokens=64)
    save_pipeline(loaded, path)
    again = load_pipeline(path)
    assert again.get_params()["bertvectorizer__batch_tokens"] == 64
    assert digest(weights_of(again)) == digest(weights_of(fitted))


# ---- what is refused


def test_an_unfitted_pipeline_is_refused_before_anything_is_written(tiny_bert, tmp_path):
    with pytest.raises(NotFittedError, match=r"Pipeline instance is not fitted yet.*Call 'fit'"):
        save_pipeline(make_sentiment_pipeline(model=tiny_bert), tmp_path / "new" / "m.joblib")
    assert list(tmp_path.iterdir()) == []


def test_what_load_pipeline_would_refuse_is_not_saved_either(tmp_path):
    with pytest.raises((TypeError, ValueError), match=r"LogisticRegression.*Pipeline"):
        save_pipeline(LogisticRegression().fit([[0], [1]], [0, 1]), tmp_path / "m.joblib")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file_to_save_to_or_to_load_from(fitted, tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder; name a file, such as .*sentiment\.joblib"):
        save_pipeline(fitted, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        load_pipeline(tmp_path)


def test_a_missing_file_says_what_writes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.joblib does not exist; train writes one"):
        load_pipeline(tmp_path / "nothing.joblib")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "it is a web page; the download went wrong"),
        (b"\n  <html><body>sign in</body></html>", "it is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 91000000\n",
            "it is a Git LFS pointer; run git lfs pull",
        ),
        (b"PK\x03\x04\x14\x00\x00\x00", "it is a zip archive"),
        (b"text,label\nA film,positive\n", "it is not a joblib file"),
    ],
)
def test_a_file_that_is_something_else_is_called_by_its_name(content, message, tmp_path):
    path = tmp_path / "m.joblib"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"m\.joblib is no saved pipeline: {message}"):
        load_pipeline(path)


def test_a_compressed_joblib_file_is_not_called_something_else(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "m.joblib", compress=3)
    with pytest.raises(ValueError, match=r"m\.joblib is .*compress"):
        load_pipeline(tmp_path / "m.joblib")


def test_a_file_cut_anywhere_is_called_damaged(fitted, tmp_path):
    whole = save_pipeline(fitted, tmp_path / "m.joblib").read_bytes()
    start = whole.index(b"bertvectorizer")
    cuts = {*range(1, start + 400, 23), *np.linspace(start, len(whole) - 1, 60).astype(int)}
    path = tmp_path / "cut.joblib"
    for cut in sorted(map(int, cuts)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"cut\.joblib is damaged or cut short .*Copy or train it again"):
            load_pipeline(path)


@pytest.mark.parametrize(
    ("value", "kind"), [({"weights": 1}, "dict"), (LogisticRegression(), "LogisticRegression"), ([1, 2], "list")]
)
def test_a_joblib_file_of_something_else_names_what_it_holds(value, kind, tmp_path):
    joblib.dump(value, tmp_path / "m.joblib")
    with pytest.raises(ValueError, match=rf"m\.joblib holds a {kind}, not a Pipeline"):
        load_pipeline(tmp_path / "m.joblib")


def _save_with_a_function_of(module, tmp_path):
    exec("def clean(X): return X", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        pipeline = make_pipeline(FunctionTransformer(module.clean), LogisticRegression()).fit([[0], [1]], [0, 1])
        return save_pipeline(pipeline, tmp_path / "m.joblib")
    finally:
        del sys.modules[module.__name__]


def test_a_file_that_needs_a_module_which_is_not_here_names_it(tmp_path):
    path = _save_with_a_function_of(types.ModuleType("cleaning_of_last_year"), tmp_path)
    with pytest.raises(ValueError, match=r"m\.joblib needs the module 'cleaning_of_last_year'"):
        load_pipeline(path)


def test_a_file_that_needs_a_function_which_is_not_here_names_it(tmp_path, monkeypatch):
    path = _save_with_a_function_of(types.ModuleType("cleaning"), tmp_path)
    monkeypatch.setitem(sys.modules, "cleaning", types.ModuleType("cleaning"))
    with pytest.raises(ValueError, match=r"m\.joblib .*'clean'"):
        load_pipeline(path)


def test_a_file_of_a_newer_version_asks_for_an_upgrade_and_is_not_called_damaged(fitted, tmp_path, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr("pipeline.vectorizer.STATE_VERSION", 99)
        path = save_pipeline(fitted, tmp_path / "m.joblib")
    with pytest.raises(ValueError, match="Upgrade to open it") as caught:
        load_pipeline(path)
    assert "is damaged" not in str(caught.value)


def test_a_pickle_of_garbage_is_called_damaged(tmp_path):
    (tmp_path / "m.joblib").write_bytes(pickle.PROTO + bytes([4]) + b"\xff" * 50)
    with pytest.raises(ValueError, match=r"m\.joblib is damaged or cut short"):
        load_pipeline(tmp_path / "m.joblib")
