"""Where the files of a source are: on this machine, or by any address that fsspec knows; their identity. Used by source."""

import glob
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.datasets import PARQUET_SUFFIXES

_PIECE = 1 << 20  # bytes


def is_address(path: str) -> bool:
    """Say whether a path is an address for fsspec, such as ``s3://bucket/table.parquet``."""
    return "://" in path


def list_files(source: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """List the files that a source names, in the order in which their rows are taken.

    Parameters
    ----------
    source : path or sequence of paths
        Files in their given order; a folder stands for its Parquet files, a pattern with ``*`` for the files it fits, both in the
        order of their names. An address ``file://`` is a path.

    Returns
    -------
    list of str

    Raises
    ------
    FileNotFoundError
        For what is not there, and for a folder or a pattern without files.
    """
    if not isinstance(source, str | os.PathLike):
        files = [file for one in source for file in list_files(one)]
        if not files:
            raise ValueError("an empty list of files; name at least one.")
        twice = sorted({file for file in files if files.count(file) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is named twice: its rows would be scored twice.")
        return files
    path = os.fspath(source)
    if path.startswith("file://"):
        path = path.removeprefix("file://")
    return _list_address(path) if is_address(path) else _list_local(path)


def _list_local(path: str) -> list[str]:
    if os.path.isdir(path):
        # hidden files and those that begin with _ are no part of a table: so it is with pyarrow, Spark and Dask
        found = [one for one in Path(path).rglob("*") if one.suffix.lower() in PARQUET_SUFFIXES and one.is_file()]
        files = sorted(str(one) for one in found if not _is_hidden(one.relative_to(path).parts))
        if not files:
            raise FileNotFoundError(
                f"{path} is a folder, not a file, and holds no Parquet files ({', '.join(PARQUET_SUFFIXES)})."
            )
        return files
    if not os.path.exists(path) and glob.has_magic(path):
        files = sorted(one for one in glob.glob(path) if os.path.isfile(one))
        if not files:
            raise FileNotFoundError(f"no file fits {path}.")
        return files
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path} does not exist.")
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty (0 bytes); a table with a header line is expected.")
    return [path]


def _list_address(path: str) -> list[str]:
    system, inner = _system(path)
    if glob.has_magic(inner):
        names = sorted(system.glob(inner))
    elif system.isdir(inner):
        root = inner.rstrip("/")
        names = sorted(
            name for name in system.find(root)
            if name.lower().endswith(PARQUET_SUFFIXES) and not _is_hidden(name[len(root) + 1 :].split("/"))
        )  # fmt: skip
    else:
        names = [inner] if system.isfile(inner) else []
    if not names:
        raise FileNotFoundError(f"{path} does not exist, or holds no Parquet files.")
    return [str(system.unstrip_protocol(name)) for name in names]


def _is_hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith((".", "_")) for part in parts)


def _system(path: str) -> tuple[Any, str]:
    import fsspec

    try:
        system, inner = fsspec.core.url_to_fs(path)
    except ImportError as error:  # it names the package
        raise ImportError(f"{path} cannot be opened: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} is no address that fsspec knows: {error}") from error
    return system, inner


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading, wherever it is."""
    if not is_address(path):
        return open(path, "rb")
    system, inner = _system(path)
    return cast(BinaryIO, system.open(inner, "rb"))


def file_size(path: str) -> int:
    """Return the bytes of a file."""
    if not is_address(path):
        return os.path.getsize(path)
    system, inner = _system(path)
    return int(system.size(inner))


def file_moment(path: str) -> list[str]:
    """Return what changes when a file is written or replaced, cheaply: size and time, or what its storage calls its version."""
    if not is_address(path):
        stat = os.stat(path)
        return [str(stat.st_size), str(stat.st_mtime_ns)]
    system, inner = _system(path)
    system.invalidate_cache()
    info = system.info(inner)
    version = next((info[key] for key in ("ETag", "etag", "md5Hash", "content_md5", "sha256") if info.get(key)), None)
    return [str(info.get("size")), str(version or info.get("LastModified") or info.get("mtime") or info.get("created"))]


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
    digest = hashlib.sha256()
    size_read = 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size_read += len(piece)
    return {"size": size_read, "sha256": digest.hexdigest()}
