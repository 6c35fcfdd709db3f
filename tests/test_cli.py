"""The program as a whole: help, default command, mistakes, warnings, closed streams."""

import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pandas as pd
import pytest

from pipeline import __version__, load_pipeline, make_sentiment_pipeline
from tests.commands import (
    ENVIRONMENT,
    PROGRAM,
    ROWS,
    assert_one_error_line,
    assert_passed,
    expected_lines,
    run_process,
)

COMMANDS = (
    "train predict evaluate report tokens models fetch inspect verify explain labels layers compare"
).split()

EXPLAINED = {
    "train": (
        "--data --text-column --label-column --bert --layers --pooling --C --device --dtype "
        "--threads --cache --classifier --class-weight --test-data --seed --missing "
        "--drop-missing-labels --rare --no-report"
    ),
    "predict": "--text --data --out --text-column --workers --on-bad-row --shard-rows",
    "evaluate": "--data --label-column --pipeline",
    "report": "--pipeline --by --compare --layers --out",
    "tokens": "--max-length --bert",
    "models": "--help",
    "fetch": "--to --revision",
    "inspect": "--json",
    "verify": "--sha256",
    "explain": "--text --level --method",
    "compare": "--data --test --test-data --models --dtype --fine-tuned --cv --out --figures",
    "labels": "--data --group-column --show --out",
    "layers": "--data --pooling --device --nested --out --figures",
}


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")  # train and test are one
def test_without_a_command_the_shipped_reviews_and_the_default_model_are_used(
    run, tmp_path, monkeypatch
):
    few = pd.DataFrame(ROWS[:10], columns=["text", "label"])
    monkeypatch.setattr("pipeline.datasets.load_reviews", lambda: (few, few))
    monkeypatch.chdir(tmp_path)
    result = run()
    assert_passed(result)
    assert "10 texts to train on, 10 held out (the shipped reviews)" in result.out
    assert "5-fold cross-validation" in result.out
    loaded = load_pipeline(tmp_path / "models" / "sentiment.joblib")
    expected = make_sentiment_pipeline(C="cv", ngrams=True)
    weighing = {"stackingclassifier__ngrams__logisticregression__random_state": 0}
    assert repr(loaded) == repr(expected.set_params(**weighing))


@pytest.mark.parametrize(
    "arguments", [["--cv", "many"], ["--max-length", "short"], ["--layer", "1"], ["more"]]
)
def test_what_the_parser_does_not_understand_is_named_with_a_way_to_help(arguments, run, data):
    result = run("train --no-ngrams", *arguments, data=data)
    assert result.code == 2
    assert arguments[-1].strip("1") in result.err or arguments[0] in result.err
    assert "--help" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("command", ["train", "layers", "compare"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--device", "cuda:99", "Available: "), ("--dtype", "float8", "bfloat16")],
)
def test_device_and_precision_reach_the_vectorizer(command, option, value, message, run, data):
    result = run(command, "--data", data, option, value)
    assert result.code == 2
    assert value in result.err
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("run_pipeline.py", "python run_pipeline.py"),
        ("/usr/bin/bert-vectorizer", "bert-vectorizer"),
        ("bert-vectorizer.exe", "bert-vectorizer"),
        ("lib/pipeline/__main__.py", "python -m pipeline"),
    ],
)
def test_help_hints_and_errors_name_the_program_that_runs(
    program, name, run, tmp_path, light_artifact
):
    for words in (
        ["train", "-h"],
        ["--nothing"],
        ["verify", tmp_path],
        ["inspect", light_artifact],
    ):
        result = run(*words, program=program)
        said = result.out + result.err
        assert name in said
        assert ("run_pipeline.py" in said) == ("run_pipeline.py" in name)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_a_short_option_for_help(command, run):
    result = run(command, "-h")
    assert_passed(result)
    assert result.out == run(command, "--help").out


def test_the_program_runs_as_a_module_and_tells_its_version(tmp_path):
    command = [sys.executable, "-m", "pipeline", "--version"]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(PROGRAM.parent)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.stdout == f"bert-vectorizer {__version__}\n"


def test_an_interruption_says_what_is_kept(run, data, tiny_bert, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.evaluation.compare.compare", interrupt)
    for options, part in (
        ({"cache": tmp_path / "v"}, f"kept in {tmp_path / 'v'}"),
        ({}, "--cache"),
    ):
        result = run("compare", data=data, bert=tiny_bert, **options)
        assert result.code == 130
        assert result.err.startswith("Interrupted. ")
        assert part in result.err


def test_an_unknown_command_is_named(run):
    result = run("fit")
    assert result.code == 2
    assert "No such command 'fit'" in result.err


def test_texts_that_are_cut_give_one_line_of_warning(run, data, tiny_bert, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run(
            "train --no-ngrams --cv 0 --max-length 5",
            data=data,
            bert=tiny_bert,
            out=tmp_path / "m.joblib",
        )
    assert result.code == 0
    lines = result.err.splitlines()
    assert lines
    assert all(
        line.startswith("Warning: ") and "longer than max_length=5 tokens" in line for line in lines
    )


@pytest.mark.parametrize(
    "arguments",
    [[], *([command] for command in COMMANDS)],
    ids=lambda value: " ".join(value) or "program",
)
def test_help_imports_neither_torch_nor_transformers(arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['run_pipeline.py', *{arguments!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
        "finally:\n"
        "    slow = {'torch', 'transformers', 'sklearn', 'pandas'}\n"
        "    print(*sorted(slow & set(sys.modules)), file=sys.stderr)\n"
    )
    environment = {
        **ENVIRONMENT,
        "PYTHONPATH": str(PROGRAM.parent),
        "COLUMNS": "100",
        "TERM": "dumb",
    }
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
    )
    assert (result.returncode, result.stderr.strip()) == (0, "")
    assert "Usage" in result.stdout
    for word in EXPLAINED[arguments[0]].split() if arguments else COMMANDS:
        assert word in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--data", "none.csv", "--out", "out.csv"],
        ["predict", "--text", "film", "--pipeline", "none.joblib"],
        ["train", "--data", "none.csv"],
    ],
)
def test_a_mistake_ends_the_process_with_code_2_and_one_line(arguments, tmp_path):
    result = run_process(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert_one_error_line(
        SimpleNamespace(code=result.returncode, err=result.stderr), "does not exist"
    )
    assert result.stdout == ""


def test_a_traceback_is_there_for_those_who_ask(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        run("predict", data=tmp_path / "none.csv", out=tmp_path / "out.csv")


@pytest.mark.parametrize("command", ["models", "predict", "evaluate", "help"])
def test_a_reader_that_goes_away_is_no_error(command, light_artifact, data):
    arguments = {
        "models": ["models"],
        "predict": ["predict", "--pipeline", light_artifact],
        "evaluate": ["evaluate", "--pipeline", light_artifact, "--data", data],
        "help": ["--help"],
    }
    reading, writing = os.pipe()
    os.close(reading)  # what `| head -1` does, but always before the first line
    try:
        result = run_process(*arguments[command], input="A lovely film.\n" * 3, stdout=writing)
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(os.name == "nt", reason="no shell that closes a stream")
@pytest.mark.parametrize(
    ("closed", "code", "message"),
    [
        ("<&-", 2, "Nothing to label: give --text"),
        (">&- --text film", 0, ""),
        ("2>&- --text film", 0, ""),
    ],
    ids=["stdin", "stdout", "stderr"],
)
def test_a_closed_stream_is_no_crash(closed, code, message, light_artifact):
    command = f'"{sys.executable}" "{PROGRAM}" predict --pipeline "{light_artifact}" {closed}'
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == code
    assert message in result.stderr
    assert result.stderr.count("\n") == (1 if message else 0)


def test_head_takes_the_first_of_many_lines(light_artifact, tmp_path):
    (tmp_path / "lines.txt").write_text("A lovely film.\n" * 20_000, encoding="utf-8")
    command = [sys.executable, str(PROGRAM), "predict", "--pipeline", str(light_artifact)]
    with (
        (tmp_path / "lines.txt").open() as lines,
        subprocess.Popen(
            command,
            stdin=lines,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        ) as program,
    ):
        head = program.stdout.readline()
        program.stdout.close()
        error = program.stderr.read()
        code = program.wait()
    assert head.rstrip("\n") == expected_lines(load_pipeline(light_artifact), ["A lovely film."])[0]
    assert (code, error) == (0, "")
