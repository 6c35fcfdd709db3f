"""Write a model to a folder for a machine without a connection."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoints.checkpoint import locate, read_folder
from pipeline.checkpoints.hub import MODEL_FILES, files_in, needed_files
from pipeline.checkpoints.provenance import RECORD, SUMS, difference, read_record, sha256_of_file
from pipeline.exceptions import CheckpointError
from pipeline.files import put, temporary_for, write_text

_WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".pt", ".ckpt")


@dataclass(frozen=True)
class FetchedFolder:
    """The folder that `fetch_to` wrote."""

    folder: Path
    model: str
    revision: str | None
    files: dict[str, int]


def fetch_to(model: str, folder: Path, revision: str | None = None) -> FetchedFolder:
    """Copy a model's files to a folder, with ``SHA256SUMS`` and ``source.json``.

    Files are verified before and after copying, and ``SHA256SUMS`` is written last. A folder of the
    same model is completed or repaired.
    """
    found, source = locate(model, revision=revision)
    if source["kind"] == "folder":
        raise CheckpointError(
            f"model={model!r} is already a folder ({found.absolute()}): copy it as it is."
        )
    read_folder(found, source)  # refuses a model that would not load there either
    names = needed_files({name for name in files_in(found) if (found / name).is_file()})
    sums = {name: sha256_of_file(found / name) for name in names}
    record = {"model": model, "revision": source["revision"]}
    _refuse_another(folder, record, sums)
    # the record first: from now on the folder belongs to this model
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    for name, sha256 in sums.items():
        if difference(folder / name, sha256) is not None:
            _copy(found / name, folder / name, sha256)
    sums[RECORD] = sha256_of_file(folder / RECORD)
    write_text(folder / SUMS, "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()))
    files = {name: (folder / name).stat().st_size for name in (*sums, SUMS)}
    return FetchedFolder(folder, model, source["revision"], files)


def _refuse_another(folder: Path, record: dict[str, str | None], sums: dict[str, str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder to fetch the model to.")
    if not folder.is_dir() or read_record(folder) == record:
        return
    here = files_in(folder)
    ours = {*needed_files(here), *MODEL_FILES, RECORD, SUMS}
    others = sorted(
        name
        for name in here
        if (name in ours or Path(name).suffix in _WEIGHTS)
        and (name not in sums or difference(folder / name, sums[name]) is not None)
    )
    if others:
        raise CheckpointError(
            f"{folder} holds files of another model or commit ({', '.join(others[:8])}). Name an "
            f"empty or new folder for {record['model']!r} at commit {record['revision']}."
        )


def _copy(source: Path, target: Path, sha256: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_for(target) as copy:
        shutil.copyfile(source, copy)
        if damage := difference(copy, sha256):
            raise CheckpointError(f"{target} was not copied completely: {damage}. Check the disk.")
        put(copy, target)
