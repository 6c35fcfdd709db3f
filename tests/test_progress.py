"""Progress: rows, speed and time left, for those who look."""

import io

import pytest

from pipeline.scoring.driver import Progress


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("shown", "stream", "visible"),
    [
        (None, Terminal, True),
        (None, io.StringIO, False),
        (True, io.StringIO, True),
        (False, Terminal, False),
    ],
)
def test_it_is_shown_where_somebody_looks_or_asks(shown, stream, visible, monkeypatch):
    err = stream()
    monkeypatch.setattr("sys.stderr", err)
    with Progress(shown) as progress:
        progress.scored(5, 10)
    assert ("rows" in err.getvalue()) == visible


def test_rows_of_an_earlier_run_count_for_the_place_and_not_for_the_speed(monkeypatch):
    err = Terminal()
    monkeypatch.setattr("sys.stderr", err)
    with Progress(None) as progress:
        progress.skipped(900_000)
        progress.scored(10, 1_000_000)
        progress._bar.refresh()
        told = progress._bar.format_dict
    assert (told["n"], told["initial"], told["total"]) == (900_010, 900_000, 1_000_000)
    assert (progress.n_scored, progress.n_skipped) == (10, 900_000)
    assert "900010/1000000" in err.getvalue()
    assert progress.seconds > 0
