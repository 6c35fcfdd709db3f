"""A fault at a few calls and bytes; `make faults` takes every single one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_any_fault_the_old_state_or_the_new_one_is_there_and_a_rerun_succeeds():
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fault_loops", "--places", "2"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    told = [json.loads(line) for line in ran.stdout.splitlines()]
    assert {row["scenario"]: row["violations"] for row in told if row["violations"]} == {}
    assert all(row["error"] and row["death at bytes"] for row in told)
