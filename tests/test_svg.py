"""SVG figures: the page's colours, unique ids, user words untouched, equal for equal input."""

import re

import pytest

from pipeline.report.figures import COLOURS, Words, figure_svg, text_columns
from tests.reporting import HOSTILE, Page


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


def test_the_same_figure_is_the_same_text():
    assert make() == make()


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


@pytest.mark.parametrize(
    "word",
    ["name", "MMMMMMMMMMMM", "WWW, IN CAPITALS", "東京は楽しい東京", "мама мыла раму", "i" * 30],
)
def test_a_stand_in_has_the_room_that_its_word_needs(word):
    words = Words()
    stand_in = words(word, 14)
    assert text_columns(words.put_back(stand_in)) <= min(14, text_columns(stand_in))
    assert text_columns("MMMM") > 5 > text_columns("nnnn")


def test_the_settings_of_others_stay_as_they_are_and_change_nothing():
    import matplotlib as mpl

    mine = make()
    with mpl.rc_context({"font.family": "monospace"}):
        before = dict(mpl.rcParams)
        assert make() == mine
        assert dict(mpl.rcParams) == before
