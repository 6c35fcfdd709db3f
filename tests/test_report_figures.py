"""The figures of a report: colours and ids of the page, user words, every number in the label."""

import re

import pytest

from pipeline.report import figures
from pipeline.report.figures import COLOURS, figure_svg
from pipeline.report.page import report_contents
from tests.reporting import HOSTILE, Page, make_study, quick_scores


def draw_points(figure, words):
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=COLOURS["for"])
    axes.scatter([0.1, 0.5, 0.9], [0.5, 0.1, 0.9], gid="points", color=COLOURS["series2"])
    axes.set_title(words("title"), fontweight="bold")


def make(draw=draw_points, key="one", **options):
    return figure_svg(draw, key=key, size=(340, 200), **{"label": "three points", **options})


def test_it_is_an_image_that_tells_what_it_shows():
    (svg,) = Page(make(label='3 "points" & a line')).all("svg")
    assert svg["role"] == "img"
    assert svg["aria-label"] == '3 "points" & a line'
    assert svg["viewbox"] == "0 0 340 200"
    assert not {"width", "height"} & set(svg)


def test_every_colour_is_one_of_the_page():
    colours = re.findall(r"(?:fill|stroke): ([^;\"]+)", make())
    assert {"var(--for)", "var(--series2)", "var(--ink)", "var(--rule)"} <= set(colours)
    assert [
        colour for colour in colours if colour != "none" and not colour.startswith("var(--")
    ] == []


def test_ids_are_its_own_and_every_reference_has_its_place():
    svg = make(key="map")
    ids = re.findall(r'id="([^"]+)"', svg)
    referred = re.findall(r'(?:url\(#|href="#)([^")]+)', svg)
    assert ids
    assert set(ids) == set(referred)
    assert len(ids) == len(set(ids))
    assert not set(ids) & set(re.findall(r'id="([^"]+)"', make(key="other")))


def test_nothing_names_a_font_a_date_or_another_place():
    svg = make()
    for word in ("font-family", "DejaVu", "http", "metadata", "<style", "DOCTYPE", "<?xml"):
        assert word not in svg


def test_each_point_carries_its_text():
    svg = make(titles={"points": ["first", "<second>", "third\x00"]})
    assert re.findall(r"<title>(.*?)</title>", svg) == ["first", "&lt;second&gt;", "third\\x00"]
    with pytest.raises(ValueError, match="zip"):
        make(titles={"points": ["only one"]})


@pytest.mark.parametrize("word", HOSTILE, ids=range(len(HOSTILE)))
def test_any_word_can_be_a_label_and_comes_back_as_it_was(word):
    def draw(figure, words):
        axes = figure.add_subplot()
        axes.set_xlabel(f"before {words(word, 30)} after")
        axes.set_yticks([0, 1], [words(word), words("other")])

    svg = make(draw)
    texts = Page(svg).text
    assert "Q0" not in texts
    assert "before " in texts
    if len(word) < 20 and word:
        assert word in texts


def test_a_word_that_looks_like_a_stand_in_is_a_word():
    def draw(figure, words):
        figure.add_subplot().set_title(words("Q0001nn") + words("real"))

    assert "Q0001nnreal" in Page(make(draw)).text


def test_the_settings_of_others_stay_as_they_are_and_change_nothing():
    import matplotlib as mpl

    mine = make()
    with mpl.rc_context({"font.family": "monospace"}):
        before = dict(mpl.rcParams)
        assert make() == mine
        assert dict(mpl.rcParams) == before


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
    rows = [("short", 0.5, (0.4, 0.6)), ("other", 0.75, None)]
    svg = figures.interval_figure(
        rows, key="k", label="Accuracy", axis="accuracy", best=0.75, reference=("all", 0.6)
    )
    assert (
        label_of(svg)
        == "Accuracy: short 0.500 (0.400 to 0.600); other 0.750. The dashed line is all, 0.600."
    )
    assert {"short", "other", "0.500", "0.750", "accuracy"} <= set(words_of(svg))


def test_curves_tell_their_areas(two):
    (curve,) = two["curves"]
    assert f"positive: area {curve['roc_auc']:.3f}" in label_of(figures.roc_figure(two["curves"]))
    told = label_of(figures.precision_recall_figure(two["curves"]))
    assert f"positive: average precision {curve['average_precision']:.3f}" in told


def test_the_legend_of_six_curves_is_below_the_name_of_the_axis(two):
    curve = two["curves"][0]
    svg = figures.roc_figure([curve | {"class": f"class {i}, of many letters"} for i in range(6)])
    places = re.findall(r' y="([\d.]+)"[^>]*>(false positive rate|class \d[^<]*)<', svg)
    heights = {name[:7]: float(y) for y, name in places}
    assert len(heights) == 7
    assert heights["class 0"] - heights["false p"] > 15


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
        values = f"confidence {row['confidence']:.2f}, accuracy {row['accuracy']:.2f}"
        assert f"{row['n_texts']} texts, {values}" in told


def test_the_confusion_matrix_has_the_shares_of_each_true_class(two, many):
    svg = figures.confusion_figure(two["confusion_matrix"], two["classes"])
    (a, b), (c, d) = two["confusion_matrix"]
    shares = [100 * n / total for n, total in ((a, a + b), (b, a + b), (c, c + d), (d, c + d))]
    assert re.findall(r">(\d+)\u2009%<", svg) == [f"{share:.0f}" for share in shares]
    assert f"negative {a} of {a + b}; positive {d} of {c + d}" in label_of(svg)


def test_upright_names_end_at_their_columns_and_run_into_none_whatever_the_font(many):
    svg = figures.confusion_figure(many["confusion_matrix"], many["classes"])
    upright = re.findall(r'<text style="([^"]*)"[^>]*rotate\(-90 [^>]*>class', svg)
    assert len(upright) == figures.MOST_IN_MATRIX < len(MANY)
    assert all("text-anchor: end" in style for style in upright)


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
    points, names = many["map"]["points"], many["map"]["classes"][:4]
    svg = figures.map_figure(points, names, "a map")
    assert svg.count("<title>") == len(points)
    assert {f"var(--series{i})" for i in range(1, 5)} | {"var(--muted)"} <= set(
        re.findall(r"var\(--\w+\)", svg)
    )
