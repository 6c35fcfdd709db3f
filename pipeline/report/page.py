"""Write a report as a self-contained HTML page and as JSON."""

import json
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pipeline.files import refuse_folder, where, with_ending, write_text
from pipeline.report.readable import readable, shortened
from pipeline.report.sections import conclusion, report_contents, sections_of
from pipeline.report.tables import number, score_names

if TYPE_CHECKING:
    import pandas as pd

_ON_TOP = (
    *("accuracy", "micro_f1", "macro_f1", "roc_auc"),
    *("log_loss", "calibration_error", "hamming_loss"),
)


def write_report(
    scores: Mapping[str, Any],
    out: str | os.PathLike,
    *,
    comparison: "pd.DataFrame | None" = None,
    layers: "pd.DataFrame | None" = None,
    provenance: Mapping[str, Any] | None = None,
    title: str | None = None,
) -> Path | str:
    """Write the scores of a classifier as one HTML page, and as JSON beside it.

    The page needs no network.

    Parameters
    ----------
    scores : dict
        From `pipeline.evaluate`.
    out : str or Path
        Such as ``reports/sentiment.html``; missing folders are created. Or an address of fsspec
        such as ``s3://bucket/sentiment.html``. The JSON gets the same name with ``.json``.
    comparison : DataFrame, optional
        From `pipeline.compare`: the model beside the baselines.
    layers : DataFrame, optional
        From `pipeline.layer_study`, or the table that ``run_pipeline.py layers --out`` wrote.
    provenance : mapping, optional
        Where the numbers come from, such as `pipeline.report.lineage.trace_lineage` returns.
    title : str, optional
        The heading.

    Returns
    -------
    Path or str
        Path or address of the page. Equal arguments give equal files, byte for byte.

    Raises
    ------
    ImportError
        If matplotlib or jinja2 is not installed; both come with
        ``pip install 'bert-vectorizer[report]'``.
    TypeError, ValueError
        If an argument is not what these functions return, or ``out`` does not end in ``.html``.

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
    return page


def check_page_name(out: str | os.PathLike) -> Path | str:
    """Return where the page goes, and refuse names that cannot be a page."""
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
            f"A report needs matplotlib and jinja2, and {error.name} is not installed. Install "
            "them by pip install 'bert-vectorizer[report]', or by pip install matplotlib jinja2."
        ) from error


def render_page(contents: Mapping[str, Any]) -> str:
    """Return the HTML of report contents."""
    from jinja2 import Environment
    from markupsafe import Markup

    def breakable(name: str) -> Markup:  # in a narrow cell: after _, before a capital
        parts = Markup("<wbr>").join(re.split("(?<=_)|(?<=[a-z])(?=[A-Z])", readable(name)))
        return parts.replace("TF-IDF", Markup('<span class="short">TF-IDF</span>'))

    def clean(value: Any) -> Any:  # called on everything that the template inserts
        return (
            readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        )

    environment = Environment(autoescape=True, finalize=clean, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "svg": Markup,  # our own drawings, in which the words are escaped already
        "number": number,
        "breakable": breakable,
        "shortened": shortened,
    }
    scores, names = contents["scores"], score_names(contents["scores"])
    tiles = {name: names[name][0] for name in _ON_TOP if scores.get(name) is not None}
    source = files("pipeline.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(source).render(
        title=contents["title"],
        scores=contents["scores"],
        tiles=dict(list(tiles.items())[:5]),
        conclusion=conclusion(contents),
        sections=sections_of(contents),
    )
    return f"{html}\n"
