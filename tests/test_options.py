"""Options of several commands: table, saved pipeline, default path, progress bar."""

import io
import sys
from pathlib import Path

import pytest

from pipeline import load_pipeline
from tests.commands import Terminal, assert_one_error_line


def test_without_a_trained_model_the_default_path_is_named(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(Path("models") / "sentiment.joblib")
    assert_one_error_line(run("predict --text film"), f"{path} does not exist; train writes one")
    assert_one_error_line(run("evaluate"), f"{path} does not exist; train writes one")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_model_file_that_is_something_else_is_named(command, run, data):
    options = ["--text", "film"] if command == "predict" else ["--data", data]
    assert_one_error_line(
        run(command, "--pipeline", data, *options),
        f"{data} is no saved pipeline: it is not a joblib file",
    )


@pytest.mark.parametrize(
    "arguments",
    [["train"], ["evaluate"], ["predict", "--out", "out.csv"]],
    ids=["train", "evaluate", "predict"],
)
@pytest.mark.parametrize(
    ("name", "message"), [("none.csv", "none.csv does not exist"), (".", "is a folder, not a file")]
)
def test_a_table_that_is_not_there_is_named(
    name, message, arguments, run, artifact, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model = ["--pipeline", artifact] if arguments[0] != "train" else []
    assert_one_error_line(run(*arguments, "--data", name, *model), message)


@pytest.mark.parametrize("somebody_looks", [True, False])
def test_a_progress_bar_is_shown_where_somebody_looks(
    somebody_looks, run, artifact, data, tiny_bert, tmp_path, monkeypatch
):
    out = tmp_path / "m.joblib"
    calls = [
        ["train", "--data", data, "--bert", tiny_bert, "--cv", 0, "--out", out],
        ["evaluate", "--data", data, "--pipeline", artifact],
        ["predict", "--data", data, "--pipeline", artifact, "--out", tmp_path / "out.csv"],
    ]
    for arguments in calls:
        stream = Terminal() if somebody_looks else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        assert run(*arguments).code == 0
        assert (
            ("scoring" if arguments[0] == "predict" else "encoding") in stream.getvalue()
        ) == somebody_looks
        assert somebody_looks or stream.getvalue() == ""
    assert load_pipeline(out).get_params()["bertvectorizer__progress"] is False
