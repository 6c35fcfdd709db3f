"""What a run scores, with what and how: written before the first row, compared at every rerun. Used by table."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pipeline.scoring.parts import write_whole

FORMAT_VERSION = 2  # 1: labels were the most probable classes, whatever predict said


class PlanError(ValueError):
    """A folder holds the output of another run, or a plan that cannot be read."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides a byte of the output; the fields of ``plan.json``.

    Attributes
    ----------
    source : dict
        Kind, files with their hashes, and how they are read; see `pipeline.scoring.source.Source.identity`.
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
                raise PlanError(f"{path} is of format {values.get('format_version')}; this version knows {FORMAT_VERSION}.")
            return cls(**values)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            if isinstance(error, PlanError):
                raise
            raise PlanError(f"{path} is damaged ({error}). Delete its folder, to start anew.") from error

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
            told.append(f"the model (sha256 {before.model['sha256'][:12]}..., now {self.model['sha256'][:12]}...)")
        for name, words in names.items():
            then, now = getattr(before, name), getattr(self, name)
            if name == "versions" and then != now:
                changed = [
                    f"{key} {then.get(key)}, now {now.get(key)}" for key in {**then, **now} if then.get(key) != now.get(key)
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
    changed = [i for i, (then, file) in enumerate(zip(then_files, files, strict=True)) if then != file]
    if changed:
        return "(other contents)" if len(files) == 1 else f"(other contents of file {changed[0] + 1} of {len(files)})"
    return f"(read with {_options(before)}, now with {_options(now)})"


def _options(source: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in source.items() if name not in ("kind", "files"))
