"""The README: its blocks run and print what it says, its files and commands exist."""

import re
from pathlib import Path

import pytest

from tests.markdown import run_page

TOP = Path(__file__).resolve().parent.parent
README = (TOP / "README.md").read_text(encoding="utf-8")


def test_every_block_prints_what_stands_below_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = run_page(TOP / "README.md")
    assert results
    for code, printed, shown in results:
        assert printed == (shown or ""), f"\n{code}\nprinted\n{printed}"


@pytest.mark.parametrize("page", ["README.md", "README.ko.md", "docs/bert-features.ko.md"])
def test_every_file_a_page_links_to_is_there(page):
    path = TOP / page
    links = re.findall(r"\]\((?!http)([^)#]+)", path.read_text(encoding="utf-8"))
    assert len(links) > 5
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("target", ["run", "test"])
def test_its_make_commands_are_targets(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (TOP / "Makefile").read_text(), re.MULTILINE)


def test_it_names_the_pinned_torch():
    pin = re.search(r"^torch==\S+", (TOP / "requirements.txt").read_text(), re.MULTILINE)
    assert pin is not None
    assert f"pip install {pin[0]}" in README
