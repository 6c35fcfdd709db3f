"""The folder of an output: whose it is, one driver at a time, and what says that it is complete. Used by table."""

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.scoring.parts import Stamp, part_name, remove_temporary, write_whole
from pipeline.scoring.plan import Plan, PlanError

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
                if stamp is None or stamp.plan != plan.sha256 or self.part(index).stat().st_size != part["size"]:
                    return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return dict(manifest)

    def finish(self, plan: Plan, columns: Sequence[str], hashes: Sequence[str], n_rows: int) -> dict[str, Any]:
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
                raise RuntimeError(f"{self.part(index)} is missing or not whole: somebody else has changed it; run it again.")
            size = self.part(index).stat().st_size
            parts.append({"file": part_name(index), "n_rows": stamp.n_rows, "n_bad": stamp.n_bad, "size": size, "sha256": sha256})
        if sum(part["n_rows"] for part in parts) != n_rows:
            raise RuntimeError(f"the parts hold {sum(part['n_rows'] for part in parts)} rows, the source {n_rows}: run it again.")
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
        write_whole(self.path / MANIFEST, f"{json.dumps(manifest, indent=2, ensure_ascii=False)}\n".encode())
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
