"""Ed25519 signatures beside the manifest of a saved pipeline."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.exceptions import ArtifactError
from pipeline.files import fetched, is_path, local_path, remove, write_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

# A line for each signed manifest: public key and signature, in hex. While a file is replaced there
# are two, so that the old file and the new one are signed at every moment.
_LINE = re.compile(r"ed25519 ([0-9a-f]{64}) ([0-9a-f]{128})\n")


def manifest_text(values: Mapping[str, Any]) -> str:
    """Return the text of a manifest."""
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def signature_place(manifest: Path | str) -> Path | str:
    """Return ``sentiment.joblib.json.sig`` for ``sentiment.joblib.json``."""
    return Path(f"{manifest}.sig") if isinstance(manifest, Path) else f"{manifest}.sig"


# ---- keys

_FILES = {  # of `sign` and of `trusted_key`
    True: ("private", "sign", "openssl genpkey -algorithm ed25519 -out key.pem makes one"),
    False: ("public", "trusted_key", "openssl pkey -in key.pem -pubout -out public.pem writes it"),
}


def signing_key(key: Any) -> "Ed25519PrivateKey | None":
    """Return the private key of `sign`, or None."""
    return None if key is None else _key(key, private=True)


def trusted_keys(keys: Any) -> "dict[str, Ed25519PublicKey]":
    """Return public keys by their hex."""
    several = not is_path(keys) and isinstance(keys, Iterable)
    found = [_key(key, private=False) for key in (keys if several else [keys])]
    if not found:
        raise ValueError("trusted_key is empty, so no file would open; None asks for no signature.")
    return {key.public_bytes_raw().hex(): key for key in found}


def _key(key: Any, *, private: bool) -> Any:
    """Return a key, or read it from a PEM file."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ImportError(
            "Signatures need cryptography: pip install '.[sign]' in a checkout, or pip install "
            "cryptography."
        ) from error
    kind, name, cure = _FILES[private]
    given = f"a {type(key).__name__}"
    if is_path(key):
        given = f"{key}"
        data = local_path(key, "file", "keys are read here.").read_bytes()
        try:
            if private:
                key = serialization.load_pem_private_key(data, None)
            else:
                key = serialization.load_pem_public_key(data)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: a password
            raise ValueError(f"{name}={given!r} is no {kind} key ({error}); {cure}.") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey):
        raise ValueError(
            f"{name} is {given}; an Ed25519 {kind} key is expected, or the path of one in PEM: "
            f"{cure}."
        )
    return key


# ---- signing


@contextlib.contextmanager
def signed(
    manifest: Path | str, values: Mapping[str, Any], key: "Ed25519PrivateKey | None"
) -> Iterator[None]:
    """Sign a manifest written inside, keeping the old signature until then."""
    place = signature_place(manifest)
    with fetched(place) as path:
        before = _read(path) or ""
    line = ""
    if key is not None:
        signature = key.sign(manifest_text(values).encode()).hex()
        line = f"ed25519 {key.public_key().public_bytes_raw().hex()} {signature}\n"
        write_text(place, before + line if _whole(before) else line)
    yield
    if key is None and before:
        remove(place)
    elif before:
        write_text(place, line)


def is_signed(manifest: Path | str) -> bool:
    """Whether a manifest has a signature, by whomever."""
    with fetched(signature_place(manifest)) as path:
        return path.is_file()


def signers(manifest: Path) -> list[str] | None:
    """Return the public keys in a signature, None without one."""
    text = _read(Path(signature_place(manifest)))
    return None if text is None else [public for public, _ in _LINE.findall(text)]


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return None


def _whole(text: str) -> bool:
    return re.fullmatch(f"({_LINE.pattern})+", text) is not None


# ---- checking


def signed_values(
    path: Path, manifest: Path, values: Any, candidates: list[Any], keys: Mapping[str, Any]
) -> Any:
    """Return the manifest that a trusted key signed, or raise."""
    from cryptography.exceptions import InvalidSignature

    place = Path(signature_place(manifest))
    text = _read(place)
    if text is None:
        raise unsigned(path, f"it is not signed: there is no {place.name}")
    if not _whole(text):
        raise unsigned(path, f"its signature, {place.name}, is damaged")
    lines = _LINE.findall(text)
    if not any(public in keys for public, _ in lines):
        signers = " and ".join(public for public, _ in lines)
        raise unsigned(path, f"it is signed by the key {signers}, not by {' or '.join(keys)}")
    # to the byte, so that what was signed is what stands there
    whole = manifest.read_bytes() == manifest_text(values).encode()
    for one, (public, signature) in product(candidates if whole else [], lines):
        with contextlib.suppress(InvalidSignature, KeyError):
            keys[public].verify(bytes.fromhex(signature), manifest_text(one).encode())
            return one
    raise unsigned(path, f"{manifest.name} is not what was signed: it was changed since")


def unsigned(path: Path, reason: str) -> ArtifactError:
    """Return the error of a file that no trusted key signed."""
    return ArtifactError(
        f"{path} is refused: {reason}. Nothing of it was run. Take the file, its manifest and its "
        "signature from where save_pipeline(..., sign=key) wrote them; if you trust who signed it, "
        "add that public key to trusted_key."
    )
