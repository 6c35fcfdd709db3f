"""The folder cache under kill -9, and under Ctrl-C."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline import BertVectorizer, cache_info
from pipeline.vector_store import FolderStore, _unpack
from tests.writing import batch_of, vector_of

TOP = Path(__file__).resolve().parent.parent
ROUNDS, WRITERS = 7, 3
# each is made by writers that start together, and opened again by those that come after a kill
FOLDERS = 3
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")


def write_and_kill(kind, arguments, n_batches):
    """Start writers, kill each with SIGKILL right after so many acknowledged batches."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.writing", kind, *map(str, of_one)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=TOP,
        )
        for of_one in arguments
    ]
    acknowledged = [[] for _ in writers]

    def watch(writer, n, numbers):
        for line in (
            writer.stdout
        ):  # to the end: what was acknowledged while the signal was on its way counts too
            if line.endswith("\n"):
                numbers.append(int(line))
            if len(numbers) == n:
                writer.send_signal(signal.SIGKILL)

    watchers = [
        threading.Thread(target=watch, args=of_one)
        for of_one in zip(writers, n_batches, acknowledged, strict=True)
    ]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()
    errors = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [-signal.SIGKILL] * len(writers), (
        errors
    )  # a warning ends a writer too
    return acknowledged


def check_file(path):
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {
            key: _unpack(width, value)
            for key, width, value in connection.execute("SELECT k, width, v FROM e")
        }
    finally:
        connection.close()


def test_twenty_killed_writers_lose_no_acknowledged_row_and_leave_no_wrong_one(tmp_path):
    rng = random.Random(0)
    expected = [{} for _ in range(FOLDERS)]
    for round_number in range(ROUNDS):
        store = FolderStore(tmp_path / str(round_number % FOLDERS), "name")
        writers = [round_number * WRITERS + i for i in range(WRITERS)]
        acknowledged = write_and_kill(
            "store",
            [(store.folder, writer) for writer in writers],
            [rng.randint(1, 25) for _ in writers],
        )
        rows = expected[round_number % FOLDERS]
        for writer, numbers in zip(writers, acknowledged, strict=True):
            for number in numbers:
                rows |= batch_of(writer, number)
        there = check_file(store.path)
        assert rows.keys() <= there.keys()
        assert all(
            vector is not None and np.array_equal(vector, vector_of(key))
            for key, vector in there.items()
        )
        assert store.get(list(rows)).keys() == rows.keys()  # a warning would be an error
        assert [path.name for path in store.folder.iterdir() if "corrupt" in path.name] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_processes_that_make_one_file_at_the_same_moment_all_get_it(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "tests.writing", "race", str(tmp_path), "40"]
    assert subprocess.run(command, cwd=TOP, timeout=120).returncode == 0


MANY = [f"a film, number {i}" for i in range(6_000)]
ENCODE = """
import sys
from pipeline import BertVectorizer
from tests.test_cache_kill import MANY
BertVectorizer(sys.argv[1], cache=sys.argv[2], batch_tokens=64, progress=True).fit_transform(MANY)
"""


def test_ctrl_c_keeps_what_is_encoded_and_the_next_run_encodes_the_rest(tiny_bert, tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-c", ENCODE, tiny_bert, str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=TOP,
    )
    until = time.monotonic() + 120
    while not any(path.stat().st_size > 2**20 for path in tmp_path.glob("*.sqlite")):
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    errors = run.communicate(timeout=60)[1]
    assert run.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "Warning" not in errors
    (path,) = tmp_path.iterdir()  # no journal is left behind
    n_kept = len(check_file(path)) // 3  # poolings
    assert 0 < n_kept < len(MANY)
    assert f"/{len(MANY)} [" in errors  # the total is that of the job
    rows = BertVectorizer(tiny_bert, cache=tmp_path).fit_transform(MANY)
    assert cache_info().texts_encoded == len(MANY) - n_kept
    few = slice(0, len(MANY), 500)
    expected = BertVectorizer(tiny_bert, cache=None).fit_transform(MANY[few])
    assert np.abs(rows[few] - expected).max() <= 1e-5
