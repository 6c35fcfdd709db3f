"""Stores of pooled vectors: memory, or a shared SQLite file."""

import hashlib
import os
import re
import sqlite3
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pipeline.exceptions import CacheWarning
from pipeline.files import local_path
from pipeline.forks import ForkGate, ForkSafeLock

MEMORY_BYTES = 1 << 30  # default limit of the memory cache
BUSY_SECONDS = 30  # to wait for another process that writes
_KEYS_PER_SELECT = 400  # SQLite allows 999 in its oldest builds
_broken: set[Path] = set()  # files that failed: skipped after one warning
# a connection used after a fork corrupts the file: forks wait
_connections = ForkGate()

_unrecorded = ContextVar("unrecorded", default=False)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Keep this thread's texts out of every cache and count."""
    token = _unrecorded.set(True)
    try:
        yield
    finally:
        _unrecorded.reset(token)


def is_unrecorded() -> bool:
    """Return whether this thread is inside `unrecorded`."""
    return _unrecorded.get()


def text_key(namespace: str, pooling: str, text: str) -> bytes:
    """Return the key (16 bytes) of a text under one pooling."""
    return hashlib.blake2b(f"{namespace}\0{pooling}\0{text}".encode(), digest_size=16).digest()


class MemoryStore:
    """Vectors in memory, limited in bytes, dropping the least recently used."""

    def __init__(self, max_bytes: int = MEMORY_BYTES) -> None:
        self.max_bytes = max_bytes
        self.current_bytes = 0
        self.overflowed = False
        self._vectors: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = ForkSafeLock()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return known vectors, and mark them as used."""
        with self._lock:
            known = {key: self._vectors[key] for key in keys if key in self._vectors}
            for key in known:
                self._vectors.move_to_end(key)
            return known

    def put(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Store new vectors, evicting older ones."""
        with self._lock:
            for key, vector in vectors.items():
                if key not in self._vectors and vector.nbytes <= self.max_bytes:
                    self._vectors[key] = vector
                    self.current_bytes += vector.nbytes
            while self.current_bytes > self.max_bytes:
                self.current_bytes -= self._vectors.popitem(last=False)[1].nbytes
                self.overflowed = True

    def clear(self) -> None:
        """Remove all vectors."""
        with self._lock:
            self._vectors.clear()
            self.current_bytes, self.overflowed = 0, False


def parse_size(size: int | str) -> int:
    """Parse ``"2GB"``, ``"500 MiB"`` or a number into bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([kMGT])(i?)B)?", str(size), re.IGNORECASE)
    if found is None or not (n := float(found[1])):
        raise ValueError(
            f"cache_size={size!r}; allowed are a number of bytes above 0, and sizes such as '2GB', "
            "'500MB' and '1.5GiB'."
        )
    thousands = "kmgt".index(found[2].lower()) + 1 if found[2] else 0
    return int(n * (1024 if found[3] else 1000) ** thousands)


class FolderStore:
    """Vectors of one encoder in a shared SQLite file."""

    max_bytes = float("inf")  # only the disk is the limit

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder = folder
        self.path = folder / f"embeddings-{namespace[:16]}.sqlite"

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return known vectors with a valid checksum."""
        known: dict[bytes, np.ndarray] = {}

        def select(connection: sqlite3.Connection) -> None:
            for start in range(0, len(keys), _KEYS_PER_SELECT):
                chunk = keys[start : start + _KEYS_PER_SELECT]
                query = f"SELECT k, width, v FROM e WHERE k IN ({','.join('?' * len(chunk))})"
                for key, width, value in connection.execute(query, chunk):
                    vector = _unpack(width, value)
                    if vector is not None:
                        known[key] = vector

        self._run(select)
        return known

    def put(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Store new vectors, all or none."""
        rows = [(key, vector.shape[1], _pack(vector)) for key, vector in vectors.items()]

        def insert(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("INSERT OR REPLACE INTO e VALUES (?, ?, ?)", rows)

        self._run(insert)

    def _run(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Call ``work`` with a connection, without raising."""
        if self.path in _broken:
            return
        try:
            with _connections, closing(self._open()) as connection:
                work(connection)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _open(self) -> sqlite3.Connection:
        """Connect, waiting for processes that create the file."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._connect()
            except sqlite3.OperationalError as error:
                # SQLite does not wait if two processes create a file or take it out of WAL mode
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > until:
                    raise
            time.sleep(0.01)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA page_size=16384")
            # faster than WAL for large rows, and safe on network file systems
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS e (k BLOB PRIMARY KEY, width INTEGER, v BLOB)"
            )
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _give_up(self, error: Exception) -> None:
        _broken.add(self.path)
        aside, text = "", str(error)
        if isinstance(error, sqlite3.DatabaseError) and (
            "malformed" in text or "not a database" in text
        ):
            quarantine = f"{self.path.name}.corrupt-{int(time.time())}-{os.getpid()}"
            try:
                self.path.replace(self.path.with_name(quarantine))
                for journal in self.folder.glob(f"{self.path.name}-*"):
                    journal.unlink(missing_ok=True)
                aside = f" The file was moved to {quarantine}; the next run starts a new one."
            except OSError:
                aside = " It could not be moved; delete it."
        warnings.warn(
            f"The embedding cache {self.path} cannot be used ({type(error).__name__}: {text}); "
            f"continuing without it.{aside}",
            CacheWarning,
            stacklevel=2,
        )


Store: TypeAlias = MemoryStore | FolderStore


def cache_folder(cache: str | os.PathLike) -> Path:
    """Return the folder of a cache, or raise for an address."""
    return local_path(
        cache,
        "folder",
        "the cache is an SQLite file, which needs a folder. Name one, or use cache='memory'.",
    )


def clear_folder(folder: Path) -> None:
    """Delete the cache files of a folder."""
    for path in folder.glob("embeddings-*.sqlite*"):
        path.unlink(missing_ok=True)
    _broken.difference_update({path for path in _broken if path.parent == folder})


def _pack(vector: np.ndarray) -> bytes:
    raw = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return raw + zlib.crc32(raw).to_bytes(4, "little")


def _unpack(width: int, value: bytes) -> np.ndarray | None:
    """Return a vector, (n_layers, width), or None if damaged."""
    raw, check = value[:-4], value[-4:]
    if zlib.crc32(raw).to_bytes(4, "little") != check or width <= 0 or len(raw) % (4 * width):
        return None
    return np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(-1, width)
