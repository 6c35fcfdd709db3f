"""The folder of an output: nobody else's files, one driver at a time, complete only when it is."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.exceptions import PlanError
from pipeline.scoring.run_folder import RunFolder, Stamp, write_part
from tests.test_plan import PLAN

TOP = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path):
    """Give a folder with two parts of PLAN, of 2 and 3 rows."""
    folder = RunFolder(tmp_path / "out")
    with folder.locked():
        folder.start_or_resume(PLAN)
    folder.hashes = [write(folder, index, n_rows) for index, n_rows in enumerate([2, 3])]
    return folder


def write(folder, index, n_rows, plan=PLAN, n_bad=0):
    stamp = Stamp(index, plan.sha256, plan.model["sha256"], n_rows, n_bad)
    return write_part(pa.table({"text": ["a"] * n_rows}), folder.part(index), stamp)


def test_a_folder_with_other_files_is_refused_and_an_empty_or_own_one_is_not(tmp_path, folder):
    assert folder.check_ours() is None
    assert RunFolder(tmp_path / "new").check_ours() is None
    (tmp_path / "mine").mkdir()
    assert RunFolder(tmp_path / "mine").check_ours() is None
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(
        ValueError, match=r"mine holds other files \(thesis\.tex\); name a new or empty folder"
    ):
        RunFolder(tmp_path / "mine").check_ours()


def test_a_second_driver_is_refused_with_the_first_ones_process_and_let_in_when_that_is_killed(
    tmp_path,
):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from pipeline.scoring.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked():\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=TOP
    ) as first:
        assert first.stdout.readline() == "locked\n"
        with (
            pytest.raises(
                BlockingIOError, match=f"written by another run \\(process {first.pid} on "
            ),
            RunFolder(tmp_path).locked(),
        ):
            pass
        first.kill()
        first.wait()
    with RunFolder(tmp_path).locked():
        pass


def test_the_same_plan_goes_on_and_another_is_refused_with_what_differs(folder):
    (folder.path / ".part-000002.parquet.1.tmp").touch()
    (folder.shards / "shard-000002.parquet").touch()
    folder.start_or_resume(PLAN)
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "_run",
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    assert list(folder.shards.iterdir()) == []
    with pytest.raises(
        PlanError, match=r"out holds another run: shard_rows \(100, now 7\)\. Resume with"
    ):
        folder.start_or_resume(replace(PLAN, shard_rows=7))


def test_complete_is_what_was_finished_and_is_still_whole(folder):
    assert folder.complete(PLAN) is None
    manifest = folder.finish(PLAN, ["text"], folder.hashes, 5)
    assert (folder.path / "_SUCCESS").is_file()
    assert folder.complete(PLAN) == manifest
    assert [part["sha256"] for part in manifest["parts"]] == folder.hashes
    assert (manifest["n_rows"], manifest["n_bad"], manifest["columns"]) == (5, 0, ["text"])
    assert folder.complete(replace(PLAN, shard_rows=7)) is None
    content = folder.part(1).read_bytes()
    folder.part(1).write_bytes(content[:-1])
    assert folder.complete(PLAN) is None
    folder.part(1).write_bytes(content)
    assert folder.complete(PLAN) == manifest
    folder.reopen()
    assert folder.complete(PLAN) is None
    assert not (folder.path / "_SUCCESS").exists()


@pytest.mark.parametrize("fault", ["missing", "other plan", "other number", "rows", "one more"])
def test_nothing_is_called_complete_that_is_not(fault, folder):
    n_rows = 5
    if fault == "missing":
        folder.part(1).unlink()
    elif fault == "other plan":
        write(folder, 1, 3, plan=replace(PLAN, shard_rows=7))
    elif fault == "other number":
        folder.part(0).replace(folder.part(1))
    elif fault == "rows":
        n_rows = 6
    else:
        write(folder, 2, 3)
    with pytest.raises(RuntimeError, match="run it again"):
        folder.finish(PLAN, ["text"], folder.hashes, n_rows)
    assert not (folder.path / "_SUCCESS").exists()
    assert not (folder.path / "_manifest.json").exists()
