"""The figures of a report: every number that is drawn is told, for two classes and for many."""

import re

import pytest

from pipeline.report import figures
from pipeline.report.sections import report_contents
from tests.reporting import Page, make_study, quick_scores

MANY = tuple(f"class {i}" for i in range(20))


@pytest.fixture(scope="module")
def two():
    return quick_scores()


@pytest.fixture(scope="module")
def many():
    return quick_scores(MANY, n_texts=100)


def label_of(svg):
    return Page(svg).all("svg")[0]["aria-label"]


def words_of(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_intervals_are_drawn_and_told():
    rows = [
        {"name": "short", "value": 0.5, "low": 0.4, "high": 0.6},
        {"name": "other", "value": 0.75, "low": None, "high": None, "best": True},
    ]
    svg = figures.interval_figure(
        rows, key="k", label="Accuracy", axis="accuracy", reference=("all", 0.6)
    )
    assert (
        label_of(svg)
        == "Accuracy: short 0.500 (0.400 to 0.600); other 0.750. The dashed line is all, 0.600."
    )
    assert {"short", "other", "0.500", "0.750", "accuracy"} <= set(words_of(svg))


def test_long_names_are_shown_in_full():
    name = "frozen BERT + LogisticRegression, fitted"
    svg = figures.interval_figure(
        [{"name": name, "value": 0.5, "low": None, "high": None}], key="k", label="x", axis="y"
    )
    assert name in words_of(svg)


def test_curves_tell_their_areas(two):
    (curve,) = two["curves"]
    assert f"positive: area {curve['roc_auc']:.3f}" in label_of(figures.roc_figure(two["curves"]))
    told = label_of(figures.precision_recall_figure(two["curves"]))
    assert f"positive: average precision {curve['average_precision']:.3f}" in told


def test_what_is_found_at_a_rate_is_read_off_the_curve():
    curve = {
        "class": "a",
        "roc_auc": 0.5,
        "average_precision": 0.5,
        "roc": {
            "false_positive_rate": [0.0, 0.0, 0.1, 0.3, 1.0],
            "true_positive_rate": [0.0, 0.2, 0.4, 0.9, 1.0],
        },
        "precision_recall": {"recall": [0.0, 0.4, 0.8, 1.0], "precision": [1.0, 0.9, 0.7, 0.5]},
    }
    assert "40 % found at 10 % false alarms" in label_of(figures.roc_figure([curve]))
    assert "precision 0.70 at recall 0.8" in label_of(figures.precision_recall_figure([curve]))


def test_of_many_classes_the_best_and_the_worst_curve_are_named(many):
    areas = {
        f"{curve['class']} {curve['roc_auc']:.3f}": curve["roc_auc"] for curve in many["curves"]
    }
    named = [word for word in words_of(figures.roc_figure(many["curves"])) if word in areas]
    assert [areas[word] for word in named] == [max(areas.values()), min(areas.values())]


def test_calibration_tells_every_bin(two):
    told = label_of(figures.calibration_figure(two["calibration"]))
    for row in two["calibration"]:
        assert (
            f"{row['n_texts']} texts, confidence {row['confidence']:.2f}, accuracy {row['accuracy']:.2f}"
            in told
        )


def test_the_confusion_matrix_has_every_count(two, many):
    svg = figures.confusion_figure(two["confusion_matrix"], two["classes"])
    assert [word for word in words_of(svg) if word.isdigit()] == [
        str(n) for row in two["confusion_matrix"] for n in row
    ]
    (a, b), (c, d) = two["confusion_matrix"]
    assert f"negative {a} of {a + b}; positive {d} of {c + d}" in label_of(svg)
    assert set(MANY) <= set(
        words_of(figures.confusion_figure(many["confusion_matrix"], many["classes"]))
    )
    assert figures.confusion_figure([[0] * 50] * 50, range(50)) is None


def test_upright_names_end_at_their_columns_and_run_into_none_whatever_the_font(many):
    svg = figures.confusion_figure(many["confusion_matrix"], many["classes"])
    upright = re.findall(r'<text style="([^"]*)"[^>]*rotate\(-90 [^>]*>class', svg)
    assert len(upright) == len(MANY)
    assert all("text-anchor: end" in style for style in upright)


def test_a_class_without_texts_divides_by_nothing():
    assert "b 0 of 0" in label_of(figures.confusion_figure([[3, 0], [0, 0]], ["a", "b"]))


def test_layers_have_every_value_and_tell_the_best(two):
    layers = report_contents(two, layers=make_study())["layers"]
    svg = figures.layers_figure(layers)
    values = [word for word in words_of(svg) if word.startswith("0.")]
    assert values == ["0.600", "0.700", "0.550", "0.650", "0.500", "0.600"]
    assert "from 0.500 to 0.700, best layer 2 with mean" in label_of(svg)
    assert (
        figures.layers_figure({"rows": [row for row in layers["rows"] if row["kind"] != "layer"]})
        is None
    )


def test_every_point_of_the_map_has_its_text_and_a_marker_of_its_class(two):
    points = two["map"]["points"]
    svg = figures.map_figure(points, two["classes"], "a map")
    titles = re.findall(r"<title>(.*?)</title>", svg, re.DOTALL)
    assert sorted(titles) == sorted(
        f"{one['text']}\n{one['true']}, predicted {one['predicted']} ({one['probability']:.2f})"
        for one in points
    )


def test_classes_without_a_colour_of_their_own_are_drawn_too(many):
    points = many["map"]["points"]
    svg = figures.map_figure(points, MANY[:6], "a map")
    assert svg.count("<title>") == len(points)
    assert {f"var(--series{i})" for i in range(1, 7)} | {"var(--muted)"} <= set(
        re.findall(r"var\(--\w+\)", svg)
    )
