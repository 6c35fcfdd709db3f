"""Progress: how much is done, speed and time left, for those who look."""

import io
import re
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from pipeline import (
    BertVectorizer,
    compare,
    label_issues,
    layer_study,
    make_sentiment_pipeline,
    progress,
    score_table,
)
from tests.commands import ENVIRONMENT, PROGRAM, ROWS, Terminal

TEXTS, LABELS = ([row[place] for row in ROWS] for place in (0, 1))


@pytest.fixture
def look(monkeypatch):
    """Give a function that makes a terminal of standard error; a fixture's would be taken back."""

    def make(stream=None):
        stream = Terminal() if stream is None else stream
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return make


def drawn(stream):
    """Return what was drawn, one state after the other."""
    return [state.strip() for state in stream.getvalue().split("\r") if state.strip()]


def is_clear(stream):
    """Say whether the line that the bars stood on is empty, as a terminal shows it."""
    line = ""
    for state in stream.getvalue().split("\n")[-1].split("\r"):
        line = state + line[len(state) :]
    return not line.strip()


@pytest.mark.parametrize(
    ("shown", "stream", "visible"),
    [
        (None, Terminal, True),
        (None, io.StringIO, False),
        (True, io.StringIO, True),
        (False, Terminal, False),
    ],
)
def test_it_is_shown_where_somebody_looks_or_asks(shown, stream, visible, look, artifact, tmp_path):
    err = look(stream())
    frame = pd.DataFrame({"text": TEXTS})
    score_table(artifact, frame, tmp_path / "out", text="text", progress=shown)
    assert ("rows" in err.getvalue()) == visible


def test_rows_of_an_earlier_run_count_for_the_place_and_not_for_the_speed(look, monkeypatch):
    screen, now = look(), time.time()
    monkeypatch.setattr("time.time", lambda: now)
    with progress.progress("scoring", " rows", shown=True) as rows:
        rows.show(0)
        now += 5
        rows.show(900_010, 1_000_000, known=900_000)
        time.sleep(0.7)
    assert "900010/1000000" in drawn(screen)[-1]
    assert "2.00 rows/s" in drawn(screen)[-1]


def test_a_table_shows_its_rows_and_not_the_encoding_of_each_shard(artifact, look, tmp_path):
    screen = look()
    frame = pd.DataFrame({"text": TEXTS})
    score_table(artifact, frame, tmp_path / "out.csv", text="text", shard_rows=10)
    assert {state.split(":")[0] for state in drawn(screen)} == {"scoring"}
    assert is_clear(screen)


# ---- one bar for a job, with its own total


@pytest.mark.parametrize("job", ["compare", "layers", "labels"])
def test_encoding_and_fitting_share_one_line_that_counts_all_of_the_job(job, tiny_bert, look):
    screen = look()
    bert = BertVectorizer(tiny_bert, progress=True)
    if job == "compare":
        compare(TEXTS, LABELS, vectorizer=bert, models=["tfidf", "static", "default"], cv=3)
        fit, total = r"fold 2 of 3, fitting default", 9
    elif job == "layers":
        layer_study(
            TEXTS, LABELS, vectorizer=bert, cv=2, poolings=("mean",), combinations=("last",)
        )
        fit, total = "fitting classifiers", 8
    else:
        label_issues(make_sentiment_pipeline(model=tiny_bert, progress=True), TEXTS, LABELS, cv=3)
        fit, total = r"fold 2 of 3, fitting the classifier", 3
    states = drawn(screen)
    first = next(i for i, state in enumerate(states) if "fitting" in state)
    assert all(re.match(r"encoding: .*/48 ", state) for state in states[:first])
    assert states[0].startswith("encoding:   0%")
    assert any(re.match(rf"{fit}: .*\d/{total} \[", state) for state in states[first:])
    assert max(map(len, states)) < 80
    assert "\n" not in screen.getvalue()
    assert is_clear(screen)


def test_a_search_shows_which_of_its_fits_is_encoding_and_nothing_where_all_is_known(
    tiny_bert, look
):
    screen = look()
    model = make_pipeline(BertVectorizer(tiny_bert, progress=True), LogisticRegression())
    search = GridSearchCV(model, {"logisticregression__C": [0.1, 1.0]}, cv=3)
    search.fit(TEXTS, LABELS)
    assert any(state.startswith("fit 1 of 6, encoding") for state in drawn(screen))
    assert is_clear(screen)
    shown = screen.getvalue()
    search.fit(TEXTS, LABELS)
    search.predict(TEXTS)
    assert screen.getvalue() == shown


def test_a_job_that_fails_leaves_nothing_and_the_next_has_its_own_bar(tiny_bert, look):
    screen = look()

    class Stop(Exception):
        """Raised by a classifier."""

    class Failing(LogisticRegression):
        def fit(self, X, y):
            raise Stop

    bert = BertVectorizer(tiny_bert, progress=True)
    with pytest.raises(Stop):
        compare(TEXTS, LABELS, vectorizer=bert, models={"mine": Failing()}, cv=2)
    assert is_clear(screen)
    bert.fit_transform(["something new"])
    assert "0/1 [" in drawn(screen)[-1]
    assert is_clear(screen)


# ---- where there is no terminal


def test_without_a_terminal_a_line_comes_in_half_a_minute_and_one_at_the_end(
    tiny_bert, look, monkeypatch
):
    assert progress.LINE_SECONDS == 30
    stream = look(io.StringIO())
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.3)

    class Slow(LogisticRegression):
        def fit(self, X, y):
            time.sleep(0.5)
            return super().fit(X, y)

    bert = BertVectorizer(tiny_bert, progress=True)
    compare(TEXTS, LABELS, vectorizer=bert, models={"slow": make_pipeline(bert, Slow())}, cv=2,
            n_timed=0)  # fmt: skip
    *lines, end = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 8
    assert all(re.match(r"fold \d of 2, fitting|encoding", line) for line in lines)
    assert any(line.startswith("fold 2 of 2, fitting slow:  75% 3/4 [") for line in lines)
    assert end.startswith("fold 2 of 2, fitting slow: 100% 4/4 [")
    assert "\r" not in stream.getvalue()


def test_a_short_command_that_nobody_watches_says_nothing(run, artifact, data):
    assert run("evaluate", data=data, pipeline=artifact).err == ""


# ---- what stands on the screen in the end


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Give a CSV with texts longer than the tiny model reads, which a warning tells of."""
    path = tmp_path_factory.mktemp("table") / "reviews.csv"
    rows = [f'"{text} {"so it goes " * 30}",{label}' for text, label in ROWS]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux, a terminal without a window")
@pytest.mark.parametrize(
    ("command", "bars"),
    [
        (
            "train --no-ngrams --cv 3 --no-report --out m.joblib",
            ["encoding", "fitting the classifier", "fold 2 of 3"],
        ),
        pytest.param(
            "compare --models majority,tfidf,default --cv 3",
            ["encoding", "fold 2 of 3, fitting"],
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "layers --nested --cv 2 --pooling mean",
            ["encoding", "fitting classifiers"],
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_terminal_shows_bars_while_it_works_and_in_the_end_what_the_program_says(
    command, bars, table, tiny_bert, tmp_path
):
    program = [sys.executable, PROGRAM, *command.split(), "--data", table, "--model", tiny_bert]
    line = " ".join(f"'{word}'" for word in program)
    script = tmp_path / "run.sh"
    script.write_text(f"read ready\n{line}\necho THE END\nread over\n")
    tmux = ["tmux", "-L", f"progress-{tmp_path.name}", "-f", "/dev/null"]

    def call(*words):
        return subprocess.run([*tmux, *map(str, words)], capture_output=True, text=True,
                              check=True, env=ENVIRONMENT, cwd=tmp_path).stdout  # fmt: skip

    call("new-session", "-d", "-x", "80", "-y", "50", "sh", script)
    try:
        call("pipe-pane", f"cat > '{tmp_path / 'raw.txt'}'")
        call("send-keys", "", "Enter")
        until = time.monotonic() + 120
        while "THE END" not in (seen := call("capture-pane", "-p", "-J", "-S", "-")):
            assert time.monotonic() < until, seen
            time.sleep(0.2)
    finally:
        call("kill-server")
    raw = (tmp_path / "raw.txt").read_text(encoding="utf-8")
    assert all(bar in raw for bar in bars)
    shown = [row.rstrip() for row in seen.split("THE END")[0].splitlines() if row.strip()]
    junk = re.compile(r"%\||it/s|fit/s|text/s|\[0\d:|encoding|fitting|fold \d")
    assert [row for row in shown if junk.search(row)] == []
    told = [row for row in shown if "Warning" in row]
    assert told
    assert all(row.startswith("Warning: ") for row in told)
