"""Where a path points: to a file here or to an address such as s3://bucket/file; how either is read and written. Used by many."""

import contextlib
import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast
from urllib.request import url2pathname

from pipeline.exceptions import StorageError

# a scheme has two letters or more (C:\ is a drive); schemes may be chained, as in simplecache::s3://bucket/file
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//|:.*://)")
_LOST_SLASH = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\](?![/\\])")
_LOCAL = re.compile(r"file:(?=/)(//(localhost(?=/))?)?", re.IGNORECASE)


# ---- where a path points


def is_path(value: Any) -> bool:
    """Say whether a value names one place: a str, a Path, or a path of universal_pathlib, most of which are no os.PathLike."""
    return isinstance(value, str | os.PathLike) or hasattr(value, "protocol")


def is_address(path: str) -> bool:
    """Say whether a path is an address for fsspec, such as ``s3://bucket/table.parquet``."""
    return _ADDRESS.match(path) is not None and not _LOCAL.match(path)


def where(path: str | os.PathLike) -> Path | str:
    """Say where a path points.

    Parameters
    ----------
    path : str, Path or another path object
        ``~`` is the home folder; an address ``file://`` is a path of this machine.

    Returns
    -------
    Path or str
        A Path of this machine, or an address as it was written.

    Raises
    ------
    TypeError
        For what is no path.
    ValueError
        For an address that went through a Path and lost a slash there.
    """
    if not is_path(path):
        raise TypeError(
            f"{path!r} is a {type(path).__name__}; a path is expected, as a str or a Path."
        )
    text = os.fspath(path) if isinstance(path, os.PathLike) else str(path)
    if local := _LOCAL.match(text):
        return Path(url2pathname(text[local.end() :]))
    if is_address(text):
        return text
    if lost := _LOST_SLASH.match(text):
        whole = f"{lost[1]}://{text[lost.end() :]}".replace("\\", "/")
        raise ValueError(
            f"{text} is an address that lost a slash, as it does in a Path. Give it as a str: {whole!r}."
        )
    return Path(os.path.expanduser(text))


def local_path(path: str | os.PathLike, kind: str, why: str) -> Path:
    """Return a path of this machine, and refuse an address.

    Parameters
    ----------
    path : str or Path
    kind : {"file", "folder"}
        What is needed.
    why : str
        Why an address will not do, and what to do instead: the end of a message.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        For an address.
    """
    place = where(path)
    if isinstance(place, str):
        raise ValueError(f"{place} is no {kind} of this machine: {why}")
    return place


def with_ending(place: Path | str, ending: str) -> Path | str:
    """Return the place beside another one whose name differs in the ending: ``.html`` instead of ``.joblib``."""
    if isinstance(place, Path):
        return place.with_suffix(ending)
    return place.removesuffix(PurePath(place).suffix) + ending


# ---- stores


def connect(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises
    ------
    ImportError
        Where the package for it is not installed, with its name.
    ValueError
        For a scheme that fsspec does not know.
    StorageError
        Where the store cannot be reached.
    """
    import fsspec

    try:
        system, inner = fsspec.core.url_to_fs(address)
        system.invalidate_cache()  # what others wrote in the meantime is to be seen
    except ImportError as error:  # it names the package
        raise ImportError(f"{address} cannot be opened: {error}.") from error
    except ValueError as error:
        raise ValueError(f"{address} is no address that fsspec knows: {error}.") from error
    except Exception as error:
        raise _complaint(address, "opened", error) from error
    return system, inner


@contextlib.contextmanager
def reading(address: str) -> Iterator[tuple[Any, str]]:
    """Give the file system of an address and the path in it; what goes wrong inside is said of the address."""
    opened = connect(address)
    try:
        yield opened
    except Exception as error:
        raise _complaint(address, "read", error) from error


@contextlib.contextmanager
def _writing(address: str, named: str) -> Iterator[tuple[Any, str]]:
    opened = connect(address)
    try:
        yield opened
    except Exception as error:
        raise _complaint(named, "written", error) from error


def _complaint(address: str, done: str, error: Exception) -> OSError:
    if isinstance(error, FileNotFoundError) and done == "read":
        return FileNotFoundError(f"{address} does not exist.")
    kind = next(
        (one for one in (FileNotFoundError, PermissionError) if isinstance(error, one)),
        StorageError,
    )
    return kind(
        f"{address} cannot be {done} ({type(error).__name__}: {str(error).rstrip('.')}). Check the address, the credentials and "
        "the network."
    )


def refuse_folder(place: Path | str, example: str) -> None:
    """Refuse what no file can be written to: a folder, an address without a store, a page of the web.

    Raises
    ------
    IsADirectoryError
        With the example as a name for a file in the folder.
    ImportError, ValueError, OSError
        For an address that cannot be opened.
    """
    if isinstance(place, str) and place.lower().startswith(("http://", "https://")):
        raise StorageError(
            f"{place} can be read, but not written. Name a file, or an address in a store such as s3://."
        )
    if _is_folder(place):
        within = place / example if isinstance(place, Path) else f"{place.rstrip('/')}/{example}"
        raise IsADirectoryError(f"{place} is a folder; name a file, such as {within}.")


def _is_folder(place: Path | str) -> bool:
    if isinstance(place, Path):
        return place.is_dir()
    with (
        contextlib.suppress(PermissionError),
        _writing(place, place) as (system, inner),
    ):  # one may write without a right to list
        return _is_root(place, inner) or bool(system.isdir(inner))
    return False


def _is_root(address: str, inner: str) -> bool:
    """Say whether an address names a bucket, or ends as folders do."""
    return address.endswith("/") or ("/" not in inner and "::" not in address)


def check_writable(place: Path | str) -> None:
    """Refuse an address that cannot be written, before any work is done: an empty object is put beside it, and removed.

    Raises
    ------
    OSError
        Where the store does not take it, with the address.
    """
    if isinstance(place, Path):
        return
    with _writing(place, place) as (system, inner):
        probe = f"{inner}.{uuid.uuid4().hex[:8]}.tmp"
        system.pipe_file(probe, b"")
    with contextlib.suppress(Exception):  # one may write without a right to remove
        system.rm_file(probe)


# ---- reading


@contextlib.contextmanager
def fetched(place: Path | str, *beside: Path | str) -> Iterator[Path]:
    """Give a file of this machine: the one that is meant, or a copy of what is at an address, which is gone afterwards.

    A folder at the address is an empty folder here, and nothing is nothing. Errors inside that name the copy are made to name the
    address.

    Parameters
    ----------
    place : Path or str
        From `where`.
    *beside : Path or str
        What is to be beside the file, where it is there.

    Yields
    ------
    Path

    Raises
    ------
    OSError
        Where the store cannot be read, with the address.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for one in (place, *beside):
            _copy(str(one), Path(folder, PurePath(one).name))
        path = Path(folder, PurePath(place).name)
        try:
            yield path
        except (OSError, ValueError, ImportError) as error:
            error.args = tuple(
                one.replace(str(path), place) if isinstance(one, str) else one for one in error.args
            )
            raise


def _copy(address: str, path: Path) -> None:
    with reading(address) as (system, inner):
        is_folder = _is_root(address, inner)
        if not is_folder:
            try:
                system.get_file(inner, str(path))
            except FileNotFoundError:
                path.unlink(missing_ok=True)  # a store may have begun to write
                is_folder = system.isdir(inner)
        if is_folder:
            path.mkdir(exist_ok=True)


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading, wherever it is."""
    if not is_address(path):
        return open(path, "rb")
    with reading(path) as (system, inner):
        return cast(BinaryIO, system.open(inner, "rb"))


def file_size(path: str) -> int:
    """Return the bytes of a file."""
    if not is_address(path):
        return os.path.getsize(path)
    with reading(path) as (system, inner):
        return int(system.size(inner))


def file_moment(path: str) -> list[str]:
    """Return what changes when a file is written or replaced, cheaply: size and time, or what its storage calls its version."""
    if not is_address(path):
        stat = os.stat(path)
        return [str(stat.st_size), str(stat.st_mtime_ns)]
    with reading(path) as (system, inner):
        info = system.info(inner)
    version = next(
        (
            info[key]
            for key in ("ETag", "etag", "md5Hash", "content_md5", "sha256")
            if info.get(key)
        ),
        None,
    )
    return [
        str(info.get("size")),
        str(version or info.get("LastModified") or info.get("mtime") or info.get("created")),
    ]


def file_identity(path: str) -> dict[str, Any]:
    """Return what tells a file from one with other contents.

    Parameters
    ----------
    path : str

    Returns
    -------
    dict
        ``size``, and ``sha256`` of a file of this machine; of one elsewhere the ``version`` that its storage gives it: to
        hash it would be to fetch it twice.
    """
    if is_address(path):
        size, version = file_moment(path)
        return {"size": int(size), "version": version}
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": file.tell(), "sha256": sha256}


def sha256_of(path: Path) -> str:
    """Hash a file; always anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- writing


@contextlib.contextmanager
def temporary_for(place: Path | str) -> Iterator[Path]:
    """Give a new empty file of this machine that can be put in a place; it is gone afterwards."""
    if isinstance(place, Path):
        temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.touch(
            exist_ok=False
        )  # with the rights of any new file, which mkstemp would not give
    else:
        handle, name = tempfile.mkstemp(suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def put(written: Path, place: Path | str, *, named: Path | str | None = None) -> None:
    """Give a file from `temporary_for` its name: by renaming it, or by an upload, which object stores take whole or not at all.

    Parameters
    ----------
    written : Path
    place : Path or str
        From `where`.
    named : Path or str, optional
        The address that the user gave, for messages, where this one was made of it.

    Raises
    ------
    OSError
        Where it cannot be written, with the address.
    """
    if isinstance(place, Path):
        flush_to_disk(written)
        os.replace(written, place)
        return
    with _writing(place, str(named or place)) as (system, inner):
        system.put_file(str(written), inner)


def write_text(place: Path | str, text: str, *, named: Path | str | None = None) -> None:
    """Write a file whole or not at all, wherever it is; missing folders are made. For ``named`` see `put`."""
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_for(place) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        put(temporary, place, named=named)


def flush_to_disk(path: Path) -> None:
    """Return when what was written to a file or folder is on the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
