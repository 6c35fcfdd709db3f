"""The report in a real browser, on a phone and on a desk."""

import os
import re
import shutil
from pathlib import Path

import pytest
from matplotlib.font_manager import findSystemFonts

from pipeline import TruncationWarning, write_report
from tests.reporting import HOSTILE, bert_scores, make_comparison, make_study, quick_scores

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update",
             "--disable-sync")  # fmt: skip
N_FIGURES = 11
SIZES = {"phone": (375, 800), "desk": (1280, 900)}
# A browser that sees the fonts of one folder only takes its sans-serif from them.
FONTS = {
    "DejaVu": r"DejaVuSans\.ttf",
    "Liberation": r"LiberationSans-Regular\.ttf",
    "Noto": r"NotoSans(-Regular|\[.*\])\.ttf",
}
FONTS_CONF = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{seen}</dir><cachedir>{cache}</cachedir>
<include ignore_missing="yes">conf.d</include></fontconfig>"""
# What the letters cover, without the space around them, which differs between fonts.
INK = """text => {
    const style = getComputedStyle(text), size = parseFloat(style.fontSize);
    const place = text.getScreenCTM(), base = text.getStartPositionOfChar(0).y;
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = `${style.fontWeight} 100px ${style.fontFamily}`;
    const ink = pen.measureText(text.textContent), box = text.getBBox();
    const ys = [-ink.actualBoundingBoxAscent, ink.actualBoundingBoxDescent];
    const corners = [box.x, box.x + box.width].flatMap(x =>
        ys.map(y => new DOMPoint(x, base + y * size / 100).matrixTransform(place)));
    const across = corners.map(corner => corner.x), down = corners.map(corner => corner.y);
    return {word: text.textContent, size: size * Math.hypot(place.a, place.b),
        left: Math.min(...across), right: Math.max(...across),
        top: Math.min(...down), bottom: Math.max(...down)};
}"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium on this machine: `make browser` installs Debian's",
)


@pytest.fixture(scope="module")
def report(tiny_bert, tmp_path_factory):
    """Give a report with every section, of hostile texts and plain ones."""
    words = ("lovely", "dull", "cold", "quiet")
    texts = [
        *HOSTILE,
        *(f"A {words[i % 4]} film, number {i}, and {'very ' * (i % 5)}long." for i in range(30)),
    ]
    labels = [("good", "bad")[i % 2] for i in range(len(texts))]
    by = {
        "a column of <long> names": [
            f"value number {i % 3} with a long name" for i in range(len(texts))
        ]
    }
    with pytest.warns(TruncationWarning):
        scores = bert_scores(tiny_bert, texts, labels, by=by, train=(texts, labels))
    out = tmp_path_factory.mktemp("browser") / "report.html"
    provenance = {"command": "run_pipeline.py report " + "--by column " * 20, "sha256": "f" * 64}
    return write_report(
        scores, out, comparison=make_comparison(), layers=make_study(), provenance=provenance
    )


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """Give a report on twenty classes with long names, and wide letters in half of them."""
    names = tuple(
        f"{i}, {('a class with a long name', 'WWW, A CLASS IN CAPITALS')[i % 2]}" for i in range(20)
    )
    return write_report(
        quick_scores(names, n_texts=200), tmp_path_factory.mktemp("browser") / "twenty.html"
    )


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """Give a report on as many classes as a matrix is drawn of."""
    scores = quick_scores(tuple(f"people {i} by quality" for i in range(40)), n_texts=200)
    return write_report(scores, tmp_path_factory.mktemp("browser") / "forty.html")


@pytest.fixture(scope="module")
def launch():
    """Give a function that starts a browser, and end all of them."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; it is in requirements-dev.txt"
    )
    with playwright.sync_playwright() as driver:
        started = []

        def start(**environment):
            browser = driver.chromium.launch(
                executable_path=CHROMIUM, args=ARGUMENTS, env={**os.environ, **environment}
            )
            started.append(browser)
            return browser

        yield start
        for browser in started:
            browser.close()


@pytest.fixture(scope="module")
def browser(launch):
    """Give a browser that sees the system's fonts."""
    browser = launch()
    page = browser.new_page()
    page.set_content("<span>letters</span>")
    if not page.locator("span").bounding_box()["width"]:
        pytest.skip("no font on this machine: Chromium shows no letter of any page")
    page.close()
    return browser


@pytest.fixture(scope="module", params=FONTS)
def browser_with(request, launch, tmp_path_factory):
    """Give a name of fonts, and a browser that sees no others."""
    found = [
        Path(path)
        for path in findSystemFonts()
        if re.fullmatch(FONTS[request.param], Path(path).name)
    ]
    if not found:
        pytest.skip(
            f"no fonts {request.param} here; Debian has fonts-dejavu-core, fonts-liberation and "
            "fonts-noto-core"
        )
    folder = tmp_path_factory.mktemp("fonts")
    conf = folder / "fonts.conf"
    conf.write_text(FONTS_CONF.format(seen=found[0].parent, cache=folder), encoding="utf-8")
    return request.param, launch(FONTCONFIG_FILE=str(conf))


@pytest.fixture
def opened(browser, report):
    """Give a function that opens the report, then check for requests and complaints."""
    asked, opened, complaints, contexts = [], set(), [], []

    def open_page(size="desk", scheme="light", path=report, browser=browser, **options):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, **options
        )
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
        """() => [...document.querySelectorAll(
            "h1, h2, p, figcaption, blockquote, li, .tiles div, .scroll")]
            .filter(element => element.getBoundingClientRect().right
                > document.documentElement.clientWidth + 1)
            .map(element => element.outerHTML.slice(0, 200))"""
    )
    assert outside == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)"
    )


THEMES = [  # attributes of a notebook's body, the scheme of the system, whether it is dark
    ('data-jp-theme-light="true"', "dark", False),
    ('data-jp-theme-light="false"', "light", True),
    ('class="vscode-dark"', "light", True),
    ('class="vscode-high-contrast"', "light", True),
    ('class="vscode-light"', "dark", False),
    ('class="vscode-high-contrast vscode-high-contrast-light"', "dark", False),
    ("", "dark", True),
    ("", "light", False),
]


@pytest.mark.parametrize(("body", "scheme", "dark"), THEMES)
def test_a_notebook_shows_all_in_its_own_theme(opened, report, tmp_path, body, scheme, dark):
    shown = quick_scores()._repr_html_() + report._repr_html_()
    page = tmp_path / "notebook.html"
    own = "<p id=own>text</p><table id=table><tr><td>1</td></tr></table>"
    page.write_text(f"<!DOCTYPE html><body {body}>{own}{shown}</body>", encoding="utf-8")
    notebook = opened("desk", scheme, page, reduced_motion="reduce")
    colours = notebook.evaluate("""() => {
        const box = getComputedStyle(document.querySelector(".bert-vectorizer"));
        const cell = getComputedStyle(document.querySelector(".bert-vectorizer td"));
        return [box.backgroundColor, box.color, cell.color];
    }""")
    light = ["rgb(255, 255, 255)", "rgb(27, 31, 36)", "rgb(27, 31, 36)"]
    assert colours == (
        ["rgb(20, 23, 26)", "rgb(230, 233, 236)", "rgb(230, 233, 236)"] if dark else light
    )
    assert notebook.evaluate("getComputedStyle(own).color") == "rgb(0, 0, 0)"
    assert notebook.evaluate("getComputedStyle(table).borderCollapse") == "separate"
    assert notebook.evaluate("document.documentElement.scrollWidth") == SIZES["desk"][0]
    frame = notebook.query_selector("iframe").content_frame()
    frame.click("nav a >> nth=2")
    assert frame.evaluate("scrollY") > 100  # the link leads down this page
    assert frame.url.startswith("about:srcdoc#")


def misplaced_letters(page):
    """Return words in figures that are too small, cut off or over another word."""
    return page.evaluate(
        f"""() => [...document.querySelectorAll("figure > svg")].map(svg => {{
            const frame = svg.getBoundingClientRect();
            const words = [...svg.querySelectorAll("text")]
                .filter(text => text.textContent.trim()).map({INK});
            return {{
                label: svg.getAttribute("aria-label").slice(0, 40),
                small: words.filter(a => a.size < 6.8).map(a => a.word),
                out: words.filter(a => a.left < frame.left - 1 || a.right > frame.right + 1
                    || a.top < frame.top - 1 || a.bottom > frame.bottom + 1).map(a => a.word),
                over: words.flatMap((a, i) => words.slice(i + 1).filter(b =>
                    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
                    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
                    .map(b => a.word + " / " + b.word)),
            }};
        }}).filter(figure => figure.small.length || figure.out.length || figure.over.length)"""
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("which", ["report", "twenty", "forty"])
def test_letters_in_figures_lie_inside_them_apart_and_large_enough_to_read(
    opened, size, which, request
):
    page = opened(size, path=request.getfixturevalue(which))
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
    assert page.locator("figure > svg").count() == (N_FIGURES if which == "report" else 6)
    assert misplaced_letters(page) == []


@pytest.mark.parametrize("which", ["report", "twenty", "forty"])
def test_with_other_fonts_the_letters_lie_right_too_and_are_no_typewriters(
    opened, browser_with, which, request
):
    name, browser = browser_with
    page = opened("phone", path=request.getfixturevalue(which), browser=browser)
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES["phone"][0]
    assert misplaced_letters(page) == []
    devtools = page.context.new_cdp_session(page)
    devtools.send("DOM.enable")
    devtools.send("CSS.enable")
    root = devtools.send("DOM.getDocument")["root"]["nodeId"]
    heading = devtools.send("DOM.querySelector", {"nodeId": root, "selector": "h1"})["nodeId"]
    used = devtools.send("CSS.getPlatformFontsForNode", {"nodeId": heading})["fonts"]
    assert [font["familyName"] for font in used] == [f"{name} Sans"]


def test_with_the_keyboard_alone_one_reaches_the_report_its_tables_and_its_details(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.ariaLabel || document.activeElement.tagName")
        )
        if "The models on the same texts" in reached:
            break
    assert {"Scores of each class", "The models on the same texts", "SUMMARY"} <= reached
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None


def test_a_screen_reader_hears_names_of_regions_figures_and_tables(opened):
    page = opened()
    tree = page.locator("body").aria_snapshot()
    assert "- banner" in tree
    assert '- navigation "Sections"' in tree
    assert "- main" in tree
    for name in (
        "All scores",
        "Beside the baselines",
        "Class by class",
        "At every threshold",
        "A map of the texts",
        "Provenance",
    ):
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
