"""Hub id -> folder of verified files: the hub cache, then the hub. Knows the cache's layout; used by checkpoint."""

import os
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.checkpoints.provenance import difference, is_commit, is_hash, move
from pipeline.checkpoints.transfer import TransferError, ask, download

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
# What a tokenizer may be rebuilt from where a checkpoint has no tokenizer.json: vocabularies, then settings.
VOCABULARIES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spm.model")
TOKENIZER_SETTINGS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# The weights last: a folder that has them is whole.
MODEL_FILES = (CONFIG, TOKENIZER, *VOCABULARIES, *TOKENIZER_SETTINGS, WEIGHTS)
LOCK_TIMEOUT = 120.0  # seconds to wait for another process that fetches the same file, before it is fetched here as well


class FetchError(ValueError):
    """A model is neither in the hub cache nor to be had from the hub."""


def fetch(model: str, revision: str | None, local_files_only: bool) -> tuple[Path, str, str | None]:
    """Find the files of a model in the hub cache, or fetch them from the hub; verify them by their published hashes.

    Parameters
    ----------
    model : str
        Hub id.
    revision : str or None
        Branch, tag or commit; a full commit that is cached is used without any request.
    local_files_only : bool
        Never ask the hub; so too under ``HF_HUB_OFFLINE``.

    Returns
    -------
    folder : Path
        The snapshot.
    kind : {"hub cache", "hub"}
        Whether the hub was asked.
    commit : str or None
        Forty hexadecimal digits.

    Raises
    ------
    FetchError
        Where the files are not to be had; the message says where was looked, why not, and what to do.
    """
    from huggingface_hub import is_offline_mode

    cached = _cached_snapshot(model, revision)
    damage = None if cached is None else _damage(cached)
    usable = cached is not None and damage is None
    failure = None
    if local_files_only or is_offline_mode():
        reason, advice = (
            "the hub was not asked (local_files_only=True or HF_HUB_OFFLINE)",
            "Let it be asked once, or bring the files.",
        )
    elif not (usable and is_commit(revision)):
        try:
            folder = _from_hub(model, revision, patient=not usable)
            return folder, "hub", folder.name
        except TransferError as error:
            failure, reason, advice = error, f"the hub did not deliver it: {error}", error.advice
    if cached is not None and usable:
        if failure is not None:
            warnings.warn(f"Model {model!r} is taken from the hub cache, at commit {cached.name}: {reason}.", stacklevel=2)
        return cached, "hub cache", cached.name if is_commit(cached.name) else None
    raise FetchError(_not_here(model, revision, damage, reason, advice)) from failure


def is_hub_id(model: str) -> bool:
    """Whether the hub could have a model of this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return not model.endswith("\n")


def is_cached(model: str) -> bool:
    """Whether the weights of a model's default branch are in the hub cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, WEIGHTS), str)


def needed_files(names: Mapping[str, Any] | set[str]) -> list[str]:
    """Choose the files that are read: where there is a ``tokenizer.json``, no other tokenizer file is."""
    return [name for name in MODEL_FILES if name in names and (TOKENIZER not in names or name in (CONFIG, TOKENIZER, WEIGHTS))]


# ---- the cache: models--owner--name/{refs/<branch>, snapshots/<commit>/<file> -> blobs/<hash>}


def _storage(model: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / "--".join(["models", *model.split("/")])


def _cached_snapshot(model: str, revision: str | None) -> Path | None:
    """Find a snapshot that holds all that is needed, whatever the state of its files."""
    storage, commit = _storage(model), revision or "main"
    if not is_commit(revision):
        try:
            commit = (storage / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    folder = storage / "snapshots" / commit
    has = {name for name in MODEL_FILES if os.path.lexists(folder / name)}  # a link to a blob that is gone is damage
    whole = {CONFIG, WEIGHTS} <= has and has & {TOKENIZER, *VOCABULARIES}
    return folder if commit and whole else None


def _published_hash(path: Path) -> str | None:
    """Return the hash by which the cache names a file, or None in a cache without links, where it keeps none."""
    try:
        name = os.path.basename(os.readlink(path))  # one link only: the blob may be a link into a shared store
    except OSError:
        return None
    return name if is_hash(name) else None


def _damage(folder: Path) -> str | None:
    """Say which file of a snapshot is not the published one, and both hashes."""
    for name in needed_files({name for name in MODEL_FILES if os.path.lexists(folder / name)}):
        published = _published_hash(folder / name)
        if published and (told := difference(folder / name, published)):
            return told
    return None


# ---- the hub


def _from_hub(model: str, revision: str | None, patient: bool) -> Path:
    """Bring the cache up to what the hub says of a revision; return the snapshot."""
    listing = ask(model, revision, patient)
    files = listing.files
    if WEIGHTS not in files:
        raise FetchError(
            f"{model!r} has no {WEIGHTS} on the hub, only {', '.join(sorted(files)[:8])}: other weight files can execute "
            "code when loaded and are never opened here."
        )
    folder = _storage(model) / "snapshots" / listing.commit
    for name in needed_files(files):
        published, size = files[name]
        if published is None or difference(folder / name, published) is not None:
            with _disk_errors(folder):
                _fetch_file(model, folder / name, published, size)
    _remember(model, revision, listing.commit)
    return folder


def _fetch_file(model: str, path: Path, published: str | None, size: int | None) -> None:
    """Fetch a file into the cache; a second time where it comes damaged."""
    from huggingface_hub import hf_hub_url

    name, blobs = path.name, path.parents[2] / "blobs"
    for folder in (blobs, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if size and size > (free := shutil.disk_usage(blobs).free):
        raise OSError(None, f"{name} needs {size / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
    url, told = hf_hub_url(model, name, revision=path.parent.name), ""
    with _alone(model, published or name):
        if published and difference(blobs / published, published) is None:
            return _link(blobs / published, path)  # of another commit, or another process was quicker
        for _ in range(2):
            part = blobs / f"{published or name}.{uuid.uuid4().hex[:8]}.incomplete"
            try:
                named = download(url, part, size)
                expected = published or named
                if expected is None:
                    raise TransferError(f"the hub names no hash of {name} to verify it by", "Check HF_ENDPOINT.")
                told = difference(part, expected) or ""
                if not told:
                    move(part, blobs / expected)  # in place of a damaged one, which others may have mapped
                    return _link(blobs / expected, path)
                with part.open("rb") as file:
                    page = b"<html" in file.read(1000).lower()
            finally:
                part.unlink(missing_ok=True)
        if page:
            told += "; what came is an HTML page, as of a network that wants a login first"
        raise TransferError(f"{told.replace(part.name, name)}, fetched twice", "Check the connection and a proxy (HTTPS_PROXY).")


def _link(blob: Path, path: Path) -> None:
    """Let a snapshot's file point to a blob, in one step; without links the blob becomes the file."""
    from huggingface_hub import constants

    new = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.incomplete")
    try:
        if constants.HF_HUB_DISABLE_SYMLINKS:
            raise OSError
        os.symlink(os.path.join("..", "..", "blobs", blob.name), new)
    except OSError:
        move(blob, path)
    else:
        os.replace(new, path)


def _remember(model: str, revision: str | None, commit: str) -> None:
    """Note which commit a branch or tag stands for, as the cache does; a cache that cannot be written serves all the same."""
    refs = _storage(model) / "refs"
    path = refs / (revision or "main")
    if is_commit(revision) or not path.resolve().is_relative_to(refs.resolve()):
        return
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != commit:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            new.write_text(commit, encoding="utf-8")
            os.replace(new, path)
    except OSError:
        return


@contextmanager
def _alone(model: str, name: str) -> Iterator[None]:
    """Let one process at a time fetch a file, as far as the others let go in time: the cache stays right without."""
    from huggingface_hub.utils import WeakFileLock

    storage = _storage(model)
    path = storage.parent / ".locks" / storage.name / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(TimeoutError):
            stack.enter_context(WeakFileLock(path, timeout=LOCK_TIMEOUT))
        yield


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransferError(
            f"{folder} cannot be written ({error.strerror or error})",
            "Free space there, or set HF_HOME to a folder with room that may be written.",
        ) from error


def _not_here(model: str, revision: str | None, damage: str | None, reason: str, advice: str) -> str:
    from huggingface_hub import constants

    at = f" at revision {revision!r}" if revision else ""
    asked = f"{model} --revision {revision}" if revision else model
    where = f"the hub cache ({constants.HF_HUB_CACHE})"
    state = f"is damaged in {where}: {damage}" if damage else f"is not here: it is no folder, no installed copy, not in {where}"
    return (
        f"Model {model!r}{at} {state}, and {reason}; endpoint {constants.ENDPOINT}. {advice} For a machine without a connection: "
        f"`python run_pipeline.py fetch {asked} --to DIR` on one that has it, copy DIR over, and give model=DIR."
    )
