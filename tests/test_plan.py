"""Plans: one hash over all that decides a byte, and what differs said in words."""

from dataclasses import replace

import pytest

from pipeline.exceptions import PlanError
from pipeline.scoring.run_folder import Plan

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
