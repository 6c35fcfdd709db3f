"""Write a model to a folder that can be carried to a machine without a connection."""

import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoints.checkpoint import locate, read_folder
from pipeline.checkpoints.hub import MODEL_FILES, needed_files
from pipeline.checkpoints.provenance import RECORD, SUMS, difference, read_record, sha256_of_file
from pipeline.exceptions import CheckpointError

_WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".pt", ".ckpt")


@dataclass(frozen=True)
class FetchedFolder:
    """What `fetch_to` has written.

    Attributes
    ----------
    folder : Path
        Give it as ``model=``.
    model : str
        Hub id.
    revision : str or None
        The hub's commit; None for the installed copy, whose version its distribution decides.
    files : dict of str to int
        File name -> size in bytes, of all that belongs to it.
    """

    folder: Path
    model: str
    revision: str | None
    files: dict[str, int]


def fetch_to(model: str, folder: Path, revision: str | None = None) -> FetchedFolder:
    """Copy a model's files to a folder of their own, with ``SHA256SUMS`` and ``source.json``.

    Every file is verified before and after it is copied, and appears whole or not at all; ``SHA256SUMS`` is the last. What is
    there already of the same model is completed or repaired.

    Parameters
    ----------
    model : str
        Hub id.
    folder : Path
        Made where it is missing; must hold no other model.
    revision : str, optional
        Branch, tag or commit on the hub.

    Returns
    -------
    FetchedFolder
        What the folder holds now.

    Raises
    ------
    CheckpointError
        When the model is not to be had or cannot be used, or the folder holds another one.
    OSError
        Where the folder cannot be written.
    """
    found, source = locate(model, revision=revision)
    if source["kind"] == "folder":
        raise CheckpointError(
            f"model={model!r} is a folder already ({found.absolute()}): copy it as it is."
        )
    read_folder(found, source)  # what could not be used there is not worth carrying
    names = needed_files({name for name in MODEL_FILES if (found / name).is_file()})
    sums = {name: sha256_of_file(found / name) for name in names}
    record = {"model": model, "revision": source["revision"]}
    _refuse_another(folder, record, sums)
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / RECORD, json.dumps(record, indent=2) + "\n"
    )  # first: from now on the folder is this model's
    for name, sha256 in sums.items():
        if difference(folder / name, sha256) is not None:
            _copy(found / name, folder / name, sha256)
    sums[RECORD] = sha256_of_file(folder / RECORD)
    _write(folder / SUMS, "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()))
    files = {name: (folder / name).stat().st_size for name in (*sums, SUMS)}
    return FetchedFolder(folder, model, source["revision"], files)


def _refuse_another(folder: Path, record: dict[str, str | None], sums: dict[str, str]) -> None:
    """Refuse a folder with files of another model, or of another commit: the two would be mixed."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder to fetch the model to.")
    if not folder.is_dir() or read_record(folder) == record:
        return
    others = sorted(
        path.name
        for path in folder.iterdir()
        if (path.name in (*MODEL_FILES, RECORD, SUMS) or path.suffix in _WEIGHTS)
        and (path.name not in sums or difference(path, sums[path.name]) is not None)
    )
    if others:
        raise CheckpointError(
            f"{folder} holds files of another model or commit ({', '.join(others[:8])}); name an empty or new folder for "
            f"{record['model']!r} at commit {record['revision']}."
        )


def _copy(source: Path, target: Path, sha256: str) -> None:
    new = _beside(target)
    try:
        shutil.copyfile(source, new)
        if told := difference(new, sha256):
            raise CheckpointError(f"{target} was not copied whole: {told}. Check the disk.")
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    new = _beside(path)
    try:
        new.write_bytes(text.encode())  # bytes: sha256sum takes no other line ends
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
