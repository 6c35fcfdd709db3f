"""Signed pipelines: what a trusted key signed opens, and nothing else."""

import contextlib
import os
import shutil
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import (
    ArtifactError,
    inspect_pipeline,
    load_pipeline,
    save_pipeline,
    score_table,
    verify_pipeline,
)
from pipeline.saved.artifact import record_scores
from pipeline.saved.signing import signature_place
from tests.commands import ROWS, assert_one_error_line

X, Y = np.arange(12.0).reshape(6, 2), [0, 1] * 3
OURS, THEIRS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def model(C):
    return make_pipeline(LogisticRegression(C=C)).fit(X, Y)


def save(path, C=1.0, sign=OURS):
    return save_pipeline(model(C), path, probes=X[:2], sign=sign)


def opened(path, key=OURS, **options):
    """Return the C of what opens."""
    return load_pipeline(path, trusted_key=key.public_key(), **options)[-1].C


def beside(path):
    return [path, path.with_name(f"{path.name}.json"), path.with_name(f"{path.name}.json.sig")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.joblib"


@pytest.fixture
def pem(tmp_path):
    """Write a pair of keys as openssl does, and give their paths."""
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    encoding, formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private.write_bytes(OURS.private_bytes(encoding, formats, serialization.NoEncryption()))
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(OURS.public_key().public_bytes(encoding, kind))
    return private, public


def test_a_signed_file_opens_by_its_key_in_every_form_and_without_a_key(path, pem):
    private, public = pem
    save(path, sign=private)
    ours, theirs = OURS.public_key(), THEIRS.public_key()
    for keys in (public, str(public), ours, [ours], [theirs, public], (key for key in [ours])):
        assert load_pipeline(path, trusted_key=keys)[-1].C == 1
    assert load_pipeline(path)[-1].C == 1
    assert verify_pipeline(path, trusted_key=public)["probes"]["difference"] == 0
    assert inspect_pipeline(path)["signed_by"] == [ours.public_bytes_raw().hex()]


@pytest.mark.parametrize("scores", ['{"a": 1e999}', '{"a": NaN}', r'{"a": "\ud800"}'])
def test_a_manifest_of_what_is_no_json_is_damaged_though_it_is_signed(scores, path):
    manifest = beside(save(path))[1]
    manifest.write_text(manifest.read_text().replace('"scores": null', f'"scores": {scores}'))
    with pytest.raises(ArtifactError, match=r"m\.joblib\.json is damaged"):
        opened(path)
    with pytest.raises(ArtifactError, match=r"m\.joblib\.json is damaged"):
        load_pipeline(path)
    save(path, C=2.0)
    assert opened(path) == 2


def test_a_manifest_is_read_by_people_in_every_language(path):
    save_pipeline(model(1.0), path, probes=X[:2], scores={"名": 1.0}, sign=OURS)
    assert '"名": 1.0' in beside(path)[1].read_text(encoding="utf-8")
    assert opened(path) == 1


def test_a_signature_stands_beside_a_path_and_beside_an_address():
    assert signature_place(Path("m.joblib.json")) == Path("m.joblib.json.sig")
    assert signature_place("s3://in/m.joblib.json") == "s3://in/m.joblib.json.sig"


def test_the_signature_is_that_of_any_other_ed25519_over_the_bytes_of_the_manifest(path):
    _, manifest, signature = beside(save(path))
    name, public, value = signature.read_text().split()
    assert (name, public) == ("ed25519", OURS.public_key().public_bytes_raw().hex())
    OURS.public_key().verify(bytes.fromhex(value), manifest.read_bytes())


def test_what_is_not_signed_by_a_trusted_key_is_refused_with_the_reason(path):
    save(path, sign=None)
    with pytest.raises(ArtifactError, match=r"it is not signed: there is no m\.joblib\.json\.sig"):
        opened(path)
    assert inspect_pipeline(path)["signed_by"] is None
    save(path, sign=THEIRS)
    theirs = THEIRS.public_key().public_bytes_raw().hex()
    with pytest.raises(ArtifactError, match=f"signed by the key {theirs}, not by .*trusted_key"):
        opened(path)
    save(path)
    for content in (b"\xff", b"", beside(path)[2].read_bytes() + b"\xff\n"):
        beside(path)[2].write_bytes(content)
        with pytest.raises(ArtifactError, match=r"its signature, m\.joblib\.json\.sig, is damaged"):
            opened(path)
    beside(path)[1].unlink()
    with pytest.raises(ArtifactError, match="has no manifest"):
        opened(path)


@pytest.mark.parametrize("which", range(3), ids=["file", "manifest", "signature"])
def test_a_change_of_any_byte_is_refused_whatever_is_to_be_verified(which, path):
    changed = beside(save(path))[which]
    whole = changed.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 50)):
        for byte in {whole[at] ^ 1, whole[at] ^ 32, 13} - {whole[at]}:
            changed.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
            with pytest.raises(ArtifactError):
                opened(path, verify="size")
    for content in (b"", whole[:-1], whole + b"\n", whole * 2, whole.replace(b"\n", b"\r\n")):
        if content == whole or (which == 2 and content == whole * 2):  # said twice, it is as true
            continue
        changed.write_bytes(content)
        with pytest.raises(ArtifactError):
            opened(path, verify="size")
    changed.write_bytes(whole)
    assert opened(path, verify="size") == 1


def test_files_of_two_signed_pipelines_are_not_taken_for_a_third(path, tmp_path):
    parts = [beside(save(path)), beside(save(tmp_path / "other.joblib", C=2.0))]
    for mixed in range(1, 7):  # each way to take three files of two
        for n in range(3):
            shutil.copy(parts[mixed >> n & 1][n], beside(tmp_path / "mixed.joblib")[n])
        with pytest.raises(ArtifactError):
            opened(tmp_path / "mixed.joblib")


def test_the_manifest_that_is_taken_is_the_signed_one_and_not_one_around_it(path):
    """Whoever cannot sign must not get a manifest of their own in by what a file replaces."""
    import json

    _, manifest, _ = beside(save(path))
    signed = json.loads(manifest.read_text())
    forged = {**signed, "probes": None, "scores": {"accuracy": 1.0}, "replaces": signed}
    manifest.write_text(json.dumps(forged, indent=2, ensure_ascii=False) + "\n")
    assert verify_pipeline(path, trusted_key=OURS.public_key())["probes"]["n"] == 2


# ---- replacing


@pytest.mark.parametrize("keys", [(OURS, OURS), (OURS, THEIRS), (None, OURS), (OURS, None)])
@pytest.mark.parametrize("crash_at", range(6))
def test_whenever_the_saver_dies_the_old_file_or_the_new_one_opens(
    keys, crash_at, path, monkeypatch
):
    save(path, C=1.0, sign=keys[0])
    real, calls = os.replace, []

    class KilledError(BaseException):
        pass

    def dying(source, target):
        calls.append(target)
        if len(calls) > crash_at:
            raise KilledError
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", dying)
        with contextlib.suppress(KilledError):
            save(path, C=2.0, sign=keys[1])
    found = load_pipeline(path)[-1].C
    signer = keys[int(found) - 1]
    if signer is None:
        with pytest.raises(ArtifactError, match=r"not signed|signed by the key|not what was"):
            opened(path)
    else:
        assert opened(path, signer) == found
    save(path, C=3.0)  # and whoever comes next clears up
    assert opened(path) == 3
    assert len(beside(path)[2].read_text().splitlines()) == 1
    assert len(list(path.parent.iterdir())) == 3


def test_a_signed_file_that_is_replaced_again_and_again_always_opens(path):
    save(path, C=1.0)
    done = threading.Event()

    def replace():
        for i in range(12):
            save(path, C=1.0 + i % 2)
        done.set()

    saver = threading.Thread(target=replace)
    saver.start()
    n = 0
    while not done.is_set():
        assert opened(path, verify="sha256") in (1, 2)
        n += 1
    saver.join()
    assert n > 2


def test_a_file_saved_again_without_a_key_has_no_signature_left(path):
    save(path)
    save(path, sign=None)
    assert not beside(path)[2].exists()


def test_scores_are_recorded_with_the_key_alone(path):
    save(path)
    with pytest.raises(ArtifactError, match=r"is signed, .*give sign=key"):
        record_scores(path, {"accuracy": 0.5})
    assert opened(path) == 1
    record_scores(path, {"accuracy": 0.5}, OURS)
    assert opened(path) == 1
    assert inspect_pipeline(path)["manifest"]["scores"] == {"accuracy": 0.5}


def test_signatures_stand_in_stores_too():
    place = "memory://signed/m.joblib"
    save(place)
    save(place, C=2.0)
    assert opened(place) == 2
    record_scores(place, {"accuracy": 0.5}, OURS)
    assert opened(place) == 2
    save(place, sign=None)
    with pytest.raises(ArtifactError, match=r"memory://signed/m\.joblib is refused: it is not sig"):
        opened(place)
    assert len(fsspec.filesystem("memory").ls("/signed")) == 2


def test_an_inspection_in_a_store_says_who_signed_and_names_a_damaged_manifest_by_its_address():
    place = "memory://inspected/m.joblib"
    save(place)
    found = inspect_pipeline(place)
    assert (found["path"], found["manifest"]["file"]) == (place, "m.joblib")
    assert found["signed_by"] == [OURS.public_key().public_bytes_raw().hex()]
    fsspec.filesystem("memory").pipe_file("/inspected/m.joblib.json", b"{")
    assert inspect_pipeline(place)["manifest"]["error"].startswith(f"{place}.json ")


# ---- keys


def test_what_is_no_key_is_refused_by_its_name_before_anything_is_written(path, pem, tmp_path):
    private, public = pem
    other = tmp_path / "other.pem"
    encoding = serialization.Encoding.PEM
    rsa_key = rsa.generate_private_key(65537, 1024)
    formats = serialization.PrivateFormat.PKCS8
    other.write_bytes(rsa_key.private_bytes(encoding, formats, serialization.NoEncryption()))
    locked = tmp_path / "locked.pem"
    password = serialization.BestAvailableEncryption(b"x")
    locked.write_bytes(OURS.private_bytes(encoding, formats, password))
    (tmp_path / "no.pem").write_text("no key")
    for key in (public, other, locked, tmp_path / "no.pem", rsa_key, OURS.public_key(), 5, b"x"):
        with pytest.raises(ValueError, match=r"sign.*private key.*openssl genpkey"):
            save(path, sign=key)
    with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
        save(path, sign=tmp_path / "missing.pem")
    assert not path.exists()
    save(path)
    for key in (private, other, OURS, [public, 5], rsa_key.public_key(), b"x"):
        with pytest.raises(ValueError, match=r"trusted_key.*public key.*openssl pkey"):
            load_pipeline(path, trusted_key=key)
    with pytest.raises(ValueError, match="trusted_key is empty"):
        load_pipeline(path, trusted_key=[])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (5, "sign is a int; an Ed25519 private key is expected"),
        (OURS.public_key(), "sign is a Ed25519PublicKey; an Ed25519 private key is expected"),
        ("s3://keys/key.pem", r"s3://keys/key\.pem is not a file on this machine"),
    ],
)
def test_a_key_of_another_kind_or_place_is_refused_by_what_it_is(key, message, path):
    with pytest.raises(ValueError, match=message):
        save(path, sign=key)


def test_without_cryptography_the_extra_is_named_where_keys_are_given(path, pem, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    save(path, sign=None)
    assert load_pipeline(path)[-1].C == 1
    for call in (
        lambda: save(path, sign=pem[0]),
        lambda: load_pipeline(path, trusted_key=pem[1]),
    ):
        with pytest.raises(ImportError, match=r"pip install '\.\[sign\]'"):
            call()


# ---- tables and commands


def test_tables_are_scored_by_a_signed_model_alone(light_artifact, tmp_path, data):
    copies = [shutil.copy(part, tmp_path) for part in beside(light_artifact)[:2]]
    with pytest.raises(ArtifactError, match="it is not signed"):
        score_table(copies[0], data, tmp_path / "out", text="text", trusted_key=OURS.public_key())
    save_pipeline(load_pipeline(light_artifact), copies[0], sign=OURS)
    scored = score_table(
        copies[0], data, tmp_path / "out", text="text", trusted_key=OURS.public_key()
    )
    assert scored.n_rows == len(ROWS)


def test_commands_sign_and_open_what_is_signed(run, data, tiny_bert, pem, tmp_path):
    private, public = pem
    out = tmp_path / "m.joblib"
    made = run("train --cv 0 --no-report", sign=private, data=data, bert=tiny_bert, out=out)
    assert made.code == 0, made.err
    told = run("inspect", out).out
    assert f"signature by {OURS.public_key().public_bytes_raw().hex()}, not compared" in told
    assert "held out" in told
    commands = [
        ("verify", out),
        ("predict", "--pipeline", out, "--text", "x"),
        ("explain", "--pipeline", out, "--text", "x"),
        ("evaluate", "--pipeline", out, "--data", data),
    ]
    for command in commands:
        assert run(*command, "--trusted-key", public).code == 0
    beside(out)[2].unlink()
    for command in commands:
        assert_one_error_line(run(*command, "--trusted-key", public), "it is not signed")
