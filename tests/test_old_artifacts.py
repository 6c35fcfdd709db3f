"""Files of every format: they open and answer as before. Moving our classes must break this."""

import hashlib
import json
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest

from pipeline import (
    BertVectorizer,
    FineTunedBertClassifier,
    load_pipeline,
    save_pipeline,
    verify_pipeline,
)
from pipeline.saved.manifest import FORMAT_VERSION

HERE = Path(__file__).resolve().parent / "old_artifacts"
FILES = sorted(path for path in HERE.iterdir() if path.suffix in (".joblib", ".skops"))
# The files' own hashes stand here too: a file that is made anew is not the old file.
SHA256 = {
    "finetuned-v1.joblib": "c19adb841286715dc385998522f91d367fdedcf434f811602e909dcb78272f9b",
    "finetuned-v1.skops": "4460ddb8ef605a228935b30f3d2375b72cdd7b83872859ac2a13800d311beabb",
    "v1.joblib": "ba29c9f504e4312eaa382597ec7a09831b828fa3d222bfa5c8ce023c148448ae",
    "v1.skops": "948c7e2cc7bd0aff7a6c08264608c22b3ee3cb58e0434a675041503599e06a0a",
    "v2.joblib": "d9f9a7ec5770ad1c173f32239650104a909c61daf5cf23720ad6712d5dc59f75",
    "v2.skops": "40f718001d958de2cf73a2d58b417824410145d8d915dfad92793b9c18b702b9",
}
# Versions differ from those of then, more every year; the probes decide.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*was made with:pipeline.exceptions.ArtifactWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning"),
]


def said(path):
    probes = json.loads(path.with_name(f"{path.name}.json").read_text())["probes"]
    return probes["inputs"], np.array(probes["outputs"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_old_file_opens_and_says_what_it_said(path):
    model = load_pipeline(path)
    texts, outputs = said(path)
    assert type(model[0]) is (
        FineTunedBertClassifier if path.name.startswith("finetuned-") else BertVectorizer
    )
    assert np.abs(model.predict_proba(texts) - outputs).max() < 1e-4
    assert verify_pipeline(path)["probes"]["n"] == 3


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix == ".joblib"], ids=lambda path: path.name
)
def test_an_old_file_opens_without_us_too(path):
    texts, outputs = said(path)
    assert np.abs(joblib.load(path).predict_proba(texts) - outputs).max() < 1e-4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_old_file_can_be_saved_anew(path, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = load_pipeline(save_pipeline(load_pipeline(path), tmp_path / path.name))
    texts, outputs = said(path)
    assert np.abs(again.predict_proba(texts) - outputs).max() < 1e-4


def test_there_is_a_file_of_every_version_of_the_states():
    finetuned, frozen = (
        [f"{kind}v{version}" for version in range(1, of._state_version + 1)]
        for kind, of in (("finetuned-", FineTunedBertClassifier), ("", BertVectorizer))
    )
    for suffix in (".joblib", ".skops"):
        assert [path.stem for path in FILES if path.suffix == suffix] == [*finetuned, *frozen]
    assert FORMAT_VERSION == 2


def test_no_old_file_was_changed():
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FILES} == SHA256
