"""The driver: which shards are left to do, what is told once, and what is cleaned up."""

import shutil
import warnings
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.files import sha256_of
from pipeline.progress import progress
from pipeline.scoring.executors import SerialExecutor
from pipeline.scoring.run_folder import RunFolder, Stamp, write_part
from pipeline.scoring.score_table import Run
from pipeline.scoring.shard import Job
from pipeline.scoring.sources import open_source
from tests.scoring_steps import TRUSTED, save_obeying
from tests.test_run_folder import PLAN

FRAME = pd.DataFrame({"text": [f"film {i}" for i in range(9)]})


class Counting(SerialExecutor):
    """Lists the shards that it was given, and how many of their files were there at once."""

    def __init__(self):
        super().__init__(1)
        self.given = []
        self.most_files = 0

    def run(self, function, shards):
        yield from super().run(function, self._counted(shards))

    def _counted(self, shards):
        for shard in shards:
            self.given.append((shard.index, shard.first_row, shard.n_rows))
            self.most_files = max(self.most_files, len(list(self.folder.iterdir())))
            yield shard


@pytest.fixture
def run(tmp_path):
    """Give a function that runs a driver on a frame in shards of 4."""
    model = save_obeying(tmp_path)
    folder = RunFolder(tmp_path / "out")

    def call(frame=FRAME, on_bad_row="error", rows=4):
        plan = replace(PLAN, shard_rows=rows)
        source = open_source(frame, "text")
        sha256 = sha256_of(model)
        executor = Counting()
        executor.folder = folder.shards
        with folder.locked(), progress() as bar:
            folder.start_or_resume(plan)
            job = Job(
                str(model),
                sha256,
                TRUSTED,
                "text",
                source.schema,
                (
                    pa.field("label", pa.string()),
                    pa.field("probability_bad", pa.float64()),
                    pa.field("probability_good", pa.float64()),
                    pa.field("label_error", pa.string()),
                ),
                str(folder.path),
                plan.sha256,
                on_bad_row,
                1,
            )
            run = Run(source, folder, job, plan, bar)
            manifest = run.run(executor)
        return executor, manifest, run

    call.folder = folder
    return call


def test_every_row_goes_into_one_shard_and_its_file_is_gone_when_it_is_scored(run):
    executor, manifest, counts = run()
    assert executor.given == [(0, 0, 4), (1, 4, 4), (2, 8, 1)]
    assert executor.most_files == 1
    assert not run.folder.shards.exists()
    assert (manifest["n_rows"], [part["n_rows"] for part in manifest["parts"]]) == (9, [4, 4, 1])
    assert (counts.n_scored, counts.n_skipped) == (9, 0)


@pytest.mark.parametrize(
    "fault", ["missing", "cut short", "other number", "other model", "fewer rows"]
)
def test_parts_that_are_whole_and_of_this_run_are_not_scored_again_and_others_are(fault, run):
    _, before, _ = run()
    path = run.folder.part(1)
    stamp = Stamp.of(path)
    if fault == "missing":
        path.unlink()
    elif fault == "cut short":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        changes = {
            "other number": {"index": 0},
            "other model": {"artifact": "0"},
            "fewer rows": {"n_rows": 3},
        }[fault]
        table = pq.read_table(path)
        write_part(
            table.slice(0, changes.get("n_rows", 4)), path, Stamp(**{**stamp.__dict__, **changes})
        )
    executor, manifest, counts = run()
    assert executor.given == [(1, 4, 4)]
    assert manifest == before
    assert (counts.n_scored, counts.n_skipped) == (4, 5)


@pytest.mark.parametrize(
    ("rows", "told_of"), [([5, 8], "rows 4 to 7"), ([0, 3], "rows 0 to 3"), ([8], "rows 8 to 8")]
)
def test_a_kind_of_warning_is_told_once_with_the_rows_it_is_of(rows, told_of, run):
    frame = FRAME.copy()
    frame.loc[rows, "text"] = "WARN"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(frame)
    assert [str(one.message) for one in told] == [
        f"a text says so (For {told_of}; not repeated for others.)"
    ]
    shutil.rmtree(run.folder.path)
    with pytest.warns(RuntimeWarning, match="^a text says so$"):
        run(frame[rows[0] : rows[0] + 1].reset_index(drop=True), rows=100)
