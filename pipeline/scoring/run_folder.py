"""The output of a run: a folder of parts, or one file."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets import (
    ENDINGS,
    PARQUET_SUFFIXES,
    check_folder,
    check_output,
    write_csv,
    write_json_lines,
)
from pipeline.exceptions import PlanError
from pipeline.files import flush_to_disk, is_address, local_path, lock, naming, put, temporary_for

STAMP = b"bert_vectorizer.part"
FORMAT_VERSION = 2  # 1: labels were the most probable classes, whatever predict gave
# readers of Parquet folders skip names that start with _
RUN, SUCCESS, MANIFEST = "_run", "_SUCCESS", "_manifest.json"


@dataclass(frozen=True)
class Stamp:
    """The footer of a part."""

    index: int  # of the shard
    plan: str
    artifact: str
    n_rows: int
    n_bad: int  # rows without a label

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Read the stamp of a part, None if incomplete or foreign."""
        try:
            metadata = pq.read_metadata(path)
            stamp = cls(**json.loads(metadata.metadata[STAMP]))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None
        return stamp if stamp.n_rows == metadata.num_rows else None


def part_name(index: int) -> str:
    """Name a part so that names sort in the order of rows."""
    return f"part-{index:06d}.parquet"


def write_part(table: pa.Table, path: Path, stamp: Stamp) -> str:
    """Write a part durably, and return its sha256."""
    sink = pa.BufferOutputStream()
    # with checksums readers notice a flipped bit
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({STAMP.decode(): json.dumps(asdict(stamp))})
    content = sink.getvalue()
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def write_whole(path: Path, content: bytes | pa.Buffer) -> None:
    """Write a file durably and atomically."""
    # not tidied at each of many parts: the run does it once at its start
    with temporary_for(path, tidy=False) as temporary:
        temporary.write_bytes(content)
        put(temporary, path)
    flush_to_disk(path.parent)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_whole(path, f"{json.dumps(values, indent=2, ensure_ascii=False)}\n".encode())


@dataclass(frozen=True)
class Plan:
    """All that decides the output, stored in ``plan.json``."""

    source: dict[str, Any]  # kind, files with hashes, and how they are read
    columns: list[list[str]]
    text: str
    model: dict[str, Any]  # sha256, classes, type of the probabilities
    shard_rows: int
    threads: int  # of each worker; other numbers change the last bits of sums
    versions: dict[str, str]
    format_version: int = FORMAT_VERSION

    @property
    def sha256(self) -> str:
        """Hash of the plan, stored in every part."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the plan atomically."""
        _write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the plan of an earlier run, None if there is none."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values.get("format_version")
            if version == FORMAT_VERSION:
                return cls(**values)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            raise PlanError(
                f"{path} is damaged ({error}). Delete its folder to start again."
            ) from error
        raise PlanError(f"{path} is of format {version}; this version knows {FORMAT_VERSION}.")

    def differences(self, before: Self) -> list[str]:
        """Describe the differences to an earlier plan."""
        messages = []
        if before.source != self.source:
            messages.append(f"the source {_source_difference(before.source, self.source)}")
        if before.model != self.model:
            then, now = (plan.model["sha256"][:12] for plan in (before, self))
            messages.append(f"the model (sha256 {then}..., now {now}...)")
        for name, words in {
            "columns": "the columns",
            "text": "the text column",
            "shard_rows": "shard_rows",
            "threads": "threads",
        }.items():
            then, now = getattr(before, name), getattr(self, name)
            if then != now:
                messages.append(f"{words} ({then!r}, now {now!r})")
        changed = [
            f"{name} {before.versions.get(name)}, now {self.versions.get(name)}"
            for name in {**before.versions, **self.versions}
            if before.versions.get(name) != self.versions.get(name)
        ]
        if changed:
            messages.append(f"the versions of packages ({'; '.join(changed)})")
        return messages


def _source_difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    then_files, files = before.get("files", []), now.get("files", [])
    if before.get("kind") != now.get("kind"):
        return f"({before.get('kind')}, now {now.get('kind')})"
    if len(then_files) != len(files):
        return f"({len(then_files)} files, now {len(files)})"
    pairs = zip(then_files, files, strict=True)
    changed = [number for number, (then, file) in enumerate(pairs, 1) if then != file]
    if not changed:
        then, today = (
            ", ".join(f"{n}={value!r}" for n, value in source.items() if n not in ("kind", "files"))
            for source in (before, now)
        )
        return f"(read with {then}, now with {today})"
    where = "" if len(files) == 1 else f" of file {changed[0]} of {len(files)}"
    return f"(other contents{where})"


class RunFolder:
    """A folder of parts, with its run in ``_run``."""

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.shards = self.path / RUN / "shards"
        self._plan = self.path / RUN / "plan.json"

    def check_ours(self) -> None:
        """Raise if the folder holds other files."""
        if not self.path.is_dir() or (self.path / RUN).is_dir():
            return
        names = sorted(path.name for path in self.path.iterdir())
        if names:
            raise ValueError(
                f"{self.path} holds other files ({', '.join(names[:3])}"
                f"{', ...' if len(names) > 3 else ''}); name a new or empty folder."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other drivers out."""
        self.shards.parent.mkdir(parents=True, exist_ok=True)
        with (self.shards.parent / "lock").open("a+b", buffering=0) as file:
            if lock(file.fileno()) is False:
                file.seek(0)
                raise BlockingIOError(
                    f"{self.path} is being written by another run "
                    f"({file.read().decode().strip() or 'that has just started'}). Wait for it, or "
                    "name another folder."
                )
            with naming(self.path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}".encode())
            yield

    def start_or_resume(self, plan: Plan) -> None:
        """Start a run, or resume one of the same plan."""
        before = Plan.read(self._plan)
        if before is None:
            plan.write(self._plan)
        elif before != plan:
            raise PlanError(
                f"{self.path} holds another run: "
                f"{'; '.join(plan.differences(before)) or 'it differs'}. Resume with what it was "
                "started with, delete it, or name another folder."
            )
        for folder in (self.path, self.shards.parent):
            for left_by_killed in folder.glob(".*.tmp"):
                left_by_killed.unlink(missing_ok=True)
        shutil.rmtree(self.shards, ignore_errors=True)
        self.shards.mkdir()

    def stamp(self, index: int) -> Stamp | None:
        """Return the stamp of a part, None if missing or damaged."""
        return Stamp.of(self.part(index))

    def part(self, index: int) -> Path:
        """Return the path of a part."""
        return self.path / part_name(index)

    def parts(self) -> Iterator[Path]:
        """Yield the parts that exist, in any order."""
        return self.path.glob("part-*.parquet")

    def reopen(self) -> None:
        """Mark the folder as unfinished."""
        (self.path / SUCCESS).unlink(missing_ok=True)
        (self.path / MANIFEST).unlink(missing_ok=True)
        self.shards.mkdir(exist_ok=True)  # a finished run has none

    def complete(self, plan: Plan) -> dict[str, Any] | None:
        """Return the manifest of a finished run, or None."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            if not (self.path / SUCCESS).is_file() or manifest["plan"] != plan.sha256:
                return None
            for index, part in enumerate(manifest["parts"]):
                stamp, size = self.stamp(index), self.part(index).stat().st_size
                if stamp is None or (stamp.plan, size) != (plan.sha256, part["size"]):
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        shutil.rmtree(self.shards, ignore_errors=True)
        return dict(manifest)

    def finish(
        self, plan: Plan, columns: Sequence[str], hashes: Sequence[str], n_rows: int
    ) -> dict[str, Any]:
        """Check parts and rows, then write manifest and ``_SUCCESS``."""
        parts: list[dict[str, Any]] = []
        for index, sha256 in enumerate(hashes):
            stamp = self.stamp(index)
            if stamp is None or (stamp.index, stamp.plan) != (index, plan.sha256):
                raise RuntimeError(
                    f"{self.part(index)} is missing or incomplete: another program has changed it. "
                    "Run it again."
                )
            parts.append(
                {
                    "file": part_name(index),
                    "n_rows": stamp.n_rows,
                    "n_bad": stamp.n_bad,
                    "size": self.part(index).stat().st_size,
                    "sha256": sha256,
                }
            )
        in_parts = sum(part["n_rows"] for part in parts)
        if in_parts != n_rows:
            raise RuntimeError(
                f"the parts hold {in_parts} rows, but the source {n_rows}: run it again."
            )
        ours = {part["file"] for part in parts}
        for path in self.parts():
            if path.name not in ours:
                raise RuntimeError(f"{path} is not part of this run: remove it, and run it again.")
        manifest = {
            "plan": plan.sha256,
            "artifact": plan.model["sha256"],
            "n_rows": n_rows,
            "n_bad": sum(part["n_bad"] for part in parts),
            "columns": list(columns),
            "parts": parts,
        }
        _write_json(self.path / MANIFEST, manifest)
        write_whole(self.path / SUCCESS, b"")
        shutil.rmtree(self.shards, ignore_errors=True)
        return manifest


# keep their type where values are missing
_NULLABLE = {
    pa.type_for_alias(kind.lower()): pd.api.types.pandas_dtype(kind)
    for kind in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
} | {pa.bool_(): pd.BooleanDtype()}


class Target:
    """A folder of parts, or a single file made from them."""

    def __init__(
        self,
        out: str | os.PathLike,
        sources: Sequence[str],
        folders: Sequence[str | os.PathLike] = (),  # sources that must not contain the output
    ) -> None:
        why = (
            "parts are renamed when complete, which object stores cannot do. "
            "Write to a folder, and copy it."
        )
        path = local_path(out, "folder", why)
        for folder in folders:
            if path.resolve().is_relative_to(Path(folder).resolve()):
                raise ValueError(
                    f"{path} is in the source folder {folder}: the next run would read it too. "
                    "Name another place."
                )
        self.file: Path | None = None
        if path.suffix in ENDINGS:
            for source in (None, *sources):
                check_output(path, source)
            self.file = path
            path = path.with_name(f"{path.name}.parts")
        elif path.suffix and not path.is_dir():
            raise ValueError(
                f"{path} has the ending {path.suffix!r}; allowed are .csv, .parquet, .pq and "
                ".jsonl, or none for a folder."
            )
        else:
            _check_folder(path, sources)
        self.folder = RunFolder(path)
        self.folder.check_ours()

    def join_parts(self, n_parts: int, schema: pa.Schema) -> None:
        """Join the parts to the single file atomically."""
        assert self.file is not None
        parts = (self._part(index, schema) for index in range(n_parts))
        with temporary_for(self.file) as temporary:
            if self.file.suffix in PARQUET_SUFFIXES:
                with pq.ParquetWriter(temporary, schema) as writer:
                    for part in parts:
                        writer.write_table(part)
            else:
                with temporary.open("w", encoding="utf-8", newline="") as file:
                    for index, part in enumerate(parts):
                        if self.file.suffix == ".csv":
                            frame = part.to_pandas(types_mapper=_NULLABLE.get, ignore_metadata=True)
                            write_csv(frame, file, header=index == 0)
                        else:
                            write_json_lines(file, part)
            put(temporary, self.file)
        flush_to_disk(self.file.parent)
        shutil.rmtree(self.folder.path)

    def remove_if_empty(self) -> None:
        """Remove the folder beside a file if it holds no part."""
        if self.file is not None and self.folder.path.is_dir() and not any(self.folder.parts()):
            shutil.rmtree(self.folder.path)

    def _part(self, index: int, schema: pa.Schema) -> Any:
        # read_table would take a folder name like "a=1" for a column
        with pq.ParquetFile(self.folder.part(index), page_checksum_verification=True) as file:
            return file.read(columns=schema.names).cast(schema)


def _check_folder(path: Path, sources: Sequence[str]) -> None:
    if path.exists() and not path.is_dir():
        raise FileExistsError(
            f"{path} is a file; name a folder, or a file with the ending .csv, .parquet, .pq or "
            ".jsonl."
        )
    check_folder(path if path.is_dir() else path.parent, path)
    for source in sources:
        if not is_address(source) and Path(source).resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{path} holds the input {source}; name another folder.")
