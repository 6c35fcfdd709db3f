"""write_report: a self-contained page whatever the texts, and the same as JSON."""

import json
import re
import sys
from pathlib import Path

import pytest

from pipeline import TruncationWarning, report, write_report
from pipeline.exceptions import UnknownTokensWarning
from pipeline.report.page import check_report_extra, render_page, report_contents
from tests.reporting import HOSTILE, Page, bert_scores, make_comparison, make_study, quick_scores

TAGS = set(
    """
    html head meta link title style body a header h1 h2 p dl div dt dd nav ul li main
    section span wbr figure figcaption details summary table caption thead tbody tr th td bdi
    article blockquote strong footer svg g path defs use text clippath rect
""".split()
)


@pytest.fixture(scope="module")
def scores():
    return quick_scores()


@pytest.fixture(scope="module")
def full(scores):
    provenance = {"seed": 0, "versions": {"torch": "2.13.0"}}
    parts = {
        "comparison": make_comparison(),
        "layers": make_study(),
        "provenance": provenance,
        "title": "A & <b>",
    }
    return render_page(report_contents(scores, **parts))


def test_it_writes_a_page_and_the_same_as_json(scores, tmp_path):
    page = write_report(
        scores, tmp_path / "new" / "report.html", comparison=make_comparison(), title="Ours"
    )
    assert page == tmp_path / "new" / "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == ["report.html", "report.json"]
    contents = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert list(contents) == ["title", "scores", "comparison", "layers", "provenance"]
    assert contents == report_contents(scores, comparison=make_comparison(), title="Ours")
    assert "<title>Ours</title>" in page.read_text(encoding="utf-8")


def test_the_same_report_is_the_same_bytes(scores, tmp_path):
    pages = [write_report(scores, tmp_path / name / "report.html") for name in ("a", "b")]
    assert len({page.read_bytes() for page in pages}) == 1
    assert len({page.with_suffix(".json").read_bytes() for page in pages}) == 1


def test_it_asks_for_nothing(full):
    page = Page(full)
    policy = next(
        attrs["content"]
        for attrs in page.all("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert {tag for tag, _ in page.elements} <= TAGS
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:,")), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
    assert "@import" not in full
    assert not re.search(r"url\((?!#)", full)


def test_every_symbol_of_the_page_is_in_plain_fonts():
    own = "".join(
        path.read_text(encoding="utf-8") for path in Path(report.__file__).parent.glob("*.*")
    )
    assert {c for c in own if not c.isascii()} <= set(
        "±“”…\u2212●■▲♦▼►"
    )  # of WGL4, which Arial and Liberation have


def test_it_can_be_read_without_eyes(full):
    page = Page(full)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("main")) == len(page.all("h1")) == 1
    assert page.all("svg")
    assert all(
        len(attrs["aria-label"]) > 20 and attrs["role"] == "img" for attrs in page.all("svg")
    )
    assert len(page.all("figure")) == len(page.all("svg")) == len(page.all("figcaption"))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    regions = [attrs for attrs in page.all("div") if attrs.get("role") == "region"]
    assert len(regions) == len(page.all("table"))
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in regions)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)
    assert {attrs["aria-labelledby"] for attrs in page.all("section")} <= set(ids)


def contrast(one, other):
    """Return the contrast of two colours, WCAG 2.2."""

    def luminance(colour):
        parts = [value / 255 for value in colour]
        linear = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
            for value in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("number", [0, 1, 2], ids=["light", "dark", "print"])
def test_every_colour_can_be_told_from_its_ground(full, number):
    block = re.findall(r":root \{(.*?)\}", full, re.DOTALL)[number]
    hexes = re.findall(r"--(\w+): #([0-9a-f]{3,6});", block)
    colours = {
        name: [int((value * 2 if len(value) == 3 else value)[i : i + 2], 16) for i in (0, 2, 4)]
        for name, value in hexes
    }
    assert len(colours) == 15
    for ground in ("page", "surface"):
        for text in ("ink", "muted", "for", "good", "bad"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for i in range(1, 7):
        assert contrast(colours[f"series{i}"], colours["page"]) >= 3
    for name in ("for", "against"):  # a word at its fullest: half of the colour over the page
        rgb = [
            int(value) for value in re.search(rf"--{name}-rgb: (\d+) (\d+) (\d+)", block).groups()
        ]
        ground = [(over + under) / 2 for over, under in zip(rgb, colours["page"], strict=True)]
        assert contrast(colours["ink"], ground) >= 4.5, name


def test_hostile_texts_are_only_text(tiny_bert, tmp_path):
    labels = ["<script>x</script>", "'\" onload=alert(1) $"] * 5
    by = {"<b>column</b>": [HOSTILE[i % 4] for i in range(len(HOSTILE))]}
    texts, labels = list(HOSTILE), labels[: len(HOSTILE)]
    with pytest.warns(TruncationWarning), pytest.warns(UnknownTokensWarning):
        scores = bert_scores(tiny_bert, texts, labels, by=by, train=(texts, labels))
    page = write_report(
        scores,
        tmp_path / "report.html",
        title=HOSTILE[0] + HOSTILE[2],
        provenance={HOSTILE[0]: HOSTILE[3]},
    )
    html = page.read_text(encoding="utf-8")
    parsed = Page(html)
    assert {tag for tag, _ in parsed.elements} <= TAGS
    assert not [
        attrs for _, attrs in parsed.elements if any(name.startswith("on") for name in attrs)
    ]
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in parsed.text
    assert "{{ 7 * 7 }} {% raw %}" in parsed.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", html)
    assert len(html) < 300_000
    assert json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["scores"] == scores


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param(
            lambda: quick_scores(
                tuple(f"a rather long name of class {i}" for i in range(20)), n_texts=200
            ),
            id="20",
        ),
        pytest.param(lambda: quick_scores(n_texts=2), id="two texts"),
        pytest.param(lambda: quick_scores(n_texts=1, train=None), id="one text"),
        pytest.param(lambda: quick_scores(("a", "b", "c"), n_texts=2), id="a class without texts"),
        pytest.param(
            lambda: quick_scores(n_bootstrap=0, n_mistakes=0, n_examples=0, n_map=0, train=None),
            id="the least",
        ),
        pytest.param(lambda: quick_scores((0, 1)), id="numbers"),
        pytest.param(lambda: quick_scores((False, True)), id="truth values"),
        pytest.param(lambda: quick_scores(("東京", "👩\u200d👩\u200d👧")), id="wide letters"),
        pytest.param(lambda: quick_scores(("$x_{1}$", "\\frac{")), id="mathematics"),
        pytest.param(lambda: quick_scores(tuple(range(150)), n_texts=450, n_bootstrap=0), id="150"),
    ],
)
def test_every_kind_of_scores_makes_a_page(scores, tmp_path):
    page = write_report(scores(), tmp_path / "report.html")
    Page(page.read_text(encoding="utf-8"))
    assert page.stat().st_size < 1_000_000


def test_two_thousand_long_texts_make_a_page_of_bounded_size(tmp_path):
    scores = quick_scores(
        n_texts=2000, texts=[f"{i} {'a long text of words ' * 50}" for i in range(1900)]
    )
    page = write_report(scores, tmp_path / "report.html")
    assert page.stat().st_size < 1_000_000
    assert page.with_suffix(".json").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("report.pdf", ValueError, r"does not end in \.html"),
        ("report", ValueError, r"does not end in \.html"),
        (".", IsADirectoryError, "is a folder; name a file"),
    ],
)
def test_where_no_page_can_be_nothing_is_written(
    scores, tmp_path, monkeypatch, out, error, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        write_report(scores, out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_without_the_libraries_the_extra_is_named(scores, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    for ask in (check_report_extra, lambda: write_report(scores, tmp_path / "report.html")):
        with pytest.raises(ImportError, match=r"pip install '\.\[report\]'"):
            ask()
    assert not list(tmp_path.iterdir())
