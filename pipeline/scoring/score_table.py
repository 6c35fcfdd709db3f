"""Score a table of any size, every row exactly once."""

import contextlib
import errno
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.answers import Answers, ask, ask_each, gives_several, outputs_of
from pipeline.columns import Kind
from pipeline.datasets import columns_for
from pipeline.files import fetched, sha256_of, where
from pipeline.notebook import block, facts
from pipeline.saved.allow_list import trusted_names
from pipeline.saved.artifact import load_pipeline
from pipeline.saved.manifest import installed_versions
from pipeline.scoring.driver import Progress, Run
from pipeline.scoring.executors import BySizeExecutor, Executor, ProcessExecutor, SerialExecutor
from pipeline.scoring.run_folder import Plan, Target
from pipeline.scoring.shard import Job, OnBadRow, added_fields, model_input, with_fields
from pipeline.scoring.sources import Source, open_source
from pipeline.texts import Missing

NAMES = ("serial", "processes", "auto", "dask")


SHARD_ROWS = 2048
_TRIED_ROWS = 20  # at least one must suit a model of several columns before the run starts


def choose_executor(
    executor: Any = "serial", workers: int | None = None, *, threads: int | None = None
) -> Executor:
    """Return the executor for a name, address, client or executor."""
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and (type(number) is not int or number < 1):
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

        cluster = None if executor == "dask" else executor
        return DaskExecutor(cluster, workers=workers, threads=threads or 1)
    if hasattr(executor, "run") and hasattr(executor, "threads"):
        if workers is not None:
            raise ValueError(f"workers={workers}, but the {type(executor).__name__} has its own.")
        chosen: Executor = executor
        return chosen
    raise ValueError(
        f"executor={executor!r}; allowed are {', '.join(map(repr, NAMES))}, the address of a Dask "
        "scheduler, such as 'tcp://10.0.0.5:8786', a distributed.Client and a DaskExecutor."
    )


def _is_cluster(executor: Any) -> bool:
    if isinstance(executor, str):
        return "://" in executor
    is_distributed = type(executor).__module__.partition(".")[0] == "distributed"
    return is_distributed and hasattr(executor, "scheduler")


@dataclass(frozen=True)
class ScoredTable:
    """Summary of a run of `score_table`.

    Attributes
    ----------
    out : Path
        The folder of parts, or the file.
    n_rows : int
        Rows of the table, all of them in the output.
    n_bad : int
        Rows without a label.
    n_parts : int
        Parts that the table was scored in.
    n_skipped : int
        Rows scored by an earlier run.
    columns : list of str
        The added columns.
    seconds : float
        Duration of this run.
    n_empty : int
        Rows of this run labelled as empty texts, by ``missing="empty"``.
    """

    out: Path
    n_rows: int
    n_bad: int
    n_parts: int
    n_skipped: int
    columns: list[str]
    seconds: float
    n_empty: int = 0

    def _repr_html_(self) -> str:
        values = {
            "Written to": self.out,
            "Rows": f"{self.n_rows:,}",
            "Without a label": f"{self.n_bad:,}",
            "Scored before": f"{self.n_skipped:,}",
            "Parts": f"{self.n_parts:,}",
            "Columns added": ", ".join(self.columns),
            "Duration": f"{self.seconds:,.1f} s, {self.rows_per_second:,.0f} rows a second",
        }
        return block(facts(values))

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
    sep: str | None = None,
    missing: Missing | None = None,
    sha256: str | None = None,
    trusted: str | Iterable[str] = (),
    trusted_key: Any = None,
    progress: bool | None = None,
) -> ScoredTable:
    """Score a table of any size, every row exactly once.

    The table is read once, ``shard_rows`` rows at a time. Each shard becomes a part that is written
    completely or not at all and names its shard, model and run. After a crash the same call resumes
    and keeps finished parts. A manifest and ``_SUCCESS`` are written only when all parts exist and
    their rows add up. The bytes of the parts do not depend on the executor, the number of workers,
    or interruptions.

    Parameters
    ----------
    model_path : str or Path
        A pipeline by `save_pipeline`, whose classifier gives probabilities. Each process opens it
        once. Labels are those of its ``predict``. If it gives several per text, each has a column
        ``label_<output>``, of 1 and 0 or of its classes, and its probabilities have columns.
    source : path, sequence of paths, or DataFrame
        CSV or JSON lines (also ``.gz``, ``.bz2``, ``.xz``, ``.zip``) or Parquet: a file, a folder
        of Parquet files, several files, a pattern such as ``"2026-*.parquet"``, local or at an
        address of fsspec such as ``s3://bucket/folder``.
    out : str or Path
        A new folder, for ``part-000000.parquet`` and so on, or one file (``.csv``, ``.parquet``,
        ``.pq``, ``.jsonl``).
    text : str
        The text column. A model that was fitted on several columns gets all of these.
    executor : {"serial", "processes", "auto", "dask"}, address, Client or executor
        Default ``"serial"``: this process. ``"processes"``: worker processes on this machine.
        ``"auto"``: these if the table has more than one shard, else this process. ``"dask"``: a
        Dask cluster on this machine. The address of a Dask cluster, such as
        ``"tcp://10.0.0.5:8786"``, a ``distributed.Client`` or a `pipeline.DaskExecutor`.
    workers : int, optional
        Number of worker processes; one per core by default. An existing Dask cluster has its own.
    threads : int, optional
        Threads of the model in each worker; 1 by default. Another number may change the last bits
        of a probability, so a rerun needs the same. To use more cores, use more workers.
    shard_rows : int, default=2048
        Rows per part: lost in a crash, and held in memory by each worker.
    on_bad_row : {"error", "null"}, default="error"
        For a row that cannot be scored: not a string, malformed, or one that the model fails on or
        that kills its process. ``"error"`` stops there and keeps finished parts. ``"null"`` keeps
        the row, without label and probabilities, and gives the reason in the column
        ``label_error``; a rerun may change to it.
    encoding, sep : str
        Of CSV files, as in `read_table`.
    missing : {"error", "empty"}, optional
        ``"error"``: a row with a missing or blank text cannot be scored; ``"empty"``: it is
        labelled as an empty text, and counted. Default: only a blank text is.
    sha256 : str, optional
        The hash that the model must have.
    trusted, trusted_key
        As in `load_pipeline`.
    progress : bool, optional
        Show rows, rows per second and time left on standard error. Default: only in a terminal.

    Returns
    -------
    ScoredTable
        What was written, and how fast; shown as a table in a notebook.

    Raises
    ------
    FileNotFoundError, PermissionError, BlockingIOError
        If a source is missing, the output cannot be written, or another run writes there.
    PlanError
        If ``out`` holds a run of another model, table or other options. The message says what
        differs.
    BadRowError
        At a row that cannot be scored.
    ArtifactError
        If the model cannot be opened, or was replaced in the meantime.
    ChildProcessError
        If worker processes die whatever they score.

    Examples
    --------
    >>> from pipeline import load_reviews, make_sentiment_pipeline, save_pipeline, score_table
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> train, test = load_reviews()
    >>> model = make_sentiment_pipeline().fit(train["text"][:40], train["label"][:40])
    >>> path = save_pipeline(model, f"{folder}/m.joblib")
    >>> scored = score_table(path, test[["text"]][:8], f"{folder}/scored", text="text")
    >>> scored.n_rows, scored.columns
    (8, ['label', 'probability_negative', 'probability_positive', 'label_error'])
    """
    if on_bad_row not in ("error", "null"):
        raise ValueError(f"on_bad_row={on_bad_row!r}; allowed are 'error' and 'null'.")
    if missing not in (None, "error", "empty"):
        raise ValueError(f"missing={missing!r}; allowed are None, 'error' and 'empty'.")
    if not isinstance(shard_rows, int) or shard_rows < 1:
        raise ValueError(f"shard_rows={shard_rows!r}; allowed are the numbers from 1.")
    trusted = tuple(trusted_names(trusted))
    chosen = choose_executor(executor, workers, threads=threads)
    opened = open_source(source, text, encoding=encoding, sep=sep)
    target = Target(out, getattr(opened, "paths", []), _folders(source))
    path, sha256, fitted = _open_model(model_path, sha256, trusted, trusted_key)
    columns = columns_for(fitted, opened.schema.names, text, opened.name)
    probe, several, kind = _try_first(fitted, opened, columns, text)
    outputs = outputs_of(fitted) if several else None
    fields = added_fields(opened.schema, fitted.classes_, kind, outputs)
    model = {
        "sha256": sha256,
        "classes": list(map(list, outputs)) if outputs else np.asarray(fitted.classes_).tolist(),
        "probabilities": kind,
    }
    plan = Plan(
        source=opened.identity(),
        columns=[[field.name, str(field.type)] for field in opened.schema],
        text=text,
        model=model,
        shard_rows=shard_rows,
        threads=threads or 1,
        versions=installed_versions(),
    )
    job = Job(
        model=path,
        sha256=sha256,
        trusted=trusted,
        text=text,
        schema=opened.schema,
        columns=columns,
        fields=fields,
        n_labels=None if outputs is None else len(outputs),
        probe=probe,
        folder=str(target.folder.path),
        plan=plan.sha256,
        on_bad_row=on_bad_row,
        threads=plan.threads,
        missing=missing,
    )
    n_empty = 0
    with target.folder.locked(), Progress(progress) as bar, _cleaned_up(target):
        target.folder.start_or_resume(plan)
        manifest = target.folder.complete(plan)
        if manifest is None or (
            manifest["n_bad"] and (on_bad_row == "error" or missing == "empty")
        ):
            target.folder.reopen()
            names = with_fields(opened.schema, fields).names
            run = Run(opened, target.folder, job, plan, bar)
            manifest, n_empty = run.run(chosen, names), run.n_empty
        else:
            bar.skipped(manifest["n_rows"])
        if target.file is not None:
            if not manifest["n_bad"]:
                fields = fields[:-1]
            target.join_parts(len(manifest["parts"]), with_fields(opened.schema, fields))
    return ScoredTable(
        out=target.file or target.folder.path,
        n_rows=manifest["n_rows"],
        n_bad=manifest["n_bad"],
        n_parts=len(manifest["parts"]),
        n_skipped=bar.n_skipped,
        columns=[field.name for field in fields],
        seconds=bar.seconds,
        n_empty=n_empty,
    )


def _open_model(
    path: str | os.PathLike, sha256: str | None, trusted: tuple[str, ...], trusted_key: Any
) -> tuple[str, str, Any]:
    place = where(path)
    if sha256 is None:
        with fetched(place) as file:  # if it is not a file, load_pipeline says what it is
            sha256 = sha256_of(file) if file.is_file() else ""
    fitted = load_pipeline(place, sha256=sha256, trusted=trusted, trusted_key=trusted_key)
    return os.path.abspath(place) if isinstance(place, Path) else place, sha256.lower(), fitted


def _try_first(
    fitted: Any, source: Source, columns: dict[str, Kind] | None, text: str
) -> tuple[pa.Table, bool, str]:
    """Return a row that the model takes, and the form of its answers."""
    # the output columns must be known before there is any output
    first = None
    if columns is not None and len(columns) > 1:
        first = next(source.rows(_TRIED_ROWS, mark=True), None)
    if first is not None:
        table = first.table
    else:
        kinds = {**(columns or {}), text: "text"}
        table = pa.table({n: [0 if k == "number" else "a plain text"] for n, k in kinds.items()})
    for row in range(table.num_rows):
        probe = table.slice(row, 1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # given when the row is scored
                X = model_input(columns, probe, text)
                several = gives_several(fitted, X)
                answers: Answers = (ask_each if several else ask)(fitted, X)
        except Exception:
            if row == table.num_rows - 1:
                raise
        else:
            return probe, several, str(answers.probability.dtype)
    raise AssertionError("a source never yields tables without rows")


def _folders(source: Any) -> list[Any]:
    if isinstance(source, pd.DataFrame):
        return []
    paths = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    return [place for place in map(where, paths) if os.path.isdir(place)]


@contextlib.contextmanager
def _cleaned_up(target: Target) -> Iterator[None]:
    """Explain a full disk, and remove a folder that holds no part."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno,
                f"no space left for {target.folder.path}. Finished parts are kept; free some space "
                "and run it again",
            ) from error
        raise
    finally:
        target.remove_if_empty()
