"""A Dask cluster on the loopback interface, started by `dask scheduler` and `dask worker`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
LIFE = "180"  # seconds after which an idle scheduler stops by itself, and its workers after it


@contextmanager
def cluster_by_hand(folder: Path, workers: Sequence[str] = ("", "")) -> Iterator[str]:
    """Run a scheduler and a worker per string of arguments, and yield the address."""
    file = folder / "scheduler.json"
    where = f"--host 127.0.0.1 --scheduler-file {file}"
    started = [
        _dask(
            folder / "scheduler.log",
            f"scheduler {where} --port 0 --dashboard-address 127.0.0.1:0 --idle-timeout {LIFE}",
        )
    ]
    try:
        for number, extra in enumerate(workers):
            arguments = (
                f"worker {where} --nthreads 1 --no-dashboard --death-timeout 30 "
                f"--local-directory {folder} {extra}"
            )
            started.append(_dask(folder / f"worker{number}.log", arguments))
        yield _address(file, started[0])
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _dask(log: Path, arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments.split()],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=TOP,
            env=environment,
        )


def _address(file: Path, scheduler: subprocess.Popen[bytes]) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end and scheduler.poll() is None:
        try:
            return str(json.loads(file.read_text())["address"])
        except (OSError, ValueError):  # not there yet, or half of it
            time.sleep(0.05)
    raise RuntimeError(
        f"the scheduler did not start:\n{file.with_name('scheduler.log').read_text()}"
    )
