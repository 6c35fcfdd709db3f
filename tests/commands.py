"""Shared by tests of the commands: the program, a table, saved pipelines."""

import csv
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from pipeline import make_sentiment_pipeline, progress, save_pipeline
from pipeline.commands.cli import main
from pipeline.evaluation.baselines import make_tfidf_baseline

PROGRAM = Path(__file__).resolve().parent.parent / "run_pipeline.py"
# unbuffered output would hide what is lost, or fails, when the program ends
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONUNBUFFERED", "PIPELINE_TRACEBACK")
}
WORDS = {
    "positive": ("lovely", "quiet", "good", "beautiful"),
    "negative": ("dull", "cold", "bad", "boring"),
}
ROWS = [(f"A {WORDS[label][i % 4]} film, number {i}.", label) for i in range(24) for label in WORDS]


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    def isatty(self):
        return True


@pytest.fixture
def run(monkeypatch, capsys):
    """Give a function that runs the program in this process: code, output and errors.

    ``run("train --cv 0", "--no-report", out=path)`` is ``train --cv 0 --out path --no-report``.
    """
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it for good
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(progress, "LINE_SECONDS", 1e6)  # a slow machine would see a line

    def call(command="", *arguments, stdin="", program="run_pipeline.py", **options):
        flags = [
            part for name in options for part in (f"--{name.replace('_', '-')}", options[name])
        ]
        words = [*str(command).split(), *flags, *arguments]
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin) if isinstance(stdin, str) else stdin)
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=stopped.value.code or 0, out=captured.out, err=captured.err)

    return call


def run_process(*arguments, **options):
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(
        command,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        check=False,
        env=ENVIRONMENT,
        **options,
    )


def assert_passed(result):
    """Check that a command ended well, without a word on standard error."""
    assert (result.code, result.err) == (0, "")


def assert_one_error_line(result, *parts):
    assert result.code == 2
    assert result.err.startswith("Error: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


def write_csv(path, header, rows, **options):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n", **options).writerows([header, *rows])
    return path


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def expected_lines(fitted, texts):
    """One line per text: label, its probability, the text."""
    rows = []
    for text in texts:
        probability = fitted.predict_proba([text])[0]
        rows.append(f"{fitted.classes_[probability.argmax()]}\t{probability.max():.4f}\t{text}")
    return rows


@pytest.fixture
def write(tmp_path):
    """Write a file of tmp_path and give its path."""

    def write_file(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write_file


@pytest.fixture
def data(tmp_path):
    return write_csv(tmp_path / "reviews.csv", ["text", "label"], ROWS)


@pytest.fixture
def few_reviews(monkeypatch):
    """Let the shipped reviews be a few, to train and to test."""
    few = pd.DataFrame(ROWS[:20], columns=["text", "label"]).assign(
        domain=["films", "hotels"] * 10, trait="plain"
    )
    monkeypatch.setattr("pipeline.datasets.load_reviews", lambda: (few, few))


@pytest.fixture(scope="session")
def fitted(tiny_bert):
    return make_sentiment_pipeline(model=tiny_bert).fit(
        [text for text, _ in ROWS], [label for _, label in ROWS]
    )


@pytest.fixture(scope="session")
def artifact(fitted, tmp_path_factory):
    return save_pipeline(fitted, tmp_path_factory.mktemp("artifact") / "m.joblib")


@pytest.fixture(scope="session")
def light_artifact(tmp_path_factory):
    """Give a saved pipeline that needs no torch: a process that opens it starts quickly."""
    model = make_tfidf_baseline().fit([text for text, _ in ROWS], [label for _, label in ROWS])
    return save_pipeline(model, tmp_path_factory.mktemp("light") / "m.joblib")
