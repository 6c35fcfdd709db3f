"""Score a million rows over two kills, and check that every row is there once: the claim of
score_table, at size.

    python -m benchmarks.score_million [--rows 1000000] [--shard-rows 2048] [--folder DIR]

Distinct short texts by numbering, the default model, two worker processes. At 30 % of the parts one
worker is killed by kill -9, at 60 % the driver, with whom the workers end; then the same call
again, to the end. Checked: the number, order and uniqueness of the rows over all parts, and the
bytes of some parts against a serial scoring of the same rows. With --folder the benchmark itself
can be stopped and started again. --rows below a million makes a trial: nothing is written, unless
by --write. Writes results/score_million.json. Linux only: workers are found in /proc.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.processes import children, peak_mib
from benchmarks.results_file import write_result
from benchmarks.score_table import trained
from pipeline import save_pipeline, score_table
from pipeline.files import sha256_of
from pipeline.scoring.run_folder import Plan
from pipeline.scoring.shard import Job, Shard, added_fields, score_shard
from pipeline.scoring.sources import open_source

ROWS = 1_000_000
KILLS = {"worker": 0.3, "driver": 0.6}  # at which share of the parts
STEADY = (0.05, 0.25)  # between which shares the speed without a kill is taken
N_SAMPLED = 12  # parts that are scored again
SHARD_ROWS = 2048
LOOK = 0.5  # seconds


class State:
    """What was measured so far, in a file: the benchmark may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "state.json"
        self.values: dict[str, Any] = {
            "seconds": 0.0,
            "killed": {},
            "at": {},
            "peak_mib": {"driver": 0, "worker": 0},
            "runs": 0,
        }
        if self._file.is_file():
            self.values = json.loads(self._file.read_text())

    def save(self) -> None:
        """Write it."""
        self._file.write_text(json.dumps(self.values))


def prepare(folder: Path, n_rows: int) -> None:
    """Write the table and the model, unless they are there."""
    if (folder / "ready").exists():
        return
    kinds = ["good film", "bad film", "fine book", "dull book", "great song", "poor song"]
    texts = [f"{kinds[i % len(kinds)]} {i}" for i in range(n_rows)]
    pd.DataFrame({"id": np.arange(n_rows), "text": texts}).to_parquet(
        folder / "texts.parquet", index=False
    )
    save_pipeline(trained(), folder / "model.joblib")
    (folder / "ready").touch()


def drive(folder: Path, shard_rows: int) -> None:
    """Be the driver: score in two processes, to the end if nobody kills it."""
    score_table(
        folder / "model.joblib",
        folder / "texts.parquet",
        folder / "scored",
        text="text",
        executor="processes",
        workers=2,
        shard_rows=shard_rows,
    )


def run_driver(folder: Path, state: State, n_parts: int, shard_rows: int) -> bool:
    """Start a driver, look at it every half second, kill what is to be killed; return whether it
    came to the end.
    """
    found = state.values
    found["runs"] += 1
    program = [sys.executable, "-m", "benchmarks.score_million", "--drive"]
    driver = subprocess.Popen([*program, "--folder", str(folder), "--shard-rows", str(shard_rows)])
    shown = 0.0
    last = time.monotonic()
    try:
        while driver.poll() is None:
            time.sleep(LOOK)
            now = time.monotonic()
            found["seconds"] += now - last
            last = now
            share = len(list((folder / "scored").glob("part-*.parquet"))) / n_parts
            watch(driver.pid, found, share)
            kill_in_time(driver.pid, found, share)
            if now - shown > 15:
                shown = now
                print(
                    f"{100 * share:.0f} % of the parts after {found['seconds']:.0f} s, killed: "
                    f"{found['killed']}",
                    flush=True,
                )
                state.save()
    finally:
        driver.kill()
        driver.wait()
        state.save()
    if driver.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"the driver ended with {driver.returncode}; what it said stands above")
    return driver.returncode == 0


def watch(driver: int, found: dict[str, Any], share: float) -> None:
    """Note the peak memory of driver and workers, and when the parts reached the bounds of the
    steady stretch.
    """
    for kind, pids in (("driver", [driver]), ("worker", children(driver))):
        found["peak_mib"][kind] = max([found["peak_mib"][kind], *map(peak_mib, pids)])
    for bound in STEADY:
        if share >= bound and str(bound) not in found["at"]:
            found["at"][str(bound)] = [share, found["seconds"]]


def kill_in_time(driver: int, found: dict[str, Any], share: float) -> None:
    """Kill a worker or the driver, once each, when so many parts are there."""
    for victim, at in KILLS.items():
        workers = children(driver)
        if share >= at and victim not in found["killed"] and workers:
            os.kill(workers[0] if victim == "worker" else driver, signal.SIGKILL)
            found["killed"][victim] = round(share, 3)
            print(f"killed the {victim} at {100 * share:.0f} % of the parts", flush=True)
            return


def check_rows(folder: Path, n_rows: int) -> None:
    """Stop unless every row is there once, in its place, with text and label; part by part."""
    row = 0
    for path in sorted((folder / "scored").glob("part-*.parquet")):
        part = pq.read_table(path).to_pandas()
        expected = pq.read_table(
            folder / "texts.parquet", filters=[("id", ">=", row), ("id", "<", row + len(part))]
        ).to_pandas()
        if (
            not part["id"].equals(expected["id"])
            or not part["text"].equals(expected["text"])
            or part["label"].isna().any()
        ):
            raise RuntimeError(
                f"{path.name} has not the rows from {row} on, or not all have a label"
            )
        row += len(part)
    if row != n_rows:
        raise RuntimeError(f"{row} rows instead of {n_rows}")


def check_bytes(folder: Path, n_parts: int, shard_rows: int) -> int:
    """Score some parts again, in this process; stop where the bytes differ. Returns how many."""
    scored = folder / "scored"
    plan = Plan.read(scored / "_run" / "plan.json")
    if plan is None:
        raise RuntimeError("the run has left no plan")
    schema = open_source(folder / "texts.parquet", "text").schema
    again = folder / "again"
    again.mkdir(exist_ok=True)
    job = Job(
        model=str(folder / "model.joblib"),
        sha256=plan.model["sha256"],
        trusted=(),
        text="text",
        schema=schema,
        fields=added_fields(schema, plan.model["classes"], plan.model["probabilities"]),
        folder=str(again),
        plan=plan.sha256,
        on_bad_row="error",
        threads=plan.threads,
    )
    around_kills = {int(at * n_parts) + step for at in KILLS.values() for step in (-1, 0, 1)}
    sampled = sorted(
        around_kills
        | set(np.linspace(0, n_parts - 1, N_SAMPLED - len(around_kills)).astype(int).tolist())
    )
    for index in sampled:
        first, path = index * shard_rows, again / "shard.parquet"
        rows = [("id", ">=", first), ("id", "<", first + shard_rows)]
        table = pq.read_table(folder / "texts.parquet", filters=rows)
        pq.write_table(table, path)
        score_shard(job, Shard(index, str(path), 0, table.num_rows, first))
        name = f"part-{index:06d}.parquet"
        if sha256_of(again / name) != sha256_of(scored / name):
            raise RuntimeError(f"{name} has other bytes than a serial scoring of its rows")
    return len(sampled)


def main() -> None:
    """Prepare, run and kill, check, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument(
        "--shard-rows", type=int, default=SHARD_ROWS, help="fewer for a trial of few rows"
    )
    parser.add_argument(
        "--folder", type=Path, help="for the files, about 200 MB; a temporary one by default"
    )
    parser.add_argument("--write", action="store_true", help="write the result of a trial too")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.folder, arguments.shard_rows)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        row = run_and_check(folder, arguments.rows, arguments.shard_rows)
    print(json.dumps(row, indent=2))
    if arguments.rows >= ROWS or arguments.write:
        write_result("score_million", [row], peers=("pandas", "pyarrow"))


def run_and_check(folder: Path, n_rows: int, shard_rows: int) -> dict[str, Any]:
    """Score over the two kills, check everything, and say what it took."""
    prepare(folder, n_rows)
    state = State(folder)
    n_parts = -(-n_rows // shard_rows)
    while not run_driver(folder, state, n_parts, shard_rows):
        print("the driver is dead: the same call again", flush=True)
    print("checking", flush=True)
    check_rows(folder, n_rows)
    n_same = check_bytes(folder, n_parts, shard_rows)
    found = state.values
    (first, first_s), (last, last_s) = (found["at"][str(bound)] for bound in STEADY)
    steady = (last - first) * n_parts * shard_rows / (last_s - first_s)
    return {
        "rows": n_rows,
        "executor": "processes, 2 workers",
        "kills": found["killed"],
        "drivers_started": found["runs"],
        "seconds": found["seconds"],
        "rows_per_s": n_rows / found["seconds"],
        "rows_per_s_between_kills": steady,
        "seconds_lost": found["seconds"] - n_rows / steady,
        "parts": n_parts,
        "parts_compared_with_serial": n_same,
        "output_bytes_per_row": sum(
            path.stat().st_size for path in (folder / "scored").glob("part-*")
        )
        / n_rows,
        "driver_peak_mib": found["peak_mib"]["driver"],
        "worker_peak_mib": found["peak_mib"]["worker"],
    }


if __name__ == "__main__":
    main()
