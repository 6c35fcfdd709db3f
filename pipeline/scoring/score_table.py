"""Score a table of any size, every row exactly once."""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.answers import ask
from pipeline.files import fetched, sha256_of, where
from pipeline.saved.artifact import load_pipeline
from pipeline.saved.manifest import installed_versions
from pipeline.scoring.driver import Progress, Run
from pipeline.scoring.executors import BySizeExecutor, Executor, ProcessExecutor, SerialExecutor
from pipeline.scoring.run_folder import Plan
from pipeline.scoring.shard import Job, OnBadRow, added_fields, with_fields
from pipeline.scoring.sources import open_source
from pipeline.scoring.target import Target

NAMES = ("serial", "processes", "auto", "dask")


def choose_executor(
    executor: Any = "serial", workers: int | None = None, *, threads: int | None = None
) -> Executor:
    """Make an executor of what the user named.

    Parameters
    ----------
    executor : str or object
        One of `NAMES`; the address of a Dask scheduler, such as ``"tcp://10.0.0.5:8786"``; a ``distributed.Client``; or an
        executor, which is returned as it is.
    workers : int, optional
        Number of worker processes; one per core by default. A Dask cluster that is there already has those that it has.
    threads : int, optional
        Of each worker; 1 by default.

    Raises
    ------
    ValueError
        For a name that is none, for numbers that are none, and for a number of workers where there are some already.
    """
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and (
            not isinstance(number, int) or isinstance(number, bool) or number < 1
        ):
            raise ValueError(f"{name}={number!r}; allowed are the numbers from 1, or None.")
    if executor == "serial":
        if workers not in (None, 1):
            raise ValueError(
                f"executor='serial' is one worker, and workers={workers}: set executor='processes'."
            )
        return SerialExecutor(threads or 1)
    if executor == "processes":
        return ProcessExecutor(workers, threads or 1)
    if executor == "auto":
        return BySizeExecutor(workers, threads or 1)
    if executor == "dask" or _is_cluster(executor):
        from pipeline.scoring.dask_executor import DaskExecutor

        return DaskExecutor(
            None if executor == "dask" else executor, workers=workers, threads=threads or 1
        )
    if hasattr(executor, "run") and hasattr(executor, "threads"):
        if workers is not None:
            raise ValueError(f"workers={workers}, but the {type(executor).__name__} has its own.")
        chosen: Executor = executor
        return chosen
    raise ValueError(
        f"executor={executor!r}; allowed are {', '.join(map(repr, NAMES))}, the address of a Dask scheduler, such as "
        "'tcp://10.0.0.5:8786', a distributed.Client and a DaskExecutor."
    )


def _is_cluster(executor: Any) -> bool:
    """Tell the address of a Dask scheduler, or a client of one."""
    if isinstance(executor, str):
        return "://" in executor
    return type(executor).__module__.partition(".")[0] == "distributed" and hasattr(
        executor, "scheduler"
    )


SHARD_ROWS = 2048


@dataclass(frozen=True)
class ScoredTable:
    """What `score_table` did.

    Attributes
    ----------
    out : Path
        The folder of parts, or the file.
    n_rows : int
        Rows of the table, all of them in the output.
    n_bad : int
        Rows without a label.
    n_parts : int
        Parts they were scored in.
    n_skipped : int
        Rows that an earlier run had scored.
    columns : list of str
        The columns that were added.
    seconds : float
        Of this run.
    """

    out: Path
    n_rows: int
    n_bad: int
    n_parts: int
    n_skipped: int
    columns: list[str]
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Rows scored by this run, per second."""
        return (self.n_rows - self.n_skipped) / max(self.seconds, 1e-9)


def score_table(
    model_path: str | os.PathLike,
    source: str | os.PathLike | Sequence[str | os.PathLike] | pd.DataFrame,
    out: str | os.PathLike,
    *,
    text: str,
    executor: Any = "serial",
    workers: int | None = None,
    threads: int | None = None,
    shard_rows: int = SHARD_ROWS,
    on_bad_row: OnBadRow = "error",
    encoding: str = "utf-8",
    sep: str = ",",
    sha256: str | None = None,
    trusted: Iterable[str] = (),
    progress: bool | None = None,
) -> ScoredTable:
    """Score a table of any size with a saved pipeline: every row exactly once, in its order, also over crashes and reruns.

    The table is read once, ``shard_rows`` rows at a time, and never as a whole. Each shard becomes a part that is written whole
    or not at all and tells the shard, the model and the run it is of. After a crash the same call goes on: finished parts are
    kept. Only when all parts are there and their rows add up, a manifest and ``_SUCCESS`` are written. The parts have the same
    bytes whatever the executor, the number of workers, and how often the run was cut off.

    Parameters
    ----------
    model_path : str or Path
        A pipeline by `save_pipeline`, whose classifier gives probabilities and one label per text. It is opened once in each
        process. Labels are those of its ``predict``.
    source : path, sequence of paths, or DataFrame
        CSV (``.gz``, ``.bz2``, ``.xz``, ``.zip`` are unpacked) or Parquet: a file, a folder of Parquet files, several files, a
        pattern such as ``"2026-*.parquet"``, here or at an address of fsspec such as ``s3://bucket/folder``.
    out : str or Path
        A new folder, for ``part-000000.parquet`` and so on, or one file (``.csv``, ``.parquet``, ``.pq``).
    text : str
        The column of the texts.
    executor : {"serial", "processes", "auto", "dask"}, address, Client or executor, default="serial"
        This process; worker processes of this machine; these where the table has more than one shard, else this process; worker
        processes of this machine as a Dask cluster; the Dask cluster of an address such as
        ``"tcp://10.0.0.5:8786"`` or of a ``distributed.Client``; or a `pipeline.DaskExecutor` of your own.
    workers : int, optional
        Number of worker processes; one per core by default. A Dask cluster that is there already has its own.
    threads : int, optional
        Threads that each worker computes with; 1 by default, whatever the executor. With another number the last bits of a
        probability may differ, so a rerun needs the same. For more cores take more workers.
    shard_rows : int, default=2048
        Rows of a part: as much is lost by a crash and held in memory, for each worker.
    on_bad_row : {"error", "null"}, default="error"
        What becomes of a row that cannot be scored: no text, not of the file's form, one that the model fails on or that kills
        its process. ``"error"`` stops at it and keeps what is finished. ``"null"`` keeps the row, without label and
        probabilities, and says why in the column ``label_error``; a rerun may change to it.
    encoding, sep : str
        Of CSV files, as for `read_table`.
    sha256 : str, optional
        The hash that the model must have.
    trusted : iterable of str
        As for `load_pipeline`.
    progress : bool, optional
        Rows, rows per second and time left on standard error; by default where that is a terminal.

    Returns
    -------
    ScoredTable

    Raises
    ------
    FileNotFoundError, PermissionError, BlockingIOError
        For sources that are not there, outputs that cannot be written, and while another run writes there.
    PlanError
        Where ``out`` holds another run: of another model, table or other options. The message says what differs.
    BadRowError
        At a row that cannot be scored.
    ArtifactError
        Where the model cannot be opened, or was replaced in the meantime.
    ChildProcessError
        Where worker processes die whatever they score.

    Examples
    --------
    >>> from pipeline import load_reviews, make_sentiment_pipeline, save_pipeline, score_table
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> train, test = load_reviews()
    >>> path = save_pipeline(make_sentiment_pipeline().fit(train["text"][:40], train["label"][:40]), f"{folder}/m.joblib")
    >>> scored = score_table(path, test[["text"]][:8], f"{folder}/scored", text="text")
    >>> scored.n_rows, scored.columns
    (8, ['label', 'probability_negative', 'probability_positive', 'label_error'])
    """
    if on_bad_row not in ("error", "null"):
        raise ValueError(f"on_bad_row={on_bad_row!r}; allowed are 'error' and 'null'.")
    if not isinstance(shard_rows, int) or shard_rows < 1:
        raise ValueError(f"shard_rows={shard_rows!r}; allowed are the numbers from 1.")
    chosen = choose_executor(executor, workers, threads=threads)
    opened = open_source(source, text, encoding=encoding, sep=sep)
    target = Target(out, getattr(opened, "paths", []), _folders(source))
    model = _Model.open(model_path, sha256, tuple(trusted))
    plan = Plan(
        source=opened.identity(),
        columns=[[field.name, str(field.type)] for field in opened.schema],
        text=text,
        model={
            "sha256": model.sha256,
            "classes": model.classes,
            "probabilities": model.probabilities,
        },
        shard_rows=shard_rows,
        threads=threads or 1,
        versions=installed_versions(),
    )
    fields = added_fields(opened.schema, model.classes, model.probabilities)
    with target.folder.locked(), Progress(progress) as shown, _unfinished_kept(target):
        target.folder.take_up(plan)
        job = Job(
            model=model.path,
            sha256=model.sha256,
            trusted=model.trusted,
            text=text,
            schema=opened.schema,
            probabilities=model.probabilities,
            folder=str(target.folder.path),
            plan=plan.sha256,
            on_bad_row=on_bad_row,
            threads=plan.threads,
        )
        manifest = target.folder.complete(plan)
        if manifest is None or (manifest["n_bad"] and on_bad_row == "error"):
            target.folder.reopen()
            columns = with_fields(opened.schema, fields).names
            manifest = Run(opened, target.folder, job, plan, shown).run(chosen, columns)
        else:
            shown.skipped(manifest["n_rows"])
        if target.file is not None:
            if not manifest[
                "n_bad"
            ]:  # a column for reasons where there is none: in a folder, which must not change its form
                fields = fields[:-1]
            target.put_together(len(manifest["parts"]), with_fields(opened.schema, fields))
    return ScoredTable(
        out=target.file or target.folder.path,
        n_rows=manifest["n_rows"],
        n_bad=manifest["n_bad"],
        n_parts=len(manifest["parts"]),
        n_skipped=shown.n_skipped,
        columns=[field.name for field in fields],
        seconds=shown.seconds,
    )


@dataclass(frozen=True)
class _Model:
    path: str
    sha256: str
    trusted: tuple[str, ...]
    classes: list[Any]
    probabilities: str  # their type: it must be known before there are any

    @classmethod
    def open(
        cls, path: str | os.PathLike, sha256: str | None, trusted: tuple[str, ...]
    ) -> "_Model":
        """Open the model with all checks, once and here; workers then take the file with this hash, and no other."""
        place = where(path)
        if sha256 is None:
            with fetched(place) as file:
                sha256 = (
                    sha256_of(file) if file.is_file() else ""
                )  # load_pipeline says what is there instead
        fitted = load_pipeline(place, sha256=sha256, trusted=trusted)
        kind = str(ask(fitted, pd.Series(["a plain text"], dtype="str")).probability.dtype)
        name = os.path.abspath(place) if isinstance(place, Path) else place
        return cls(name, sha256.lower(), trusted, np.asarray(fitted.classes_).tolist(), kind)


def _folders(source: Any) -> list[Any]:
    if isinstance(source, pd.DataFrame):
        return []
    named = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    return [place for place in map(where, named) if os.path.isdir(place)]


@contextlib.contextmanager
def _unfinished_kept(target: Target) -> Iterator[None]:
    """Say of a full disk what to do, and leave no folder behind in which nothing is finished."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no space left for {target.folder.path}: what is finished is kept; free some, and run it again",
            ) from error
        raise
    finally:
        target.remove_if_empty()
