"""Ten explanations of held-out reviews, coloured, as docs/figures/explained_{light,dark}.svg.

    python -m benchmarks.explained

Six say why a stack of BERT and n-grams calls a review positive or negative, four why BERT takes it
to be of one domain rather than of another.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.ensemble import StackingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import explain, load_reviews, make_sentiment_pipeline
from pipeline.notebook import coloured_pieces
from pipeline.tables import strongest

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "figures"
COLUMNS, WIDTH, LINE = 96, 8.4, 21  # characters of a line, pixels of one, pixels between lines
THEMES = {
    "light": ("#ffffff", "#1b1f24", "#57606a", "31 95 168", "200 100 10"),
    "dark": ("#14171a", "#e6e9ec", "#a2abb5", "110 168 232", "240 163 90"),
}


def explained() -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield what is asked, the text and its explanation."""
    train, test = load_reviews()
    ngrams = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    parts = [
        ("bert", make_sentiment_pipeline()),
        ("ngrams", make_pipeline(ngrams, LogisticRegression())),
    ]
    stack = StackingClassifier(parts, LogisticRegression(), stack_method="decision_function")
    questions: list[tuple[str, Any, int, dict[str, Any]]] = [
        ("label", stack, 6, {}),
        ("domain", make_sentiment_pipeline(), 4, {"against": "runner-up"}),
    ]
    for label, model, n, options in questions:
        model.fit(train["text"].tolist(), train[label])
        chosen = test.sample(n, random_state=n)
        for true, text, frame in zip(
            chosen[label],
            chosen["text"],
            explain(model, chosen["text"].tolist(), **options),
            strict=True,
        ):
            other, name = frame.attrs["classes"]
            if frame.attrs["decision"] < 0:
                other, name = name, other
                for column in ("contribution", *frame.attrs.get("parts", [])):
                    frame[column] = -frame[column]
            wrong = "" if name == true else f" (it is {true})"
            yield f"{name}, not {other}{wrong}", text, frame


def drawn(theme: str, texts: list[tuple[str, str, pd.DataFrame]]) -> str:
    """Return all texts as one SVG."""
    page, ink, muted, for_, against = THEMES[theme]
    lines, at = [], 10

    def write(column: int, text: str, style: str) -> None:
        length = f'textLength="{len(text) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
        lines.append(
            f'<text x="{16 + column * WIDTH:.1f}" y="{at}" {length} {style}>{escape(text)}</text>'
        )

    for heading, text, frame in texts:
        at += LINE + 12
        write(0, heading, f'fill="{ink}" font-weight="bold"')
        at, column = at + LINE, 0
        words = frame.to_dict("records")
        pieces: list[dict[str, Any]] = coloured_pieces(text, words)["pieces"]
        for piece in pieces:
            word = piece["text"]
            if column + len(word) > COLUMNS:
                at, column = at + LINE, 0
                word = word.lstrip()
            if piece["contribution"] is not None:
                colour = for_ if piece["contribution"] > 0 else against
                place = (
                    f'x="{15 + column * WIDTH:.1f}" y="{at - 14}" width="{len(word) * WIDTH + 2}"'
                )
                lines.append(
                    f'<rect {place} height="18" rx="2" fill="rgb({",".join(colour.split())})" '
                    f'fill-opacity="{piece["strength"] * 0.55:.2f}"/>'
                )
            if word.strip():
                write(column, word, f'fill="{ink}"')
            column += len(word)
        at += LINE
        told = [f"{one['word']} {one['contribution']:+.2f}" for one in strongest(words, 5)]
        sums = [f"{part} {frame[part].sum():+.2f}" for part in frame.attrs.get("parts", [])]
        write(0, "; ".join(filter(None, [", ".join(told), ", ".join(sums)])), f'fill="{muted}"')
    size = f'width="{COLUMNS * WIDTH + 32:.0f}" height="{at + 16}"'
    font = 'font-family="ui-monospace, Menlo, DejaVu Sans Mono, monospace" font-size="14"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font} xml:space="preserve">\n'
        f'<rect width="100%" height="100%" fill="{page}"/>\n' + "\n".join(lines) + "\n</svg>\n"
    )


def main() -> None:
    """Write the two figures."""
    texts = list(explained())
    for theme in THEMES:
        path = FIGURES / f"explained_{theme}.svg"
        path.write_text(drawn(theme, texts), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
