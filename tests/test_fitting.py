"""train: what it prints, saves and reports, and its mistakes."""

import hashlib
import json
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from pipeline import (
    TruncationWarning,
    compare,
    evaluate,
    load_pipeline,
    make_sentiment_pipeline,
    read_table,
)
from pipeline.datasets import split_table
from tests.commands import ROWS, assert_one_error_line, assert_passed, write_csv


def test_train_compares_scores_saves_and_tries_the_saved_file(
    run, data, tiny_bert, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "120")
    out = tmp_path / "new" / "m.joblib"
    result = run("train --no-ngrams --cv 2", data=data, bert=tiny_bert, out=out)
    assert_passed(result)
    train, test = split_table(read_table(data), "label")
    model = make_sentiment_pipeline(C="cv", model=tiny_bert)
    table = compare(train["text"], train["label"], model=model, cv=2, n_timed=0)
    scores = evaluate(model.fit(train["text"], train["label"]), test["text"], test["label"])
    assert f"{len(train)} texts to train on, {len(test)} held out" in result.out
    for name, row in table.iterrows():
        line = next(line for line in result.out.splitlines() if str(name) in line)
        assert f"{row['accuracy']:.3f} ± {row['accuracy_sd']:.3f}" in line
        for metric in ("macro_f1", "roc_auc", "log_loss"):
            assert f"{row[metric]:.3f}" in line
        assert row["verdict"] in result.out
    assert f"{scores['accuracy']:.3f}" in result.out.partition("held-out")[2]
    assert f"Saved {out} (" in " ".join(result.out.split())
    rows = read_table(data)
    said = [line.split("\t") for line in result.out.rstrip().splitlines()[-3:]]
    for row, label, prediction, probability, text in said:  # of the file, held out
        assert rows.loc[int(row), ["text", "label"]].tolist() == [text, label]
        assert text in set(test["text"])
        assert [prediction] == model.predict([text]).tolist()
        assert float(probability) == pytest.approx(model.predict_proba([text]).max(), abs=1e-4)
    assert np.array_equal(
        load_pipeline(out).predict_proba(test["text"]), model.predict_proba(test["text"])
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--layers", "-1"], {"layers": -1}),
        (["--layers", "-2,-1"], {"layers": (-2, -1)}),
        (["--layers", "-2, -1"], {"layers": (-2, -1)}),
        (["--layers", "all"], {"layers": "all"}),
        (["--pooling", "cls,mean"], {"pooling": ("cls", "mean")}),
        (
            ["--layers", "1,2", "--combine", "mean"],
            {"layers": (1, 2), "combine": "mean", "pooling": "mean"},
        ),
        (
            ["--max-length", "40", "--truncation", "window"],
            {"max_length": 40, "truncation": "window"},
        ),
        (
            [],
            {
                "layers": "all",
                "pooling": "mean",
                "combine": "concat",
                "max_length": None,
                "truncation": "head",
            },
        ),
    ],
)
def test_options_become_parameters_of_the_vectorizer(
    arguments, expected, run, data, tiny_bert, tmp_path
):
    result = run(
        "train --no-ngrams --cv 0", *arguments, data=data, bert=tiny_bert, out=tmp_path / "m.joblib"
    )
    assert_passed(result)
    assert "cross-validation" not in result.out
    found = load_pipeline(tmp_path / "m.joblib")[0].get_params()
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--layers", "last"], ["--layers 'last'", "a number (-1)", "all"]),
        (["--layers", "1,,2"], ["--layers '1,,2'"]),
        (["--layers", "9"], ["layer 9", "3 layers", "0", "to 3"]),
        (["--pooling", "clss"], ["'pooling'", "'cls'", "'mean'"]),
        (["--pooling", "cls,"], ["pooling=('cls', '')", "'mean'"]),
        (["--truncation", "error", "--max-length", "3"], ["more than max_length=3", "'window'"]),
        (["--max-length", "2"], ["'max_length'", "[3, inf)"]),
        (["--bert", "no/such/model"], ["model='no/such/model'", "nor a hub id"]),
        (["--text-column", "txt"], ["no column 'txt'", "'text', 'label'", "Did you mean 'text'?"]),
        (["--label-column", "stars"], ["no column 'stars'", "'text', 'label'"]),
        (["--label-column", "text"], ["has only 1 texts; at least 5"]),
        (["--sep", ";"], ["no column 'text'", "--sep"]),
        (["--cv", "100"], ["n_splits=100"]),
    ],
)
def test_wrong_values_end_with_one_line_that_says_what_is_allowed(
    arguments, parts, run, data, tiny_bert, tmp_path
):
    out = tmp_path / "m.joblib"
    options = ["--cv", 0] if "--cv" not in arguments else []
    result = run("train --no-ngrams", *options, *arguments, data=data, bert=tiny_bert, out=out)
    assert_one_error_line(result, *parts)
    assert not out.exists()


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_trained(
    run, data, tiny_bert, tmp_path
):
    result = run("train --no-ngrams --cv 2", data=data, bert=tiny_bert, out=tmp_path)
    assert_one_error_line(result, f"{tmp_path} is a folder", "sentiment.joblib")
    assert "cross-validation" not in result.out


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([], ["no rows"]),
        ([("A film.", "positive")] * 12, ["only one class, 'positive', in all 12 rows"]),
        ([*ROWS[:20], ("A film.", "neutral")], ["label 'neutral' has only 1 texts", "at least 5"]),
    ],
)
def test_tables_that_cannot_be_trained_on_say_why(rows, parts, run, tiny_bert, tmp_path):
    data = write_csv(tmp_path / "d.csv", ["text", "label"], rows)
    assert_one_error_line(
        run("train --no-ngrams", data=data, bert=tiny_bert, out=tmp_path / "m.joblib"), *parts
    )


def test_file_names_are_printed_as_they_are_neither_broken_nor_read_as_markup(
    run, tiny_bert, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "40")
    data = write_csv(tmp_path / "reviews [red] [v2].csv", ["text", "label"], ROWS)
    out = tmp_path / "m [bold].joblib"
    result = run("train --no-ngrams --cv 0", data=data, bert=tiny_bert, out=out)
    assert result.code == 0
    assert str(data) in result.out
    assert f"Saved {out} (" in result.out


def test_train_puts_n_grams_beside_bert_and_every_command_takes_the_file(
    run, data, tiny_bert, tmp_path
):
    warnings.simplefilter("ignore", TruncationWarning)
    warnings.filterwarnings("ignore", "Choosing C")  # from few texts
    out = tmp_path / "m.joblib"
    result = run("train", "--data", data, "--bert", tiny_bert, "--cv", 2,
                 "--max-length", 4, "--out", out)  # fmt: skip
    assert result.code == 0
    assert "frozen BERT and TF-IDF, stacked" in result.out
    assert (
        "texts are truncated. train --truncation window --max-length 128 reads them" in result.out
    )
    train, test = split_table(read_table(data), "label")
    model = make_sentiment_pipeline(C="cv", ngrams=True, model=tiny_bert, max_length=4)
    expected = model.fit(train["text"], train["label"]).predict_proba(test["text"])
    assert np.array_equal(load_pipeline(out).predict_proba(test["text"]), expected)
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert [row["pooling"] for row in told["provenance"]["models"]] == ["mean"]
    assert told["scores"]["map"]["points"]
    known, new = (tmp_path / "known.csv", tmp_path / "new.csv")
    train[::3].to_csv(known, index=False)
    test.to_csv(new, index=False)
    for arguments in (
        ["verify", out],
        ["inspect", out],
        ["predict", "--pipeline", out, "--text", "A lovely film."],
        ["evaluate", "--pipeline", out, "--data", new],
        ["report", "--pipeline", out, "--data", new, "--train-data", known, "--compare"],
    ):
        assert run(*arguments).code == 0, arguments


def test_train_writes_a_report_of_the_same_scores_beside_the_file(run, data, tiny_bert, tmp_path):
    out = tmp_path / "new" / "m.joblib"
    result = run("train --no-ngrams --cv 2", data=data, bert=tiny_bert, out=out)
    assert_passed(result)
    assert (
        f"Wrote {out.with_suffix('.html')}, a report for the browser, and m.json, the same numbers."
        in result.out
    )
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "m.html",
        "m.joblib",
        "m.joblib.json",
        "m.json",
    ]
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    train, test = split_table(read_table(data), "label")
    model = make_sentiment_pipeline(C="cv", model=tiny_bert).fit(train["text"], train["label"])
    expected = evaluate(model, test["text"], test["label"], train=(train["text"], train["label"]))
    rows = read_table(data)["text"]
    listed = [told["scores"], json.loads(json.dumps(expected))]
    for scores in listed:
        for name in ("mistakes", "examples", "label_issues", "map"):
            points = (
                scores[name]
                if isinstance(scores[name], list)
                else (scores[name].pop("rows", None) or scores[name].pop("points", []))
            )
            places = [point.pop("row") for point in points]
            if scores is told["scores"]:  # rows are those of the file
                assert [point["text"] for point in points] == rows[places].tolist()
            scores[name] = points
    assert listed[0] == listed[1]
    assert [row["model"] for row in told["comparison"]] == list(
        compare(train["text"], train["label"], model=model, cv=2).index
    )
    assert told["provenance"]["artifact"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert told["provenance"]["training_texts"]["rows"] == len(train)
    assert str(tmp_path) not in out.with_suffix(".html").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")  # train and test are one
def test_the_report_of_the_shipped_reviews_is_by_domain_and_trait(
    run, tiny_bert, tmp_path, few_reviews
):
    assert run("train --no-ngrams --cv 0", bert=tiny_bert, out=tmp_path / "m.joblib").code == 0
    slices = json.loads((tmp_path / "m.json").read_text())["scores"]["slices"]
    assert {"by domain", "by trait"} <= set(slices)


@pytest.mark.parametrize(
    "step", ["pipeline.evaluation.compare.compare", "pipeline.evaluation.evaluate.evaluate"]
)
def test_whatever_fails_after_fitting_the_model_is_saved_and_said_to_be(
    step, run, data, tiny_bert, tmp_path, monkeypatch
):
    def fails(*arguments, **options):
        raise ValueError("no memory for so many classes")

    monkeypatch.setattr(step, fails)
    out = tmp_path / "m.joblib"
    result = run("train --no-ngrams --cv 2", data=data, bert=tiny_bert, out=out)
    assert_one_error_line(result, "no memory for so many classes")
    assert f"Saved {out} (" in result.out
    assert load_pipeline(out).predict(["A lovely film."]).tolist() == ["positive"]


def test_hundreds_of_classes_are_trained_on_and_scored(run, tiny_bert, tmp_path):
    rows = [(f"{'film ' * (i // 260)}{i % 260} or {i % 13}", f"class {i % 260}")
            for i in range(1300)]  # fmt: skip
    data, out = write_csv(tmp_path / "many.csv", ["text", "label"], rows), tmp_path / "m.joblib"
    result = run("train --no-ngrams --cv 0 --no-report", data=data, bert=tiny_bert, out=out)
    assert_passed(result)
    assert len(load_pipeline(out).classes_) == 260
    assert (
        0
        <= json.loads((tmp_path / "m.joblib.json").read_text())["scores"]["held out"]["accuracy"]
        <= 1
    )


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_extra_train_names_it_and_does_all_the_rest(
    run, data, tiny_bert, tmp_path, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    out = tmp_path / "m.joblib"
    result = run("train --no-ngrams --cv 0", data=data, bert=tiny_bert, out=out)
    assert_passed(result)
    lines = [line for line in result.out.splitlines() if line.startswith("No report: ")]
    assert len(lines) == 1
    assert "pip install '.[report]'" in lines[0]
    assert not out.with_suffix(".html").exists()
    assert load_pipeline(out)
    assert_one_error_line(run("report", pipeline=out), "pip install '.[report]'")


@pytest.mark.parametrize("name", ["m.html", "m.json"])
def test_a_pipeline_that_its_own_report_would_overwrite_is_refused(
    run, data, tiny_bert, tmp_path, name
):
    arguments = (
        "train",
        "--no-ngrams",
        "--data",
        data,
        "--bert",
        tiny_bert,
        "--cv",
        0,
        "--out",
        tmp_path / name,
    )
    assert_one_error_line(
        run(*arguments), "the report beside it would get this name", "--no-report"
    )
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_labels_stay_numbers_whatever_the_columns_are_called(ending, run, tiny_bert, tmp_path):
    frame = pd.DataFrame(
        {
            "review": [t for t, _ in ROWS],
            "stars": [5 if label == "positive" else 1 for _, label in ROWS],
        }
    )
    data, out = tmp_path / f"d.{ending}", tmp_path / "m.joblib"
    frame.to_parquet(data) if ending == "parquet" else frame.to_csv(data, index=False)
    arguments = ["--data", data, "--text-column", "review", "--label-column", "stars"]
    assert (
        run("train --no-ngrams", *arguments, "--bert", tiny_bert, "--cv", 0, "--out", out).code == 0
    )
    predicted = load_pipeline(out).predict(frame["review"])
    assert (predicted == frame["stars"]).mean() > 0.5  # texts would never be equal
    assert run("evaluate", *arguments, "--pipeline", out).code == 0


# ---- leaks, groups and rare classes


def test_train_keeps_equal_texts_on_one_side_of_its_split_and_its_folds(run, tiny_bert, tmp_path):
    coin = np.random.default_rng(0).permutation(["positive", "negative"] * 30)
    once = [(f"A {word}{i} film.", coin[i]) for i, word in enumerate(["tea", "sea", "bee"] * 20)]
    rows = [
        (text.upper() if i % 2 else f" {text}", label) for i in range(4) for text, label in once
    ]
    data = write_csv(tmp_path / "d.csv", ["text", "label"], rows)
    out = tmp_path / "m.joblib"
    result = run("train --no-ngrams --cv 2", data=data, bert=tiny_bert, out=out)
    assert_passed(result)
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["scores"]["duplicates"]["n_texts"] == 0
    tfidf = next(row for row in told["comparison"] if row["model"].startswith("TF-IDF"))
    assert tfidf["accuracy"] < 0.75  # of labels that are noise
    assert told["scores"]["accuracy"] < 0.85


@pytest.mark.parametrize("command", ["train", "compare", "layers"])
def test_commands_keep_the_groups_of_a_column_together(command, run, tiny_bert, tmp_path):
    rows = [(text, label, f"author {i // 4}") for i, (text, label) in enumerate(ROWS)]
    data = write_csv(tmp_path / "d.csv", ["text", "label", "who"], rows)
    arguments = [command, "--data", data, "--bert", tiny_bert]
    arguments += {"train": ["--out", tmp_path / "m.joblib"], "compare": ["--models", "majority"],
                  "layers": ["--pooling", "cls"]}[command]  # fmt: skip
    result = run(*arguments, "--group-column", "who", "--cv", 3)
    assert_passed(result)
    assert_one_error_line(
        run(*arguments, "--group-column", "author"), "no column 'author'", "'who'"
    )
    few = write_csv(
        tmp_path / "few.csv",
        ["text", "label", "who"],
        [(*row, i % 3) for i, row in enumerate(ROWS)],
    )
    arguments[2] = few
    assert_one_error_line(run(*arguments, "--group-column", "who", "--cv", 5), "n_splits=5")


@pytest.mark.parametrize("grouped", [False, True])
def test_train_chooses_c_and_says_which(grouped, run, tiny_bert, tmp_path):
    rows = [(text, label, f"author {i // 4}") for i, (text, label) in enumerate(ROWS)]
    data = write_csv(tmp_path / "d.csv", ["text", "label", "who"], rows)
    path = tmp_path / "m.joblib"
    arguments = [
        "train",
        "--no-ngrams",
        "--data",
        data,
        "--bert",
        tiny_bert,
        "--cv",
        0,
        "--out",
        path,
    ]
    result = run(*arguments, *(["--group-column", "who"] if grouped else []))
    assert_passed(result)
    head = load_pipeline(path)[-1]
    assert f"C={head.C_:g}, chosen by the log loss" in result.out
    assert head.cv == 3  # not the folds that kept the authors together
    assert head.scores_.shape[0] == 3
    assert f"C_: {head.C_}" in run("inspect", path).out
    report = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert report["provenance"]["classifier"] == {"kind": type(head).__name__, "C": head.C_}
    run(*arguments, "--C", "0.7", "--no-report")
    assert load_pipeline(path)[-1].C == 0.7
    for wrong in ("auto", "0", "-1", "nan", "inf"):
        assert_one_error_line(run(*arguments, f"--C={wrong}"), f"--C {wrong}; allowed are numbers")


def test_a_group_column_of_the_shipped_reviews_is_one_of_theirs(run, tiny_bert):
    result = run("compare --models majority --group-column who", bert=tiny_bert)
    assert_one_error_line(result, "the shipped reviews has no column 'who'", "'domain'")


@pytest.fixture(scope="module")
def imbalanced(tmp_path_factory):
    rare = [(f"A lovely film, number {i}.", "yes") for i in range(10)]
    rows = [
        *rare,
        *(
            (f"A {word} film, number {i}.", "no")
            for i in range(30)
            for word in ("dull", "cold", "bad")
        ),
    ]
    return write_csv(tmp_path_factory.mktemp("rare") / "d.csv", ["text", "label"], rows)


def test_train_says_which_class_is_never_predicted_and_class_weights_cure_it(
    run, imbalanced, tiny_bert, tmp_path
):
    arguments = ["train", "--no-ngrams", "--data", imbalanced, "--bert", tiny_bert, "--layers", 0,
                 "--cv", 2, "--C", 0.1]  # fmt: skip
    plain = run(*arguments, "--no-report", "--out", tmp_path / "plain.joblib")
    sentence = "The class 'yes' is never predicted. Give rare classes more weight"
    assert (plain.code, sentence in plain.out) == (0, True)
    balanced = run(*arguments, "--class-weight", "balanced", "--out", tmp_path / "m.joblib")
    assert_passed(balanced)
    assert sentence not in balanced.out.partition("held-out texts")[2]
    assert load_pipeline(tmp_path / "m.joblib")[-1].class_weight == "balanced"
    recalls = {
        row["class"]: row["recall"]
        for row in json.loads((tmp_path / "m.json").read_text())["scores"]["by_class"]
    }
    assert recalls["yes"] > 0
    assert_one_error_line(
        run(*arguments, "--class-weight", "heavy", "--out", tmp_path / "x.joblib"),
        "class_weight",
        "balanced",
    )


def test_compare_takes_class_weights_and_what_decides(run, imbalanced, tiny_bert, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    arguments = [
        "compare",
        "--data",
        imbalanced,
        "--bert",
        tiny_bert,
        "--cv",
        2,
        "--models",
        "default",
    ]
    result = run(*arguments, "--class-weight", "balanced", "--scoring", "f1_macro")
    assert_passed(result)
    assert "points to TF-IDF, macro_f1" in result.out
    assert_one_error_line(run(*arguments, "--scoring", "goodness"), "'goodness'")


@pytest.mark.filterwarnings("always::pipeline.exceptions.LeakWarning")
def test_evaluate_tells_the_texts_of_the_training_file(run, light_artifact, tmp_path):
    data = write_csv(
        tmp_path / "d.csv", ["text", "label"], [*ROWS[:9], ("A new film.", "positive")]
    )
    known = write_csv(tmp_path / "known.csv", ["text", "label"], ROWS)
    result = run("evaluate", pipeline=light_artifact, data=data, train_data=known)
    assert "9 of 10 texts to score also occur in the training part" in result.err


def test_commands_take_the_columns_that_a_model_was_trained_on(run, tmp_path):
    words = ("dull", "lovely", "cold", "warm")
    rows = [(f"A {word} film, number {i}.", i % 2, i) for i in range(12) for word in words]
    data = write_csv(tmp_path / "d.csv", ["review", "stars", "id"], rows)
    model = tmp_path / "m.joblib"
    named = ("--text-column", "review", "--label-column", "stars")
    trained = run(
        "train --no-ngrams", "--data", data, *named, "--layers", "0", "--cv", "0", "--out", model
    )
    assert trained.code == 0, trained.err
    assert load_pipeline(model).predict(["A film."]).dtype.kind == "i"
    told = run("evaluate", "--pipeline", model, "--data", data, *named)
    remembered = run("evaluate", "--pipeline", model, "--data", data)
    assert (remembered.code, remembered.out) == (0, told.out)
    out = tmp_path / "scored.csv"
    scored = run("predict", "--pipeline", model, "--data", data, "--out", out)
    assert scored.code == 0, scored.err
    assert len(pd.read_csv(out)) == len(rows)
    other = write_csv(tmp_path / "o.csv", ["text", "label"], [row[:2] for row in rows])
    refused = run("evaluate", "--pipeline", model, "--data", other)
    assert refused.code == 2
    assert "'review'" in refused.err
    assert "'text'" in refused.err
