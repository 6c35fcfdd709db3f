"""A fake model hub on the loopback interface, healthy or faulty."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

from pipeline.checkpoints import hub as hub_module
from pipeline.checkpoints.checkpoint import resolve
from pipeline.checkpoints.checkpoint import where as where_is
from pipeline.exceptions import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", COMMIT)
MODEL = "acme/tiny-bert"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json")
LOGIN_PAGE = b"<!doctype html><html><body>Please log in to this network</body></html>"

# For silent hubs: short, in the order of the true limits.
SHORT = {
    "CACHED_TIMEOUT": 0.8,
    "ANSWER_TIMEOUT": 1.0,
    "METADATA_TIMEOUT": 1.5,
    "STALL_TIMEOUT": 0.7,
    "CHUNK": 64,
}
CHILD = """
import sys
from pipeline.checkpoints.checkpoint import resolve
print(resolve(sys.argv[1]).source["revision"])
"""


@dataclass
class Fault:
    """What is wrong with the answers for one path, and how often.

    Attributes
    ----------
    times : int or None
        How many answers are ill; None: all of them.
    status, headers, body
        Of the answer.
    flip : bool
        One bit of the body is wrong, the size is right.
    cut : bool
        The connection ends in the middle of the body.
    length : int
        Added to the Content-Length that is told.
    silent : bool
        Nothing is ever answered.
    pace : tuple of (int, float) or None
        The body comes in pieces of so many bytes, each after a pause of so many seconds.
    pace_headers : bool
        The pace is also that of the headers.
    redirect : str
        Address of another host, to which is redirected.
    """

    times: int | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    flip: bool = False
    cut: bool = False
    length: int = 0
    silent: bool = False
    pace: tuple[int, float] | None = None
    pace_headers: bool = False
    redirect: str = ""

    @property
    def of_body(self) -> bool:
        """Whether answers without a body are healthy."""
        return not (
            self.status or self.headers or self.silent or self.pace_headers or self.redirect
        )


class FakeHub:
    """Serves folders as repositories on a free port, while its `with` block lasts.

    Parameters
    ----------
    repositories : mapping of str to Path
        Repository id -> the folder with its files; all of them are at `COMMIT`.

    Attributes
    ----------
    requests : list of str
        Every request so far, such as ``"GET /api/models/acme/tiny-bert"``.
    headers : list of dict
        The headers of each of them, by lower-case name.
    faults : dict of str to Fault
        End of a path (a file's name, or `API`) -> what is wrong there.
    metadata : dict of str to object
        Overrides what is told of a repository.
    ranges : bool
        Whether a part of a file can be asked for.
    """

    API = "/api/models"

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = dict(repositories)
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.faults: dict[str, Fault] = {}
        self.metadata: dict[str, object] = {}
        self.ranges = True
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def note(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Record a request, unless it is the library's own, which comes once a day."""
        if path != "/api/agent-harnesses":
            self.requests.append(f"{method} {path}")
            self.headers.append({name.lower(): value for name, value in headers.items()})

    def asked_for(self, name: str) -> int:
        """Count the requests for one file, or for `API`."""
        return sum(_concerns(name, request.partition(" ")[2]) for request in self.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Go down, as a hub does; harmless when it is down already."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def black_hole() -> Iterator[str]:
    """Give the address of a socket that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def connect(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process use another hub and another cache until the test ends."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", str(cache / "harnesses.json"))
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


def git_hash(body: bytes) -> str:
    """Hash as git names a blob, and the hub a small file."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def published_hash(name: str, body: bytes) -> str:
    """Give the hash that the hub names a file by: sha256 of large files, git's of small ones."""
    return hashlib.sha256(body).hexdigest() if name.endswith(".safetensors") else git_hash(body)


Answer = tuple[int, dict[str, str], bytes]


def _concerns(name: str, path: str) -> bool:
    return path.startswith(name) if name == FakeHub.API else path.endswith(name)


def _handler_of(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # one request per connection: once stopped, nobody is served on an old one
        protocol_version = "HTTP/1.0"

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output clean."""

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            hub.note(self.command, path, self.headers)
            fault = _fault(hub, path, self.command)
            if fault.silent:
                hub.stopping.wait()
                return
            answer = (
                _about_repository(hub, path, parse_qs(url.query))
                or _file(hub, path)
                or _refusal("RepoNotFound")
            )
            asked = self.headers.get("Range") if hub.ranges else None
            status, headers, body = _continued(asked, _ill(fault, path, answer))
            headers["Content-Length"] = str(len(body) + fault.length)
            try:
                self._send(status, headers, body[: len(body) // 2] if fault.cut else body, fault)
            except (BrokenPipeError, ConnectionResetError):
                return  # who asked has given up

        do_HEAD = do_GET

        def _send(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
            lines = [f"HTTP/1.0 {status} told", *map(": ".join, headers.items()), "", ""]
            head = "\r\n".join(lines).encode()
            self._write(head, fault.pace if fault.pace_headers else None)
            if self.command != "HEAD":
                self._write(body, fault.pace)

        def _write(self, data: bytes, pace: tuple[int, float] | None) -> None:
            size, pause = pace or (max(len(data), 1), 0)
            for start in range(0, len(data), size):
                if hub.stopping.wait(pause) and pace:
                    return
                self.wfile.write(data[start : start + size])
                self.wfile.flush()

    return Handler


def _fault(hub: FakeHub, path: str, method: str) -> Fault:
    for name, fault in hub.faults.items():
        if method == "HEAD" and fault.of_body:
            continue
        if _concerns(name, path) and fault.times != 0:
            fault.times = None if fault.times is None else fault.times - 1
            return fault
    return Fault()


def _ill(fault: Fault, path: str, answer: Answer) -> Answer:
    status, headers, body = answer
    if fault.redirect:
        return 302, {**headers, "Location": fault.redirect + path}, b""
    if fault.body is not None or fault.status is not None:
        return fault.status or 200, {**fault.headers}, fault.body or b""
    if fault.flip:
        body = body[:-1] + bytes([body[-1] ^ 1])
    return status, {**headers, **fault.headers}, body


def _continued(range_: str | None, answer: Answer) -> Answer:
    status, headers, body = answer
    if range_ is None or status != 200 or "ETag" not in headers:
        return answer
    skipped = int(range_.removeprefix("bytes=").removesuffix("-"))
    headers["Content-Range"] = f"bytes {skipped}-{len(body) - 1}/{len(body)}"
    return 206, headers, body[skipped:]


def _refusal(code: str) -> Answer:
    return 404, {"X-Error-Code": code}, json.dumps({"error": code}).encode()


def _about_file(file: Path, folder: Path, blobs: bool) -> dict[str, object]:
    name = file.relative_to(folder).as_posix()
    if not blobs:
        return {"rfilename": name}
    body = file.read_bytes()
    about: dict[str, object] = {"rfilename": name, "size": len(body), "blobId": git_hash(body)}
    if file.suffix == ".safetensors":  # in git lies a pointer, and blobId is the pointer's
        sha256 = published_hash(file.name, body)
        pointer = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(body)}\n"
        )
        about["blobId"] = git_hash(pointer.encode())
        about["lfs"] = {"sha256": sha256, "size": len(body), "pointerSize": len(pointer)}
    return about


def _about_repository(hub: FakeHub, path: str, query: dict[str, list[str]]) -> Answer | None:
    for model, folder in hub.repositories.items():
        start, _, revision = path.partition("/revision/")
        if start == f"{hub.API}/{model}":
            if (revision or "main") not in REVISIONS:
                return _refusal("RevisionNotFound")
            blobs = query.get("blobs", [""])[0].lower() in ("true", "1")
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            files = [_about_file(file, folder, blobs) for file in paths]
            about = {"id": model, "sha": COMMIT, "siblings": files} | hub.metadata
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
    return None


def _file(hub: FakeHub, path: str) -> Answer | None:
    for model, folder in hub.repositories.items():
        start = f"/{model}/resolve/"
        if path.startswith(start):
            revision, _, name = path.removeprefix(start).partition("/")
            if revision not in REVISIONS:
                return _refusal("RevisionNotFound")
            if not (folder / name).is_file():
                status, headers, body = _refusal("EntryNotFound")
                return status, {**headers, "X-Repo-Commit": COMMIT}, body
            body = (folder / name).read_bytes()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{published_hash(name, body)}"'}
            if name.endswith(".safetensors"):
                headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(body))}
            return 200, headers, body
    return None


# ---- helpers


def copy_files(source, target, *names):
    target.mkdir()
    for name in names:
        (target / name).write_bytes(Path(source, name).read_bytes())
    return target


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def processes(n, environment, **options):
    """Start processes that resolve the model."""
    command = [sys.executable, "-c", CHILD, MODEL]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    top = Path(__file__).parent.parent
    return [
        subprocess.Popen(command, env=environment, cwd=top, **streams, **options) for _ in range(n)
    ]


# ---- fixtures


@pytest.fixture
def hub(tiny_bert):
    with FakeHub({MODEL: Path(tiny_bert)}) as server:
        yield server


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def storage(home):
    """Give the folder in which the cache keeps `MODEL`."""
    return home / "hub" / f"models--{MODEL.replace('/', '--')}"


@pytest.fixture
def snapshot(storage):
    """Give the folder that the cache keeps of `MODEL` at `COMMIT`."""
    return storage / "snapshots" / COMMIT


@pytest.fixture
def cached(snapshot, storage, tiny_bert):
    """Put the model into the cache, as the hub's own library lays it out; give the snapshot."""
    for folder in (snapshot, storage / "blobs", storage / "refs"):
        folder.mkdir(parents=True)
    (storage / "refs" / "main").write_text(COMMIT)
    for name in NEEDED:
        body = Path(tiny_bert, name).read_bytes()
        (storage / "blobs" / published_hash(name, body)).write_bytes(body)
        (snapshot / name).symlink_to(f"../../blobs/{published_hash(name, body)}")
    return snapshot


@pytest.fixture
def start(hub, home, monkeypatch):
    """Give a function that applies settings and gives one that resolves models with them.

    The answer has the model's `source` or `where`, or an `error`, and the `warnings`.
    """
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.01)))

    def start(limits=(), url=hub.url, cache=home / "hub", token=None, **settings):
        def ask(model=MODEL, where=False, **question):
            with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as got:
                warnings.simplefilter("always")
                connect(url, cache, patch)
                apply(patch, hub_module, dict(limits))
                stall = {"HF_HUB_DOWNLOAD_TIMEOUT": dict(limits).get("STALL_TIMEOUT", 10)}
                apply(patch, constants, stall | settings)
                if token:
                    patch.setenv("HF_TOKEN", token)
                try:
                    answer = (
                        {"where": where_is(model)}
                        if where
                        else {"source": resolve(model, **question).source}
                    )
                except CheckpointError as error:
                    answer = {"error": str(error)}
            return SimpleNamespace(**answer, warnings=[str(warning.message) for warning in got])

        return ask

    yield start
    hub.stop()
    for thread in threading.enumerate():
        if thread.name == "hub request":
            thread.join(30)


@pytest.fixture
def ask(start):
    """Resolve `MODEL`, or another, with the usual settings."""
    return start()


@pytest.fixture
def environment(hub, home):
    """Give the environment of another process that uses the fake hub."""
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    inherited = {k: v for k, v in inherited.items() if not k.startswith("HF_")}
    own = {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return inherited | own


def apply(patch, module, values):
    for name, value in values.items():
        patch.setattr(module, name, value)
