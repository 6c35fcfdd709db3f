"""Options of several commands: table, saved pipeline, default path, progress bar."""

import io
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline import cache_info, clear_cache, load_pipeline
from tests.commands import ROWS, Terminal, assert_one_error_line, assert_passed, write_csv


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
        f"{data} is not a saved pipeline: it is not a joblib file",
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
        ["train", "--no-ngrams", "--data", data, "--bert", tiny_bert, "--cv", 0, "--out", out],
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


# ---- one vocabulary


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("train", "--model", "--bert"),
        ("compare", "--text", "--text-column"),
        ("labels", "--label", "--label-column"),
        ("predict", "--model", "--pipeline"),
        ("predict", "--column", "--text-column"),
        ("evaluate", "--text", "--text-column"),
        ("tokens", "--model", "--bert"),
    ],
)
@pytest.mark.parametrize("equals", [False, True])
def test_former_names_of_options_work_with_a_hint_and_are_not_in_the_help(
    command, old, new, equals, run, tmp_path
):
    missing = tmp_path / "none"
    arguments = {"tokens": ["text"], "predict": ["--data", missing, "--out", missing]}
    words = arguments.get(command, ["--data", missing])
    result = run(command, *words, *([f"{old}=no/x"] if equals else [old, "no/x"]))
    hint, error = result.err.splitlines()
    assert hint == f"Hint: {old} is now called {new}."
    assert error.startswith("Error: ")
    assert "no/x" in error or "none does not exist" in error
    text = run(command, "--help").out
    assert new in text
    assert f" {old} " not in text or (command, old) == ("predict", "--text")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", ["--text-column", "--label-column"]),
        ("evaluate", ["--text-column", "--label-column"]),
        ("predict", ["--text-column"]),
        ("compare --group-column who", ["--text-column", "--label-column", "--group-column"]),
        ("report --by who", ["--text-column", "--label-column", "--by"]),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_column_that_is_missing_is_said_with_the_option_that_names_another(
    command, options, kind, run, artifact, tmp_path
):
    columns = {"text": "--text-column", "label": "--label-column"}
    for option in options:
        there = [name for name, own in columns.items() if own != option]
        there += ["who"] if option not in ("--group-column", "--by") else ["somebody"]
        table = pd.DataFrame([["a"] * len(there)], columns=there)
        data = tmp_path / f"d.{kind}"
        table.to_csv(data, index=False) if kind == "csv" else table.to_json(
            data, orient="records", lines=True
        )
        more = {"predict": ["--out", tmp_path / "o.csv"]}.get(command, [])
        if command.split()[0] not in ("train", "compare"):
            more += ["--pipeline", artifact]
        assert_one_error_line(run(command, "--data", data, *more), "no column", option)


def test_every_reading_command_opens_tabs_workbooks_and_lines(run, artifact, tmp_path):
    frame = pd.DataFrame(ROWS[:8], columns=["text", "label"])
    frame.to_csv(tmp_path / "d.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "d.txt", sep="\t", index=False)
    frame.to_json(tmp_path / "d.jsonl", orient="records", lines=True)
    expected = run("evaluate", "--pipeline", artifact, "--data", tmp_path / "d.tsv").out
    for words in (["d.txt", "--sep", "tab"], ["d.txt", "--sep", "\\t"], ["d.jsonl"]):
        found = run("evaluate --data", tmp_path / words[0], *words[1:], "--pipeline", artifact)
        assert found.out[found.out.index("┏") :] == expected[expected.index("┏") :]
    out = tmp_path / "out.csv"
    assert run("predict", pipeline=artifact, data=tmp_path / "d.tsv", out=out).code == 0
    assert pd.read_csv(out)["text"].tolist() == frame["text"].tolist()


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_a_workbook_is_read_or_the_package_that_reads_it_is_named(
    command, run, artifact, tmp_path, tiny_bert
):
    data, out = tmp_path / "d.xlsx", tmp_path / "out.csv"
    data.write_bytes(b"PK\x03\x04")
    more = {"predict": ["--out", out, "--pipeline", artifact], "evaluate": ["--pipeline", artifact]}
    if find_spec("openpyxl") is None:
        result = run(command, "--data", data, *more.get(command, []))
        assert_one_error_line(result, "pip install openpyxl")
        return
    assert_one_error_line(run(command, "--data", data, *more.get(command, [])), "Excel workbook")
    rows = [(text, 5 if label == "positive" else 1) for text, label in ROWS]
    pd.DataFrame(rows, columns=["text", "label"]).to_excel(data, index=False)
    more = {
        **more,
        "train": ["--bert", tiny_bert, "--no-ngrams", "--cv", 0, "--no-report", "--out", out],
    }
    if command == "train":
        assert run(command, "--data", data, *more[command]).code == 0
        assert load_pipeline(out).classes_.tolist() == [1, 5]
    elif command == "predict":
        assert run(command, "--data", data, *more[command]).code == 0
        assert pd.read_csv(out)["text"].tolist() == [text for text, _ in rows]


# ---- tables as they are


@pytest.fixture
def messy(tmp_path):
    """Write a table with an empty text, an empty label and two rare classes."""
    rows = [*ROWS, ("", "positive"), ("A strange film.", " "), ("An odd film.", "odd")]
    rows += [(f"A rare film, number {i}.", "rare") for i in range(4)]
    return write_csv(tmp_path / "messy.csv", ["review", "stars"], rows)


def learn(run, data, tiny_bert, out, *arguments):
    command = "train --no-ngrams --cv 0 --no-report --text-column review --label-column stars"
    return run(command, "--data", data, "--bert", tiny_bert, "--out", out, *arguments)


def test_each_thing_that_a_table_lacks_is_refused_with_its_row_and_the_option(
    run, messy, tiny_bert, tmp_path
):
    out, arguments = tmp_path / "m.joblib", []
    for option, *parts in (
        ("--drop-missing-labels", "column 'stars' is empty in 1 of 55", "row 49"),
        ("--missing empty", "column 'review' is empty in 1 of 54", "row 48"),
        ("--rare drop", "label 'odd' has only 1 texts", "--rare merge"),
    ):
        assert option.split()[0] in (error := learn(run, messy, tiny_bert, out, *arguments).err)
        assert error.startswith("Error") or arguments
        assert all(part in error for part in parts)
        arguments += option.split()
    assert learn(run, messy, tiny_bert, out, *arguments).code == 0
    assert load_pipeline(out).classes_.tolist() == ["negative", "positive"]


def test_rare_classes_are_dropped_or_merged_and_later_commands_do_the_same(
    run, messy, tiny_bert, tmp_path
):
    out, whole = tmp_path / "m.joblib", ["--drop-missing-labels", "--missing", "empty"]
    result = learn(run, messy, tiny_bert, out, *whole, "--rare", "merge")
    assert "5 texts of 2 classes" in result.err
    assert "'other'" in result.err
    assert load_pipeline(out).classes_.tolist() == ["negative", "other", "positive"]
    assert json.loads(out.with_name("m.joblib.json").read_text())["n_training_texts"] == 43
    arguments = ["evaluate", "--data", messy, "--pipeline", out, *whole, "--rare"]
    assert "│ 54 " in run(*arguments, "merge").out
    assert "│ 49 " in run(*arguments, "drop").out
    assert_one_error_line(run("evaluate", "--data", messy, "--pipeline", out), "stars")
    few = write_csv(tmp_path / "few.csv", ["review", "stars"], [*ROWS, ("An odd film.", "odd")])
    assert "too few" in learn(run, few, tiny_bert, out, "--rare", "merge").err


def test_train_scores_on_a_file_of_its_own_and_names_its_rows(run, data, tiny_bert, tmp_path):
    test, out = tmp_path / "test.csv", tmp_path / "m.joblib"
    rows = [(f"Another {text}", label) for text, label in ROWS[:9]]
    write_csv(test, ["text", "label"], rows)
    arguments = ["--test-data", test, "--bert", tiny_bert, "--cv", 0, "--no-report", "--out", out]
    result = run("train --no-ngrams", "--data", data, *arguments, "--seed", 3)
    assert_passed(result)
    assert f"{len(ROWS)} texts to train on, 9 held out ({data}, {test})" in result.out
    for line in result.out.splitlines()[-3:]:
        row, label, *_, text = line.split("\t")
        assert rows[int(row)] == (text, label)


def test_numbers_with_fractions_are_said_to_be_regression(run, tiny_bert, tmp_path):
    rows = [(text, i / 7) for i, (text, _) in enumerate(ROWS)]
    data = write_csv(tmp_path / "d.csv", ["text", "label"], rows)
    for command in ("train", "compare", "layers", "labels"):
        result = run(command, data=data, bert=tiny_bert)
        assert_one_error_line(result, "is regression", "pandas.cut")


@pytest.mark.parametrize("command", ["train", "compare", "layers", "labels"])
def test_one_fold_is_refused_in_our_words_before_anything_is_encoded(
    command, run, data, tiny_bert, encoded, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = run(command, "--cv", 1, data=data, bert=tiny_bert)
    assert_one_error_line(result, "--cv", "n_splits=1", "allowed are 2 to")
    assert not encoded
    assert not (tmp_path / "models").exists()


# ---- classifiers, cache


@pytest.mark.parametrize(
    ("name", "kind", "gives"),
    [
        ("linear-svm", "LinearSVC", False),
        ("ridge", "RidgeClassifier", False),
        ("hist-gradient-boosting", "HistGradientBoostingClassifier", True),
        ("sklearn.naive_bayes.GaussianNB", "GaussianNB", True),
    ],
)
def test_classifiers_by_name_are_trained_saved_and_used(
    name, kind, gives, run, data, tiny_bert, tmp_path
):
    out = tmp_path / "m.joblib"
    result = run(
        f"train --cv 0 --no-report --classifier {name}", data=data, bert=tiny_bert, out=out
    )
    assert_passed(result)
    assert type(load_pipeline(out)[-1]).__name__ == kind
    assert ("gives no probabilities" in result.out) is not gives
    said = run("predict", "--text", "A lovely film.", pipeline=out)
    label, probability, _ = said.out.split("\t")
    assert label in ("positive", "negative")
    assert (probability == "-") is not gives


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["forest"], "hist-gradient-boosting"),
        (["sklearn.linear_model.Ridge"], "is not a classifier, perhaps a regressor"),
        (["sklearn.ensemble.VotingClassifier"], "estimators"),
        (["no.such.Thing"], "No module named 'no'"),
        (["ridge", "--C", "1"], "leave out --C"),
        (["ridge", "--ngrams"], "--ngrams"),
        (["sklearn.naive_bayes.GaussianNB", "--class-weight", "balanced"], "--class-weight"),
    ],
)
def test_a_classifier_that_cannot_be_had_is_refused(arguments, part, run, data, tiny_bert):
    result = run(" ".join(["train --classifier", *arguments]), data=data, bert=tiny_bert)
    assert_one_error_line(result, part)


def test_compare_takes_a_classifier_and_gives_the_seconds_of_every_row(run, data, tiny_bert):
    result = run("compare --cv 2 --models majority,default --classifier ridge", data=data,
                 bert=tiny_bert)  # fmt: skip
    assert_passed(result)
    costs = result.out[result.out.index("calibration") :].splitlines()[2:5]
    tables = [line for line in result.out.splitlines() if "never predicted" not in line]
    assert max(map(len, tables[1:])) <= 80  # the first names the file
    assert [line.split()[-3] == "-" for line in costs] == [False] * 3


def test_a_limit_on_threads_holds_for_torch_and_what_comes_later(run, artifact, monkeypatch):
    for name in ("OMP", "MKL", "OPENBLAS", "RAYON"):
        monkeypatch.setenv(f"{name}_NUM_THREADS", "2")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert run("predict", "--text", "a", "--pipeline", artifact, "--threads", 1).code == 0
        assert torch.get_num_threads() == 1
        assert os.environ["OMP_NUM_THREADS"] == "1"
    finally:
        torch.set_num_threads(before)
    assert run("predict", "--text", "a", "--pipeline", artifact, "--threads", 0).code == 2


def test_a_folder_of_vectors_serves_the_next_run(run, data, tiny_bert, tmp_path):
    arguments = ["--data", data, "--bert", tiny_bert, "--cache", tmp_path / "vectors"]
    out = tmp_path / "m.joblib"
    for command in (
        ["train --no-ngrams --cv 0 --no-report", "--out", out],
        ["layers --cv 2 --pooling mean"],
    ):
        clear_cache()
        before = cache_info().texts_encoded
        assert run(*command, *arguments).code == 0
        n_encoded = cache_info().texts_encoded - before
        assert (n_encoded == 0) == command[0].startswith("layers")
    assert load_pipeline(out)[0].cache is None
