"""Read and write local paths and fsspec addresses."""

import contextlib
import glob
import hashlib
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast
from urllib.request import url2pathname

from pipeline.exceptions import StorageError

# a scheme has two letters or more (C:\ is a drive); schemes may be chained, as in
# simplecache::s3://bucket/file
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//|:.*://)")
_LOST_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\](?![/\\])")
_LOCAL = re.compile(r"file:(?=/)(//(localhost(?=/))?)?", re.IGNORECASE)


def program() -> str:
    """Return the command that was run, for messages."""
    called = PurePath(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "pipeline":
        return "python -m pipeline"
    here = Path(__file__).resolve().parent.parent / "run_pipeline.py"
    if called.name.startswith("bert-vectorizer") or not here.is_file():
        return "bert-vectorizer"
    return f"python {here.name}"


def is_path(value: Any) -> bool:
    """Whether a value is a str or a path object."""
    return isinstance(value, str | os.PathLike) or hasattr(value, "protocol")


def is_address(path: str) -> bool:
    """Whether a path is an address for fsspec."""
    return _ADDRESS.match(path) is not None and not _LOCAL.match(path)


def where(path: str | os.PathLike) -> Path | str:
    """Return a local Path, or an fsspec address as a str."""
    if not is_path(path):
        raise TypeError(
            f"{path!r} is a {type(path).__name__}; expected a path, as a str or a Path."
        )
    text = os.fspath(path) if isinstance(path, os.PathLike) else str(path)
    if local := _LOCAL.match(text):
        return Path(url2pathname(text[local.end() :]))
    if is_address(text):
        return text
    if lost := _LOST_SLASH.match(text):
        whole = f"{lost[1]}://{text[lost.end() :]}".replace("\\", "/")
        raise ValueError(
            f"{text} is an address that lost a slash, as happens in a Path. Use a str: {whole!r}."
        )
    return Path(os.path.expanduser(text))


def local_path(path: str | os.PathLike, kind: str, why: str) -> Path:
    """Return a local path, or raise for an address."""
    place = where(path)
    if isinstance(place, str):
        raise ValueError(f"{place} is not a {kind} on this machine: {why}")
    return place


def with_ending(place: Path | str, ending: str) -> Path | str:
    """Return the path with another file ending."""
    if isinstance(place, Path):
        return place.with_suffix(ending)
    return place.removesuffix(PurePath(place).suffix) + ending


def connect(address: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it."""
    import fsspec

    try:
        system, inner = fsspec.core.url_to_fs(address)
        system.invalidate_cache()  # see what others wrote in the meantime
    except ImportError as error:
        raise ImportError(f"{address} cannot be opened: {error}.") from error
    except ValueError as error:
        raise ValueError(f"{address} is not an address that fsspec knows: {error}.") from error
    except Exception as error:
        raise _complaint(address, "opened", error) from error
    return system, inner


@contextlib.contextmanager
def _opened(address: str, action: str, named: str = "") -> Iterator[tuple[Any, str]]:
    opened = connect(address)
    try:
        yield opened
    except Exception as error:
        raise _complaint(named or address, action, error) from error


def reading(address: str) -> contextlib.AbstractContextManager[tuple[Any, str]]:
    """Yield file system and inner path of an address, for reading."""
    return _opened(address, "read")


def _complaint(address: str, action: str, error: Exception) -> OSError:
    if isinstance(error, FileNotFoundError) and action == "read":
        return FileNotFoundError(f"{address} does not exist.")
    known = (FileNotFoundError, PermissionError)
    kind = next((kind for kind in known if isinstance(error, kind)), StorageError)
    return kind(
        f"{address} cannot be {action} ({type(error).__name__}: {str(error).rstrip('.')}). Check "
        "the address, the credentials and the network."
    )


def refuse_folder(place: Path | str, example: str) -> None:
    """Raise if no file can be written to a place."""
    if isinstance(place, str) and place.lower().startswith(("http://", "https://")):
        raise StorageError(
            f"{place} is read-only. Name a file, or an address in a store such as s3://."
        )
    if _is_folder(place):
        within = place / example if isinstance(place, Path) else f"{place.rstrip('/')}/{example}"
        raise IsADirectoryError(f"{place} is a folder; name a file, such as {within}.")


def _is_folder(place: Path | str) -> bool:
    if isinstance(place, Path):
        return place.is_dir()
    # writing may be allowed where listing is not
    with contextlib.suppress(PermissionError), _opened(place, "written") as (system, inner):
        return _is_root(place, inner) or bool(system.isdir(inner))
    return False


def _is_root(address: str, inner: str) -> bool:
    """Whether an address names a bucket or ends like a folder."""
    return address.endswith("/") or ("/" not in inner and "::" not in address)


def check_writable(place: Path | str) -> None:
    """Raise if an address cannot be written, by writing a probe."""
    if isinstance(place, Path):
        return
    with _opened(place, "written") as (system, inner):
        probe = f"{inner}.{uuid.uuid4().hex[:8]}.tmp"
        system.pipe_file(probe, b"")
    with contextlib.suppress(Exception):  # writing may be allowed where removing is not
        system.rm_file(probe)


@contextlib.contextmanager
def fetched(place: Path | str, *beside: Path | str) -> Iterator[Path]:
    """Yield the local file, or a temporary copy of an address."""
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for address in (place, *beside):
            _copy(str(address), Path(folder, _name(str(address))))
        path = Path(folder, _name(place))
        try:
            yield path
        except (OSError, ValueError, ImportError) as error:
            error.args = tuple(
                arg.replace(str(path), place) if isinstance(arg, str) else arg for arg in error.args
            )
            raise


def _name(address: str) -> str:
    # zip://a.csv::s3://bucket/b.zip is a.csv
    return PurePath(next(part for part in address.split("::") if "://" in part)).name


def _copy(address: str, path: Path) -> None:
    with reading(address) as (system, inner):
        is_folder = _is_root(address, inner)
        if not is_folder:
            try:
                system.get_file(inner, str(path))
            except FileNotFoundError:
                path.unlink(missing_ok=True)
                is_folder = system.isdir(inner)
        if is_folder:
            path.mkdir()


def open_binary(path: str) -> BinaryIO:
    """Open a local or remote file for reading."""
    if not is_address(path):
        return open(path, "rb")
    with reading(path) as (system, inner):
        return cast(BinaryIO, system.open(inner, "rb"))


def file_size(path: str) -> int:
    """Return the size of a file in bytes."""
    if not is_address(path):
        return os.path.getsize(path)
    with reading(path) as (system, inner):
        return int(system.size(inner))


def file_moment(path: str) -> list[str]:
    """Return values that change when a file is replaced, without reading it."""
    if not is_address(path):
        stat = os.stat(path)
        return [str(stat.st_size), str(stat.st_mtime_ns)]
    with reading(path) as (system, inner):
        info = system.info(inner)
    versions = ("ETag", "etag", "md5Hash", "content_md5", "sha256")
    moments = ("LastModified", "mtime", "created")
    version = next((info[key] for key in (*versions, *moments) if info.get(key)), None)
    return [str(info.get("size")), str(version)]


def file_identity(path: str) -> dict[str, Any]:
    """Return size and sha256 of a file, or its remote version."""
    if is_address(path):
        size, version = file_moment(path)
        return {"size": int(size), "version": version}
    return {"size": os.path.getsize(path), "sha256": sha256_of(Path(path))}


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """Hash a file, once per process unless it changes."""
    stat = path.stat()
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return _sha256_in(path, state)


@cache
def _sha256_in(path: Path, state: tuple[int, ...]) -> str:
    return sha256_of(path)


@contextlib.contextmanager
def temporary_for(place: Path | str, *, tidy: bool = True) -> Iterator[Path]:
    """Yield a new empty file for `put`; `tidy` removes those of killed writers."""
    with contextlib.ExitStack() as stack:
        if isinstance(place, Path):
            if tidy:
                _remove_abandoned(place)
            temporary = _claimed(place, stack)
        else:
            handle, name = tempfile.mkstemp(suffix=".tmp")
            os.close(handle)
            temporary = Path(name)
        stack.callback(temporary.unlink, missing_ok=True)
        with naming(place, temporary):
            yield temporary


@contextlib.contextmanager
def naming(place: Path | str, temporary: Path | None = None) -> Iterator[None]:
    """Name the place in system errors that do not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, temporary, f"{temporary}"):
            raise
        raise OSError(error.errno, error.strerror, str(place)) from error


def _claimed(place: Path, stack: contextlib.ExitStack) -> Path:
    """Make a file beside a place, locked while it is written."""
    while True:
        temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
        with naming(place, temporary):  # mkstemp would not set the usual permissions
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if os.name == "nt":  # cannot rename open files
            os.close(handle)
            return temporary
        stack.callback(os.close, handle)
        if lock(handle) is not False and os.fstat(handle).st_nlink:
            return temporary  # otherwise another process removed it as abandoned


def _remove_abandoned(place: Path) -> None:
    for left in place.parent.glob(f".{glob.escape(place.name)}.*.tmp"):
        with contextlib.suppress(OSError), left.open("r+b") as file:
            if os.name != "nt" and lock(file.fileno()):
                left.unlink()


def lock(handle: int) -> bool | None:
    """Try to lock an open file: False if taken, None if unsupported."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def put(written: Path, place: Path | str, *, named: Path | str | None = None) -> None:
    """Rename or upload a file from `temporary_for`, atomically."""
    if isinstance(place, Path):
        flush_to_disk(written)
        os.replace(written, place)
        return
    with _opened(place, "written", str(named or place)) as (system, inner):
        system.put_file(str(written), inner)


def write_text(place: Path | str, text: str, *, named: Path | str | None = None) -> None:
    """Write a text file atomically, creating missing local folders."""
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_for(place) as temporary:
        temporary.write_bytes(text.encode())
        put(temporary, place, named=named)


def remove(place: Path | str) -> None:
    """Remove a file that may be gone already."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    with contextlib.suppress(FileNotFoundError), _opened(place, "written") as (system, inner):
        system.rm_file(inner)


def flush_to_disk(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    if os.name == "nt" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(handle)
    finally:
        os.close(handle)
