"""A fault at a few calls and bytes; `make faults` takes every single one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="no resource limits on this system")

from tests.fault_loops import SCENARIOS

HERE = [name for name in SCENARIOS if "work" not in name and "processes" not in name]
QUICK = ["save_pipeline", "load_pipeline", "score_table, a folder", "the cache", "fetch"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(
    "scenarios",
    [
        QUICK,
        pytest.param(sorted({*HERE} - {*QUICK}), marks=pytest.mark.thorough),
        pytest.param(["score_table, in a worker"], marks=pytest.mark.thorough),
    ],
    ids=["quick", "others", "worker"],
)
def test_after_any_fault_the_old_state_or_the_new_one_is_there_and_a_rerun_succeeds(
    scenarios,
):
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fault_loops", *scenarios, "--places", "1"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {row["scenario"]: row["violations"] for row in told if row["violations"]} == {}
    assert all(row["error"] and row["death"] for row in told)
    assert len(told) == len(scenarios)
