"""Verified files from the hub cache or the hub, in bounded time."""

import os
import shutil
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from pipeline.checkpoints.provenance import difference, is_commit, is_hash
from pipeline.exceptions import FetchError

T = TypeVar("T")

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
# A tokenizer may be rebuilt from a vocabulary and settings.
VOCABULARIES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spm.model")
_SETTINGS = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# The weights last: a folder that has them is complete.
MODEL_FILES = (CONFIG, TOKENIZER, *VOCABULARIES, *_SETTINGS, WEIGHTS)

# A whole transfer has no limit: a big model on a slow line may take hours. All in seconds:
ANSWER_TIMEOUT = 10.0  # until the hub begins to answer, name servers and proxies included
CACHED_TIMEOUT = 5.0  # the same if the model is cached, and only something newer could be missed
METADATA_TIMEOUT = 30.0  # for the whole list of a model's files
STALL_TIMEOUT = 30.0  # of silence, or of less than MIN_SPEED, within a file
LOCK_TIMEOUT = 120.0  # for another process that fetches the same file
RETRY_WAIT = 1.0  # before the second try, twice as many before the third
MAX_RETRY_AFTER = 10.0  # a hub that asks for a longer wait is not waited for
TRIES = 3
MIN_SPEED = 1024  # bytes per second: with less, a model of 100 MB takes more than a day
PROGRESS = 1 << 20  # bytes: a try that brought as much does not count as failed

_AGAIN = (408, 429, 500, 502, 503, 504)
_TOKEN = (
    "Accept the model's conditions on its page of the hub, and set HF_TOKEN to a token that may "
    "read it."
)
_SPELLING = "Check the spelling; a private model needs HF_TOKEN."
_CONNECTION = "Check the connection, a proxy (HTTPS_PROXY) and HF_ENDPOINT."
_WAIT = (
    f"{_CONNECTION} Behind a proxy that scans files before it passes them on, set "
    "HF_HUB_DOWNLOAD_TIMEOUT to more seconds."
)
_LATER = "Try again later."


class TransferError(Exception):
    """The reason why the hub did not deliver, and advice."""

    def __init__(self, reason: str, advice: str = _LATER) -> None:
        super().__init__(reason)
        self.advice = advice


class _TryAgain(Exception):
    """A try that failed where another one may not."""

    def __init__(self, reason: str, advice: str = _LATER, wait: float | None = None) -> None:
        super().__init__(reason)
        self.advice, self.wait = advice, wait


@dataclass(frozen=True)
class Listing:
    """The files of one revision."""

    commit: str
    files: dict[str, tuple[str | None, int | None]]  # name -> hash and size, None if not published


def ask(model: str, revision: str | None, patient: bool) -> Listing:
    """Ask the hub for the files of a revision, once if not patient."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    url = f"{constants.ENDPOINT}/api/models/{model}{at}"

    def once() -> Listing:
        response = get_session().get(
            url,
            params={"blobs": "true"},
            headers=_headers(),
            timeout=ANSWER_TIMEOUT,
            follow_redirects=True,
        )
        if response.status_code != 200:
            raise _refused(response.status_code, response.headers, "its list of files")
        return _listing(response.json(), revision)

    failed = _Failures(TRIES if patient else 1)
    while True:
        try:
            return _within(METADATA_TIMEOUT if patient else CACHED_TIMEOUT, once)
        except Exception as error:
            failure = _explained(error, "its list of files")
            if not isinstance(failure, _TryAgain):
                raise failure from error
            failed.wait(failure)


def _listing(about: Any, revision: str | None) -> Listing:
    """Check the hub's answer."""
    commit, files = about["sha"], {}
    if not is_commit(commit) or (is_commit(revision) and commit != revision):
        raise ValueError(f"commit {commit!r}")
    for file in about["siblings"]:
        told, size = (file.get("lfs") or {}).get("sha256") or file.get("blobId"), file.get("size")
        # some mirrors publish no hash; anything else must never become the name of a file
        files[str(file["rfilename"])] = (
            told if is_hash(told) else None,
            size if isinstance(size, int) else None,
        )
    return Listing(commit, files)


def _headers() -> dict[str, str]:
    """Return the headers; the library's own way asks ``/api/agent-harnesses`` first."""
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    # identity: sizes and ranges are the file's
    headers = {"User-Agent": "bert-vectorizer", "Accept-Encoding": "identity"}
    return headers | ({"Authorization": f"Bearer {token}"} if token else {})


def download(url: str, target: Path, size: int | None) -> str | None:
    """Download one file and return the hash in the hub's answer, if any."""
    from huggingface_hub.utils import tqdm

    name, failed = url.rsplit("/", 1)[-1], _Failures(TRIES)
    hidden = None if (size or 0) > PROGRESS else True  # None: a bar on a terminal
    with (
        target.open("wb") as file,
        tqdm(total=size, unit="B", unit_scale=True, desc=name, disable=hidden) as bar,
    ):
        while True:
            start = file.tell()
            try:
                return _receive(url, file, size, lambda there: bar.update(there - bar.n))
            except _TryAgain as failure:
                if file.tell() == size:
                    return None  # a wrong Content-Length; the hash decides
                if file.tell() - start >= PROGRESS:
                    failed = _Failures(TRIES)
                failed.wait(failure)


class _Failures:
    """Counts failed tries, and waits before the next one or gives up."""

    def __init__(self, tries: int) -> None:
        self.tries, self.n = tries, 0

    def wait(self, failure: _TryAgain) -> None:
        """Wait before the next try, or raise."""
        self.n += 1
        wait = RETRY_WAIT * 2 ** (self.n - 1) if failure.wait is None else failure.wait
        if self.n >= self.tries or wait > MAX_RETRY_AFTER:
            told = f", tried {self.n} times" if self.n > 1 else ""
            raise TransferError(f"{failure}{told}", failure.advice) from failure
        time.sleep(wait)


def _within(seconds: float, action: Callable[[], T]) -> T:
    """Run an action in a thread that is abandoned when the time is over."""
    # timeouts of sockets know neither name servers nor headers that come byte by byte
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="hub request").start()
    try:
        return future.result(timeout=seconds)
    except TimeoutError:
        future.add_done_callback(_close_late)
        raise


def _close_late(future: "Future[Any]") -> None:
    """Close an answer that came too late."""
    if future.exception() is None and hasattr(future.result(), "close"):
        future.result().close()


def _receive(
    url: str, file: BinaryIO, size: int | None, show: Callable[[int], object]
) -> str | None:
    """Append the rest of a download to a file."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session, httpx

    start = file.tell()
    headers = _headers() | ({"Range": f"bytes={start}-"} if start else {})
    # the library's own setting may ask for more patience, never for less
    asked = constants.HF_HUB_DOWNLOAD_TIMEOUT if "HF_HUB_DOWNLOAD_TIMEOUT" in os.environ else 0
    stall = max(STALL_TIMEOUT, asked)
    timeout = httpx.Timeout(ANSWER_TIMEOUT, read=stall)

    def send() -> Any:
        request = get_session().build_request("GET", url, headers=headers, timeout=timeout)
        return get_session().send(request, stream=True, follow_redirects=True)

    name = url.rsplit("/", 1)[-1]
    try:
        response = _within(max(ANSWER_TIMEOUT, asked), send)
    except Exception as error:
        raise _explained(error, name) from error
    try:
        if response.status_code not in (200, 206) and not (start and response.status_code == 416):
            raise _refused(response.status_code, response.headers, name)
        if response.status_code != 206 or not response.headers.get("Content-Range", "").startswith(
            f"bytes {start}-"
        ):
            file.seek(0)
            file.truncate()
            if response.status_code != 200:
                raise _TryAgain(f"the hub sent another part of {name} than it was asked for")
        _copy(response, file, size, name, stall, show)
        return _named_hash(response)
    finally:
        response.close()


def _copy(
    response: Any,
    file: BinaryIO,
    size: int | None,
    name: str,
    stall: float,
    show: Callable[[int], object],
) -> None:
    """Write the body to a file while it comes fast enough."""
    from huggingface_hub.utils import httpx

    chunks = response.iter_bytes()
    since, before = time.monotonic(), file.tell()
    while size is None or file.tell() <= size:
        try:
            chunk = next(chunks, None)
        except httpx.HTTPError as error:
            file.flush()
            raise _explained(error, name, begun=True) from error
        if chunk is None:
            break
        file.write(chunk)
        show(file.tell())
        elapsed = time.monotonic() - since
        if elapsed >= stall and file.tell() != size:
            if file.tell() - before < MIN_SPEED * elapsed:
                raise TransferError(
                    f"the hub sent less than {MIN_SPEED} bytes per second of {name} "
                    f"for {elapsed:.0f} s",
                    _CONNECTION,
                )
            since, before = time.monotonic(), file.tell()
    file.flush()


def _named_hash(response: Any) -> str | None:
    """Return the hash in an answer's headers, the hub's own before another host's."""
    for answer in (*response.history, response):
        etag = str(answer.headers.get("X-Linked-Etag") or answer.headers.get("ETag") or "")
        if is_hash(etag := etag.removeprefix("W/").strip('"')):
            return etag
    return None


def _explained(error: Exception, what: str, begun: bool = False) -> Exception:
    """Translate an exception into a reason, and whether to try again."""
    from huggingface_hub.utils import httpx

    told = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, TransferError | _TryAgain):
        return error
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        if begun:
            return _TryAgain(
                f"the hub fell silent for {STALL_TIMEOUT:.0f} s in the middle of {what}",
                _CONNECTION,
            )
        return TransferError(f"the hub did not answer in time (asked for {what})", _WAIT)
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
        return _TryAgain(f"the connection broke off in the middle of {what} ({told})", _CONNECTION)
    if isinstance(error, httpx.HTTPError | httpx.InvalidURL | OSError):
        return TransferError(
            f"the hub cannot be reached ({type(error).__name__}: {told})", _CONNECTION
        )
    if str(getattr(error, "doc", "")).lstrip()[:1] == "<":  # of a JSONDecodeError: what came
        return TransferError(
            "the hub's answer is an HTML page, as of a network that wants a login first",
            _CONNECTION,
        )
    if isinstance(error, ValueError | KeyError | TypeError | AttributeError):
        return TransferError(
            f"the hub's answer is none of a model hub ({type(error).__name__}: {told})", _CONNECTION
        )
    return error


def _refused(status: int, headers: Mapping[str, str], what: str) -> Exception:
    """Translate an HTTP status into a reason, and whether to try again."""
    code = headers.get("X-Error-Code", "")
    told = f"{status} {code or responses.get(status, '')}".strip()
    if status in _AGAIN:
        after = headers.get("Retry-After", "").strip()
        asked = f" and asks to come back in {after} s" if after.isdigit() else ""
        return _TryAgain(
            f"the hub answered {told} for {what}{asked}",
            wait=float(after) if after.isdigit() else None,
        )
    if status in (401, 403):
        return TransferError(
            f"the hub answered {told} for {what}: the model is gated or private and needs a token",
            _TOKEN,
        )
    if status == 404:
        missing = {
            "RevisionNotFound": "no such revision of this model",
            "EntryNotFound": f"no {what} in it",
        }
        return TransferError(
            f"the hub answered {told}: it has {missing.get(code, 'no such model')}", _SPELLING
        )
    return TransferError(f"the hub answered {told} for {what}", _CONNECTION)


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
            warnings.warn(
                f"Model {model!r} is taken from the hub cache, at commit {cached.name}: {reason}.",
                stacklevel=2,
            )
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
    """Choose the files that are read: ``tokenizer.json`` replaces its sources."""
    return [
        name
        for name in MODEL_FILES
        if name in names and (TOKENIZER not in names or name in (CONFIG, TOKENIZER, WEIGHTS))
    ]


# ---- the cache: models--owner--name/{refs/<branch>, snapshots/<commit>/<file> -> blobs/<hash>}


def _storage(model: str) -> Path:
    """Return a model's folder in the hub cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser() / "--".join(["models", *model.split("/")])


def _cached_snapshot(model: str, revision: str | None) -> Path | None:
    """Find a snapshot with all needed files, damaged or not."""
    storage, commit = _storage(model), revision or "main"
    if not is_commit(revision):
        try:
            commit = (storage / "refs" / commit).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    folder = storage / "snapshots" / commit
    # lexists: a link to a missing blob is damage
    has = {name for name in MODEL_FILES if os.path.lexists(folder / name)}
    whole = {CONFIG, WEIGHTS} <= has and has & {TOKENIZER, *VOCABULARIES}
    return folder if commit and whole else None


def _published_hash(path: Path) -> str | None:
    """Return the hash in a file's link, None in a cache without links."""
    try:
        # one link only: the blob may be a link into a shared store
        name = os.path.basename(os.readlink(path))
    except OSError:
        return None
    return name if is_hash(name) else None


def _damage(folder: Path) -> str | None:
    """Describe the first damaged file of a snapshot."""
    for name in needed_files({name for name in MODEL_FILES if os.path.lexists(folder / name)}):
        published = _published_hash(folder / name)
        if published and (damage := difference(folder / name, published)):
            return damage
    return None


# ---- the hub


def _from_hub(model: str, revision: str | None, patient: bool) -> Path:
    """Complete the cache from the hub and return the snapshot."""
    listing = ask(model, revision, patient)
    files = listing.files
    if WEIGHTS not in files:
        raise FetchError(
            f"{model!r} has no {WEIGHTS} on the hub, only {', '.join(sorted(files)[:8])}: other "
            "weight files can execute code when loaded and are never opened here."
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
    """Fetch a file into the cache, twice if it comes damaged."""
    from huggingface_hub import hf_hub_url

    name, blobs = path.name, path.parents[2] / "blobs"
    for folder in (blobs, path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    if size and size > (free := shutil.disk_usage(blobs).free):
        raise OSError(None, f"{name} needs {size / 1e6:.0f} MB, {free / 1e6:.0f} MB are free")
    url, damage = hf_hub_url(model, name, revision=path.parent.name), ""
    with _alone(model, published or name):
        if published and difference(blobs / published, published) is None:
            # of another commit, or another process was quicker
            return _link(blobs / published, path)
        for _ in range(2):
            part = blobs / f"{published or name}.{uuid.uuid4().hex[:8]}.incomplete"
            try:
                named = download(url, part, size)
                expected = published or named
                if expected is None:
                    raise TransferError(
                        f"the hub names no hash of {name} to verify it by", "Check HF_ENDPOINT."
                    )
                damage = difference(part, expected) or ""
                if not damage:
                    # in place of a damaged one, which others may have mapped
                    os.replace(part, blobs / expected)
                    return _link(blobs / expected, path)
                with part.open("rb") as file:
                    page = b"<html" in file.read(1000).lower()
            finally:
                part.unlink(missing_ok=True)
        if page:
            damage += "; what came is an HTML page, as of a network that wants a login first"
        raise TransferError(
            f"{damage.replace(part.name, name)}, fetched twice",
            "Check the connection and a proxy (HTTPS_PROXY).",
        )


def _link(blob: Path, path: Path) -> None:
    """Link a snapshot's file to a blob, or move the blob there."""
    from huggingface_hub import constants

    new = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.incomplete")
    try:
        if constants.HF_HUB_DISABLE_SYMLINKS:
            raise OSError
        os.symlink(os.path.join("..", "..", "blobs", blob.name), new)
    except OSError:
        os.replace(blob, path)
    else:
        os.replace(new, path)


def _remember(model: str, revision: str | None, commit: str) -> None:
    """Record the commit of a branch or tag, if the cache can be written."""
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
    """Let one process fetch a file; the cache stays right without."""
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
    """Turn a failure to write into a TransferError."""
    try:
        yield
    except OSError as error:
        raise TransferError(
            f"{folder} cannot be written ({error.strerror or error})",
            "Free space there, or set HF_HOME to a folder with room that may be written.",
        ) from error


def _not_here(
    model: str, revision: str | None, damage: str | None, reason: str, advice: str
) -> str:
    """Say where the model was looked for, why it is missing, and what to do."""
    from huggingface_hub import constants

    at = f" at revision {revision!r}" if revision else ""
    asked = f"{model} --revision {revision}" if revision else model
    where = f"the hub cache ({constants.HF_HUB_CACHE})"
    state = (
        f"is damaged in {where}: {damage}"
        if damage
        else f"is not here: it is no folder, no installed copy, not in {where}"
    )
    return (
        f"Model {model!r}{at} {state}, and {reason}; endpoint {constants.ENDPOINT}. {advice} "
        f"For a machine without a connection: `python run_pipeline.py fetch {asked} --to DIR` on "
        "one that has it, copy DIR over, and give model=DIR."
    )
