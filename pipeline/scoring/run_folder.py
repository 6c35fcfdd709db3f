"""The folder of a run: its plan, its parts, and the mark that all are there."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exceptions import PlanError

STAMP = b"bert_vectorizer.part"
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Stamp:
    """What a part tells of itself, in its footer.

    Attributes
    ----------
    index : int
        Of its shard.
    plan : str
        Hash of the plan that it belongs to.
    artifact : str
        sha256 of the model that scored it.
    n_rows, n_bad : int
        Rows, and those of them without a label.
    """

    index: int
    plan: str
    artifact: str
    n_rows: int
    n_bad: int

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Read the stamp of a part; None where there is no whole Parquet file, or none of ours."""
        try:
            metadata = pq.read_metadata(path)
            stamp = cls(**json.loads(metadata.metadata[STAMP]))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None
        return stamp if stamp.n_rows == metadata.num_rows else None


def part_name(index: int) -> str:
    """Name a part so that the order of names is that of rows."""
    return f"part-{index:06d}.parquet"


def write_part(table: pa.Table, path: Path, stamp: Stamp) -> str:
    """Write a part under its name: whole, and on the disk, when this returns.

    The same rows give the same bytes.

    Returns
    -------
    str
        sha256 of the file.
    """
    sink = pa.BufferOutputStream()
    # checksums: a flipped bit is noticed by whoever reads the part, not taken for a probability
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({STAMP.decode(): json.dumps(asdict(stamp), sort_keys=True)})
    content = sink.getvalue()
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def write_whole(path: Path, content: bytes | memoryview | pa.Buffer) -> None:
    """Write a file under another name, flush it to the disk and rename it: nobody ever sees half of it.

    Raises
    ------
    OSError
        Such as for a full disk; nothing is left behind, and what had the name before still has it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def put_in_place(written: Path, path: Path) -> None:
    """Give a file that is on the disk its name, for good."""
    written.chmod(0o644)
    os.replace(written, path)
    if os.name != "nt":  # Windows opens no folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_temporary(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


FORMAT_VERSION = 2  # 1: labels were the most probable classes, whatever predict said


@dataclass(frozen=True)
class Plan:
    """Everything that decides a byte of the output; the fields of ``plan.json``.

    Attributes
    ----------
    source : dict
        Kind, files with their hashes, and how they are read; see `pipeline.scoring.sources.Source.identity`.
    columns : list of [str, str]
        Names and types of the source's columns.
    text : str
        The column of the texts.
    model : dict
        ``sha256`` of the saved pipeline, its ``classes`` and the type of its ``probabilities``.
    shard_rows : int
        Rows of a part.
    threads : int
        That each worker computes with: sums over other numbers of threads differ in their last bits.
    versions : dict of str to str
        Of Python, of this package and those it computes with.
    """

    source: dict[str, Any]
    columns: list[list[str]]
    text: str
    model: dict[str, Any]
    shard_rows: int
    threads: int
    versions: dict[str, str]
    format_version: int = FORMAT_VERSION

    @property
    def sha256(self) -> str:
        """Hash of the plan: every part carries it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write it: whole or not at all."""
        write_whole(path, f"{json.dumps(asdict(self), indent=2, ensure_ascii=False)}\n".encode())

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Read the plan of an earlier run; None where there is none.

        Raises
        ------
        PlanError
            Where it is damaged, or of another version.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.get("format_version") != FORMAT_VERSION:
                raise PlanError(
                    f"{path} is of format {values.get('format_version')}; this version knows {FORMAT_VERSION}."
                )
            return cls(**values)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(
                f"{path} is damaged ({error}). Delete its folder, to start anew."
            ) from error

    def differences(self, before: Self) -> list[str]:
        """Say in words what differs from an earlier plan."""
        told = []
        names = {
            "columns": "the columns",
            "text": "the text column",
            "shard_rows": "shard_rows",
            "threads": "threads",
            "versions": "the versions of packages",
        }
        if before.source != self.source:
            told.append(f"the source {_source_difference(before.source, self.source)}")
        if before.model != self.model:
            told.append(
                f"the model (sha256 {before.model['sha256'][:12]}..., now {self.model['sha256'][:12]}...)"
            )
        for name, words in names.items():
            then, now = getattr(before, name), getattr(self, name)
            if name == "versions" and then != now:
                changed = [
                    f"{key} {then.get(key)}, now {now.get(key)}"
                    for key in {**then, **now}
                    if then.get(key) != now.get(key)
                ]
                told.append(f"{words} ({'; '.join(changed)})")
            elif then != now:
                told.append(f"{words} ({then!r}, now {now!r})")
        return told


def _source_difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    then_files, files = before.get("files", []), now.get("files", [])
    if before.get("kind") != now.get("kind"):
        return f"({before.get('kind')}, now {now.get('kind')})"
    if len(then_files) != len(files):
        return f"({len(then_files)} files, now {len(files)})"
    changed = [
        i for i, (then, file) in enumerate(zip(then_files, files, strict=True)) if then != file
    ]
    if changed:
        return (
            "(other contents)"
            if len(files) == 1
            else f"(other contents of file {changed[0] + 1} of {len(files)})"
        )
    return f"(read with {_options(before)}, now with {_options(now)})"


def _options(source: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={value!r}" for name, value in source.items() if name not in ("kind", "files")
    )


# Names that begin with _ are no part of a table for pyarrow, pandas, Spark and Dask: they read the folder as it is.
RUN, SUCCESS, MANIFEST = "_run", "_SUCCESS", "_manifest.json"


class RunFolder:
    """A folder of parts, with the plan, the lock and the shards of its run in ``_run``.

    Parameters
    ----------
    path : Path
        Made where it is missing; refused where it holds anything but an output of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.shards = self.path / RUN / "shards"
        self._plan = self.path / RUN / "plan.json"

    def check_ours(self) -> None:
        """Refuse a folder that holds other files: nothing of the user's is mixed with parts.

        Raises
        ------
        ValueError
            With some of what is there.
        """
        if not self.path.is_dir() or (self.path / RUN).is_dir():
            return
        there = sorted(one.name for one in self.path.iterdir())
        if there:
            raise ValueError(
                f"{self.path} holds other files ({', '.join(there[:3])}{', ...' if len(there) > 3 else ''}); name a new folder, "
                "or an empty one."
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other drivers out; the lock goes with this process, however it ends.

        Raises
        ------
        BlockingIOError
            Where another driver is at work, with its process and machine.
        """
        self.shards.parent.mkdir(parents=True, exist_ok=True)
        with (self.shards.parent / "lock").open("a+") as file:
            if not _lock(file):
                file.seek(0)
                raise BlockingIOError(
                    f"{self.path} is being written by another run ({file.read().strip() or 'that has just begun'}): wait for it, "
                    "or name another folder."
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            yield

    def take_up(self, plan: Plan) -> None:
        """Begin a run, or go on with one of the same plan; what killed processes have left is removed.

        Raises
        ------
        PlanError
            Where the run there is another one, with what differs.
        """
        before = Plan.read(self._plan)
        if before is None:
            plan.write(self._plan)
        elif before != plan:
            raise PlanError(
                f"{self.path} holds another run: {'; '.join(plan.differences(before)) or 'it differs'}. Go on with what it was "
                "started with, delete it, or name another folder."
            )
        for folder in (self.path, self.shards.parent):
            remove_temporary(folder)
        shutil.rmtree(self.shards, ignore_errors=True)
        self.shards.mkdir(parents=True)

    def stamp(self, index: int) -> Stamp | None:
        """Return the stamp of a part; None where it is missing or not whole."""
        return Stamp.of(self.path / part_name(index))

    def part(self, index: int) -> Path:
        """Return the path of a part."""
        return self.path / part_name(index)

    def has_parts(self) -> bool:
        """Say whether any part is there."""
        return any(self.path.glob("part-*.parquet"))

    def reopen(self) -> None:
        """Take the mark of completeness away: from here on the folder is unfinished."""
        (self.path / SUCCESS).unlink(missing_ok=True)
        (self.path / MANIFEST).unlink(missing_ok=True)

    def complete(self, plan: Plan) -> dict[str, Any] | None:
        """Return the manifest of a finished run, if every part is there as it says; None otherwise."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            if not (self.path / SUCCESS).is_file() or manifest["plan"] != plan.sha256:
                return None
            for index, part in enumerate(manifest["parts"]):
                stamp = self.stamp(index)
                if (
                    stamp is None
                    or stamp.plan != plan.sha256
                    or self.part(index).stat().st_size != part["size"]
                ):
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return dict(manifest)

    def finish(
        self, plan: Plan, columns: Sequence[str], hashes: Sequence[str], n_rows: int
    ) -> dict[str, Any]:
        """Check that the parts are all there and hold all rows; then, and only then, say so by manifest and ``_SUCCESS``.

        Parameters
        ----------
        plan : Plan
        columns : sequence of str
            Of the output.
        hashes : sequence of str
            sha256 of each part.
        n_rows : int
            Of the source.

        Returns
        -------
        dict
            The manifest.

        Raises
        ------
        RuntimeError
            Where a part or a row is missing.
        """
        parts: list[dict[str, Any]] = []
        for index, sha256 in enumerate(hashes):
            stamp = self.stamp(index)
            if stamp is None or (stamp.index, stamp.plan) != (index, plan.sha256):
                raise RuntimeError(
                    f"{self.part(index)} is missing or not whole: somebody else has changed it; run it again."
                )
            size = self.part(index).stat().st_size
            parts.append(
                {
                    "file": part_name(index),
                    "n_rows": stamp.n_rows,
                    "n_bad": stamp.n_bad,
                    "size": size,
                    "sha256": sha256,
                }
            )
        if sum(part["n_rows"] for part in parts) != n_rows:
            raise RuntimeError(
                f"the parts hold {sum(part['n_rows'] for part in parts)} rows, the source {n_rows}: run it again."
            )
        for path in self.path.glob("part-*.parquet"):
            if path.name not in {part["file"] for part in parts}:
                raise RuntimeError(f"{path} is no part of this run: remove it, and run it again.")
        manifest = {
            "plan": plan.sha256,
            "artifact": plan.model["sha256"],
            "n_rows": n_rows,
            "n_bad": sum(part["n_bad"] for part in parts),
            "columns": list(columns),
            "parts": parts,
        }
        write_whole(
            self.path / MANIFEST, f"{json.dumps(manifest, indent=2, ensure_ascii=False)}\n".encode()
        )
        write_whole(self.path / SUCCESS, b"")
        shutil.rmtree(self.shards, ignore_errors=True)
        return manifest

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path)


def _lock(file: Any) -> bool:
    """Lock an open file for this process alone; say whether that was possible. Where there are no locks, all is allowed."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
