"""A loopback imitation of the model hub: as much of it as huggingface_hub asks for when it fetches a file."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", COMMIT)


class FakeHub:
    """Serves folders as repositories on a free port of the loopback interface, while its `with` block lasts.

    Parameters
    ----------
    repositories : mapping of str to Path
        Repository id -> the folder with its files; all of them are at `COMMIT`.

    Attributes
    ----------
    requests : list of str
        Every request so far, such as ``"GET /api/models/acme/tiny-bert"``.
    answers : dict of str to (int, bytes)
        Path -> status and body to give instead of the true answer: a hub that is ill.
    """

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = dict(repositories)
        self.requests: list[str] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Go down, as a hub does; harmless when it is down already."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler_of(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # one request per connection: once stopped, nobody is served on an old one

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output clean."""

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            status, headers, body = (
                _ill(hub, path) or _about_repository(hub, path) or _file(hub, path) or _refusal("RepoNotFound")
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

    return Handler


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


Answer = tuple[int, dict[str, str], bytes]


def _ill(hub: FakeHub, path: str) -> Answer | None:
    if path not in hub.answers:
        return None
    status, body = hub.answers[path]
    return status, {}, body


def _refusal(code: str) -> Answer:
    return 404, {"X-Error-Code": code}, json.dumps({"error": code}).encode()


def _about_repository(hub: FakeHub, path: str) -> Answer | None:
    for model, folder in hub.repositories.items():
        start, _, revision = path.partition("/revision/")
        if start == f"/api/models/{model}":
            if (revision or "main") not in REVISIONS:
                return _refusal("RevisionNotFound")
            files = [{"rfilename": file.name, "size": file.stat().st_size} for file in sorted(folder.iterdir())]
            about = {"id": model, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0, "siblings": files}
            return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()
        if path.startswith(f"/api/models/{model}/tree/"):
            entries = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _hash(file.read_bytes())}
                for file in sorted(folder.iterdir())
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()
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
            return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{_hash(body)}"'}, body
    return None
