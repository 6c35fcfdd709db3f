"""Let every n-th call that reaches the disk fail, or kill the process there, for n = 1, 2, ...

    python -m tests.fault_loops [SCENARIO ...] [--places K]

A forked child does the work of a scenario with one fault in it: the n-th open, rename, link,
remove, mkdir, rmdir, mmap, fsync, start of a process, or statement or commit of SQLite raises
OSError, or the process dies there by SIGKILL; "in a worker" it is the n-th call of one worker
process from its first prediction on; or files may grow to n bytes only, which is a disk that fills
in the middle of a write (`RLIMIT_FSIZE`), and either an error or death (SIGXFSZ). After each fault
the folder must hold the old state or the new one, and the same work, done again without a fault,
must give the new state and leave nothing else behind.
Prints a JSON object per scenario: how many faults of each kind, and every violation.
"""

import _posixsubprocess
import argparse
import errno
import json
import os
import pickle
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from pipeline import (
    BertVectorizer,
    cache_info,
    clear_cache,
    evaluate,
    load_pipeline,
    save_pipeline,
    score_table,
    write_report,
)
from pipeline.checkpoints.checkpoint import resolve
from pipeline.datasets import write_table
from pipeline.exceptions import CheckpointError
from tests import scoring_steps
from tests.conftest import build_model
from tests.fake_hub import MODEL, FakeHub, connect

CALLS = {
    *("open", "os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir"),
    *("mmap.__new__", "sqlite3.connect"),
}
TEXTS = [
    f"a {'lovely' if i % 2 else 'dull'} film, {'soup' if i % 3 else 'Paris'}" for i in range(12)
]
LABELS = ["good" if i % 2 else "bad" for i in range(12)]
PATIENCE = 240  # seconds
MISSES = 6  # faults in a row that no worker comes to: the loop is at its end


class Fault:
    """What goes wrong, at the n-th call or byte; an audit hook cannot be taken away, only idle."""

    armed: "Fault | None" = None
    calls = 0

    def __init__(self, folder: Path, kind: str, n: int) -> None:
        self.folder, self.kind, self.n = str(folder), kind, n
        self.is_bytes, self.kills = kind.endswith("bytes"), kind.startswith("death")

    def __enter__(self) -> None:
        Fault.calls = 0
        if not self.is_bytes:
            Fault.armed = self
            return
        if self.kills:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.n, hard))

    def __exit__(self, *_: object) -> None:
        Fault.armed = None
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    def strike(self, call: str, path: Any) -> None:
        named = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else None
        if named is not None and not os.path.abspath(named).startswith(self.folder):
            return
        Fault.calls += 1
        if Fault.calls == self.n:
            if self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            code = (errno.ENOSPC, errno.EIO, errno.EACCES)[self.n % 3]
            raise OSError(code, os.strerror(code), named)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    fault = Fault.armed
    if fault is not None and event in CALLS:
        first = None if event == "mmap.__new__" else arguments[0]
        if event in ("os.symlink", "os.link"):
            first = arguments[1]
        if not isinstance(first, int):  # a handle: its opening was counted
            fault.strike(event, first)


def _counted(call: Callable[..., Any]) -> Callable[..., Any]:
    """Count a call that raises no audit event."""

    def counted(*arguments: Any, **options: Any) -> Any:
        if Fault.armed is not None:
            Fault.armed.strike(call.__name__, None)
        return call(*arguments, **options)

    return counted


class Connection(sqlite3.Connection):
    """Counts statements and commits."""

    execute = _counted(sqlite3.Connection.execute)
    executemany = _counted(sqlite3.Connection.executemany)
    __exit__ = _counted(sqlite3.Connection.__exit__)


def watch() -> None:
    """Count the calls of this process and its children from now on."""
    sys.addaudithook(_audit)
    os.fsync = _counted(os.fsync)
    sqlite3.connect = partial(sqlite3.connect, factory=Connection)
    _posixsubprocess.fork_exec = subprocess._fork_exec = _counted(_posixsubprocess.fork_exec)


@dataclass
class Scenario:
    """Some work on a folder, and what the folder may hold after it.

    `state` returns "old" or "new", or raises; `resumes` says that what is finished is kept after an
    error, and the next run goes on; `survives` that an error may be a warning, and leave the old;
    `in_workers` that the fault is in a worker; `slow` how many places, where none are asked for.
    """

    prepare: Callable[[Path], Any]
    act: Callable[[Path], Any]
    state: Callable[[Path], str]
    resumes: bool = False
    survives: bool = False
    in_workers: bool = False
    slow: int | None = None


# ---- scenarios


def _fitted(model: str, C: float) -> Pipeline:
    vectorizer = BertVectorizer(model, device="cpu", cache=None)
    return make_pipeline(vectorizer, LogisticRegression(C=C)).fit(TEXTS, LABELS)


def saving(model: str, **options: Any) -> Scenario:
    trusted_key = options["sign"].public_key() if "sign" in options else None
    old, new = _fitted(model, 0.01), _fitted(model, 100.0)
    expected = {"old": old.predict_proba(TEXTS), "new": new.predict_proba(TEXTS)}
    name = f"model.{options.get('format', 'joblib')}"

    def state(folder: Path) -> str:
        found = load_pipeline(folder / name, trusted_key=trusted_key).predict_proba(TEXTS)
        return next(key for key, value in expected.items() if np.allclose(found, value, atol=1e-5))

    return Scenario(
        lambda folder: save_pipeline(old, folder / name, **options),
        lambda folder: save_pipeline(new, folder / name, **options),
        state,
    )


def loading(model: str, **options: Any) -> Scenario:
    fitted = _fitted(model, 1.0)
    expected = fitted.predict_proba(TEXTS)
    name = f"model.{options.get('format', 'joblib')}"

    def act(folder: Path) -> None:
        clear_cache()
        assert np.allclose(load_pipeline(folder / name).predict_proba(TEXTS), expected, atol=1e-5)

    return Scenario(
        lambda folder: save_pipeline(fitted, folder / name, **options), act, lambda _: "new"
    )


def writing_a_table(model: str, ending: str) -> Scenario:
    old, new = pd.DataFrame({"text": ["a"]}), pd.DataFrame({"text": TEXTS, "label": LABELS})
    file = f"t.{ending}"

    def state(folder: Path) -> str:
        expected = folder.parent / f"expected.{ending}"
        for name, table in (("old", old), ("new", new)):
            write_table(table, expected)
            if (folder / file).read_bytes() == expected.read_bytes():
                return name
        raise AssertionError("neither the old table nor the new one")

    return Scenario(
        lambda folder: write_table(old, folder / file),
        lambda folder: write_table(new, folder / file),
        state,
    )


def scoring(model: str | None, out: str, executor: str = "serial", **options: Any) -> Scenario:
    fitted = scoring_steps.breaking() if model is None else _fitted(model, 1.0)
    reference: list[list[Any]] = []
    workers = None if executor == "serial" else 2

    def act(folder: Path) -> None:
        score_table(
            folder.parent / "model.joblib",
            folder.parent / "in.csv",
            text="text",
            out=folder / out,
            shard_rows=4,
            executor=executor,
            workers=workers,
            trusted=scoring_steps.TRUSTED,
            progress=False,
        )

    def prepare(folder: Path) -> None:
        pd.DataFrame({"text": TEXTS}).to_csv(folder.parent / "in.csv", index=False)
        save_pipeline(fitted, folder.parent / "model.joblib")
        if not reference:
            assert in_child(partial(act, folder))[0] == "done"  # no thread of Dask stays here
            reference.append(read(folder))
            shutil.rmtree(folder)
            folder.mkdir()

    def read(folder: Path) -> list[Any]:
        return pd.read_parquet(folder / out).to_numpy().tolist()

    def state(folder: Path) -> str:
        whole = folder / out
        # readers of a folder are told to wait for _SUCCESS
        if not whole.exists() or (whole.is_dir() and not (whole / "_SUCCESS").exists()):
            return "old"
        assert read(folder) == reference[0], "other rows than those of a run without a fault"
        return "new"

    return Scenario(prepare, act, state, resumes=True, **options)


def caching(model: str) -> Scenario:
    expected = BertVectorizer(model, device="cpu", cache=None).fit_transform(TEXTS)

    def act(folder: Path) -> None:
        found = BertVectorizer(model, device="cpu", cache=folder / "cache").fit_transform(TEXTS)
        assert np.allclose(found, expected, atol=1e-5)

    def state(folder: Path) -> str:
        before = cache_info().texts_encoded
        act(folder)
        return "new" if cache_info().texts_encoded == before else "old"

    def prepare(folder: Path) -> None:
        BertVectorizer(model, device="cpu", cache=folder / "cache").fit_transform(TEXTS[:2])

    return Scenario(prepare, act, state, resumes=True, survives=True)


def fetching(model: str) -> Scenario:
    hub = FakeHub({MODEL: Path(model)})
    hub.__enter__()  # until this process ends
    patch, sleep = pytest.MonkeyPatch(), time.sleep
    patch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))

    def act(folder: Path) -> None:
        connect(hub.url, folder / "hub", patch)
        resolve(MODEL)

    def state(folder: Path) -> str:
        connect(hub.url, folder / "hub", patch)
        try:
            resolve(MODEL, local_files_only=True)
        except CheckpointError:
            return "old"
        return "new"

    # what a branch points to is remembered if it can be: "old" without a word
    return Scenario(
        lambda folder: (folder / "hub").mkdir(), act, state, resumes=True, survives=True
    )


def reporting(model: str) -> Scenario:
    scores = evaluate(_fitted(model, 1.0), TEXTS, LABELS)

    def state(folder: Path) -> str:
        page, numbers = folder / "r.html", folder / "r.json"
        if page.read_text() == "old":
            return "old"
        assert page.read_text().rstrip().endswith("</html>")
        json.loads(numbers.read_text())
        return "new"

    def prepare(folder: Path) -> None:
        for name in ("r.html", "r.json"):
            (folder / name).write_text("old")

    return Scenario(prepare, lambda folder: write_report(scores, folder / "r.html"), state)


SCENARIOS: dict[str, Callable[[str], Scenario]] = {
    "save_pipeline": saving,
    "save_pipeline, skops": partial(saving, format="skops"),
    "save_pipeline, signed": lambda model: saving(model, sign=Ed25519PrivateKey.generate()),
    "load_pipeline": loading,
    "load_pipeline, skops": partial(loading, format="skops"),
    "write_table, CSV": partial(writing_a_table, ending="csv"),
    "write_table, Parquet": partial(writing_a_table, ending="parquet"),
    "score_table, one file": partial(scoring, out="out.parquet"),
    "score_table, a folder": partial(scoring, out="out"),
    "write_report": reporting,
    "the cache": caching,
    "fetch": fetching,
    "score_table, processes": lambda _: scoring(None, "out", "processes", slow=10),
    "score_table, in a worker": lambda _: scoring(None, "out", "processes", in_workers=True),
    "score_table, in a Dask worker": lambda _: scoring(
        None, "out", "dask", in_workers=True, slow=3
    ),
}


# ---- the loop


def in_child(work: Callable[[], Any]) -> Any:
    """Return what a forked child gives, or the name of the signal that ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(PATIENCE)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                work()
            found: Any = "done"
        except BaseException as error:
            found = (type(error).__name__, str(error))
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump((found, Fault.calls), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if not data:
        return signal.Signals(os.WTERMSIG(status)).name, 0
    return pickle.loads(data)


def struck(folder: Path, fault: tuple[str, int], work: Callable[[], Any]) -> None:
    """Work in this process, which has to be a child, while a fault lies in wait."""
    watch()
    with Fault(folder, *fault):
        work()


def faults(places: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[str, int]]:
    """Give faults of every kind: at a call, or where files may grow to so many half pages."""
    at_bytes = st.sampled_from(["error at bytes", "death at bytes"])
    return st.tuples(st.sampled_from(["error", "death"]), places) | st.tuples(
        at_bytes, places.map(lambda n: n * 2048)
    )


def faults_of(n_calls: int, n_bytes: int, places: int | None) -> Iterator[tuple[str, int]]:
    """Yield each kind of fault with each place, or with so many of them."""
    calls = np.linspace(1, n_calls, min(n_calls, places or n_calls)).astype(int).tolist()
    sizes = np.linspace(0, n_bytes - 1, min(places or 40, 40)).astype(int).tolist()
    for n in calls:
        yield from (("error", n), ("death", n))
    for n in sizes:
        yield from (("error at bytes", n), ("death at bytes", n))


def run(name: str, model: str, places: int | None) -> dict[str, Any]:
    """Run a scenario with every fault, and return counts and violations."""
    with tempfile.TemporaryDirectory() as top, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, folder, beside = Path(top, "before"), Path(top, "work"), Path(top, "expected")
        mark = Path(top, scoring_steps.STRUCK)
        for path in (before, beside):
            path.mkdir()
        scenario = SCENARIOS[name](model)
        scenario.prepare(before)
        shutil.copytree(before, folder)
        with_nothing_wrong, n_calls = in_child(lambda: _act(scenario, folder, "error", 1 << 40))
        assert with_nothing_wrong == "done", with_nothing_wrong
        names = _names(folder)
        n_bytes = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        counts: dict[str, int] = {}
        violations = []
        at_most = places or scenario.slow
        faults = faults_of(n_calls, n_bytes, at_most)
        if scenario.in_workers:  # whose calls nobody counts
            each = range(1, (at_most or 1000) + 1)
            faults = ((kind, n) for n in each for kind in ("error", "death"))
        n_missed = 0  # in a row: chance decides which worker gets how many shards
        for kind, n in faults:
            shutil.rmtree(folder)
            shutil.copytree(before, folder, symlinks=True)
            mark.unlink(missing_ok=True)
            found, _ = in_child(partial(_act, scenario, folder, kind, n))
            if scenario.in_workers and not mark.exists():
                assert found == "done", found
                n_missed += 1
                if n_missed == MISSES:
                    break
                continue
            n_missed = 0
            counts[kind] = counts.get(kind, 0) + 1
            for problem in _problems(scenario, model, folder, found, names):
                violations.append(f"{kind} {n}: {problem}")
        return {"scenario": name, **counts, "violations": violations}


def _act(scenario: Scenario, folder: Path, kind: str, n: int) -> None:
    if scenario.in_workers:
        os.environ[scoring_steps.BREAKS] = json.dumps([str(folder), kind, n])
        scenario.act(folder)
        return
    with Fault(folder, kind, n):
        scenario.act(folder)


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _problems(
    scenario: Scenario, model: str, folder: Path, found: Any, names: list[str]
) -> Iterator[str]:
    """Yield what is wrong after a fault, and after the same work without one."""
    if isinstance(found, tuple):
        error, message = found
        if error in ("AssertionError", "KeyError", "TypeError", "AttributeError"):
            yield f"{error}: {message}"
        if not any(place in message for place in (str(folder.parent), model, sys.executable)):
            yield f"{error} names no file: {message}"
        left = sorted(set(_names(folder)) - set(names))
        if left and not scenario.resumes:
            yield f"left behind after {found}: {left}"
    try:
        if scenario.state(folder) == "old" and found == "done" and not scenario.survives:
            yield "no error, and the old state"
    except Exception as error:
        yield f"after {found}: {type(error).__name__}: {error}"
    again, _ = in_child(lambda: scenario.act(folder))
    if again != "done":
        yield f"the same work again: {again}"
        return
    if scenario.state(folder) != "new":
        yield "the same work again gave the old state"
    missing = set() if scenario.survives else set(names) - set(_names(folder))
    if left := sorted((set(_names(folder)) - set(names)) | missing):
        yield f"after the same work again: {left}"


def main() -> None:
    """Run the scenarios and print what came of each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--places", type=int, help="so many for each kind of fault; all by default")
    options = parser.parse_args()
    watch()
    with tempfile.TemporaryDirectory() as top:
        model = str(build_model(Path(top, "model"), "bert"))
        for name in options.scenarios:
            sys.stdout.write(f"{json.dumps(run(name, model, options.places))}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
