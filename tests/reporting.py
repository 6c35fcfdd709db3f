"""Shared by tests of the report: scores, hostile texts, a reader of HTML."""

import warnings
from html.parser import HTMLParser

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, evaluate
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.exceptions import LeakWarning

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "\"><svg onload=alert(3)> ' & &lt; {{ 7 * 7 }} {% raw %}",
    "שלום עולם \u202egnirts desrever مرحبا",
    "nul\x00 bell\x07 escape\x1b[31m lone \ud800 \ufffe",
    "👩\u200d👩\u200d👧 東京は楽しい $x_1^2$ \\frac{1}{2}",
    "a" * 100_000,
    "word " * 20_000,
    "",
    "http://example.org/pixel.png url(http://example.org/x)",
)
VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}


def quick_scores(classes=("negative", "positive"), n_texts=60, texts=(), **options):
    """Evaluate TF-IDF on made-up texts, with the given ones among them."""
    words = [f"word{i}" for i in range(len(classes))]
    made = [
        f"some {words[(i + (i % 7 == 0)) % len(classes)]} text {i % 5}{' more' * (i % 9)}"
        for i in range(max(n_texts, 3 * len(classes)))
    ]
    labels = [classes[i % len(classes)] for i in range(len(made))]
    model = make_tfidf_baseline().fit(made, labels)
    scored = ([*texts, *made])[:n_texts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakWarning)  # they are trained on
        return evaluate(
            model,
            scored,
            labels[: len(scored)],
            **{"n_bootstrap": 20, "train": (made, labels), **options},
        )


def bert_scores(folder, texts, labels, **options):
    """Evaluate a tiny explainable pipeline, with two labels swapped."""
    vectorizer = BertVectorizer(folder, on_invalid="coerce")
    model = make_pipeline(vectorizer, LogisticRegression(C=1000, max_iter=10_000)).fit(
        texts, labels
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakWarning)  # they are trained on
        return evaluate(
            model, texts, [*labels[:-2], labels[-1], labels[-2]], **{"n_bootstrap": 20, **options}
        )


def make_study():
    """Make a layer study as `layer_study` returns it, and as its CSV file would not lose it."""
    rows = [
        ("layer", f"layer {i}", pooling, 0.5 + 0.05 * i + shift, 0.02)
        for pooling, shift in (("cls", 0.0), ("mean", 0.1))
        for i in range(3)
    ]
    rows.append(("combination", "concat of all", "mean", 0.66, 0.01))
    columns = ["kind", "features", "pooling", "score", "score_sd"]
    study = pd.DataFrame(rows, columns=columns).assign(dimension=32, C=0.1)
    study.attrs = {
        "scoring": "accuracy",
        "n_folds": 5,
        "n_texts": 100,
        "majority": 0.5,
        "nested": {"score": 0.65, "score_sd": 0.03},
    }
    return study


def make_comparison():
    """Make what a comparison holds at its fullest."""
    return pd.DataFrame(
        {
            "accuracy": [0.5, 0.7, 0.8],
            "accuracy_sd": [0.0, 0.02, 0.03],
            "macro_f1": [0.33, 0.7, 0.8],
            "fit_seconds": [0.001, 2.0, 1234.5],
            "predict_seconds": [0.01, 0.2, 3.25],
            "artifact_mb": [0.01, 1.5, 91.3],
            "difference": [-0.2, float("nan"), 0.1],
            "difference_low": [-0.25, float("nan"), 0.05],
            "difference_high": [-0.15, float("nan"), 0.15],
            "verdict": ["worse", "", "better"],
        },
        index=["majority", "TF-IDF + LogisticRegression", "frozen BERT + LogisticRegression"],
    )


class Page(HTMLParser):
    """Elements, attributes and text of a page in which every element is closed."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]
