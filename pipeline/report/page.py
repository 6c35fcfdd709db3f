"""Write a report as a self-contained HTML page and as JSON."""

import json
import os
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pipeline.files import refuse_folder, where, with_ending, write_text
from pipeline.notebook import block, signed, table_html, words_html
from pipeline.report.sections import report_contents, sections_of
from pipeline.tables import conclusion, number, readable, score_cards, shortened

if TYPE_CHECKING:
    import pandas as pd

_DOCTYPE = "<!DOCTYPE html>"


class ReportPage(type(Path())):  # type: ignore[misc]  # of this system
    """The path of a report, shown as the page in a notebook."""

    def _repr_html_(self) -> str | None:
        try:
            page = self.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        if not page.startswith(_DOCTYPE):
            return None
        # with its own base, so that links do not lead to the notebook's address
        page = page.replace("<head>", '<head><base href="about:srcdoc">', 1)
        what = f'title="{escape(str(self))}" sandbox="allow-same-origin"'
        return block(f'<iframe {what} srcdoc="{escape(page)}"></iframe>')


def write_report(
    scores: Mapping[str, Any],
    out: str | os.PathLike,
    *,
    comparison: "pd.DataFrame | None" = None,
    layers: "pd.DataFrame | None" = None,
    provenance: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> Path | str:
    """Write the scores of a classifier as an HTML page and JSON.

    The page needs no network.

    Parameters
    ----------
    scores : dict
        From `pipeline.evaluate`.
    out : str or Path
        For example ``reports/sentiment.html``, creating missing folders, or an address of fsspec
        such as ``s3://bucket/sentiment.html``. The JSON gets the same name with ``.json``.
    comparison : DataFrame, optional
        From `pipeline.compare`: the model beside the baselines.
    layers : DataFrame, optional
        From `pipeline.layer_study`, or the table written by ``run_pipeline.py layers --out``.
    provenance : mapping, optional
        Origin of the numbers, for example from `pipeline.report.lineage.trace_lineage`.
    title : str, optional
        The heading.

    Returns
    -------
    Path or str
        Path of the page, shown in a notebook; a str for an address. Equal arguments give equal
        files, byte for byte.

    Raises
    ------
    ImportError
        If matplotlib or jinja2 is not installed: ``pip install '.[report]'``.
    TypeError, ValueError
        If an argument is not from these functions, or ``out`` does not end in ``.html``.

    Examples
    --------
    >>> import tempfile
    >>> from pipeline import evaluate, make_sentiment_pipeline
    >>> texts = ["A lovely film.", "A dull film.", "Great fun.", "A bore."]
    >>> model = make_sentiment_pipeline().fit(texts, [1, 0, 1, 0])
    >>> scores = evaluate(model, ["What a lovely evening.", "A dull day."], [1, 0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(scores, f"{folder}/report.html", title="Two texts")
    ...     [page.name, page.with_suffix(".json").name, page.read_text(encoding="utf-8")[:15]]
    ['report.html', 'report.json', '<!DOCTYPE html>']
    """
    check_report_extra()
    page = check_page_name(out)
    contents = report_contents(
        scores, comparison=comparison, layers=layers, provenance=provenance, title=title
    )
    html = render_page(contents)
    plain = json.dumps(contents, indent=1, allow_nan=False) + "\n"
    write_text(with_ending(page, ".json"), plain, named=page)
    write_text(page, html)
    return ReportPage(page) if isinstance(page, Path) else page


def check_page_name(out: str | os.PathLike) -> Path | str:
    """Return the place of the page, if it can be one."""
    page = where(out)
    refuse_folder(page, "report.html")
    if PurePath(page).suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            f"out={str(out)!r} does not end in .html; the report is a page for a browser."
        )
    return page


def check_report_extra() -> None:
    """Raise ImportError if a library of reports is missing."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"A report needs matplotlib and jinja2, and {error.name} is not installed: pip "
            "install '.[report]' in a checkout, or pip install matplotlib jinja2."
        ) from error


def render_page(contents: Mapping[str, Any]) -> str:
    """Return the HTML of report contents."""
    from jinja2 import Environment
    from markupsafe import Markup

    def clean(value: Any) -> Any:  # called on everything that the template inserts
        return (
            readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        )

    environment = Environment(autoescape=True, finalize=clean, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "svg": Markup,  # our own drawings, with words already escaped
        "number": number,
        "shortened": shortened,
        "signed": signed,
        "table": lambda table: Markup(table_html(table)),
        "words": lambda coloured: Markup(words_html(coloured)),
    }
    source = files("pipeline.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(source).render(
        title=contents["title"],
        scores=contents["scores"],
        tiles=score_cards(contents["scores"]),
        conclusion=conclusion(contents["scores"], contents["comparison"]),
        sections=sections_of(contents),
    )
    return f"{html}\n"
