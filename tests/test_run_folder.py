"""The plan, the parts and the folder of a run: one hash, one driver, complete only when it is."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.exceptions import PlanError
from pipeline.scoring.run_folder import Plan, RunFolder, Stamp, Target, write_part

PLAN = Plan(
    source={
        "kind": "csv",
        "files": [{"size": 7, "sha256": "1"}, {"size": 8, "sha256": "2"}],
        "encoding": "utf-8",
        "sep": ",",
    },
    columns=[["text", "large_string"]],
    text="text",
    model={"sha256": "a" * 64, "classes": ["é", "b"]},
    shard_rows=100,
    threads=1,
    versions={"python": "3.12", "torch": "2.13"},
)


def test_a_plan_comes_back_as_it_was_written(tmp_path):
    assert Plan.read(tmp_path / "plan.json") is None
    PLAN.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == PLAN
    assert Plan.read(tmp_path / "plan.json").sha256 == PLAN.sha256
    content = (tmp_path / "plan.json").read_text(encoding="utf-8")  # people read it too
    assert '  "text": "text",' in content.splitlines()
    assert '"é"' in content


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"text": "review"}, r"the text column ('review', now 'text')"),
        ({"threads": 2}, "threads (2, now 1)"),
        ({"shard_rows": 5}, "shard_rows (5, now 100)"),
        (
            {"columns": [["a", "int64"]]},
            "the columns ([['a', 'int64']], now [['text', 'large_string']])",
        ),
        (
            {"model": {"sha256": "b" * 64, "classes": ["é", "b"]}},
            "the model (sha256 bbbbbbbbbbbb..., now aaaaaaaaaaaa...)",
        ),
        (
            {"versions": {"python": "3.12", "torch": "2.12"}},
            "the versions of packages (torch 2.12, now 2.13)",
        ),
        ({"source": {**PLAN.source, "kind": "parquet"}}, "the source (parquet, now csv)"),
        (
            {"source": {**PLAN.source, "files": PLAN.source["files"][:1]}},
            "the source (1 files, now 2)",
        ),
        (
            {
                "source": {
                    **PLAN.source,
                    "files": [PLAN.source["files"][0], {"size": 8, "sha256": "3"}],
                }
            },
            "the source (other contents of file 2 of 2)",
        ),
        (
            {"source": {**PLAN.source, "sep": ";"}},
            "the source (read with encoding='utf-8', sep=';', now with encoding='utf-8', sep=',')",
        ),
    ],
)
def test_every_change_changes_the_hash_and_is_named_alone(change, told):
    before = replace(PLAN, **change)
    assert PLAN.sha256 != before.sha256
    assert PLAN.differences(before) == [told]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format_version": 1}', '{"format_version": 2}', "{"]
)
def test_a_plan_that_cannot_be_read_is_refused(content, tmp_path):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(PlanError, match=r"plan\.json is (damaged|of format)"):
        Plan.read(tmp_path / "plan.json")


# ---- parts


TABLE = pa.table({"text": ["a", None], "n": pa.array([1, 2], pa.int8())})
STAMP = Stamp(index=3, plan="p" * 64, artifact="a" * 64, n_rows=2, n_bad=1)


def test_a_stamp_that_does_not_fit_the_rows_is_none(tmp_path):
    write_part(TABLE, tmp_path / "part", replace(STAMP, n_rows=3))
    assert Stamp.of(tmp_path / "part") is None


def test_a_flipped_bit_is_noticed_by_whoever_checks_pages(tmp_path):
    write_part(TABLE, tmp_path / "part", STAMP)
    content = bytearray((tmp_path / "part").read_bytes())
    at = content.index(b"a", 4, 80)
    content[at] ^= 1
    (tmp_path / "part").write_bytes(content)
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        pq.read_table(tmp_path / "part", page_checksum_verification=True)


# ---- the folder


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
    for name in ("a", "b"):
        (tmp_path / "mine" / name).touch()
    with pytest.raises(ValueError, match=r"\(a, b, thesis\.tex\)"):
        RunFolder(tmp_path / "mine").check_ours()
    (tmp_path / "mine" / "c").touch()
    with pytest.raises(ValueError, match=r"\(a, b, c, \.\.\.\)"):
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
    assert (manifest["plan"], manifest["artifact"]) == (PLAN.sha256, "a" * 64)
    assert (folder.path / "_SUCCESS").read_bytes() == b""
    assert Plan.read(folder.path / "_run" / "plan.json") == PLAN  # where later versions look
    (folder.path / "_SUCCESS").unlink()
    assert folder.complete(PLAN) is None
    (folder.path / "_SUCCESS").touch()
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
    with pytest.raises(RuntimeError, match=r"(?i)run it again"):
        folder.finish(PLAN, ["text"], folder.hashes, n_rows)
    assert not (folder.path / "_SUCCESS").exists()
    assert not (folder.path / "_manifest.json").exists()


# ---- where it is written


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("in.csv", ValueError, r"in\.csv"),
        ("out.txt", ValueError, r"has the ending '\.txt'; allowed are \.csv, \.parquet"),
        ("file", FileExistsError, "file is a file; name a folder"),
        ("", ValueError, r"holds the input .*in\.csv; name another folder"),
        ("new/out", FileNotFoundError, "new"),
        ("table/out", ValueError, "is in the source folder"),
        ("s3://bucket/out", ValueError, "is not a folder on this machine.* object stores cannot"),
    ],
)
def test_places_that_cannot_be_written_are_refused(out, error, message, tmp_path):
    (tmp_path / "in.csv").write_text("text\n")
    (tmp_path / "file").touch()
    (tmp_path / "table").mkdir()
    place = out if "://" in out else tmp_path / out
    with pytest.raises(error, match=message):
        Target(place, [str(tmp_path / "in.csv")], [tmp_path / "table"])


def test_a_folder_may_have_an_ending_and_its_source_an_address(tmp_path):
    (tmp_path / "run.v2").mkdir()
    target = Target(tmp_path / "run.v2", ["s3://bucket/in.csv"])
    assert (target.file, target.folder.path) == (None, tmp_path / "run.v2")


def filled(out, table):
    target = Target(out, [])
    with target.folder.locked():
        target.folder.start_or_resume(PLAN)
    for index, start in enumerate((0, 2)):
        stamp = Stamp(index, PLAN.sha256, "a" * 64, 2, 0)
        write_part(table.slice(start, 2), target.folder.part(index), stamp)
    return target


def test_numbers_keep_their_form_in_csv_where_some_are_missing(tmp_path):
    table = pa.table({"text": ["é", 'a "b"', "x\ny", None], "n": [1, None, 2**53 + 1, 4]})
    table = table.append_column("yes", pa.array([True, None, False, True]))
    filled(tmp_path / "out.csv", table).join_parts(2, table.schema)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["text", "n", "yes"],
            ["é", "1", "True"],
            ['a "b"', "", ""],
            ["x\ny", "9007199254740993", "False"],
            ["", "4", "True"],
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_what_pandas_noted_in_a_source_does_not_matter_for_its_csv(tmp_path):
    table = pa.table({"text": ["a", "b", "c", "d"]})
    note = json.dumps({"index_columns": [], "column_indexes": [{"numpy_type": "nonsense"}]})
    schema = table.schema.with_metadata({"pandas": note})
    filled(tmp_path / "out.csv", table).join_parts(2, schema)
    assert (tmp_path / "out.csv").read_text().split() == ['"text"', '"a"', '"b"', '"c"', '"d"']


def test_a_part_with_a_flipped_bit_is_not_joined(tmp_path):
    table = pa.table({"text": ["some words", "a", "b", "c"]})
    target = filled(tmp_path / "out.csv", table)
    content = target.folder.part(0).read_bytes()
    target.folder.part(0).write_bytes(content.replace(b"some words", b"some wordt", 1))
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        target.join_parts(2, table.schema)
    assert not (tmp_path / "out.csv").exists()
