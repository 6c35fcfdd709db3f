"""The site: what `make docs` needs, without building it."""

import ast
import re
from pathlib import Path

import pytest

import pipeline
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
