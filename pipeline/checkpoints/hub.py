"""Download and verify files of the hub, in bounded time."""

import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from typing import Any, TypeVar

from pipeline.exceptions import FetchError
from pipeline.files import program, sha256_once, write_text

T = TypeVar("T")

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
INDEX = f"{WEIGHTS}.index.json"
# A tokenizer can be rebuilt from a vocabulary and settings.
VOCABULARIES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spm.model", "spiece.model")
_SETTINGS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# The weights come last: a folder that has them is complete.
MODEL_FILES = (CONFIG, TOKENIZER, *VOCABULARIES, *_SETTINGS, WEIGHTS)
MODULES, OLD_ENCODER = "modules.json", "0_Transformer/"
SENTENCE_FILES = (MODULES, "sentence_bert_config.json", "config_sentence_transformers.json")
_MODULE_FILE = re.compile(rf"[1-9]\d*_\w+/(?:{CONFIG}|{WEIGHTS})".replace(".", r"\."))
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")

# In seconds. A whole transfer has no limit: it may take hours on a slow line.
ANSWER_TIMEOUT = 10.0  # until the hub starts to answer
CACHED_TIMEOUT = 5.0  # the same for a cached model, which only lacks what is newer
METADATA_TIMEOUT = 30.0  # for the list of a model's files
STALL_TIMEOUT = 50.0  # without data, or below MIN_SPEED, within a file
LOCK_TIMEOUT = 120.0
RETRY_WAIT = 1.0  # before the second try; doubled before the third
MAX_RETRY_AFTER = 10.0  # give up if the hub asks for a longer wait
TRIES = 3
MIN_SPEED = 1024  # bytes per second; any slower, and 100 MB take more than a day
CHUNK = 1 << 13

_AGAIN = (408, 429, 500, 502, 503, 504)
_TOKEN = (
    "Accept the model's conditions on its hub page, and set HF_TOKEN to a token with access to it."
)
_SPELLING = "Check the spelling; a private model needs HF_TOKEN."
_CONNECTION = "Check the connection, a proxy (HTTPS_PROXY) and HF_ENDPOINT."
_WAIT = (
    f"{_CONNECTION} Behind a proxy that scans files before passing them on, increase "
    "HF_HUB_DOWNLOAD_TIMEOUT (seconds)."
)
_LATER = "Try again later."


class TransferError(Exception):
    """Why a download failed, with advice."""

    def __init__(self, reason: str, advice: str = _LATER) -> None:
        super().__init__(reason)
        self.advice = advice


class _TryAgain(TransferError):
    """A failure that may be temporary."""

    wait: float | None = None  # seconds, as asked by the hub


@dataclass(frozen=True)
class Listing:
    """The files of one revision."""

    commit: str
    files: dict[str, tuple[str | None, int | None]]  # name -> hash and size, None if unpublished


def fetch(model: str, revision: str | None, local_files_only: bool) -> tuple[Path, str, str | None]:
    """Return folder, ``"hub cache"`` or ``"hub"``, and commit of a model's files."""
    from huggingface_hub import is_offline_mode

    cached = _cached_snapshot(model, revision)
    damage = None if cached is None else _damage(cached)
    usable = cached is not None and damage is None
    failure = None
    if local_files_only or is_offline_mode():
        reason, advice = (
            "the hub was not asked (local_files_only=True or HF_HUB_OFFLINE)",
            "Allow one request to the hub, or copy the files here.",
        )
    elif not (usable and is_commit(revision)):
        try:
            folder = _from_hub(model, revision, patient=not usable)
            return folder, "hub", folder.name
        except TransferError as error:
            failure, reason, advice = error, f"the download failed: {error}", error.advice
    if cached is not None and usable:
        if failure is not None:
            warnings.warn(
                f"Using the cached copy of {model!r}, at commit {cached.name}: {reason}.",
                stacklevel=2,
            )
        return cached, "hub cache", cached.name if is_commit(cached.name) else None
    raise FetchError(_not_here(model, revision, damage, reason, advice)) from failure


def is_hub_id(model: str) -> bool:
    """Whether this could be the name of a model on the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return not model.endswith("\n")


def is_cached(model: str) -> bool:
    """Whether a model's default branch is in the hub cache."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, WEIGHTS), str)


def difference(path: Path, published: str) -> str | None:
    """Describe how a file differs from its published hash, or return None."""
    if not path.is_file():
        return f"{path.name} is missing (expected hash {published})"
    if len(published) == 64:
        kind, found = "sha256", sha256_once(path)
    else:  # small files are published by git's hash of the blob
        blob = path.read_bytes()
        kind = "git hash"
        found = hashlib.sha1(b"blob %d\0" % len(blob) + blob, usedforsecurity=False).hexdigest()
    if found == published:
        return None
    return f"{path.name} has {kind} {found}, expected {published}"


def is_commit(revision: Any) -> bool:
    """Whether a revision is a full commit hash, which never changes."""
    return isinstance(revision, str) and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def is_hash(name: Any) -> bool:
    """Whether this is a git hash or a sha256."""
    return isinstance(name, str) and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) is not None


def encoder_folder(names: Collection[str]) -> str:
    """Return the encoder's folder: "", or that of an older sentence-transformers."""
    return OLD_ENCODER if CONFIG not in names and OLD_ENCODER + CONFIG in names else ""


def files_in(folder: Path) -> set[str]:
    """List the files of a model folder, its modules and broken links."""
    paths = [*folder.iterdir(), *folder.glob("[0-9]*_*/*")]
    return {path.relative_to(folder).as_posix() for path in paths if not path.is_dir()}


def needed_files(names: Collection[str]) -> list[str]:
    """Choose the files to read: ``tokenizer.json`` replaces its sources."""
    at = encoder_folder(names)
    own = {name.removeprefix(at) for name in names if name.startswith(at)}
    read = (CONFIG, TOKENIZER, WEIGHTS) if TOKENIZER in own else MODEL_FILES
    wanted = [name for name in read if name in own]
    if WEIGHTS not in own and INDEX in own:
        wanted += [*sorted(filter(_SHARD.fullmatch, own)), INDEX]
    sentence: list[str] = []
    if MODULES in names:
        settings = {f"{at}tokenizer_config.json", f"{at}sentence_bert_config.json", *SENTENCE_FILES}
        modules = filter(_MODULE_FILE.fullmatch, names)
        sentence = sorted({*modules, *settings.intersection(names)})
    return [*(name for name in sentence if name not in wanted), *(at + name for name in wanted)]


def is_whole(names: Collection[str]) -> bool:
    """Whether the files include config, weights and a tokenizer."""
    own = {name.removeprefix(encoder_folder(names)) for name in names}
    return CONFIG in own and bool({WEIGHTS, INDEX} & own) and bool({TOKENIZER, *VOCABULARIES} & own)


# ---- the cache: models--owner--name/{refs/<branch>, snapshots/<commit>/<file> -> blobs/<hash>}


def _storage(model: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / "--".join(["models", *model.split("/")])


def _cached_snapshot(model: str, revision: str | None) -> Path | None:
    """Find a snapshot with all needed files, even if damaged."""
    storage, commit = _storage(model), revision or "main"
    if not is_commit(revision):
        try:
            commit = (storage / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    folder = storage / "snapshots" / commit
    # a link to a missing blob is damage
    return folder if commit and folder.is_dir() and is_whole(files_in(folder)) else None


def _damage(folder: Path) -> str | None:
    for name in needed_files(files_in(folder)):
        path = folder / name
        # the link's target is named by its hash, but may itself link into a shared store
        published = os.path.basename(os.readlink(path)) if path.is_symlink() else None
        if is_hash(published) and (damage := difference(path, str(published))):
            return damage
    return None


def _from_hub(model: str, revision: str | None, patient: bool) -> Path:
    """Complete the cache from the hub and return the snapshot."""
    listing = ask(model, revision, patient)
    files = listing.files
    if not {WEIGHTS, INDEX} & {name.removeprefix(encoder_folder(files)) for name in files}:
        raise FetchError(
            f"{model!r} has no {WEIGHTS} on the hub, only {', '.join(sorted(files)[:8])}. Other "
            "weight files can execute code when loaded and are never opened here."
        )
    folder = _storage(model) / "snapshots" / listing.commit
    _tidy(model)
    for name in needed_files(files):
        published, size = files[name]
        if published is None or difference(folder / name, published) is not None:
            try:
                _fetch_file(model, folder, name, published, size)
            except OSError as error:
                raise TransferError(
                    f"{folder} cannot be written ({error.strerror or error})",
                    "Free space there, or set HF_HOME to a writable folder with enough space.",
                ) from error
    _remember(model, revision, listing.commit)
    return folder


def _tidy(model: str) -> None:
    """Remove what processes that were killed had fetched in part."""
    for left in _storage(model).glob("*.incomplete"):
        sha = left.name.partition(".")[0]
        if is_hash(sha):
            with suppress(OSError), _alone(model, sha, timeout=0.1) as alone:
                if alone:
                    shutil.rmtree(left, ignore_errors=True)


def _fetch_file(
    model: str, folder: Path, name: str, published: str | None, size: int | None
) -> None:
    """Fetch a file into the cache, twice if it arrives damaged."""
    path, commit, storage = folder / name, folder.name, folder.parents[1]
    blobs, damage = storage / "blobs", None
    for place in (blobs, path.parent):
        place.mkdir(parents=True, exist_ok=True)
    if size and size > (free := shutil.disk_usage(blobs).free):
        raise OSError(None, f"{name} needs {size / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
    sha = published or _header_hash(model, commit, name)
    with _alone(model, sha) as alone:
        if alone:  # what is left is of processes that were killed
            for left in path.parent.glob(f"{path.name}.*.incomplete"):
                left.unlink(missing_ok=True)
        # already here from another commit or by another process
        if difference(blobs / sha, sha) is None:
            return _link(blobs / sha, path)
        for _ in range(2):
            with tempfile.TemporaryDirectory(
                dir=storage, prefix=f"{sha}.", suffix=".incomplete", ignore_cleanup_errors=True
            ) as part:
                file = download(model, commit, name, part)
                damage = difference(file, sha)
                if damage is None:
                    # replaces a damaged one, which others may have mapped
                    os.replace(file, blobs / sha)
                    return _link(blobs / sha, path)
        raise TransferError(
            f"{damage}, after two downloads", "Check the connection and a proxy (HTTPS_PROXY)."
        )


def _link(blob: Path, path: Path) -> None:
    from huggingface_hub import constants

    new = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.incomplete")
    try:
        if constants.HF_HUB_DISABLE_SYMLINKS:
            raise OSError
        os.symlink(os.path.relpath(blob, path.parent), new)
    except OSError:
        os.replace(blob, path)
    else:
        os.replace(new, path)


def _remember(model: str, revision: str | None, commit: str) -> None:
    """Record the commit of a branch or tag if possible."""
    refs = _storage(model) / "refs"
    path = refs / (revision or "main")
    if is_commit(revision) or not path.resolve().is_relative_to(refs.resolve()):
        return
    try:
        if not path.is_file() or path.read_text(encoding="utf-8") != commit:
            write_text(path, commit)
    except OSError:
        return


@contextmanager
def _alone(model: str, name: str, timeout: float | None = None) -> Iterator[bool]:
    """Let one process at a time fetch a file; yield whether it is this one."""
    from huggingface_hub.utils import WeakFileLock

    storage = _storage(model)
    path = storage.parent / ".locks" / storage.name / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        alone = False
        with suppress(TimeoutError):
            stack.enter_context(
                WeakFileLock(path, timeout=LOCK_TIMEOUT if timeout is None else timeout)
            )
            alone = True
        yield alone


def _not_here(
    model: str, revision: str | None, damage: str | None, reason: str, advice: str
) -> str:
    from huggingface_hub import constants

    at = f" at revision {revision!r}" if revision else ""
    asked = f"{model} --revision {revision}" if revision else model
    where = f"the hub cache ({constants.HF_HUB_CACHE})"
    state = (
        f"is damaged in {where}: {damage}"
        if damage
        else f"was not found: not a folder, no installed copy, not in {where}"
    )
    return (
        f"Model {model!r}{at} {state}, and {reason}; endpoint {constants.ENDPOINT}. {advice} "
        f"For a machine without a connection, run `{program()} fetch {asked} --to DIR` on "
        "one that has it, copy DIR here, and use model=DIR."
    )


def ask(model: str, revision: str | None, patient: bool) -> Listing:
    """Ask the hub for the files of a revision."""
    from huggingface_hub import HfApi

    def once() -> Listing:
        about = HfApi(library_name="bert-vectorizer").model_info(
            model, revision=revision, files_metadata=True, timeout=ANSWER_TIMEOUT
        )
        return _listing(about, revision)

    limit = METADATA_TIMEOUT if patient else CACHED_TIMEOUT
    tries = TRIES if patient else 1
    return _retried(lambda: _within(limit, once), "its list of files", tries)


def _listing(about: Any, revision: str | None) -> Listing:
    if not is_commit(about.sha) or (is_commit(revision) and about.sha != revision):
        raise ValueError(f"commit {about.sha!r}")
    files: dict[str, tuple[str | None, int | None]] = {}
    for file in about.siblings or []:
        sha = file.lfs.sha256 if file.lfs else file.blob_id
        # some mirrors publish no hash; nothing else may become the name of a file
        size = file.size if isinstance(file.size, int) else None
        files[file.rfilename] = (sha if is_hash(sha) else None, size)
    return Listing(about.sha, files)


def _header_hash(model: str, commit: str, name: str) -> str:
    """Return the hash in a file's headers, for mirrors that list none."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(model, name, revision=commit)
    etag = _retried(lambda: _within(ANSWER_TIMEOUT, lambda: get_hf_file_metadata(url).etag), name)
    if not is_hash(etag):
        raise TransferError(
            f"the hub publishes no hash of {name} to verify it", "Check HF_ENDPOINT."
        )
    return str(etag)


def download(model: str, commit: str, name: str, folder: str) -> Path:
    """Download a file of the hub to a folder, with retries."""
    return _retried(lambda: _watched(model, commit, name, folder), name)


def _watched(model: str, commit: str, name: str, folder: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import tqdm

    received, abandoned = 0, threading.Event()

    class Bar(tqdm):  # type: ignore[misc]
        def update(self, n: float | None = 1) -> Any:
            nonlocal received
            if abandoned.is_set():
                raise InterruptedError(f"the download of {name} was cancelled")
            received += int(n or 0)
            return super().update(n)

    # The library's chunks of 10 MB take minutes on a slow line, and are lost when it breaks.
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    stall = max(STALL_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    try:
        future = _start(
            lambda: hf_hub_download(
                model,
                name,
                revision=commit,
                local_dir=folder,
                cache_dir=folder,  # where the library looks for a copy
                library_name="bert-vectorizer",
                tqdm_class=Bar,
            )
        )
        before = 0
        while not wait([future], timeout=stall).done:
            if received == 0:
                raise TransferError(f"the hub did not answer in time (request: {name})", _WAIT)
            if received - before < MIN_SPEED * stall:
                raise TransferError(
                    f"the hub sent less than {MIN_SPEED} bytes per second of {name} "
                    f"for {stall:.0f} s",
                    _CONNECTION,
                )
            before = received
        return Path(future.result())
    finally:
        abandoned.set()


def _start(action: Callable[[], T]) -> "Future[T]":
    """Run an action in a daemon thread, which may be abandoned."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="hub request").start()
    return future


def _within(seconds: float, action: Callable[[], T]) -> T:
    # socket timeouts cover neither DNS nor headers that arrive byte by byte
    return _start(action).result(timeout=seconds)


def _retried(action: Callable[[], T], what: str, tries: int = TRIES) -> T:
    n = 0
    while True:
        try:
            return action()
        except Exception as error:
            failure, n = _explained(error, what), n + 1
            if not isinstance(failure, _TryAgain):
                raise failure from error
            pause = RETRY_WAIT * 2 ** (n - 1) if failure.wait is None else failure.wait
            if n >= tries or pause > MAX_RETRY_AFTER:
                tried = f", tried {n} times" if n > 1 else ""
                raise TransferError(f"{failure}{tried}", failure.advice) from error
        time.sleep(pause)


def _explained(error: Exception, what: str) -> Exception:
    """Translate an exception into a reason."""
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    message = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        cause = _explained(error.__cause__, what)  # the library has already retried
        return TransferError(str(cause), cause.advice) if isinstance(cause, _TryAgain) else cause
    if isinstance(error, HfHubHTTPError):
        return _refused(error.response.status_code, error.response.headers, what)
    if isinstance(error, TransferError):
        return error
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return TransferError(f"the hub did not answer in time (request: {what})", _WAIT)
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
        return _TryAgain(f"the connection broke while receiving {what} ({message})", _CONNECTION)
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
        return TransferError(
            f"the hub cannot be reached ({type(error).__name__}: {message})", _CONNECTION
        )
    if str(getattr(error, "doc", "")).lstrip()[:1] == "<":
        return TransferError(
            "the hub's answer is an HTML page, perhaps the login page of this network",
            _CONNECTION,
        )
    if isinstance(error, FileMetadataError | ValueError | KeyError | TypeError | AttributeError):
        return TransferError(
            f"the answer for {what} is not from a model hub ({type(error).__name__}: {message})",
            _CONNECTION,
        )
    if message.startswith("Consistency check failed"):
        return _TryAgain(f"{what} does not have the length that the hub announced", _CONNECTION)
    return error


def _refused(status: int, headers: Mapping[str, str], what: str) -> TransferError:
    """Translate an HTTP status into a reason."""
    code = headers.get("X-Error-Code", "")
    reply = f"{status} {code or responses.get(status, '')}".strip()
    if status in _AGAIN:
        after = headers.get("Retry-After", "").strip()
        asked = f" and asks to retry in {after} s" if after.isdigit() else ""
        failure = _TryAgain(f"the hub answered {reply} for {what}{asked}")
        failure.wait = float(after) if after.isdigit() else None
        return failure
    if status in (401, 403):
        return TransferError(
            f"the hub answered {reply} for {what}: the model is gated or private and needs a token",
            _TOKEN,
        )
    if status == 404:
        missing = {
            "RevisionNotFound": "no such revision of this model",
            "EntryNotFound": f"no {what} in it",
        }
        return TransferError(
            f"the hub answered {reply}: it has {missing.get(code, 'no such model')}", _SPELLING
        )
    return TransferError(f"the hub answered {reply} for {what}", _CONNECTION)
