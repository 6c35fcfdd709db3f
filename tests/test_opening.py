"""open_file: a file and its manifest are of one moment, and whatever is wrong is said in words."""

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from pipeline.exceptions import ArtifactError
from pipeline.saved import opening
from pipeline.saved.manifest import manifest_path
from pipeline.saved.opening import open_file
from pipeline.saved.skops_file import write_skops
from tests.test_manifest import manifest_of, put


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.joblib"


def content_of(C, path):
    joblib.dump(LogisticRegression(C=C), path.with_name("content"))
    return path.with_name("content").read_bytes()


def opened(path, **asked):
    return open_file(path, **{"hashed": True, "sha256": None, "trusted": frozenset(), **asked})


def test_a_file_comes_with_the_manifest_that_fits_it(path):
    put(path, content_of(3, path))
    model, manifest = opened(path)
    assert model.C == 3
    assert manifest == manifest_of(path)


def test_a_skops_file_comes_the_same_way(path):
    write_skops(LogisticRegression(C=4), path)
    model, manifest = opened(path)
    assert (model.C, manifest) == (4, None)


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
    old = {name: value for name, value in vars(manifest_of(path)).items() if name != "replaces"}
    put(path, content_of(2, path))
    manifest_path(path).write_text(manifest_of(path, replaces=old).to_json())
    assert opened(path)[0].C == 2
    path.write_bytes(before)
    model, manifest = opened(path)
    assert model.C == 1
    assert manifest.sha256 == old["sha256"]


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"junk", lambda b: b.replace(b"lbfgs", b"lbfgt")]
)
def test_a_file_that_is_not_what_its_manifest_says_is_refused(change, path):
    put(path, content_of(1, path))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(
        ArtifactError,
        match=r"is not the file that was saved: it has .*, not .*, as m\.joblib\.json says",
    ):
        opened(path)


def test_without_the_hash_the_size_alone_is_compared(path):
    put(path, content_of(1, path))
    path.write_bytes(path.read_bytes().replace(b"lbfgs", b"lbfgt"))
    assert opened(path, hashed=False)[0].solver == "lbfgt"
    path.write_bytes(path.read_bytes() + b"junk")
    with pytest.raises(ArtifactError, match=r"it has \d+ bytes, not \d+"):
        opened(path, hashed=False)


@pytest.mark.parametrize("hashed", [True, False])
def test_a_hash_known_from_elsewhere_is_held_against_the_file(hashed, path):
    put(path, content_of(1, path))
    sha256 = manifest_of(path).sha256
    assert opened(path, sha256=sha256.upper(), hashed=hashed)[0].C == 1
    with pytest.raises(
        ArtifactError, match=rf"has sha256 {sha256}, not {'0' * 64}, which you asked for"
    ):
        opened(path, sha256="0" * 64, hashed=hashed)


def test_every_refused_name_is_told_at_once(path):
    joblib.dump([FunctionTransformer(np.load), FunctionTransformer(np.testing.measure)], path)
    with pytest.raises(
        ArtifactError,
        match=r"is refused: it names numpy\.load, numpy.*measure: not on .*Nothing of it was run",
    ):
        opened(path)


def test_a_damaged_manifest_is_named_and_not_the_file(path):
    put(path, content_of(1, path))
    manifest_path(path).write_text("{")
    with pytest.raises(ArtifactError, match=r"m\.joblib\.json is damaged"):
        opened(path)


def test_without_skops_the_message_is_what_to_install(path, monkeypatch):
    import sys

    write_skops(LogisticRegression(), path)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(ArtifactError, match="pip install 'bert-vectorizer"):
        opened(path)
