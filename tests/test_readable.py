"""User texts made safe to display."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables import columns, readable, shortened

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
