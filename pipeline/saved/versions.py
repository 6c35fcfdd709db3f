"""Which versions made a file and which are here. Used by vectorizer, finetuning and artifact."""

import importlib.metadata
import platform
from collections.abc import Mapping
from functools import cache
from typing import Any

from pipeline import __version__
from pipeline.checkpoints.model_files import CheckpointError

# What decides a pipeline's numbers, or how its file is written.
PACKAGES = ("torch", "transformers", "tokenizers", "scikit-learn", "numpy", "joblib")


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    found = {"pipeline": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return tuple(found.items())


def installed_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of those it computes with."""
    return dict(_installed())


def refuse_newer_state(name: str, made_with: Mapping[str, Any], known: int) -> None:
    """Refuse a saved state that this version of the class does not know.

    Parameters
    ----------
    name : str
        Of the class.
    made_with : mapping
        `installed_versions` of then, and ``state_version``.
    known : int
        The newest state that it knows.

    Raises
    ------
    CheckpointError
        With both versions of this package.
    """
    if made_with["state_version"] > known:
        raise CheckpointError(
            f"This {name} was saved by version {made_with['pipeline']} of pipeline, in state {made_with['state_version']}; this "
            f"is version {installed_versions()['pipeline']}, which knows states up to {known}. Upgrade to open it."
        )


def differing_versions(made_with: Mapping[str, str]) -> list[str]:
    """Say which versions differ from those a file was made with.

    Parameters
    ----------
    made_with : mapping of str to str
        From `installed_versions`, then.

    Returns
    -------
    list of str
        Such as ``"torch 2.12.1, here 2.13.0"``. scikit-learn's is compared in full, as it does itself; of the others the first
        two numbers.
    """
    here = installed_versions()

    def compared(package: str, version: str) -> str:
        return version if package == "scikit-learn" else ".".join(version.partition("+")[0].split(".")[:2])

    return [
        f"{package} {version}, here {here[package]}"
        for package, version in made_with.items()
        if package in PACKAGES and package != "joblib" and compared(package, version) != compared(package, here[package])
    ]
