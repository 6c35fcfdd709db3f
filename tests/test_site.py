"""The site: what `make docs` needs, without building it."""

import ast
import re
from pathlib import Path

import pytest

import pipeline
from docs.check_links import broken_links
from pipeline import exceptions

DOCS = Path(__file__).resolve().parent.parent / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
CONF = (DOCS / "conf.py").read_text(encoding="utf-8")


def test_each_public_name_is_in_the_api_reference_once():
    page = (DOCS / "api.rst").read_text(encoding="utf-8")
    listed = re.findall(r"^   (pipeline\.\S+)$", page, re.MULTILINE)
    assert len(listed) == len(set(listed))
    public = {f"pipeline.{name}" for name in pipeline.__all__ if not name.startswith("__")}
    errors = {
        f"pipeline.exceptions.{name}"
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and name not in pipeline.__all__
    }
    assert public | errors <= set(listed)


def test_each_page_is_in_the_contents_of_the_guide():
    contents = (DOCS / "guide.md").read_text(encoding="utf-8")
    listed = [page for line in contents.splitlines() for page in DOCS.glob(f"{line}.*") if line]
    notebooks = DOCS.glob("notebooks/*.ipynb")
    assert {*DOCS.glob("*.md"), *notebooks} - {*listed} == {
        DOCS / f"{page}.md" for page in ("index", "guide", "project")
    }


def test_each_example_has_its_place_in_the_gallery():
    (listed,) = re.findall(r"^EXAMPLES = (\[.*?\])", CONF, re.MULTILINE | re.DOTALL)
    assert sorted(ast.literal_eval(listed)) == [path.name for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_begins_with_a_title_and_compiles(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    title, rule, _, text, *_ = ast.get_docstring(tree).splitlines()
    assert set(rule) == {"="}
    assert len(rule) >= len(title)
    assert text


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "api").mkdir()
    (tmp_path / "api/page.html").write_text('<p id="here"><a href="#here">x</a></p>')
    good = ["api/page.html", "api/page.html#here", "https://example.org/x", "#top", "a%20b.html"]
    bad = ["gone.html", "api/page.html#gone", "file:///home/page.html", "#gone"]
    for name, links in {"good": good, "a b": [*good, *bad]}.items():
        page = "".join(f'<a href="{link}">x</a>' for link in links)
        (tmp_path / f"{name}.html").write_text(page)
    assert [line.split(": ")[1] for line in broken_links(tmp_path)] == sorted(bad)
