"""open_file: a file and its manifest are of one moment, and whatever is wrong is said in words."""

import bz2
import contextlib
import gzip
import hashlib
import itertools
import json
import lzma
import os
import zipfile
import zlib

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from pipeline import inspect_pipeline, load_pipeline, save_pipeline, verify_pipeline
from pipeline.exceptions import ArtifactError, ArtifactWarning
from pipeline.saved import opening
from pipeline.saved.manifest import manifest_path
from pipeline.saved.opening import file_kind, open_file
from pipeline.saved.skops_file import write_skops
from tests.conftest import TEXTS
from tests.test_artifact import manifest_values
from tests.test_joblib_contents import Payload
from tests.test_manifest import manifest_of, put


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.joblib"


def content_of(C, path):
    joblib.dump(LogisticRegression(C=C), path.with_name("content"))
    return path.with_name("content").read_bytes()


def opened(path, **asked):
    return open_file(path, **{"hashed": True, "sha256": None, "trusted": frozenset(), **asked})


# ---- which kind of file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<?xml version='1.0'?>", "it is a web page"),
        (b"\r\n <HTML lang=en>", "it is a web page"),
        (b" <!doctype html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer"),
        (b"PK\x03\x04", "it is a zip archive, complete or truncated, and not a"),
        (b"text,label\n", "it is not a joblib file"),
        (b"a page has <html> in it", "it is not a joblib file"),
        (b"PK", "it is a zip archive"),
        *(
            (compressed, "it is compressed, .* load it with joblib.load and save it again")
            for compressed in (
                *(zlib.compress(b"x"), gzip.compress(b"x"), bz2.compress(b"x")),
                *(lzma.compress(b"x"), lzma.compress(b"x", format=lzma.FORMAT_ALONE)),
                (0x184D2204).to_bytes(4, "little"),  # the frame of LZ4
            )
        ),
    ],
)
def test_the_kind_of_a_file_that_is_no_pipeline_is_named(content, message, path):
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"m\.joblib is not a saved pipeline: {message}"):
        file_kind(path)


def test_the_kind_of_a_saved_file_is_told_by_its_content(path):
    for protocol in range(2, 6):
        joblib.dump({"a": 1}, path, protocol=protocol)
        assert file_kind(path) == "joblib"
    write_skops(LogisticRegression(), path)
    assert file_kind(path) == "skops"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", "x")
    with pytest.raises(ArtifactError, match="it is a zip archive"):
        file_kind(path)
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        file_kind(path.parent)
    with pytest.raises(FileNotFoundError, match="no does not exist; train writes one"):
        file_kind(path / "no")
    with pytest.raises(FileNotFoundError, match="no does not exist"):
        opened(path / "no")


# ---- a file and its manifest


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(path, monkeypatch):
    put(path, content_of(1, path))
    other, real, calls = content_of(2, path), opening.sha256_of, []

    def slow(file):
        calls.append(file)
        found = real(file)
        if len(calls) == 1:
            put(path, other)
        return found

    monkeypatch.setattr(opening, "sha256_of", slow)
    model, manifest = opened(path)
    assert model.C == 2
    assert manifest == manifest_of(path)


def test_a_file_that_is_replaced_between_its_manifest_and_its_hash_is_read_again(path, monkeypatch):
    put(path, content_of(1, path))
    other, real, calls = content_of(2, path), opening.sha256_of, []

    def slow(file):
        calls.append(file)
        if len(calls) == 1:
            put(path, other)
        return real(file)

    monkeypatch.setattr(opening, "sha256_of", slow)
    assert opened(path)[0].C == 2


def test_the_manifest_of_the_moment_of_replacing_serves_for_both_files(path):
    put(path, content_of(1, path))
    before = path.read_bytes()
    old = vars(manifest_of(path))
    put(path, content_of(2, path))
    manifest_path(path).write_text(json.dumps({**vars(manifest_of(path)), "replaces": old}))
    assert opened(path)[0].C == 2
    path.write_bytes(before)
    model, manifest = opened(path)
    assert model.C == 1
    assert manifest.sha256 == old["sha256"]
    values = json.loads(manifest_path(path).read_text())
    nothing_known = {**old, "versions": {}}  # what stands there of a file that had no manifest
    manifest_path(path).write_text(json.dumps({**values, "replaces": nothing_known}))
    model, manifest = opened(path)
    assert (model.C, manifest) == (1, None)


def test_without_the_hash_the_size_alone_is_compared(path):
    put(path, content_of(1, path))
    path.write_bytes(path.read_bytes().replace(b"lbfgs", b"lbfgt"))
    assert opened(path, hashed=False)[0].solver == "lbfgt"
    path.write_bytes(path.read_bytes() + b"junk")
    with pytest.raises(
        ArtifactError,
        match=r"it has \d+ bytes, not \d+.*If another program wrote it on purpose, delete the man",
    ):
        opened(path, hashed=False)


def test_a_file_that_is_replaced_whenever_it_is_read_is_given_up(path, monkeypatch):
    path.write_bytes(b"\x80\x04N.")
    manifest_path(path).write_text(json.dumps(vars(manifest_of(path))))
    real, moments = opening.sha256_of, itertools.count()

    def slow(file):
        os.utime(path, ns=(0, next(moments)))
        return real(file)

    monkeypatch.setattr(opening, "sha256_of", slow)
    with pytest.raises(ArtifactError, match=r"m\.joblib was replaced 100 times"):
        opened(path)
    assert next(moments) == 100


@pytest.mark.parametrize("asked", ["sha256", "nothing"])
def test_a_file_that_is_replaced_by_one_of_the_same_size_and_time_is_read_again(
    asked, path, monkeypatch
):
    """Otherwise what is opened would not be what the hash was taken of."""
    path.write_bytes(content_of(1, path))
    other, real, times = content_of(2, path), opening.sha256_of, path.stat()
    known = {"sha256": real(path)} if asked == "sha256" else {}

    def slow(file):
        found = real(file)
        if file.read_bytes() != other:
            next_file = path.with_name("next")
            next_file.write_bytes(other)
            os.utime(next_file, ns=(times.st_atime_ns, times.st_mtime_ns))
            os.replace(next_file, path)
        calls.append(found)
        return found

    calls = []
    monkeypatch.setattr(opening, "sha256_of", slow)
    if known:
        with pytest.raises(ArtifactError, match="is not the requested file"):
            opened(path, **known)
    else:
        assert opened(path)[0].C == 2
    assert len(calls) == 2


@pytest.mark.parametrize("hashed", [True, False])
def test_a_hash_known_from_elsewhere_is_held_against_the_file(hashed, path):
    put(path, content_of(1, path))
    sha256 = manifest_of(path).sha256
    assert opened(path, sha256=sha256.upper(), hashed=hashed)[0].C == 1
    with pytest.raises(
        ArtifactError, match=rf"not the requested file: it has sha256 {sha256}, not {'0' * 64}"
    ):
        opened(path, sha256="0" * 64, hashed=hashed)


def test_every_refused_name_is_told_at_once(path):
    joblib.dump([FunctionTransformer(np.load), FunctionTransformer(np.testing.measure)], path)
    with pytest.raises(
        ArtifactError,
        match=r"is refused: it names numpy\.load, numpy.*measure: not on .*Nothing of it was run",
    ):
        opened(path)


def test_a_file_whose_parts_do_not_fit_together_is_damaged(path):
    path.write_bytes(b"\x80\x04coperator\nitemgetter\n)R.")  # which takes one argument
    with pytest.raises(ArtifactError, match=r"m\.joblib is damaged or truncated \(TypeError: "):
        opened(path)


@pytest.mark.parametrize(
    ("called", "kind", "message"),
    [
        ("no_such_module.name", ArtifactError, r"m\.joblib needs the module 'no_such_module'"),
        ("math.no_such_name", ArtifactError, r"m\.joblib needs a name that .*'no_such_name'"),
        ("os.listdir", OSError, "care"),  # what the disk says is not taken for damage
        ("warnings.warn", UserWarning, "care"),
    ],
)
def test_what_goes_wrong_in_a_trusted_name_is_told_as_what_it_is(called, kind, message, path):
    path.write_bytes(b"\x80\x04c" + called.replace(".", "\n").encode() + b"\n(Vcare\ntR.")
    with pytest.raises(kind, match=message) as told:
        opened(path, trusted=frozenset([called]))
    assert "is damaged" not in str(told.value)


def test_without_skops_the_message_is_what_to_install(path, monkeypatch):
    import sys

    write_skops(LogisticRegression(), path)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(ArtifactError, match=r"pip install '\.\[skops") as told:
        opened(path)
    assert "is damaged" not in str(told.value)


# ---- poison


def poisoned(where, fitted, payload):
    copy = load_pipeline(fitted)
    if where == "an object array":
        copy[-1].classes_ = np.array([payload, "positive"], dtype=object)
    elif where == "an attribute":
        copy[-1].note_ = payload
    elif where == "a step":
        copy.steps.insert(1, ("evil", payload))
    elif where == "tokenizer_json":
        object.__setattr__(copy[0]._checkpoint, "tokenizer_json", payload)
    elif where == "a parameter":
        copy[0].model = payload
    return copy


PLACES = ["an object array", "an attribute", "a step", "tokenizer_json", "a parameter"]


@pytest.mark.parametrize("where", PLACES)
def test_a_payload_in_a_pipeline_is_refused_and_shown_and_not_run(where, fitted, tmp_path):
    marker = tmp_path / "was run"
    save_pipeline(fitted, tmp_path / "good.joblib")
    path = tmp_path / "m.joblib"
    joblib.dump(poisoned(where, tmp_path / "good.joblib", Payload(marker)), path)
    # whoever can write the file can write its manifest
    good = manifest_values(tmp_path / "good.joblib")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest_path(path).write_text(
        json.dumps({**good, "size": path.stat().st_size, "sha256": sha256})
    )
    with pytest.raises(
        ArtifactError,
        match=r"is refused: it names (posix|nt)\.mkdir: not on the list .*Nothing of it was run",
    ):
        load_pipeline(path)
    found = inspect_pipeline(path)
    assert found["refused"] in (["posix.mkdir"], ["nt.mkdir"])
    assert str(marker) in json.dumps(found["contents"])
    assert f"REFUSED by load_pipeline: {found['refused'][0]}" in repr(found)
    assert not marker.exists()
    with contextlib.suppress(Exception):  # the control: joblib does run it
        joblib.load(path)
    assert marker.exists()


def test_an_own_step_is_opened_where_its_name_is_trusted(fitted, tmp_path):
    pipeline = make_pipeline(FunctionTransformer(str_upper), *fitted)
    name = f"{str_upper.__module__}.str_upper"
    with pytest.warns(
        ArtifactWarning, match=rf"will refuse .*m\.joblib: it names {name}, "
    ) as told:
        path = save_pipeline(pipeline, tmp_path / "m.joblib")
    assert len(told) == 1
    assert f"load_pipeline(path, trusted=[{name!r}])" in str(told[0].message)
    with pytest.raises(
        ArtifactError,
        match=rf"names {name}: not on the list .*trusted=\[\.\.\.\]\) allows more names",
    ):
        load_pipeline(path)
    assert (
        load_pipeline(path, trusted=[name]).predict(TEXTS).tolist()
        == pipeline.predict(TEXTS).tolist()
    )
    assert verify_pipeline(path, trusted=[name])["probes"]["difference"] == 0


def str_upper(X):
    return [x.upper() for x in X]
