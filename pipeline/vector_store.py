"""Stores of pooled vectors: memory, or an SQLite file that processes share."""

import hashlib
import os
import re
import sqlite3
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.exceptions import CacheWarning
from pipeline.files import local_path
from pipeline.forks import ForkGate, ForkSafeLock

MOUNTS = Path("/proc/self/mounts")
# Shared between machines: SQLite's write-ahead log needs memory shared by all writers, which these
# cannot give.
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|9p|fuse\.(sshfs|s3fs|gcsfuse|glusterfs|ceph|rclone)"
)


def network_file_system(folder: Path) -> str | None:
    """Return the kind of a folder's network file system, or None."""
    try:
        mounts = [
            line.split()[1:3]
            for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
        ]
    except OSError:
        return None
    path = folder.expanduser().resolve()
    around = [
        (_unescaped(point), kind)
        for point, kind in mounts
        if path.is_relative_to(_unescaped(point))
    ]
    # of two mounts on one point the later covers the earlier
    kind = max(
        enumerate(around),
        key=lambda one: (len(Path(one[1][0]).parts), one[0]),
        default=(0, ("/", "")),
    )[1][1]
    return kind if _NETWORK.fullmatch(kind) else None


def _unescaped(point: str) -> str:
    """Undo the octal escapes of a mount point."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)


MEMORY_BYTES = (
    1 << 30
)  # what the memory cache may hold; the least recently used vectors leave first
BUSY_SECONDS = 30  # how long to wait for another process that is writing to the same file
_KEYS_PER_SELECT = 400  # SQLite allows 999 in its oldest builds
_journals: dict[Path, str] = {}  # folder -> SQLite's journal mode, told once per process
_broken: set[Path] = set()  # files that failed in this process: warned of once, then left alone
_connections = (
    ForkGate()
)  # a connection carried over a fork corrupts the file: forks wait while one is open

_unrecorded = ContextVar("unrecorded", default=False)


class Store(Protocol):
    """Vectors of one encoder by key."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors of known keys."""

    def put(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Keep the vectors of new keys."""

    def room(self) -> float:
        """Return the bytes that fit."""


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
    """Return the key (16 bytes) of one text's vectors by one pooling."""
    return hashlib.blake2b(f"{namespace}\0{pooling}\0{text}".encode(), digest_size=16).digest()


class MemoryStore:
    """Vectors in memory, bounded by bytes, least recently used out first."""

    def __init__(self, max_bytes: int = MEMORY_BYTES) -> None:
        self.max_bytes = max_bytes
        self.current_bytes = 0
        self._vectors: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = ForkSafeLock()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors of known keys, and mark them as used."""
        with self._lock:
            found = {key: self._vectors[key] for key in keys if key in self._vectors}
            for key in found:
                self._vectors.move_to_end(key)
            return found

    def put(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Keep the vectors of new keys, evicting older ones."""
        with self._lock:
            for key, vector in vectors.items():
                if key not in self._vectors and vector.nbytes <= self.max_bytes:
                    self._vectors[key] = vector
                    self.current_bytes += vector.nbytes
            while self.current_bytes > self.max_bytes:
                self.current_bytes -= self._vectors.popitem(last=False)[1].nbytes

    def room(self) -> float:
        """Return the bytes that fit if all older vectors leave."""
        return self.max_bytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._vectors.clear()
            self.current_bytes = 0


class FolderStore:
    """Vectors of one encoder in one SQLite file, shared by processes."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self.folder = folder
        self.path = folder / f"embeddings-{namespace[:16]}.sqlite"

    def get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Return the vectors of known keys whose checksum holds."""
        with _connections:
            return self._get(keys)

    def _get(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        connection = self._open()
        if connection is None:
            return found
        try:
            for start in range(0, len(keys), _KEYS_PER_SELECT):
                chunk = list(keys[start : start + _KEYS_PER_SELECT])
                marks = ",".join("?" * len(chunk))
                for key, width, value in connection.execute(
                    f"SELECT k, width, v FROM e WHERE k IN ({marks})", chunk
                ):
                    vector = _unpack(width, value)
                    if vector is not None:
                        found[key] = vector
        except sqlite3.Error as error:
            self._give_up(error)
        finally:
            connection.close()
        return found

    def put(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Keep the vectors of new keys, all or none."""
        with _connections:
            self._put(vectors)

    def _put(self, vectors: dict[bytes, np.ndarray]) -> None:
        connection = self._open()
        if connection is None:
            return
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                rows = [(key, vector.shape[-1], _pack(vector)) for key, vector in vectors.items()]
                connection.executemany(
                    "INSERT OR REPLACE INTO e (k, width, v) VALUES (?, ?, ?)", rows
                )
        except sqlite3.Error as error:
            self._give_up(error)
        finally:
            connection.close()

    def room(self) -> float:
        """Return infinity: the disk is the bound."""
        return float("inf")

    def _open(self) -> sqlite3.Connection | None:
        """Connect for one call, or return None."""
        if self.path in _broken:
            return None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            until = time.monotonic() + BUSY_SECONDS
            while True:
                try:
                    return self._connect()
                except sqlite3.OperationalError as error:
                    # SQLite does not wait where two processes make a new file at once: one is told
                    # that it is locked
                    if (
                        getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY
                        or time.monotonic() > until
                    ):
                        raise
                time.sleep(0.01)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
            return None

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA page_size=16384")
            connection.execute(f"PRAGMA journal_mode={self._journal()}")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS e (k BLOB PRIMARY KEY, width INTEGER, v BLOB)"
            )
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _journal(self) -> str:
        """Return SQLite's journal mode for this folder."""
        if self.folder not in _journals:
            kind = network_file_system(self.folder)
            _journals[self.folder] = "WAL" if kind is None else "DELETE"
            if kind is not None:
                warnings.warn(
                    f"The embedding cache {self.path} is on a network file system ({kind}); a "
                    "slower journal is used, which needs its locks to work. A folder on a local "
                    "disk is better.",
                    CacheWarning,
                    stacklevel=2,
                )
        return _journals[self.folder]

    def _give_up(self, error: Exception) -> None:
        """Warn once, quarantine a corrupt file and go on without."""
        _broken.add(self.path)
        aside = ""
        text = str(error)
        if isinstance(error, sqlite3.DatabaseError) and (
            "malformed" in text or "not a database" in text
        ):
            quarantine = self.path.with_name(
                f"{self.path.name}.corrupt-{int(time.time())}-{os.getpid()}"
            )
            try:
                os.replace(self.path, quarantine)
                for suffix in ("-wal", "-shm"):
                    Path(f"{self.path}{suffix}").unlink(missing_ok=True)
                aside = (
                    f" The file was put aside as {quarantine.name}; the next run starts a new one."
                )
            except OSError:
                aside = " It could not be put aside; delete it."
        warnings.warn(
            f"The embedding cache {self.path} cannot be used ({type(error).__name__}: {text}); "
            f"texts are encoded without it.{aside}",
            CacheWarning,
            stacklevel=2,
        )


def cache_folder(cache: str | os.PathLike) -> Path:
    """Return the folder of a cache, and refuse an address."""
    return local_path(
        cache,
        "folder",
        "the cache is an SQLite file, which needs one. Name a folder, or take cache='memory'.",
    )


def clear_folder(folder: Path) -> None:
    """Delete the cache files of a folder."""
    for path in folder.glob("embeddings-*.sqlite*"):
        path.unlink(missing_ok=True)
    for path in [path for path in _broken if path.parent == folder]:
        _broken.discard(path)


def _pack(vector: np.ndarray) -> bytes:
    raw = np.ascontiguousarray(vector, dtype="<f4").tobytes()
    return raw + zlib.crc32(raw).to_bytes(4, "little")


def _unpack(width: int, value: bytes) -> np.ndarray | None:
    """Return a vector, (n_layers, width), or None if its checksum fails."""
    raw, check = value[:-4], value[-4:]
    if (
        len(value) < 4
        or zlib.crc32(raw).to_bytes(4, "little") != check
        or width <= 0
        or len(raw) % (4 * width)
    ):
        return None
    return np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(-1, width)
