"""evaluate, compare, layers and explain print and write what the library returns."""

import re
import sys

import pandas as pd
import pytest
import rich.console

from pipeline import evaluate
from tests.commands import ROWS, assert_one_error_line, assert_passed, write_csv


def test_evaluate_prints_the_scores_of_the_saved_pipeline(run, artifact, fitted, tmp_path):
    rows = [
        *ROWS[:15],
        ("A lovely, beautiful film.", "negative"),
        ("A cold, dull film.", "positive"),
        ("film", "negative"),
    ]
    data = write_csv(
        tmp_path / "d.csv", ["review", "stars"], [(text, label) for text, label in rows]
    )
    result = run("evaluate --text-column review --label-column stars", pipeline=artifact, data=data)
    assert_passed(result)
    scores = evaluate(fitted, [text for text, _ in rows], [label for _, label in rows])
    low, high = scores["intervals"]["accuracy"]
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in result.out.splitlines()
    ]
    others = [f"{scores[name]:.3f}" for name in ("macro_f1", "balanced_accuracy", "f1")]
    accuracy = f"{scores['accuracy']:.3f} ({low:.3f} to {high:.3f})"
    assert [str(scores["n_texts"]), accuracy, *others] in cells
    names = ("roc_auc", "log_loss", "calibration_error")
    assert [f"{scores[name]:.3f}" for name in names] in cells


def test_evaluate_scores_by_columns_and_lists_the_surest_mistakes(run, artifact, fitted, tmp_path):
    other = {
        "positive": "negative",
        "negative": "positive",
    }  # nearly all are mistakes so, whatever the tiny model has learnt
    rows = [(text, other[label], f"d{i % 2}") for i, (text, label) in enumerate(ROWS[:9])]
    data = write_csv(tmp_path / "d.csv", ["text", "label", "domain"], rows)
    result = run("evaluate --by domain --mistakes 2", pipeline=artifact, data=data)
    assert result.code == 0
    assert "by domain" in result.out
    assert re.search(r"│ d1 +│ 4 ", result.out)
    wrong = evaluate(fitted, [row[0] for row in rows], [row[1] for row in rows], n_mistakes=2)[
        "mistakes"
    ]
    assert wrong
    for one in wrong:
        sure = f"({one['probability']:.3f})"
        line = f"{one['true']} taken for {one['predicted']} {sure}: {one['text']}"
        assert f"row {one['row']}: {line}" in result.out.splitlines()
    assert_one_error_line(run("evaluate --by colour", pipeline=artifact, data=data), "colour")


def test_a_roc_auc_that_is_not_defined_is_a_dash(run, artifact, tmp_path):
    data = write_csv(tmp_path / "d.csv", ["text", "label"], ROWS[::2])
    result = run("evaluate", pipeline=artifact, data=data)
    assert result.code == 0
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in result.out.splitlines()
    ]
    assert any(len(row) == 3 and row[0] == "-" for row in cells)


def test_without_data_the_held_out_reviews_are_scored(run, artifact, fitted, monkeypatch):
    train, test = (pd.DataFrame(ROWS[i : i + 9], columns=["text", "label"]) for i in (0, 9))
    monkeypatch.setattr("pipeline.datasets.load_reviews", lambda: (train, test))
    result = run("evaluate", pipeline=artifact)
    assert result.code == 0
    assert "held-out shipped reviews" in " ".join(result.out.split())
    assert f"{evaluate(fitted, test['text'], test['label'])['roc_auc']:.3f}" in result.out


@pytest.mark.parametrize(
    ("header", "rows", "parts"),
    [
        (
            ["text", "label"],
            [("film", "good"), ("film", "negative")],
            ["does not know: 'good'", "'negative', 'positive'"],
        ),
        (["text", "stars"], [("film", "good")], ["no column 'label'", "'text', 'stars'"]),
    ],
)
def test_labels_that_cannot_be_scored_say_why(header, rows, parts, run, artifact, tmp_path):
    data = write_csv(tmp_path / "d.csv", header, rows)
    assert_one_error_line(run("evaluate", pipeline=artifact, data=data), *parts)


def test_explain_prints_a_word_a_line_and_the_sum(run, artifact, fitted):
    result = run("explain", pipeline=artifact, text="A lovely film.")
    assert result.code == 0
    rows = [line.split("\t") for line in result.out.splitlines()]
    assert [row[0] for row in rows] == [
        "[CLS]",
        "A",
        "lovely",
        "film",
        ".",
        "[SEP]",
        "(intercept)",
        "(decision)",
    ]
    assert [row[1:3] for row in rows[1:3]] == [["0", "1"], ["2", "8"]]
    assert sum(float(row[3]) for row in rows[:-1]) == pytest.approx(float(rows[-1][3]), abs=1e-3)
    assert float(rows[-1][3]) == pytest.approx(
        fitted.decision_function(["A lovely film."])[0], abs=1e-3
    )
    assert rows[-1][4] == fitted.predict(["A lovely film."])[0]


def test_explain_reads_lines_and_takes_tokens_and_occlusion(run, artifact):
    result = run("explain --level token", pipeline=artifact, stdin="A film.\nUnbelievable\n")
    assert result.code == 0
    assert result.out.count("(decision)") == 2
    assert "##" in result.out
    by_leaving_out = run("explain --method occlusion", pipeline=artifact, text="A film.")
    assert "[CLS]" not in by_leaving_out.out
    assert_one_error_line(
        run("explain --text x --level letter", pipeline=artifact),
        "allowed are 'word' and 'token'",
    )
    assert_one_error_line(run("explain", pipeline=artifact, stdin=""), "Nothing to explain")


def test_explain_colours_the_words_at_a_terminal(run, artifact, monkeypatch):
    monkeypatch.setattr(rich.console.Console, "is_terminal", property(lambda self: True))
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    result = run(
        "explain",
        "--text",
        "A lovely [red]film[/red].",
        "--text",
        "nasty\x1b[2J film",
        pipeline=artifact,
    )
    assert result.code == 0
    assert "\x1b[30;48;2;" in result.out  # black on a colour
    assert "A lovely [red]film[/red]." in re.sub(r"\x1b\[[0-9;]*m", "", result.out)
    assert "\x1b[2J" not in result.out
    assert "they add up to" in result.out
    assert "strongest: " in result.out


def test_compare_prints_every_row_with_its_verdict_and_writes_table_and_picture(
    run, data, tiny_bert, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "160")
    out, figures = tmp_path / "table.csv", tmp_path / "figures"
    arguments = [
        "--data",
        data,
        "--bert",
        tiny_bert,
        "--cv",
        2,
        "--models",
        "majority, tfidf, static",
        "--out",
        out,
    ]
    result = run("compare", *arguments, "--figures", figures)
    assert_passed(result)
    table = pd.read_csv(out)
    assert list(table["name"]) == [
        "majority",
        "TF-IDF + LogisticRegression",
        "static BERT (layer 0 mean)",
    ]
    for row in table.to_dict("records"):
        scores, against, costs = (line for line in result.out.splitlines() if row["name"] in line)
        assert f"{row['accuracy']:.3f} ± {row['accuracy_sd']:.3f}" in scores
        for metric in ("macro_f1", "roc_auc", "log_loss"):
            assert f"{row[metric]:.3f}" in scores
        assert row["verdict"] in against
        assert f"{row['calibration_error']:.3f}" in costs
        if row["verdict"] != "baseline":
            found, low, high = (
                100 * row[name] for name in ("difference", "difference_low", "difference_high")
            )
            assert f"{found:+.1f} ({low:+.1f} to {high:+.1f})" in against
    assert "2-fold cross-validation, 48 texts to train on" in result.out
    assert [path.name for path in figures.iterdir()] == ["comparison.png"]


@pytest.mark.filterwarnings("always::pipeline.exceptions.LeakWarning")
def test_compare_on_one_split_shows_no_spread(run, data, tiny_bert, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    result = run("compare --models majority --test", data=data, bert=tiny_bert)
    assert_passed(result)
    assert "10 held-out texts, 38 texts to train on" in result.out
    assert "±" not in result.out
    arguments = ["--data", data, "--bert", tiny_bert, "--models", "majority"]
    same = run("compare", *arguments, "--test-data", data)
    assert "48 of 48 texts to score also occur in the training part" in same.err
    assert "48 held-out texts, 48 texts to train on" in same.out


def test_compare_adds_the_fine_tuned_row_to_the_quick_ones_where_it_is_asked_for(
    run, data, tiny_bert, tmp_path, monkeypatch
):
    asked = {}

    def compare_nothing(X, y, **options):
        asked.update(options)
        raise ValueError("stop here")

    monkeypatch.setattr("pipeline.evaluation.compare.compare", compare_nothing)
    for arguments, rows in (
        ([], None),
        (
            ["--fine-tuned"],
            ["majority", "tfidf", "word2vec", "static", "cls", "default", "ngrams", "finetuned"],
        ),
        (["--fine-tuned", "--models", "cls"], ["cls", "finetuned"]),
        (["--fine-tuned", "--models", "all"], "all"),
    ):
        run("compare", *arguments, data=data)
        assert asked["models"] == rows


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--models", "bert"], "models holds 'bert'; allowed are 'all', or a list of 'majority'"),
        (["--test", "--test-data", "reviews.csv"], "Give --test or --test-data, not both"),
        (["--out", "table.txt"], "allowed are .csv, .parquet"),
        (["--word-vectors", "none.bin"], "none.bin' is not a file"),
    ],
)
def test_compare_refuses_wrong_values_in_one_line(
    arguments, part, run, data, tiny_bert, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = [] if "--models" in arguments else ["--models", "word2vec"]
    assert_one_error_line(run("compare", *rows, *arguments, data=data, bert=tiny_bert), part)


def test_layers_prints_every_score_and_writes_table_and_pictures(run, data, tiny_bert, tmp_path):
    out, figures = tmp_path / "study.csv", tmp_path / "figures"
    arguments = [
        "--data",
        data,
        "--bert",
        tiny_bert,
        "--cv",
        3,
        "--nested",
        "--out",
        out,
        "--figures",
        figures,
    ]
    result = run("layers", *arguments)
    assert_passed(result)
    study = pd.read_csv(out)
    assert len(study) == 4 * 3 + 6
    for score in study["score"]:
        assert f"{score:.3f} ±" in result.out
    for part in (
        "Left out, because the model has 3 layers: sum of last four",
        "Best: ",
        "Unbiased score of picking the best: ",
    ):
        assert part in result.out
    assert [path.name for path in sorted(figures.iterdir())] == [
        "layer_bars.png",
        "layer_heatmap.png",
    ]


def test_layers_of_one_pooling_without_nested_says_what_the_best_is_worth(run, data, tiny_bert):
    result = run("layers --cv 2 --pooling cls", data=data, bert=tiny_bert)
    assert_passed(result)
    assert "combinations of layers, pooling cls" in result.out
    assert "use --nested for an unbiased" in result.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ["--pooling", "cls,pooler"],
            "allowed is a tuple of different ones of ('cls', 'mean', 'max')",
        ),
        (["--out", "study.txt"], "allowed are .csv, .parquet"),
        (["--out", "no/such/folder/study.csv"], "does not exist"),
    ],
)
def test_layers_refuses_wrong_values_in_one_line_before_anything_is_encoded(
    arguments, part, run, data, tiny_bert, encoded, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert_one_error_line(run("layers", *arguments, data=data, bert=tiny_bert), part)
    assert not encoded


def test_layers_says_what_to_install_where_there_is_no_matplotlib(
    run, data, tiny_bert, tmp_path, monkeypatch, encoded
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("layers", data=data, bert=tiny_bert, figures=tmp_path)
    assert_one_error_line(result, "pip install '.[report]'")
    assert not encoded
