"""Versions: what is installed is told, and what differs is told with both numbers."""

import sys

import pytest

from pipeline import __version__
from pipeline.exceptions import CheckpointError
from pipeline.saved import manifest
from pipeline.saved.manifest import differing_versions, installed_versions, refuse_newer_state


@pytest.mark.parametrize(
    ("package", "version", "differs"),
    [
        ("torch", "2.1.0", True),
        ("torch", ".".join(installed_versions()["torch"].split(".")[:2]) + ".99+cu130", False),
        ("torch", ".".join(installed_versions()["torch"].split(".")[:2]) + "+cu130", False),
        ("scikit-learn", installed_versions()["scikit-learn"] + ".post1", True),
        ("numpy", "1.26.4", True),
        ("tokenizers", "not installed", True),
        ("joblib", "0.1", False),
        ("python", "3.9.0", False),
        ("pipeline", "9.9.9", False),
        ("unheard-of", "1", False),
    ],
)
def test_what_decides_numbers_is_compared(package, version, differs):
    told = differing_versions({**installed_versions(), package: version})
    assert told == (
        [f"{package} {version}, here {installed_versions()[package]}"] if differs else []
    )


def test_the_versions_of_python_and_of_the_package_are_told():
    told = installed_versions()
    assert (told["pipeline"], told["python"]) == (__version__, sys.version.split()[0])


def test_a_package_that_is_missing_is_told_as_missing(monkeypatch):
    monkeypatch.setattr(manifest, "PACKAGES", ("no-such-package",))
    assert installed_versions()["no-such-package"] == "not installed"


def test_a_state_of_the_future_is_refused_with_both_versions_and_others_are_not():
    refuse_newer_state("BertVectorizer", {"pipeline": "9.9", "state_version": 2}, 2)
    with pytest.raises(
        CheckpointError,
        match=r"This BertVectorizer was saved by version 9\.9 .*state 3.*up to 2\. Upgrade",
    ):
        refuse_newer_state("BertVectorizer", {"pipeline": "9.9", "state_version": 3}, 2)
