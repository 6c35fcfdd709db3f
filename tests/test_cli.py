"""The command line: what is printed, written and returned by each sub-command, and one clear line for every mistake."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rich.console

from pipeline import catalogue, compare, evaluate, load_pipeline, make_sentiment_pipeline, read_table, save_pipeline
from pipeline.cli import EXAMPLES, main
from pipeline.datasets import split_table
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.vectorizer import DEFAULT_MODEL

PROGRAM = Path(__file__).resolve().parent.parent / "run_pipeline.py"
# unbuffered output would hide what is lost, or fails, when the program ends
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "PIPELINE_TRACEBACK")}
COMMANDS = tuple("train predict evaluate report tokens models fetch inspect verify explain layers compare".split())
WORDS = {"positive": ("lovely", "quiet", "good", "beautiful"), "negative": ("dull", "cold", "bad", "boring")}
ROWS = [(f"A {WORDS[label][i % 4]} film, number {i}.", label) for i in range(24) for label in WORDS]


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    def isatty(self):
        return True


@pytest.fixture
def run(monkeypatch, capsys):
    """Give a function that runs the whole program in this process: exit code, standard output, standard error."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main replaces it for good
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["run_pipeline.py", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin) if isinstance(stdin, str) else stdin)
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=stopped.value.code or 0, out=captured.out, err=captured.err)

    return call


def run_process(*arguments, **options):
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, encoding="utf-8", check=False, env=ENVIRONMENT, **options)


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


@pytest.fixture
def data(tmp_path):
    return write_csv(tmp_path / "reviews.csv", ["text", "label"], ROWS)


@pytest.fixture(scope="module")
def fitted(tiny_bert):
    return make_sentiment_pipeline(model=tiny_bert).fit([text for text, _ in ROWS], [label for _, label in ROWS])


@pytest.fixture(scope="module")
def artifact(fitted, tmp_path_factory):
    return save_pipeline(fitted, tmp_path_factory.mktemp("artifact") / "m.joblib")


@pytest.fixture(scope="module")
def light_artifact(tmp_path_factory):
    """Give a saved pipeline that needs no torch: a process that opens it starts quickly."""
    model = make_tfidf_baseline().fit([text for text, _ in ROWS], [label for _, label in ROWS])
    return save_pipeline(model, tmp_path_factory.mktemp("light") / "m.joblib")


# ---- train


def test_train_compares_scores_saves_and_tries_the_saved_file(run, data, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    out = tmp_path / "new" / "m.joblib"
    result = run("train", "--data", data, "--model", tiny_bert, "--cv", 2, "--out", out)
    assert (result.code, result.err) == (0, "")
    train, test = split_table(read_table(data), "label")
    model = make_sentiment_pipeline(model=tiny_bert)
    table = compare(train["text"], train["label"], model=model, cv=2, n_timed=0)
    scores = evaluate(model.fit(train["text"], train["label"]), test["text"], test["label"])
    assert f"{len(train)} texts to train on, {len(test)} held out" in result.out
    for name, row in table.iterrows():
        line = next(line for line in result.out.splitlines() if str(name) in line)
        for metric in ("accuracy", "macro_f1", "roc_auc", "log_loss"):
            assert f"{row[metric]:.3f} ± {row[f'{metric}_sd']:.3f}" in line
        assert row["verdict"] in result.out
    assert f"{scores['accuracy']:.3f}" in result.out.partition("held-out")[2]
    assert f"Saved {out} (" in " ".join(result.out.split())
    assert result.out.rstrip().endswith(EXAMPLES[-1])
    assert np.array_equal(load_pipeline(out).predict_proba(test["text"]), model.predict_proba(test["text"]))


def test_without_a_command_the_shipped_reviews_and_the_default_model_are_used(run, tmp_path, monkeypatch):
    few = pd.DataFrame(ROWS[:10], columns=["text", "label"])
    monkeypatch.setattr("pipeline.datasets.load_reviews", lambda: (few, few))
    monkeypatch.chdir(tmp_path)
    result = run()
    assert (result.code, result.err) == (0, "")
    assert "10 texts to train on, 10 held out (the shipped reviews)" in result.out
    assert "5-fold cross-validation" in result.out
    parameters = load_pipeline(tmp_path / "models" / "sentiment.joblib").get_params()
    expected = make_sentiment_pipeline(cache=None).get_params()  # what comes from a file caches nothing
    assert {k: v for k, v in parameters.items() if "vectorizer__" in k} == {
        k: v for k, v in expected.items() if "vectorizer__" in k
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--layers", "-1"], {"layers": -1}),
        (["--layers", "2"], {"layers": 2}),
        (["--layers", "0"], {"layers": 0}),
        (["--layers", "-2,-1"], {"layers": (-2, -1)}),
        (["--layers=-2,-1"], {"layers": (-2, -1)}),
        (["--layers", "-2, -1"], {"layers": (-2, -1)}),
        (["--layers", "all"], {"layers": "all"}),
        (["--pooling", "max"], {"pooling": "max"}),
        (["--pooling", "cls,mean"], {"pooling": ("cls", "mean")}),
        (["--pooling", "cls, mean"], {"pooling": ("cls", "mean")}),
        (["--layers", "1,2", "--combine", "mean"], {"layers": (1, 2), "combine": "mean", "pooling": "mean"}),
        (["--max-length", "40", "--truncation", "window"], {"max_length": 40, "truncation": "window"}),
        ([], {"layers": "all", "pooling": "mean", "combine": "concat", "max_length": None, "truncation": "head"}),
    ],
)
def test_options_become_parameters_of_the_vectorizer(arguments, expected, run, data, tiny_bert, tmp_path):
    result = run("train", "--data", data, "--model", tiny_bert, "--cv", 0, "--out", tmp_path / "m.joblib", *arguments)
    assert (result.code, result.err) == (0, "")
    assert "cross-validation" not in result.out
    found = load_pipeline(tmp_path / "m.joblib")[0].get_params()
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--layers", "last"], ["--layers 'last'", "a number (-1)", "all"]),
        (["--layers", "1,,2"], ["--layers '1,,2'"]),
        (["--layers", ""], ["--layers ''"]),
        (["--layers", "1.5"], ["--layers '1.5'"]),
        (["--layers", "9"], ["layer 9", "3 layers", "0", "to 3"]),
        (["--layers", "3,-1"], ["names a layer twice"]),
        (["--pooling", "clss"], ["'pooling'", "'cls'", "'mean'"]),
        (["--pooling", "cls,cls"], ["pooling=('cls', 'cls')", "different"]),
        (["--pooling", "cls,"], ["pooling=('cls', '')", "'mean'"]),
        (["--combine", "average"], ["'combine'", "'concat'"]),
        (["--truncation", "middle"], ["'truncation'", "'window'"]),
        (["--truncation", "error", "--max-length", "3"], ["more than max_length=3", "'window'"]),
        (["--max-length", "2"], ["'max_length'", "[3, inf)"]),
        (["--max-length", "65"], ["max_length=65", "64 tokens"]),
        (["--model", "no/such/model"], ["model='no/such/model'", "nor a hub id"]),
        (["--model", str(PROGRAM)], ["is a file; a folder"]),
        (["--text", "txt"], ["no column 'txt'", "'text', 'label'", "Did you mean 'text'?"]),
        (["--label", "stars"], ["no column 'stars'", "'text', 'label'"]),
        (["--label", "text"], ["has 1 texts only; at least 5"]),
        (["--sep", ";"], ["no column 'text'", "--sep"]),
        (["--encoding", "utf-9"], ["encoding='utf-9' is unknown"]),
        (["--cv", "1"], ["n_splits=1"]),
        (["--cv", "-2"], ["n_splits=-2"]),
        (["--cv", "100"], ["n_splits=100"]),
    ],
)
def test_wrong_values_end_with_one_line_that_says_what_is_allowed(arguments, parts, run, data, tiny_bert, tmp_path):
    out = tmp_path / "m.joblib"
    options = ["--cv", 0] if "--cv" not in arguments else []
    result = run("train", "--data", data, "--model", tiny_bert, "--out", out, *options, *arguments)
    assert_one_error_line(result, *parts)
    assert not out.exists()


@pytest.mark.parametrize("arguments", [["--cv", "many"], ["--max-length", "short"], ["--layer", "1"], ["more"]])
def test_what_the_parser_does_not_understand_is_named_with_a_way_to_help(arguments, run, data):
    result = run("train", "--data", data, *arguments)
    assert result.code == 2
    assert arguments[-1].strip("1") in result.err or arguments[0] in result.err
    assert "--help" in result.err
    assert "Traceback" not in result.err


def test_an_unknown_command_is_named(run):
    result = run("fit")
    assert result.code == 2
    assert "No such command 'fit'" in result.err


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_trained(run, data, tiny_bert, tmp_path):
    result = run("train", "--data", data, "--model", tiny_bert, "--cv", 2, "--out", tmp_path)
    assert_one_error_line(result, f"{tmp_path} is a folder", "sentiment.joblib")
    assert "cross-validation" not in result.out


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ["no rows"]),
        ([("A film.", "positive")] * 12, ["one class only, 'positive', in all 12 rows"]),
        ([*ROWS[:20], ("A film.", "neutral")], ["label 'neutral' has 1 texts only", "at least 5"]),
    ],
)
def test_tables_that_cannot_be_trained_on_say_why(rows, parts, run, tiny_bert, tmp_path):
    data = write_csv(tmp_path / "d.csv", ["text", "label"], rows)
    assert_one_error_line(run("train", "--data", data, "--model", tiny_bert, "--out", tmp_path / "m.joblib"), *parts)


def test_file_names_are_printed_as_they_are_neither_broken_nor_read_as_markup(run, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    data = write_csv(tmp_path / "reviews [red] [v2].csv", ["text", "label"], ROWS)
    out = tmp_path / "m [bold].joblib"
    result = run("train", "--data", data, "--model", tiny_bert, "--cv", 0, "--out", out)
    assert result.code == 0
    assert str(data) in result.out
    assert f"Saved {out} (" in result.out


def test_train_writes_a_report_of_the_same_scores_beside_the_file(run, data, tiny_bert, tmp_path):
    out = tmp_path / "new" / "m.joblib"
    result = run("train", "--data", data, "--model", tiny_bert, "--cv", 2, "--out", out)
    assert (result.code, result.err) == (0, "")
    assert f"Wrote {out.with_suffix('.html')}, a report for the browser, and m.json, the same numbers." in result.out
    assert sorted(path.name for path in out.parent.iterdir()) == ["m.html", "m.joblib", "m.joblib.json", "m.json"]
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    train, test = split_table(read_table(data), "label")
    model = make_sentiment_pipeline(model=tiny_bert).fit(train["text"], train["label"])
    expected = evaluate(model, test["text"], test["label"], train=(train["text"], train["label"]))
    assert told["scores"] == json.loads(json.dumps(expected))
    assert [row["model"] for row in told["comparison"]] == list(compare(train["text"], train["label"], model=model, cv=2).index)
    assert told["provenance"]["artifact"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert told["provenance"]["training_texts"]["rows"] == len(train)
    assert str(tmp_path) not in out.with_suffix(".html").read_text(encoding="utf-8")


def test_the_report_of_the_shipped_reviews_is_by_domain_and_trait(run, tiny_bert, tmp_path, monkeypatch):
    few = pd.DataFrame(ROWS[:20], columns=["text", "label"]).assign(domain=["films", "hotels"] * 10, trait="plain")
    monkeypatch.setattr("pipeline.datasets.load_reviews", lambda: (few, few))
    assert run("train", "--model", tiny_bert, "--cv", 0, "--out", tmp_path / "m.joblib").code == 0
    slices = json.loads((tmp_path / "m.json").read_text())["scores"]["slices"]
    assert {"by domain", "by trait"} <= set(slices)


def test_without_a_report_the_file_is_the_only_one_and_the_scores_are_the_same(run, data, tiny_bert, tmp_path):
    arguments = ("train", "--data", data, "--model", tiny_bert, "--cv", 0)
    plain = run(*arguments, "--no-report", "--out", tmp_path / "a" / "m.joblib")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["m.joblib", "m.joblib.json"]
    told = run(*arguments, "--out", tmp_path / "b" / "m.joblib")
    lines = [line for line in told.out.splitlines() if not line.startswith("Wrote ")]
    assert [line.replace("/b/", "/a/") for line in lines] == plain.out.splitlines()


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra_train_names_it_and_does_all_the_rest(run, data, tiny_bert, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    out = tmp_path / "m.joblib"
    result = run("train", "--data", data, "--model", tiny_bert, "--cv", 0, "--out", out)
    assert (result.code, result.err) == (0, "")
    lines = [line for line in result.out.splitlines() if line.startswith("No report: ")]
    assert len(lines) == 1
    assert "pip install 'bert-vectorizer[report]'" in lines[0]
    assert not out.with_suffix(".html").exists()
    assert load_pipeline(out)
    assert_one_error_line(run("report", "--model", out), "pip install 'bert-vectorizer[report]'")


@pytest.mark.parametrize("name", ["m.html", "m.json"])
def test_a_pipeline_that_its_own_report_would_overwrite_is_refused(run, data, tiny_bert, tmp_path, name):
    arguments = ("train", "--data", data, "--model", tiny_bert, "--cv", 0, "--out", tmp_path / name)
    assert_one_error_line(run(*arguments), "the report beside it would get this name", "--no-report")
    assert not (tmp_path / name).exists()


def test_a_parquet_file_with_number_labels_and_other_column_names_can_be_trained_on(run, tiny_bert, tmp_path):
    frame = pd.DataFrame({"review": [t for t, _ in ROWS], "stars": [5 if label == "positive" else 1 for _, label in ROWS]})
    frame.to_parquet(tmp_path / "d.parquet")
    out = tmp_path / "m.joblib"
    arguments = ["--data", tmp_path / "d.parquet", "--text", "review", "--label", "stars"]
    assert run("train", *arguments, "--model", tiny_bert, "--cv", 0, "--out", out).code == 0
    assert load_pipeline(out).classes_.tolist() == [1, 5]
    assert run("evaluate", *arguments, "--model", out).code == 0


def test_texts_that_are_cut_give_one_line_of_warning(run, data, tiny_bert, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("train", "--data", data, "--model", tiny_bert, "--cv", 0, "--max-length", 5, "--out", tmp_path / "m.joblib")
    assert result.code == 0
    lines = result.err.splitlines()
    assert lines
    assert all(line.startswith("Warning: ") and "longer than max_length=5 tokens" in line for line in lines)


# ---- predict: texts and standard input


def expected_lines(fitted, texts):
    """One line per text: label, its probability, the text."""
    rows = []
    for text in texts:
        probability = fitted.predict_proba([text])[0]
        rows.append(f"{fitted.classes_[probability.argmax()]}\t{probability.max():.4f}\t{text}")
    return rows


def test_texts_of_the_command_line_are_labelled_one_a_line(run, artifact, fitted):
    texts = ["A lovely film.", "Dull!", "東京 [bold]x[/bold] [/]", ""]
    result = run("predict", "--model", artifact, *(part for text in texts for part in ("--text", text)))
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == expected_lines(fitted, texts)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_standard_input_are_labelled_one_a_line(end, run, artifact, fitted):
    texts = ["A lovely film.", "", "  Dull, with\ta tab  ", "Überraschend gut 😀", "no newline at the end"]
    result = run("predict", "--model", artifact, stdin=io.StringIO(end.join(texts), newline=""))
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == expected_lines(fitted, texts)


def test_a_terminal_gets_a_table_and_markup_in_a_text_stays_text(run, artifact, fitted, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run("predict", "--model", artifact, "--text", "a [red]film[/red] [/]").code == 0
    assert "probability" in terminal.getvalue()
    assert "a [red]film[/red] [/]" in terminal.getvalue()
    assert "\t" not in terminal.getvalue()
    assert f"{fitted.predict_proba(['a [red]film[/red] [/]']).max():.3f}" in terminal.getvalue()


def test_nothing_to_label_at_a_terminal_says_the_three_ways_to_give_something(run, artifact):
    assert_one_error_line(run("predict", "--model", artifact, stdin=Terminal()), "Nothing to label", "--text", "--data", "pipe")


def test_an_empty_pipe_gives_no_lines(run, artifact):
    result = run("predict", "--model", artifact, stdin="")
    assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--text", "film", "--data", "in.csv", "--out", "out.csv"], ["--data or --text, not both"]),
        (["--data", "in.csv"], ["--data and --out belong together"]),
        (["--out", "out.csv"], ["--data and --out belong together"]),
        (["--text", "film", "--out", "out.csv"], ["--data and --out belong together"]),
        (["--text", "film", "--model", "none.joblib"], ["none.joblib does not exist", "train writes one"]),
        (["--text", "film", "--model", "."], ["is a folder, not a file"]),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, parts, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_error_line(run("predict", *arguments), *parts)


def test_without_a_trained_model_the_default_path_is_named(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(Path("models") / "sentiment.joblib")
    assert_one_error_line(run("predict", "--text", "film"), f"{path} does not exist; train writes one")
    assert_one_error_line(run("evaluate"), f"{path} does not exist; train writes one")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_model_file_that_is_something_else_is_named(command, run, data):
    options = ["--text", "film"] if command == "predict" else ["--data", data]
    assert_one_error_line(run(command, "--model", data, *options), f"{data} is no saved pipeline: it is not a joblib file")


def test_a_classifier_without_probabilities_is_refused_in_one_line(run, tmp_path):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    path = save_pipeline(make_pipeline(TfidfVectorizer(), LinearSVC()).fit(*zip(*ROWS, strict=True)), tmp_path / "svm.joblib")
    assert_one_error_line(run("predict", "--model", path, "--text", "film"), "predict_proba")


# ---- predict: tables

HEADER = ["id", "text", "note", "when"]
CELLS = [
    ["001", "A lovely film.", "NA", "2024-01-02"],
    ["1e5", 'He said "quiet", then left.', "null", ""],
    ["-0.0", "two\nlines, and a comma", "None", " padded "],
    ["9007199254740993", "", "nan", "TRUE"],
    ["0x1F", "Überraschend gut 😀", "N/A", "a\r\nb"],
    ["1_000", "A lovely film.", "=SUM(A1)", "\t"],
    ["+7", "dull", "'", 'quote " at the end"'],
]


def check_predictions(rows, fitted, text_column="text"):
    """Each row has the label and the probabilities that its text has alone."""
    for row in rows:
        probability = fitted.predict_proba([row[text_column]])[0]
        assert row["label"] == fitted.classes_[probability.argmax()]
        assert float(row["probability_negative"]) == pytest.approx(probability[0], abs=1e-5)
        assert float(row["probability_positive"]) == pytest.approx(probability[1], abs=1e-5)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_csv_table_keeps_every_cell_and_gets_label_and_probabilities(quoting, run, artifact, fitted, tmp_path):
    source, out = write_csv(tmp_path / "in.csv", HEADER, CELLS, quoting=quoting), tmp_path / "out.csv"
    before = source.read_bytes()
    result = run("predict", "--model", artifact, "--data", source, "--out", out)
    assert (result.code, result.err) == (0, "")
    added = ["label", "probability_negative", "probability_positive"]
    assert result.out == f"Wrote 7 rows to {out}, with the new columns {', '.join(added)}.\n"
    header, *rows = read_csv(out)
    assert header == HEADER + added
    assert [row[:4] for row in rows] == CELLS
    check_predictions([dict(zip(header, row, strict=True)) for row in rows], fitted)
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_a_csv_table_can_become_parquet(run, artifact, fitted, tmp_path):
    source, out = write_csv(tmp_path / "in.csv", HEADER, CELLS), tmp_path / "out.parquet"
    assert run("predict", "--model", artifact, "--data", source, "--out", out).code == 0
    frame = pd.read_parquet(out)
    assert frame[HEADER].to_numpy().tolist() == CELLS
    check_predictions(frame.to_dict("records"), fitted)


@pytest.mark.parametrize("ending", [".parquet", ".pq", ".csv"])
def test_a_parquet_table_keeps_its_types_and_may_become_csv(ending, run, artifact, fitted, tmp_path):
    frame = pd.DataFrame({"number": [1, 2, 3], "text": ["A lovely film.", "dull", ""], "flag": [True, False, True]})
    frame.to_parquet(tmp_path / "in.parquet")
    out = tmp_path / f"out{ending}"
    assert run("predict", "--model", artifact, "--data", tmp_path / "in.parquet", "--out", out).code == 0
    if ending == ".csv":
        header, *rows = read_csv(out)
        assert [row[:3] for row in rows] == [[str(value) for value in row] for row in frame.to_numpy().tolist()]
        check_predictions([dict(zip(header, row, strict=True)) for row in rows], fitted)
    else:
        found = pd.read_parquet(out)
        pd.testing.assert_frame_equal(found[["number", "text", "flag"]], frame)
        check_predictions(found.to_dict("records"), fitted)


def test_columns_that_are_there_already_are_kept_and_the_new_ones_called_predicted(run, artifact, fitted, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["label", "text", "probability_positive"], [["mine", "A lovely film.", "7"]])
    assert run("predict", "--model", artifact, "--data", source, "--out", tmp_path / "out.csv").code == 0
    header, row = read_csv(tmp_path / "out.csv")
    assert header == [
        "label", "text", "probability_positive", "predicted_label", "probability_negative", "predicted_probability_positive",
    ]  # fmt: skip
    assert row[:4] == ["mine", "A lovely film.", "7", fitted.predict(["A lovely film."])[0]]


def test_a_table_that_was_labelled_can_be_labelled_again(run, artifact, tmp_path):
    first, second, third = (write_csv(tmp_path / f"{i}.csv", ["text"], [["A lovely film."]]) for i in range(3))
    run("predict", "--model", artifact, "--data", first, "--out", second)
    run("predict", "--model", artifact, "--data", second, "--out", third)
    assert run("predict", "--model", artifact, "--data", third, "--out", tmp_path / "4.csv").code == 0
    header, row = read_csv(tmp_path / "4.csv")
    assert len(header) == len(set(header)) == 10
    assert row[1] == row[4] == row[7]


def test_a_column_without_a_name_keeps_having_none(run, artifact, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["", "text"], [["0", "A lovely film."], ["1", "dull"]])
    assert run("predict", "--model", artifact, "--data", source, "--out", tmp_path / "out.csv").code == 0
    header, *rows = read_csv(tmp_path / "out.csv")
    assert header[:2] == ["", "text"]
    assert [row[0] for row in rows] == ["0", "1"]


def test_other_columns_separators_and_encodings_can_be_named(run, artifact, fitted, tmp_path):
    source, out = tmp_path / "in.tsv", tmp_path / "out.csv"
    source.write_text("id\treview\n007\tTrès bien, é\n", encoding="latin-1")
    options = ["--column", "review", "--sep", "\\t", "--encoding", "latin-1"]
    assert run("predict", "--model", artifact, "--data", source, "--out", out, *options).code == 0
    header, row = read_csv(out)
    assert row[:2] == ["007", "Très bien, é"]
    check_predictions([dict(zip(header, row, strict=True))], fitted, "review")


def test_a_table_without_rows_gives_a_table_without_rows(run, artifact, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["id", "text"], [])
    result = run("predict", "--model", artifact, "--data", source, "--out", tmp_path / "out.csv")
    assert (result.code, result.err) == (0, "")
    assert read_csv(tmp_path / "out.csv") == [["id", "text", "label", "probability_negative", "probability_positive"]]


@pytest.mark.parametrize(
    ("content", "arguments", "parts"),
    [
        (b"id,Text\n1,film\n", [], ["no column 'text'", "'id', 'Text'", "Did you mean 'Text'?"]),
        (b"id,text\n1,film\n", ["--column", "review"], ["no column 'review'", "'id', 'text'"]),
        (b"id;text\n1;film\n", [], ["no column 'text'", "--sep"]),
        (b"text\nTr\xe8s bien\n", [], ["is not utf-8 text", "byte 7 is 0xe8", "--encoding latin-1"]),
        (b"text\nfilm\n", ["--encoding", "utf-9"], ["encoding='utf-9' is unknown"]),
        (b"", [], ["is empty (0 bytes)"]),
        (b"\n\n", [], ["holds no table"]),
        (b"text,text\na,b\n", [], ["several columns called 'text'"]),
        (b"id,text\n1,film\n2,film,3,4\n", [], ["not a well-formed CSV table", "line 3"]),
        (b'id,text\n1,"film\n', [], ["not a well-formed CSV table"]),
    ],
)
def test_tables_that_cannot_be_read_say_why_and_leave_no_output(content, arguments, parts, run, artifact, tmp_path):
    (tmp_path / "in.csv").write_bytes(content)
    result = run("predict", "--model", artifact, "--data", tmp_path / "in.csv", "--out", tmp_path / "out.csv", *arguments)
    assert_one_error_line(result, str(tmp_path / "in.csv") if "utf-9" not in arguments else "Error", *parts)
    assert not (tmp_path / "out.csv").exists()


def test_a_parquet_file_that_is_none_is_named(run, artifact, tmp_path):
    (tmp_path / "in.parquet").write_bytes(b"text\nfilm\n")
    result = run("predict", "--model", artifact, "--data", tmp_path / "in.parquet", "--out", tmp_path / "out.csv")
    assert_one_error_line(result, "in.parquet is not a readable Parquet file")


def test_a_missing_cell_of_a_parquet_table_names_its_row(run, artifact, tmp_path):
    pd.DataFrame({"text": ["film", None]}).to_parquet(tmp_path / "in.parquet")
    result = run("predict", "--model", artifact, "--data", tmp_path / "in.parquet", "--out", tmp_path / "out.csv")
    assert_one_error_line(result, "row 1 cannot be scored: the text is missing", "--on-bad-row null")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.parametrize(
    ("out", "parts"),
    [
        ("in.csv", ["is the input itself; name another file"]),
        ("link.csv", ["is the input itself; name another file"]),
        ("out.xlsx", ["has the ending '.xlsx'", ".csv, .parquet and .pq"]),
        ("none/out", ["cannot be written", "none does not exist"]),
        ("..", ["holds the input", "name another folder"]),
        ("none/out.csv", ["cannot be written", "none does not exist"]),
        ("folder.csv", ["cannot be written: it is a folder"]),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_and_the_input_is_kept(out, parts, run, artifact, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["text"], [["film"]])
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "folder.csv").mkdir()
    before = source.read_bytes()
    result = run("predict", "--model", artifact, "--data", source, "--out", tmp_path / out)
    assert_one_error_line(result, *parts)
    assert source.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.csv", "in.csv", "link.csv"]


def test_an_output_without_an_ending_is_a_folder_of_parts_and_a_second_run_finds_it_finished(run, light_artifact, tmp_path):
    source, out = (
        write_csv(tmp_path / "in.csv", ["id", "text"], [[i, text] for i, (text, _) in enumerate(ROWS)]),
        tmp_path / "out",
    )
    arguments = ["predict", "--model", light_artifact, "--data", source, "--out", out, "--shard-rows", 20]
    result = run(*arguments)
    assert (result.code, result.err) == (0, "")
    first, second = result.out.splitlines()
    assert (
        first == f"Wrote 48 rows to {out}, with the new columns label, probability_negative, probability_positive, label_error."
    )
    assert re.fullmatch(r"\d+ rows per second\.", second)
    assert pd.read_parquet(out)["id"].tolist() == [str(i) for i in range(48)]
    assert sorted(path.name for path in out.glob("part-*")) == [f"part-00000{i}.parquet" for i in range(3)]
    again = run(*arguments)
    assert again.code == 0
    assert again.out.splitlines()[1:] == ["48 of them were finished by an earlier run."]
    assert_one_error_line(run(*arguments[:-1], 30), "holds another run: shard_rows (20, now 30)")


def test_workers_and_several_files_give_what_one_process_gives_of_one_file(run, light_artifact, tmp_path):
    frame = pd.DataFrame(ROWS, columns=["text", "mine"])
    frame.to_parquet(tmp_path / "all.parquet")
    frame[:30].to_parquet(tmp_path / "in-1.parquet")
    frame[30:].to_parquet(tmp_path / "in-2.parquet")
    sources = [["all.parquet"], ["in-1.parquet", "in-2.parquet"], ["in-*.parquet"]]
    found = []
    for i, (names, workers) in enumerate(zip(sources, [1, 2, 1], strict=True)):
        data = [part for name in names for part in ("--data", tmp_path / name)]
        out = tmp_path / f"{i}.csv"
        assert run("predict", "--model", light_artifact, *data, "--out", out, "--workers", workers).code == 0
        found.append(out.read_bytes())
    assert found[0] == found[1] == found[2]


def test_rows_that_cannot_be_labelled_are_counted_and_kept_where_that_is_asked_for(run, light_artifact, tmp_path):
    (tmp_path / "in.csv").write_text("id,text\n1,film\n2\n3,film\n")
    arguments = ["predict", "--model", light_artifact, "--data", tmp_path / "in.csv", "--out", tmp_path / "out.csv"]
    assert_one_error_line(run(*arguments), "line 3 has 1 cells")
    result = run(*arguments, "--on-bad-row", "null")
    assert result.code == 0
    assert result.out.splitlines()[-1] == "1 of them have no label; the column label_error says why."
    header, *rows = read_csv(tmp_path / "out.csv")
    assert header[-1] == "label_error"
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[-1] for row in rows] == ["", "line 3 has 1 cells, the header has 2: 2", ""]
    assert_one_error_line(run(*arguments, "--on-bad-row", "skip"), "on_bad_row='skip'; allowed are 'error' and 'null'")
    assert_one_error_line(run(*arguments, "--workers", 0), "workers=0; allowed are the numbers from 1")


def test_an_interrupt_says_how_to_go_on_and_going_on_does(run, light_artifact, tmp_path):
    out = tmp_path / "out"
    source = write_csv(tmp_path / "in.csv", ["text"], [[text] for text, _ in ROWS] * 5)
    arguments = [
        str(part)
        for part in ("predict", "--model", light_artifact, "--data", source, "--out", out, "--shard-rows", 20, "--workers", 1)
    ]
    code = (
        "import pipeline.scoring.parts as parts\n"
        "write, written = parts.write_part, []\n"
        "def interrupted(*arguments):\n"
        "    written.append(write(*arguments))\n"
        "    if len(written) == 3:\n"
        "        raise KeyboardInterrupt\n"
        "    return written[-1]\n"
        "parts.write_part = interrupted\n"
        "from pipeline.cli import main\n"
        "main()\n"
    )
    environment = ENVIRONMENT | {"PYTHONPATH": str(PROGRAM.parent)}
    stopped = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert stopped.stderr == "Interrupted. What is finished is kept: the same command goes on from there.\n"
    result = run(*arguments)
    assert result.code == 0
    assert "60 of them were finished by an earlier run." in result.out
    assert len(pd.read_parquet(out)) == 240


@pytest.mark.parametrize(
    "arguments", [["train"], ["evaluate"], ["predict", "--out", "out.csv"]], ids=["train", "evaluate", "predict"]
)
@pytest.mark.parametrize(("name", "message"), [("none.csv", "none.csv does not exist"), (".", "is a folder, not a file")])
def test_a_table_that_is_not_there_is_named(name, message, arguments, run, artifact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ["--model", artifact] if arguments[0] != "train" else []
    assert_one_error_line(run(*arguments, "--data", name, *model), message)


# ---- evaluate


def test_evaluate_prints_the_scores_of_the_saved_pipeline(run, artifact, fitted, tmp_path):
    rows = [*ROWS[:15], ("A lovely, beautiful film.", "negative"), ("A cold, dull film.", "positive"), ("film", "negative")]
    data = write_csv(tmp_path / "d.csv", ["review", "stars"], [(text, label) for text, label in rows])
    result = run("evaluate", "--model", artifact, "--data", data, "--text", "review", "--label", "stars")
    assert (result.code, result.err) == (0, "")
    scores = evaluate(fitted, [text for text, _ in rows], [label for _, label in rows])
    low, high = scores["intervals"]["accuracy"]
    others = (f"{scores[name]:.3f}" for name in ("f1", "roc_auc", "log_loss", "calibration_error"))
    values = [str(scores["n_texts"]), f"{scores['accuracy']:.3f} ({low:.3f} to {high:.3f})", *others]
    assert any([cell.strip() for cell in line.strip("│").split("│")] == values for line in result.out.splitlines())


def test_report_writes_what_evaluate_finds(run, artifact, fitted, tmp_path):
    rows = [(text, label, f"domain {i % 2}") for i, (text, label) in enumerate(ROWS)]
    data = write_csv(tmp_path / "test.csv", ["text", "label", "domain"], rows)
    known = write_csv(tmp_path / "train.csv", ["text", "label"], ROWS)
    out = tmp_path / "reports" / "page.html"
    result = run("report", "--model", artifact, "--data", data, "--by", "domain", "--train-data", known, "--mistakes", 3,
                 "--out", out, "--title", "Mine & <yours>")  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert result.out == f"Wrote {out}, a report for the browser, and page.json, the same numbers.\n"
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    table = read_table(data)
    expected = evaluate(
        fitted, table["text"], table["label"], by=table[["domain"]], train=(table["text"], table["label"]), n_mistakes=3
    )
    assert told["scores"] == json.loads(json.dumps(expected))
    assert (told["comparison"], told["layers"]) == (None, None)
    assert {name: told["provenance"][name]["file"] for name in ("data", "training_data")} == {
        "data": "test.csv",
        "training_data": "train.csv",
    }
    assert told["provenance"]["data"]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert "<title>Mine &amp; &lt;yours&gt;</title>" in out.read_text(encoding="utf-8")


def test_report_compares_and_studies_layers_on_the_training_texts(run, artifact, fitted, data, tmp_path):
    out = tmp_path / "page.html"
    common = ("report", "--model", artifact, "--data", data, "--train-data", data, "--out", out)
    assert run(*common, "--compare", "--layers", "run").code == 0
    told = json.loads(out.with_suffix(".json").read_text())
    table = read_table(data)
    rows = ["majority", "tfidf", "static", "cls", "default"]
    expected = compare(table["text"], table["label"], model=fitted, models=rows)
    assert [row["accuracy"] for row in told["comparison"]] == expected["accuracy"].tolist()
    assert told["layers"]["nested"]["score"] > 0
    assert {row["layer"] for row in told["layers"]["rows"]} == {0, 1, 2, 3, None}
    saved = tmp_path / "layers.csv"
    study = ("layers", "--data", data, "--model", fitted[0].model, "--out", saved)
    assert run(*study).code == 0
    assert run(*common, "--layers", saved).code == 0
    again = json.loads(out.with_suffix(".json").read_text())["layers"]["rows"]
    assert again == told["layers"]["rows"]


def test_a_report_of_the_shipped_reviews_stands_beside_the_model(run, artifact, tmp_path, monkeypatch):
    few = pd.DataFrame(ROWS[:20], columns=["text", "label"]).assign(domain=["films", "hotels"] * 10, trait="plain")
    monkeypatch.setattr("pipeline.datasets.load_reviews", lambda: (few, few))
    model = tmp_path / "m.joblib"
    for ending in ("", ".json"):
        shutil.copyfile(f"{artifact}{ending}", f"{model}{ending}")
    result = run("report", "--model", model)
    assert result.code == 0
    told = json.loads((tmp_path / "m.json").read_text())
    assert told["title"] == "m.joblib on the held-out shipped reviews"
    assert {"by domain", "by trait"} <= set(told["scores"]["slices"])
    assert told["scores"]["duplicates"] is None


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--compare"], ["--compare needs texts to train on; give --train-data"]),
        (["--layers", "run"], ["--layers run needs texts to train on; give --train-data"]),
        (["--by", "nothing"], ["nothing"]),
        (["--out", "report.pdf"], ["report.pdf", "does not end in .html"]),
        (["--layers", "none.csv"], ["none.csv"]),
    ],
)
def test_what_no_report_can_be_made_of_is_told_in_a_line(run, artifact, data, tmp_path, arguments, parts):
    common = ("report", "--model", artifact, "--data", data, "--out", tmp_path / "page.html")
    assert_one_error_line(run(*common, *arguments), *parts)
    assert not (tmp_path / "page.html").exists()


def test_evaluate_scores_by_columns_and_lists_the_surest_mistakes(run, artifact, fitted, tmp_path):
    other = {"positive": "negative", "negative": "positive"}  # nearly all are mistakes so, whatever the tiny model has learnt
    rows = [(text, other[label], f"d{i % 2}") for i, (text, label) in enumerate(ROWS[:9])]
    data = write_csv(tmp_path / "d.csv", ["text", "label", "domain"], rows)
    result = run("evaluate", "--model", artifact, "--data", data, "--by", "domain", "--mistakes", 2)
    assert result.code == 0
    assert "by domain" in result.out
    assert re.search(r"│ d1 +│ 4 ", result.out)
    wrong = evaluate(fitted, [row[0] for row in rows], [row[1] for row in rows], n_mistakes=2)["mistakes"]
    assert wrong
    for one in wrong:
        line = f"{one['true']} taken for {one['predicted']} ({one['probability']:.3f}): {one['text']}"
        assert line in result.out.splitlines()
    assert_one_error_line(run("evaluate", "--model", artifact, "--data", data, "--by", "colour"), "colour")


def test_a_roc_auc_that_is_not_defined_is_a_dash(run, artifact, tmp_path):
    data = write_csv(tmp_path / "d.csv", ["text", "label"], ROWS[::2])
    result = run("evaluate", "--model", artifact, "--data", data)
    assert result.code == 0
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in result.out.splitlines()]
    assert any(len(row) == 6 and row[3] == "-" for row in cells)


def test_without_data_the_held_out_reviews_are_scored(run, artifact, fitted, monkeypatch):
    train, test = (pd.DataFrame(ROWS[i : i + 9], columns=["text", "label"]) for i in (0, 9))
    monkeypatch.setattr("pipeline.datasets.load_reviews", lambda: (train, test))
    result = run("evaluate", "--model", artifact)
    assert result.code == 0
    assert "held-out shipped reviews" in " ".join(result.out.split())
    assert f"{evaluate(fitted, test['text'], test['label'])['roc_auc']:.3f}" in result.out


@pytest.mark.parametrize(
    ("header", "rows", "parts"),
    [
        (["text", "label"], [("film", "good"), ("film", "negative")], ["does not know: 'good'", "'negative', 'positive'"]),
        (["text", "stars"], [("film", "good")], ["no column 'label'", "'text', 'stars'"]),
    ],
)
def test_labels_that_cannot_be_scored_say_why(header, rows, parts, run, artifact, tmp_path):
    data = write_csv(tmp_path / "d.csv", header, rows)
    assert_one_error_line(run("evaluate", "--model", artifact, "--data", data), *parts)


# ---- tokens and models


def test_tokens_shows_what_bert_makes_of_a_text(run):
    result = run("tokens", "I love Paris", "--max-length", 7)
    assert (result.code, result.err) == (0, "")
    tokens, ids, mask, *rest = result.out.splitlines()
    assert tokens.split() == ["tokens", "[CLS]", "i", "love", "paris", "[SEP]", "[PAD]", "[PAD]"]
    assert ids.split() == ["input_ids", *"101 1045 2293 3000 102 0 0".split()]
    assert mask.split() == ["attention_mask", *"1 1 1 1 1 0 0".split()]
    last, cls, every = rest
    assert last.startswith("last hidden state")
    assert "(1, 7, 384)" in last
    assert cls.startswith("[CLS] vector")
    assert "(384,)" in cls
    assert every.startswith("all hidden states")
    assert every.split()[3].rstrip(":") == "7"


def test_tokens_of_a_long_text_stand_on_one_line_and_say_what_was_cut(run, tiny_bert):
    result = run("tokens", "a lovely film " * 40, "--model", tiny_bert, "--max-length", 50)
    assert result.code == 0
    tokens, ids, mask, cut, *_ = result.out.splitlines()
    assert len(tokens.split()) == len(ids.split()) == len(mask.split()) == 51
    assert "did not fit into max_length=50" in cut


def test_a_text_longer_than_the_model_says_which_limit_cut_it(run, tiny_bert):
    result = run("tokens", "a lovely film " * 40, "--model", tiny_bert)
    assert "max_length=None" not in result.out
    assert "64" in next(line for line in result.out.splitlines() if line.startswith("cut"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--max-length", "2"], ["max_length=2; allowed are 3", "to 64"]),
        (["--max-length", "65"], ["max_length=65; allowed are 3", "to 64"]),
        (["--model", "no/such/model"], ["model='no/such/model'", "nor a hub id"]),
    ],
)
def test_tokens_refuses_wrong_values_in_one_line(arguments, parts, run, tiny_bert):
    assert_one_error_line(run("tokens", "film", "--model", tiny_bert, *arguments), *parts)


@pytest.mark.parametrize("columns", ["80", "40", "200"])
def test_models_lists_every_id_unbroken_with_its_numbers_and_where_it_is(columns, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    result = run("models")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    for entry in catalogue():
        line = next(line for line in lines if entry.model in line.replace("│", " ").split())
        assert {str(entry.n_layers), str(entry.hidden_size), str(entry.n_vocabulary)} <= set(line.replace("│", " ").split())
        assert entry.name in line
    default = next(line for line in lines if "(default)" in line)
    assert "sentence-transformers/all-MiniLM-L6-v2" in default
    assert "installed copy" in default


# ---- the program as a process


EXPLAINED = {
    "": COMMANDS,
    "train": ("--data", "--layers", "--pooling", "--cv", "--out", "--no-report"),
    "predict": ("--text", "--data", "--out", "--column", "--workers", "--on-bad-row", "--shard-rows"),
    "evaluate": ("--data", "--label", "--model"),
    "report": ("--model", "--by", "--compare", "--layers", "--out"),
    "tokens": ("--max-length", "--model"),
    "models": ("--help",),
    "fetch": ("--to", "--revision"),
    "inspect": ("--json",),
    "verify": ("--sha256",),
    "explain": ("--text", "--level", "--method"),
    "compare": ("--data", "--test", "--test-data", "--models", "--fine-tuned", "--cv", "--out", "--figures"),
    "layers": ("--data", "--pooling", "--cv", "--nested", "--out", "--figures"),
}


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)], ids=lambda value: " ".join(value) or "program")
def test_help_imports_neither_torch_nor_transformers(arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['run_pipeline.py', *{arguments!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
        "finally:\n"
        "    print(*sorted({'torch', 'transformers', 'sklearn', 'pandas'} & set(sys.modules)), file=sys.stderr)\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": str(PROGRAM.parent), "COLUMNS": "100", "TERM": "dumb"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", env=environment)
    assert (result.returncode, result.stderr.strip()) == (0, "")
    assert "Usage" in result.stdout
    for word in EXPLAINED[" ".join(arguments)]:
        assert word in result.stdout


def test_a_pipe_of_lines_through_the_program(artifact, fitted):
    texts = ["A lovely film.", "Überraschend gut 😀", "", "dull"]
    result = run_process("predict", "--model", artifact, input="\n".join(texts) + "\n", stdout=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == expected_lines(fitted, texts)


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--data", "none.csv", "--out", "out.csv"],
        ["predict", "--text", "film", "--model", "none.joblib"],
        ["train", "--data", "none.csv"],
    ],
)
def test_a_mistake_ends_the_process_with_code_2_and_one_line(arguments, tmp_path):
    result = run_process(*arguments, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert_one_error_line(SimpleNamespace(code=result.returncode, err=result.stderr), "does not exist")
    assert result.stdout == ""


def test_a_traceback_is_there_for_those_who_ask(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        run("predict", "--data", tmp_path / "none.csv", "--out", tmp_path / "out.csv")


@pytest.mark.parametrize("command", ["models", "predict", "evaluate", "help"])
def test_a_reader_that_goes_away_is_no_error(command, light_artifact, data):
    arguments = {
        "models": ["models"],
        "predict": ["predict", "--model", light_artifact],
        "evaluate": ["evaluate", "--model", light_artifact, "--data", data],
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
    [("<&-", 2, "Nothing to label: give --text"), (">&- --text film", 0, ""), ("2>&- --text film", 0, "")],
    ids=["stdin", "stdout", "stderr"],
)
def test_a_closed_stream_is_no_crash(closed, code, message, light_artifact):
    command = f'"{sys.executable}" "{PROGRAM}" predict --model "{light_artifact}" {closed}'
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == code
    assert message in result.stderr
    assert result.stderr.count("\n") == (1 if message else 0)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_a_process_that_is_killed_while_it_writes_leaves_the_older_output_whole(number, run, light_artifact, data, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("an older file")
    code = (
        "import os, signal, sys, pandas as pd\n"
        "def half(table, file, **options):\n"
        "    file.write('half of it')\n"
        "    file.flush()\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        "pd.DataFrame.to_csv = half\n"
        "from pipeline.cli import main\n"
        "main()\n"
    )
    arguments = ["predict", "--model", str(light_artifact), "--data", str(data), "--out", str(out)]
    killed = subprocess.run([sys.executable, "-c", code, *arguments], env=ENVIRONMENT | {"PYTHONPATH": str(PROGRAM.parent)})
    assert killed.returncode == -getattr(signal, number)
    assert out.read_text() == "an older file"
    assert run(*arguments).code == 0
    assert len(read_csv(out)) == len(ROWS) + 1


def test_head_takes_the_first_of_many_lines(light_artifact, tmp_path):
    (tmp_path / "lines.txt").write_text("A lovely film.\n" * 20_000, encoding="utf-8")
    command = [sys.executable, str(PROGRAM), "predict", "--model", str(light_artifact)]
    with (
        (tmp_path / "lines.txt").open() as lines,
        subprocess.Popen(
            command, stdin=lines, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as program,
    ):
        head = program.stdout.readline()
        program.stdout.close()
        error = program.stderr.read()
        code = program.wait()
    assert head.rstrip("\n") == expected_lines(load_pipeline(light_artifact), ["A lovely film."])[0]
    assert (code, error) == (0, "")


# ---- fetch


def test_fetch_says_what_it_wrote_and_how_to_use_it(run, tmp_path):
    folder = tmp_path / "a folder"
    result = run("fetch", DEFAULT_MODEL, "--to", folder)
    assert (result.code, result.err) == (0, "")
    assert f"{DEFAULT_MODEL} (the installed copy) is in {folder}:" in result.out
    for path in folder.iterdir():
        assert f"{path.stat().st_size:,} {path.name}" in result.out
    assert f"--model '{folder}'" in result.out
    assert f"cd '{folder}' && sha256sum -c SHA256SUMS" in result.out


def test_fetch_without_a_connection_ends_with_one_line(run, tmp_path):
    result = run("fetch", "acme/tiny-bert", "--to", tmp_path / "m", "--revision", "v1")
    assert_one_error_line(result, "'acme/tiny-bert' at revision 'v1' is not here", "HF_HUB_OFFLINE")
    assert not (tmp_path / "m").exists()


# ---- progress


@pytest.mark.parametrize("somebody_looks", [True, False])
def test_a_progress_bar_is_shown_where_somebody_looks(somebody_looks, run, artifact, data, tiny_bert, tmp_path, monkeypatch):
    out = tmp_path / "m.joblib"
    calls = [
        ["train", "--data", data, "--model", tiny_bert, "--cv", 0, "--out", out],
        ["evaluate", "--data", data, "--model", artifact],
        ["predict", "--data", data, "--model", artifact, "--out", tmp_path / "out.csv"],
    ]
    for arguments in calls:
        stream = Terminal() if somebody_looks else io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        assert run(*arguments).code == 0
        assert (("scoring" if arguments[0] == "predict" else "encoding") in stream.getvalue()) == somebody_looks
        assert somebody_looks or stream.getvalue() == ""
    assert load_pipeline(out).get_params()["bertvectorizer__progress"] is False


# ---- inspect and verify


def test_inspect_shows_names_manifest_and_contents(run, artifact):
    result = run("inspect", artifact)
    assert result.code == 0
    for part in ("all allowed", "pipeline.vectorizer.BertVectorizer", "classes: ['negative', 'positive']", "coef_: <array"):
        assert part in result.out
    told = json.loads(run("inspect", artifact, "--json").out)
    assert told["refused"] == []
    assert told["manifest"]["n_training_texts"] == len(ROWS)


def test_inspect_shows_what_must_not_be_opened_and_every_other_command_refuses_it(run, tmp_path, data):
    marker = tmp_path / "was run"
    path = tmp_path / "m.joblib"
    path.write_bytes(b"\x80\x04cos\nmkdir\n\x8c" + bytes([len(str(marker))]) + str(marker).encode() + b"\x85R.")
    result = run("inspect", path)
    assert result.code == 0
    assert "REFUSED   os.mkdir: load_pipeline will not open this file" in result.out
    assert str(marker) in result.out
    for command in (("verify", path), ("predict", "--model", path, "--text", "x"), ("evaluate", "--model", path, "--data", data)):
        assert_one_error_line(run(*command), "is refused: it names os.mkdir", "Nothing of it was run")
    assert not marker.exists()


def test_verify_tells_every_check(run, artifact):
    result = run("verify", artifact)
    assert result.code == 0
    assert "whole and as it was saved" in result.out
    assert "3 answered as when it was saved, to 0" in result.out
    sha256 = hashlib.sha256(Path(artifact).read_bytes()).hexdigest()
    assert run("verify", artifact, "--sha256", sha256).code == 0
    assert_one_error_line(run("verify", artifact, "--sha256", "0" * 64), "which you asked for: it is another file")


def test_verify_names_what_is_wrong(run, artifact, tmp_path):
    for name in (Path(artifact).name, f"{Path(artifact).name}.json"):
        (tmp_path / name).write_bytes(Path(artifact).with_name(name).read_bytes())
    copy = tmp_path / Path(artifact).name
    copy.write_bytes(copy.read_bytes()[:-1])
    assert_one_error_line(run("verify", copy), "is not the file that was saved", "bytes, not")
    assert_one_error_line(run("verify", tmp_path / "nothing.joblib"), "does not exist; train writes one")


def test_verify_checks_a_fetched_model_folder_too(run, tmp_path):
    assert run("fetch", DEFAULT_MODEL, "--to", tmp_path / "model").code == 0
    result = run("verify", tmp_path / "model")
    assert result.code == 0
    assert "model.safetensors: as in SHA256SUMS" in result.out
    (tmp_path / "model" / "config.json").write_text("{}")
    assert_one_error_line(run("verify", tmp_path / "model"), "config.json")
    (tmp_path / "empty").mkdir()
    assert_one_error_line(run("verify", tmp_path / "empty"), "has no SHA256SUMS")


def test_train_puts_its_scores_into_the_manifest(run, data, tiny_bert, tmp_path):
    out = tmp_path / "m.joblib"
    assert run("train", "--data", data, "--model", tiny_bert, "--cv", 0, "--out", out).code == 0
    scores = json.loads((tmp_path / "m.joblib.json").read_text())["scores"]
    assert 0 <= scores["held out"]["accuracy"] <= 1


# ---- explain


def test_explain_prints_a_word_a_line_and_the_sum(run, artifact, fitted):
    result = run("explain", "--model", artifact, "--text", "A lovely film.")
    assert result.code == 0
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert [row[0] for row in rows] == ["[CLS]", "A", "lovely", "film", ".", "[SEP]", "(intercept)", "(decision)"]
    assert [row[1:3] for row in rows[1:3]] == [["0", "1"], ["2", "8"]]
    assert sum(float(row[3]) for row in rows[:-1]) == pytest.approx(float(rows[-1][3]), abs=1e-3)
    assert float(rows[-1][3]) == pytest.approx(fitted.decision_function(["A lovely film."])[0], abs=1e-3)
    assert rows[-1][4] == fitted.predict(["A lovely film."])[0]


def test_explain_reads_lines_and_takes_tokens_and_occlusion(run, artifact):
    result = run("explain", "--model", artifact, "--level", "token", stdin="A film.\nUnbelievable\n")
    assert result.code == 0
    assert result.out.count("(decision)") == 2
    assert "##" in result.out
    by_leaving_out = run("explain", "--model", artifact, "--method", "occlusion", "--text", "A film.")
    assert "[CLS]" not in by_leaving_out.out
    assert_one_error_line(
        run("explain", "--model", artifact, "--text", "x", "--level", "letter"), "allowed are 'word' and 'token'"
    )
    assert run("explain", "--model", artifact, stdin="").out == ""


def test_explain_colours_the_words_at_a_terminal(run, artifact, monkeypatch):
    monkeypatch.setattr(rich.console.Console, "is_terminal", property(lambda self: True))
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    result = run("explain", "--model", artifact, "--text", "A lovely [red]film[/red].", "--text", "nasty\x1b[2J film")
    assert result.code == 0
    assert "\x1b[30;48;2;" in result.out  # black on a colour
    assert "A lovely [red]film[/red]." in re.sub(r"\x1b\[[0-9;]*m", "", result.out)
    assert "\x1b[2J" not in result.out
    assert "they add up to" in result.out
    assert "strongest: " in result.out


# ---- compare


def test_compare_prints_every_row_with_its_verdict_and_writes_table_and_picture(run, data, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    out, figures = tmp_path / "table.csv", tmp_path / "figures"
    arguments = ["--data", data, "--model", tiny_bert, "--cv", 2, "--models", "majority, tfidf, static", "--out", out]
    result = run("compare", *arguments, "--figures", figures)
    assert (result.code, result.err) == (0, "")
    table = pd.read_csv(out)
    assert list(table["name"]) == ["majority", "TF-IDF + LogisticRegression", "static BERT (layer 0 mean)"]
    for row in table.to_dict("records"):
        scores, costs = (line for line in result.out.splitlines() if row["name"] in line)
        for metric in ("accuracy", "macro_f1", "roc_auc", "log_loss"):
            assert f"{row[metric]:.3f} ± {row[f'{metric}_sd']:.3f}" in scores
        assert row["verdict"] in costs
        if row["verdict"] != "baseline":
            assert f"{row['difference']:+.3f}" in costs
            assert f"{row['difference_low']:+.3f} to {row['difference_high']:+.3f}" in costs
    assert "2-fold cross-validation, 48 texts to train on" in result.out
    assert [path.name for path in figures.iterdir()] == ["comparison.png"]


def test_compare_on_one_split_shows_no_spread(run, data, tiny_bert, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    result = run("compare", "--data", data, "--model", tiny_bert, "--models", "majority", "--test")
    assert (result.code, result.err) == (0, "")
    assert "10 held-out texts, 38 texts to train on" in result.out
    assert "±" not in result.out
    same = run("compare", "--data", data, "--model", tiny_bert, "--models", "majority", "--test-data", data)
    assert "48 held-out texts, 48 texts to train on" in same.out


def test_compare_adds_the_fine_tuned_row_to_the_quick_ones_where_it_is_asked_for(run, data, tiny_bert, tmp_path, monkeypatch):
    asked = {}

    def compare_nothing(X, y, **options):
        asked.update(options)
        raise ValueError("stop here")

    monkeypatch.setattr("pipeline.evaluation.comparison.compare", compare_nothing)
    for arguments, rows in (
        ([], None),
        (["--fine-tuned"], ["majority", "tfidf", "word2vec", "static", "cls", "default", "finetuned"]),
        (["--fine-tuned", "--models", "cls"], ["cls", "finetuned"]),
        (["--fine-tuned", "--models", "all"], "all"),
    ):
        run("compare", "--data", data, *arguments)
        assert asked["models"] == rows


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--models", "bert"], "models holds 'bert'; allowed are 'all', or a list of 'majority'"),
        (["--cv", "1"], "n_splits=1"),
        (["--test", "--test-data", "reviews.csv"], "Give --test or --test-data, not both"),
        (["--out", "table.txt"], "allowed are .csv, .parquet"),
        (["--word-vectors", "none.bin"], "none.bin' is no file"),
    ],
)
def test_compare_refuses_wrong_values_in_one_line(arguments, part, run, data, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [] if "--models" in arguments else ["--models", "word2vec"]
    assert_one_error_line(run("compare", "--data", data, "--model", tiny_bert, *rows, *arguments), part)


# ---- layers


def test_layers_prints_every_score_and_writes_table_and_pictures(run, data, tiny_bert, tmp_path):
    out, figures = tmp_path / "study.csv", tmp_path / "figures"
    arguments = ["--data", data, "--model", tiny_bert, "--cv", 3, "--nested", "--out", out, "--figures", figures]
    result = run("layers", *arguments)
    assert (result.code, result.err) == (0, "")
    study = pd.read_csv(out)
    assert len(study) == 4 * 3 + 6
    for score in study["score"]:
        assert f"{score:.3f} ±" in result.out
    for part in ("Left out, for the model has 3 layers: sum of last four", "Best: ", "Honest score of taking the best: "):
        assert part in result.out
    assert [path.name for path in sorted(figures.iterdir())] == ["layer_bars.png", "layer_heatmap.png"]


def test_layers_of_one_pooling_without_nested_says_what_the_best_is_worth(run, data, tiny_bert):
    result = run("layers", "--data", data, "--model", tiny_bert, "--cv", 2, "--pooling", "cls")
    assert (result.code, result.err) == (0, "")
    assert "combinations of layers, pooling cls" in result.out
    assert "--nested says how good the choice is" in result.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--pooling", "cls,pooler"], "allowed is a tuple of different ones of ('cls', 'mean', 'max')"),
        (["--cv", "1"], "n_splits=1"),
        (["--out", "study.txt"], "allowed are .csv, .parquet"),
        (["--out", "no/such/folder/study.csv"], "does not exist"),
    ],
)
def test_layers_refuses_wrong_values_in_one_line_before_anything_is_encoded(
    arguments, part, run, data, tiny_bert, encoded, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert_one_error_line(run("layers", "--data", data, "--model", tiny_bert, *arguments), part)
    assert not encoded


def test_layers_says_what_to_install_where_there_is_no_matplotlib(run, data, tiny_bert, tmp_path, monkeypatch, encoded):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("layers", "--data", data, "--model", tiny_bert, "--figures", tmp_path)
    assert_one_error_line(result, "pip install 'bert-vectorizer[report]'")
    assert not encoded


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--scheduler", "10.0.0.5:8786"], ["--scheduler 10.0.0.5:8786 is no address", "tcp://10.0.0.5:8786"]),
        (["--scheduler", "tcp://127.0.0.1:9", "--workers", 2], ["--workers 2 are processes of this machine"]),
        (["--scheduler", "tcp://127.0.0.1:9", "--resources", "GPU"], ["--resources GPU", "NAME=NUMBER, such as GPU=1"]),
        (["--resources", "GPU=1"], ["give its --scheduler too"]),
    ],
)
def test_a_dask_cluster_is_asked_for_in_full(arguments, parts, run, artifact, tmp_path):
    write_csv(tmp_path / "in.csv", ["text"], [["one"]])
    result = run("predict", "--model", artifact, "--data", tmp_path / "in.csv", "--out", tmp_path / "out", *arguments)
    assert_one_error_line(result, *parts)
    assert not (tmp_path / "out").exists()
