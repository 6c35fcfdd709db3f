"""save_pipeline and load_pipeline: the same bits come back, and every wrong file is named."""

import contextlib
import hashlib
import json
import sqlite3
import sys
import types
from collections import OrderedDict
from datetime import datetime, timedelta
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from pipeline import (
    ArtifactError,
    BertVectorizer,
    CheckpointError,
    cache_info,
    load_pipeline,
    make_sentiment_pipeline,
    save_pipeline,
    verify_pipeline,
)
from pipeline.exceptions import ArtifactWarning
from pipeline.saved.artifact import record_scores
from pipeline.saved.manifest import manifest_path
from pipeline.saved.opening import PROBES
from tests.conftest import TEXTS, build_model

LABELS = ["positive" if i % 3 else "negative" for i in range(len(TEXTS))]


def fit(model, labels=LABELS, **options):
    return make_sentiment_pipeline(model=model, **options).fit(TEXTS, labels)


@pytest.fixture(scope="module")
def fitted(tiny_bert):
    return fit(tiny_bert)


@pytest.fixture
def path(fitted, tmp_path):
    """Give the saved file of `fitted`."""
    return save_pipeline(fitted, tmp_path / "m.joblib")


def weights_of(loaded):
    """Read the vectorizer's own state: a shared encoder would hide a damaged file."""
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


def test_a_model_given_as_a_path_is_saved_as_text(tiny_bert, tmp_path):
    pipeline = fit(Path(tiny_bert))
    loaded = load_pipeline(save_pipeline(pipeline, tmp_path / "m.joblib"))
    assert loaded[0].model == tiny_bert
    assert pipeline[0].model == Path(tiny_bert)
    assert np.array_equal(loaded.predict_proba(TEXTS), pipeline.predict_proba(TEXTS))


@pytest.mark.parametrize("cache", ["memory", "folder", None])
def test_probe_texts_leave_no_trace_in_a_cache_and_its_counts(cache, tiny_bert, tmp_path):
    folder = tmp_path / "cache"
    pipeline = make_sentiment_pipeline(
        model=tiny_bert, layers=(1, 2), cache=folder if cache == "folder" else cache
    )
    texts = sorted(set(TEXTS) - set(PROBES))
    pipeline.fit(texts, LABELS[: len(texts)])
    before = cache_info()
    stored = cached_keys(folder)
    path = save_pipeline(pipeline, tmp_path / "m.joblib")
    assert cached_keys(folder) == stored
    assert cache_info() == before
    load_pipeline(path)
    verify_pipeline(path)
    assert cache_info()[:3] == before[:3]
    pipeline.predict([*PROBES])  # the user's own are counted
    assert cache_info().texts_encoded == before.texts_encoded + len(PROBES)
    assert len(cached_keys(folder)) == len(stored) + (3 * len(PROBES) if cache == "folder" else 0)


def cached_keys(folder):
    if not folder.exists():
        return []
    (file,) = folder.glob("*.sqlite*")
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return sorted(key for (key,) in connection.execute("SELECT k FROM e"))


def test_the_file_is_an_ordinary_joblib_file_that_needs_no_model_folder(tmp_path):
    folder = build_model(tmp_path / "model", "bert", seed=7)
    pipeline = fit(str(folder))
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
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.joblib", "m.joblib.json"]
    assert np.array_equal(
        load_pipeline(kind(path)).predict_proba(["film"]), fitted.predict_proba(["film"])
    )


def test_loaded_weights_are_mapped_from_the_file_and_a_stray_write_stays_in_memory(fitted, path):
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
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(error, path, tiny_bert):
    before = path.read_bytes()
    broken = fit(tiny_bert)
    broken[-1].bomb_ = Bomb(error)
    with pytest.raises(type(error), match=str(error)):
        save_pipeline(broken, path)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == [path, manifest_path(path)]
    load_pipeline(path)


def test_a_reader_of_the_old_file_keeps_it_when_it_is_overwritten(fitted, tmp_path, path):
    other_folder = build_model(tmp_path / "model", "bert", seed=8)
    other = fit(str(other_folder), LABELS[::-1])
    reader = load_pipeline(path)
    save_pipeline(other, path)
    assert digest(weights_of(reader)) == digest(weights_of(fitted)) != digest(weights_of(other))
    assert np.array_equal(reader.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert np.array_equal(load_pipeline(path).predict_proba(TEXTS), other.predict_proba(TEXTS))


def test_a_loaded_pipeline_can_be_saved_over_its_own_file(fitted, path):
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


@pytest.mark.parametrize("value", [{"a": 1}, LogisticRegression, "m.joblib", None])
def test_what_is_no_estimator_is_not_saved(value, tmp_path):
    with pytest.raises(TypeError, match=r"pipeline is .*; expected a fitted estimator"):
        save_pipeline(value, tmp_path / "m.joblib")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file_to_save_to_or_to_load_from(fitted, tmp_path):
    with pytest.raises(
        IsADirectoryError, match=r"is a folder; name a file, such as .*sentiment\.joblib"
    ):
        save_pipeline(fitted, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        load_pipeline(tmp_path)


def test_a_missing_file_says_what_writes_one(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.joblib does not exist; train writes one"
    ):
        load_pipeline(tmp_path / "nothing.joblib")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (
            b"<!DOCTYPE html>\n<html><body>404</body></html>",
            "it is a web page; the download went wrong",
        ),
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
    with pytest.raises(ValueError, match=rf"m\.joblib is not a saved pipeline: {message}"):
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
        with pytest.raises(ArtifactError, match=r"cut\.joblib cannot be read: it .*Copy it again"):
            load_pipeline(path)


@pytest.mark.parametrize(
    ("value", "kind"),
    [({"weights": 1}, "dict"), (LogisticRegression(), "LogisticRegression"), ([1, 2], "list")],
)
def test_a_joblib_file_of_something_else_names_what_it_holds(value, kind, tmp_path):
    joblib.dump(value, tmp_path / "m.joblib")
    with pytest.raises(ValueError, match=rf"m\.joblib holds a {kind}, not a Pipeline"):
        load_pipeline(tmp_path / "m.joblib")


def _save_with_a_function_of(module, tmp_path):
    exec("def clean(X): return X", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        pipeline = make_pipeline(FunctionTransformer(module.clean), LogisticRegression()).fit(
            [[0], [1]], [0, 1]
        )
        with pytest.warns(ArtifactWarning, match=rf"trusted=\['{module.__name__}\.clean'\]"):
            return save_pipeline(pipeline, tmp_path / "m.joblib", probes=[[0.0], [1.0]])
    finally:
        del sys.modules[module.__name__]


def test_a_file_that_needs_a_module_which_is_not_here_names_it(tmp_path):
    path = _save_with_a_function_of(types.ModuleType("cleaning_of_last_year"), tmp_path)
    with pytest.raises(ArtifactError, match=r"m\.joblib needs the module 'cleaning_of_last_year'"):
        load_pipeline(path, trusted=["cleaning_of_last_year.clean"])


def test_a_file_that_needs_a_function_which_is_not_here_names_it(tmp_path, monkeypatch):
    path = _save_with_a_function_of(types.ModuleType("cleaning"), tmp_path)
    monkeypatch.setitem(sys.modules, "cleaning", types.ModuleType("cleaning"))
    with pytest.raises(ArtifactError, match=r"m\.joblib .*'clean'"):
        load_pipeline(path, trusted=["cleaning.clean"])


def test_a_file_of_a_newer_version_asks_for_an_upgrade_and_is_not_called_damaged(
    fitted, tmp_path, monkeypatch
):
    with monkeypatch.context() as newer:
        newer.setattr(BertVectorizer, "_state_version", 99)
        path = save_pipeline(fitted, tmp_path / "m.joblib")
    with pytest.raises(ValueError, match="Upgrade to open it") as caught:
        load_pipeline(path)
    assert "is damaged" not in str(caught.value)


# ---- what is in the file


def vectors(pipeline, texts=TEXTS):
    return pipeline[:-1].transform(texts)


def test_the_same_array_is_handed_out_each_time(tiny_bert, tmp_path):
    for layers in ("all", 0):  # whole, and cut
        fitted = fit(tiny_bert, layers=layers)
        assert weights_of(fitted) is weights_of(fitted)
        assert weights_of(make_pipeline(fitted[0], fitted[1])) is weights_of(fitted)
        loaded = load_pipeline(save_pipeline(fitted, tmp_path / "m.joblib"))
        assert weights_of(loaded) is weights_of(loaded)


def test_only_what_is_run_is_stored(tiny_bert, tmp_path):
    sizes = []
    for layers in (0, 1, 2, 3):
        fitted = fit(tiny_bert, layers=layers, cache=None)
        path = save_pipeline(fitted, tmp_path / "m.joblib")
        loaded = load_pipeline(path)
        assert np.array_equal(vectors(loaded), vectors(fitted))
        assert load_pipeline(save_pipeline(loaded, tmp_path / "again.joblib"))[0].layers_ == (
            layers,
        )
        sizes.append(path.stat().st_size)
    assert sizes == sorted(set(sizes))
    assert sizes[0] < 0.5 * sizes[-1]


def test_a_file_with_fewer_layers_may_be_given_a_cache(tiny_bert, tmp_path):
    fitted = fit(tiny_bert, layers=1)
    loaded = load_pipeline(save_pipeline(fitted, tmp_path / "m.joblib"))
    expected = vectors(loaded)
    loaded.set_params(bertvectorizer__cache=str(tmp_path / "cache"))
    for _ in range(2):
        assert np.abs(vectors(loaded) - expected).max() < 1e-5


def test_a_state_holds_no_torch_and_no_transformers_object(fitted):
    def kinds(value):
        yield type(value)
        for one in (
            value.values()
            if isinstance(value, dict)
            else value
            if isinstance(value, (list, tuple))
            else ()
        ):
            yield from kinds(one)

    modules = {kind.__module__.split(".")[0] for kind in kinds(fitted[0].__getstate__())}
    assert modules == {"builtins", "numpy"}


def test_the_default_model_opens_where_its_pip_copy_is_not_installed(tmp_path, monkeypatch):
    model = make_sentiment_pipeline(layers=0, cache=None).fit(TEXTS, LABELS)
    path = save_pipeline(model, tmp_path / "m.joblib")
    monkeypatch.setattr("pipeline.checkpoints.checkpoint.INSTALLED", {})
    assert np.array_equal(load_pipeline(path).predict_proba(TEXTS), model.predict_proba(TEXTS))
    assert path.stat().st_size < 0.6 * 91e6


@pytest.mark.parametrize("load", [load_pipeline, joblib.load])
def test_a_file_made_with_cuda_opens_on_a_machine_without(load, path, tmp_path):
    elsewhere = load_pipeline(path).set_params(
        bertvectorizer__device="cuda:7", bertvectorizer__dtype="float16"
    )
    joblib.dump(elsewhere, tmp_path / "cuda.joblib")
    if load is load_pipeline:
        with pytest.warns(
            UserWarning, match="device='cuda:7', dtype='float16', which this machine cannot do"
        ):
            save_pipeline(elsewhere, tmp_path / "cuda.joblib")
        with pytest.warns(UserWarning, match="running with 'auto'"):
            loaded = load(tmp_path / "cuda.joblib")
    else:
        loaded = load(tmp_path / "cuda.joblib")
    with pytest.warns(
        UserWarning, match=r"set_params\(device='auto', dtype='auto'\) to make this permanent"
    ):
        found = loaded.predict_proba(TEXTS)
    assert np.array_equal(found, load_pipeline(path).predict_proba(TEXTS))
    loaded.set_params(bertvectorizer__device="auto", bertvectorizer__dtype="auto").predict(TEXTS)


# ---- weights inside, or their hashes


@pytest.mark.parametrize("format", ["joblib", "skops"])
def test_weights_inside_and_weights_by_hash_give_the_same_bits(format, tiny_bert, tmp_path):
    files = []
    for inside in (True, False):
        model = fit(tiny_bert, cache=None, weights_in_artifact=inside)
        files.append(save_pipeline(model, tmp_path / f"{inside}.{format}", format=format))
    inside, by_hash = map(load_pipeline, files)
    assert np.array_equal(vectors(inside), vectors(by_hash))
    assert np.array_equal(inside.predict_proba(TEXTS), by_hash.predict_proba(TEXTS))
    assert files[1].stat().st_size < 0.3 * files[0].stat().st_size


def test_weights_by_hash_are_compared_at_first_use_and_may_lie_elsewhere(tmp_path):
    folder = build_model(tmp_path / "model", "bert", seed=3)
    model = fit(str(folder), weights_in_artifact=False)
    expected = model.predict_proba(TEXTS)
    path = save_pipeline(model, tmp_path / "m.joblib")
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(
        ArtifactError, match=r"fails its self-test: it cannot answer any more \(CheckpointError"
    ):
        load_pipeline(path)
    loaded = load_pipeline(path, verify="sha256").set_params(bertvectorizer__model=str(moved))
    assert np.allclose(loaded.predict_proba(TEXTS), expected, atol=1e-6)
    build_model(moved, "bert", seed=4)
    with pytest.raises(
        CheckpointError,
        match=r"fitted with another .* than the one found .*model\.safetensors differ in sha256",
    ):
        load_pipeline(path, verify="sha256").set_params(bertvectorizer__model=str(moved)).predict(
            TEXTS
        )


# ---- the manifest


def manifest_values(path):
    return json.loads(manifest_path(path).read_text())


def test_the_manifest_says_what_is_inside(fitted, tiny_bert, tmp_path):
    path = save_pipeline(
        fitted, tmp_path / "m.joblib", scores={"accuracy": np.float64(0.8), "curve": np.ones(2)}
    )
    told = manifest_values(path)
    assert told["size"] == path.stat().st_size
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["classes"] == ["negative", "positive"]
    assert told["vectorizers"][0]["source"]["sha256"] == fitted[0].source_["sha256"]
    assert (told["vectorizers"][0]["layers"], told["vectorizers"][0]["pooling"]) == (
        [0, 1, 2, 3],
        "mean",
    )
    assert told["n_training_texts"] == len(TEXTS)
    assert told["scores"] == {"accuracy": 0.8, "curve": [1.0, 1.0]}
    assert len(told["probes"]["inputs"]) == 3
    assert np.array_equal(told["probes"]["outputs"], fitted.predict_proba(told["probes"]["inputs"]))
    assert save_pipeline(fitted, path, n_training_texts=9) == path
    assert manifest_values(path)["n_training_texts"] == 9


def test_a_file_without_a_manifest_is_opened_and_said_to_be_unverified(fitted, path):
    manifest_path(path).unlink()
    with pytest.warns(
        ArtifactWarning, match=r"has no manifest \(m\.joblib\.json\).*save_pipeline writes one"
    ):
        loaded = load_pipeline(path)
    assert np.array_equal(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    with pytest.raises(ArtifactError, match="nothing to verify it by"):
        verify_pipeline(path)


@pytest.mark.parametrize("part", ["weights", "coef_"])
def test_a_flipped_bit_is_found(part, fitted, monkeypatch, path):
    content = bytearray(path.read_bytes())
    needle = (
        np.asarray(weights_of(fitted)).tobytes()[-64:]
        if part == "weights"
        else fitted[-1].coef_.tobytes()[:64]
    )
    at = content.rindex(needle)
    content[at + 2] ^= 1
    path.write_bytes(content)
    joblib.load(path)  # which does not notice
    with pytest.raises(ArtifactError, match="is not the file that was saved: it has sha256"):
        load_pipeline(path)
    manifest_path(path).unlink()
    if part == "weights":  # they carry their hash with them
        monkeypatch.setattr("pipeline.bert.encoder._loaded", OrderedDict())
        with pytest.warns(ArtifactWarning, match="no manifest"):
            loaded = load_pipeline(path)
        with pytest.raises(
            CheckpointError, match=r"The weights of .* in this file have sha256 .* damaged"
        ):
            loaded.predict(TEXTS)
        with pytest.raises(CheckpointError, match=r"The weights of .* in this file have sha256"):
            joblib.load(path).predict(TEXTS)


def test_the_texts_of_config_and_tokenizer_are_held_against_their_hashes(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "m.joblib")
    content = (tmp_path / "m.joblib").read_bytes()
    (tmp_path / "m.joblib").write_bytes(content.replace(b'"lowercase": true', b'"lowercase": TRUE'))
    with pytest.raises(
        CheckpointError,
        match=r"The tokenizer\.json in this file is not the one that the vectorizer was fitted",
    ):
        joblib.load(tmp_path / "m.joblib")
    with pytest.raises(
        ArtifactError, match=r"m\.joblib: The tokenizer\.json in this file is not the one"
    ):
        load_pipeline(tmp_path / "m.joblib")


def test_a_file_written_over_in_place_while_it_is_open_is_not_used(path, monkeypatch):
    monkeypatch.setattr("pipeline.bert.encoder._loaded", OrderedDict())
    loaded = load_pipeline(path, verify="size")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\0" * 64)
    with pytest.raises(CheckpointError, match="or was replaced while it was open"):
        loaded.predict(TEXTS)


def test_weights_that_are_not_those_of_the_state_are_not_saved_again(fitted, tmp_path):
    other = fit(str(build_model(tmp_path / "other", "bert", seed=5)))
    state = fitted[0].__getstate__()
    state["_checkpoint"] = {**state["_checkpoint"], "weights": weights_of(other)}
    mixed = BertVectorizer()
    mixed.__setstate__(state)
    with pytest.raises(CheckpointError, match="in this file have sha256"):
        mixed.verify_weights()
    with pytest.raises(CheckpointError, match="in this file have sha256"):
        save_pipeline(make_pipeline(mixed, fitted[1]), tmp_path / "m.joblib")
    assert not (tmp_path / "m.joblib").exists()
    assert np.array_equal(mixed.fit(TEXTS).transform(TEXTS), fitted[0].transform(TEXTS))


# ---- a small file, without BERT

ROWS = np.arange(12.0).reshape(6, 2)


def doubled(rows):
    return np.multiply(rows, 2)


@pytest.fixture
def small(tmp_path):
    """Give the saved file of a classifier of numbers."""
    classifier = LogisticRegression().fit(ROWS, [0, 1] * 3)
    classifier.note_ = "some words"
    columns = {"text": "review", "label": "stars"}
    return save_pipeline(classifier, tmp_path / "small.joblib", probes=ROWS[:2], columns=columns)


def test_a_classifier_alone_is_saved_as_a_pipeline_of_one_step(small):
    (step,) = load_pipeline(small)
    assert (type(step), step.note_) == (LogisticRegression, "some words")


def test_the_manifest_has_the_columns_and_the_time_in_utc(small):
    told = manifest_values(small)
    assert told["columns"] == {"text": "review", "label": "stars"}
    assert datetime.fromisoformat(told["created"]).utcoffset() == timedelta(0)


def test_a_change_that_no_probe_can_show_is_found_by_the_hash(small):
    small.write_bytes(small.read_bytes().replace(b"some words", b"some wordt"))
    for opened in (load_pipeline, verify_pipeline):
        with pytest.raises(ArtifactError, match="is not the file that was saved"):
            opened(small)


def test_only_the_file_that_is_asked_for_is_opened(small):
    assert load_pipeline(small, sha256=hashlib.sha256(small.read_bytes()).hexdigest())
    with pytest.raises(ArtifactError, match="is not the requested file"):
        load_pipeline(small, sha256="0" * 64)


def test_scores_that_a_manifest_cannot_hold_are_named(small):
    with pytest.raises(TypeError, match=r"scores\['a'\] is a set"):
        record_scores(small, {"a": {1}})


@pytest.mark.parametrize("format", ["joblib", "skops"])
def test_a_name_that_will_be_refused_is_told_when_it_is_saved(format, tmp_path):
    model = make_pipeline(FunctionTransformer(doubled), LogisticRegression()).fit(ROWS, [0, 1] * 3)
    path, trusted = tmp_path / f"m.{format}", f"{__name__}.doubled"
    with pytest.warns(ArtifactWarning, match=rf"will refuse .*{format}: it names {trusted}"):
        save_pipeline(model, path, format=format, probes=ROWS[:2])
    assert load_pipeline(path, trusted=trusted).predict(ROWS).tolist()


def test_why_a_file_has_no_self_test_is_told_in_the_first_line_of_the_error(small):
    reason = r"plain texts \(ValueError: Expected 2D array, got 1D array instead:\), so"
    with pytest.warns(ArtifactWarning, match=reason):
        save_pipeline(load_pipeline(small), small)


def test_without_a_manifest_the_model_says_what_it_was_made_with(small, fitted, monkeypatch):
    monkeypatch.setattr("pipeline.fitted.installed_versions", lambda: {"torch": "1.0.0"})
    old = save_pipeline(fitted, small.with_name("old.joblib"))
    monkeypatch.undo()
    for path, expected in (
        (old, ["has no manifest", "was made with torch 1.0.0, here"]),
        (small, ["has no manifest"]),
    ):
        manifest_path(path).unlink()
        with pytest.warns(ArtifactWarning) as caught:
            load_pipeline(path)
        for warning, words in zip(caught, expected, strict=True):
            assert words in str(warning.message)


def test_warnings_point_at_the_line_that_calls(small, tmp_path):
    loaded = load_pipeline(small)
    manifest_path(small).unlink()
    with pytest.warns(ArtifactWarning) as opened:
        load_pipeline(small)
    with pytest.warns(ArtifactWarning) as saved:
        save_pipeline(loaded, tmp_path / "m.joblib")
    assert [warning.filename for warning in (*opened, *saved)] == [__file__] * 2
