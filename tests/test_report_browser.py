"""The report in a real browser: nothing is asked for, nothing complained of, every figure seen, on a phone and on a desk."""

import re
import shutil

import pytest

from pipeline import TruncationWarning, write_report
from tests.reporting import HOSTILE, bert_scores, make_comparison, make_study, quick_scores

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
ARGUMENTS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
             "--disable-component-update --disable-sync").split()  # fmt: skip
N_FIGURES = 10
SIZES = {"phone": (375, 800), "desk": (1280, 900)}

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: `make browser` installs Debian's, and tells where it cannot"
)


@pytest.fixture(scope="module")
def report(tiny_bert, tmp_path_factory):
    """Give a report with every section, of hostile texts and plain ones."""
    words = ("lovely", "dull", "cold", "quiet")
    texts = [*HOSTILE, *(f"A {words[i % 4]} film, number {i}, and {'very ' * (i % 5)}long." for i in range(30))]
    labels = [("good", "bad")[i % 2] for i in range(len(texts))]
    by = {"a column of <long> names": [f"value number {i % 3} with a long name" for i in range(len(texts))]}
    with pytest.warns(TruncationWarning):
        scores = bert_scores(tiny_bert, texts, labels, by=by, train=(texts, labels))
    out = tmp_path_factory.mktemp("browser") / "report.html"
    provenance = {"command": "run_pipeline.py report " + "--by column " * 20, "sha256": "f" * 64}
    return write_report(scores, out, comparison=make_comparison(), layers=make_study(), provenance=provenance)


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory):
    """Give a report on twenty classes with long names."""
    scores = quick_scores(tuple(f"{i}, a class with a long name" for i in range(20)), n_texts=200)
    return write_report(scores, tmp_path_factory.mktemp("browser") / "many.html")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is in requirements-dev.txt")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def opened(browser, report):
    """Give a function that opens the report, and see to it that nothing was asked for and nothing complained of."""
    asked, opened, complaints, contexts = [], set(), [], []

    def open_page(size="desk", scheme="light", path=report, **options):
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(path.as_uri())
        opened.add(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert set(asked) == opened
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_every_figure_is_seen_and_nothing_is_wider_than_the_page(opened, size, scheme):
    page = opened(size, scheme)
    width = SIZES[size][0]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    figures = page.locator("figure > svg")
    assert figures.count() == N_FIGURES
    for i in range(figures.count()):
        figure = figures.nth(i)
        assert figure.is_visible()
        box = figure.bounding_box()
        assert box["width"] > 250
        assert box["height"] > 60
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    outside = page.evaluate(
        """() => [...document.querySelectorAll("h1, h2, p, figcaption, blockquote, li, .tiles div, .scroll")]
            .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
            .map(one => one.outerHTML.slice(0, 200))"""
    )
    assert outside == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)"
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("which", ["report", "many_classes"])
def test_letters_in_figures_lie_inside_them_apart_and_large_enough_to_read(opened, size, which, request):
    page = opened(size, path=request.getfixturevalue(which))
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
    found = page.evaluate(
        """() => [...document.querySelectorAll("figure > svg")].map(svg => {
            const frame = svg.getBoundingClientRect();
            const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
            const flat = boxes.filter(([word, box]) => word && box.width);
            return {
                label: svg.getAttribute("aria-label").slice(0, 40),
                small: flat.filter(([, box]) => Math.min(box.height, box.width * 4) < 8).map(([word]) => word),
                out: flat.filter(([, box]) => box.left < frame.left - 1 || box.right > frame.right + 1
                    || box.top < frame.top - 2 || box.bottom > frame.bottom + 2).map(([word]) => word),
                over: flat.flatMap(([word, a], i) => flat.slice(i + 1).filter(([, b]) =>
                    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
                    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4).map(([other]) => word + " / " + other)),
            };
        })"""
    )
    assert len(found) == (N_FIGURES if which == "report" else 6)
    for figure in found:
        assert (figure["small"], figure["out"], figure["over"]) == ([], [], []), figure["label"]


def test_with_the_keyboard_alone_one_reaches_the_report_its_tables_and_its_details(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.tagName"))
        if "Where the numbers come from" in reached:
            break
    assert {"Scores of each class", "Where the numbers come from", "SUMMARY"} <= reached
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None


def test_a_screen_reader_hears_names_of_regions_figures_and_tables(opened):
    page = opened()
    tree = page.locator("body").aria_snapshot()
    assert "- banner" in tree
    assert '- navigation "Sections"' in tree
    assert "- main" in tree
    for name in ("Scores", "Beside the baselines", "Class by class", "At every threshold", "A map of the texts", "Provenance"):
        assert f'- region "{name}"' in tree
    assert len(re.findall(r'img ["\\]+[^"]{20}', tree)) == N_FIGURES
    assert re.findall(r'- table "Scores of each class"', tree)
    assert '- columnheader "Precision"' in tree
    assert '- rowheader "good"' in tree


def test_hostile_texts_run_nothing_and_are_read_as_text(opened):
    page = opened()
    assert page.evaluate("document.scripts.length") == 0
    assert page.locator("img, iframe, object, embed, video").count() == 0
    assert "<script>alert(1)</script>" in page.locator("main").inner_text()


def test_the_printed_page_shows_the_figures_on_white(opened):
    page = opened(scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("figure > svg").first.is_visible()
    assert not page.locator("nav").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_in_forced_colours_and_without_motion_it_is_still_a_page(opened):
    page = opened(size="phone", forced_colors="active", reduced_motion="reduce")
    assert page.locator("figure > svg").first.is_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
