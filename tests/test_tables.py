"""The tables of a report, and user texts made safe to show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import tables
from pipeline.report.page import report_contents
from pipeline.tables import columns, readable, shortened
from tests.reporting import make_comparison, make_study, quick_scores


@pytest.fixture(scope="module")
def scores():
    return quick_scores()


def assert_rectangular(table):
    assert {len(row) for row in table.rows} <= {len(table.header)}
    assert all(isinstance(cell, str) for row in table.rows for cell in row)


def test_scores_stand_with_their_intervals(scores):
    table = tables.scores_table(scores)
    assert_rectangular(table)
    low, high = scores["intervals"]["accuracy"]
    assert table.rows[0][:4] == [
        "Accuracy",
        f"{scores['accuracy']:.3f}",
        f"{low:.3f}",
        f"{high:.3f}",
    ]
    assert len(table.rows) == 9
    assert tables.scores_table({**scores, "intervals": {}, "roc_auc": None}).rows[4][1:4] == [
        "-",
        "-",
        "-",
    ]


def test_a_comparison_shows_what_is_there_and_nothing_twice(scores):
    rows = report_contents(scores, comparison=make_comparison())["comparison"]
    table = tables.comparison_table(rows)
    assert_rectangular(table)
    assert table.header == ["Model", "Accuracy", "Difference to TF-IDF (95 %)", "Verdict",
                            "Macro F1", "Fit, s", "Predict 1,000 texts, s", "File, MB"]  # fmt: skip
    assert table.rows[2] == ["frozen BERT + LogisticRegression", "0.800 ± 0.030",
                             "+0.100 (+0.050 to +0.150)", "better", "0.800", "1,234.5", "3.25",
                             "91.3"]  # fmt: skip
    assert table.rows[1][2] == "-"
    assert "±" in table.caption
    assert list(table.text_columns) == [3]
    unknown = [
        {**row, "fit_seconds": None, "artifact_mb": None} for row in rows
    ]  # what was not measured has no column
    assert not {"Fit, s", "File, MB"} & set(tables.comparison_table(unknown).header)


def test_the_baseline_has_no_difference_to_itself():
    rows = [
        {
            "model": name,
            "difference": value,
            "difference_low": value,
            "difference_high": value,
            "verdict": verdict,
        }
        for name, value, verdict in (
            ("TF-IDF", 0.0, "baseline"),
            ("BERT", 0.1, "better than TF-IDF"),
        )
    ]
    assert [row[1] for row in tables.comparison_table(rows).rows] == [
        "-",
        "+0.100 (+0.100 to +0.100)",
    ]


def test_a_column_that_is_not_known_is_shown_as_it_is():
    table = tables.comparison_table([{"model": "a", "accuracy": 0.5, "n_words": 12345.678}])
    assert table.header == ["Model", "Accuracy", "n words"]
    assert table.rows == [["a", "0.500", "1.235e+04"]]
    assert "±" not in table.caption  # no column has a spread


def test_the_most_frequent_confusions_come_first():
    matrix = [[5, 0, 3], [1, 1, 0], [0, 7, 1]]
    table = tables.confusions_table(matrix, ["a", "b", "c"])
    assert table.rows == [["c", "b", "7", "88 %"], ["a", "c", "3", "38 %"], ["b", "a", "1", "50 %"]]
    assert tables.confusion_table(matrix, ["a", "b", "c"]).rows[0] == ["a", "5", "0", "3"]
    assert tables.confusion_table([[0] * 41] * 41, range(41)) is None


def test_layers_are_ranked(scores):
    layers = report_contents(scores, layers=make_study())["layers"]
    table = tables.layers_table(layers["rows"], layers, "all")
    assert_rectangular(table)
    assert table.header[2] == "Accuracy"
    assert [row[2] for row in table.rows] == sorted((row[2] for row in table.rows), reverse=True)
    assert table.rows[0] == ["layer 2", "mean", "0.700 ± 0.020", "32", "0.1"]


def test_provenance_is_told_a_line_each():
    table = tables.provenance_table(
        {
            "seed": 0,
            "models": [{"id": "a/b", "sha256": {"config.json": "ff"}, "layers": [-2, -1]}],
            "command": None,
            "two": [[1], [2]],
        }
    )
    assert table.rows == [["seed", "0"], ["model id", "a/b"], ["model sha256 config.json", "ff"],
                          ["model layers", "-2, -1"], ["command", "not known"], ["two 1", "1"],
                          ["two 2", "2"]]  # fmt: skip


JOINED = "👩\u200d👩\u200d👧 می\u200cخو 東京"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, <b>bold</b> & $x$", "plain, <b>bold</b> & $x$"),
        ("bell\x07 nul\x00 c1\x85", "bell\\x07 nul\\x00 c1\\x85"),
        ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
        ("lone \ud800", "lone \\ud800"),
        ("tab\tand\nline\r\nend", "tab\tand\nline\nend"),
        (JOINED, JOINED),
        (3.5, "3.5"),
    ],
)
def test_only_what_steers_is_spelt_out(text, shown):
    assert readable(text) == shown


@given(st.text())
def test_every_text_can_be_written_and_stays_as_it_is_the_second_time(text):
    once = readable(text)
    once.encode("utf-8")
    assert readable(once) == once


@given(st.text(), st.integers(2, 30))
def test_a_shortened_text_is_never_wider_than_asked(text, most):
    line = shortened(text, most)
    assert columns(line) <= most
    assert "\n" not in line


def test_wide_characters_count_two_and_marks_none():
    assert columns("ab東京") == 6
    assert columns("e\u0301") == 1
    assert shortened("東京は楽しい", 7) == "東京は…"
    assert shortened("short", 5) == "short"
    assert shortened("x" * 10**6, 5) == "xxxx…"
