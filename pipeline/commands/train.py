"""train: a table becomes a saved pipeline, compared, scored and reported on."""

import sys
from pathlib import PurePath
from typing import Annotated

import typer
from rich.console import Console

from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    Encoding,
    Separator,
    parse_layers,
    read_data,
    split_names,
)
from pipeline.commands.predict import label_texts
from pipeline.commands.printing import print_comparison, print_scores
from pipeline.commands.report import lacks_for_report, write_page

EXAMPLES = (
    "A quiet, lovely film that stayed with me for days.",
    "Two hours of my life I want back.",
    "The food was cold and nobody cared.",
)


def train(
    data: Annotated[
        str | None, typer.Option(help="CSV or Parquet file; the shipped reviews by default.")
    ] = None,
    text: Annotated[str, typer.Option(help="Its text column.")] = "text",
    label: Annotated[str, typer.Option(help="Its label column.")] = "label",
    model: Annotated[str | None, typer.Option(help="BERT model: hub id or folder.")] = None,
    pooling: Annotated[
        str | None, typer.Option(help="cls, mean, max, pooler, or several: cls,mean.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="A layer (-1), several (-4,-3,-2,-1) or all.")
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option(help="concat, mean, sum or learned (a weighted sum) of the layers."),
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens per text.")] = None,
    truncation: Annotated[
        str | None, typer.Option(help="head, tail, head_tail, window or error.")
    ] = None,
    out: Annotated[
        str, typer.Option(help="Where the trained pipeline is written.")
    ] = DEFAULT_ARTIFACT,
    cv: Annotated[int, typer.Option(help="Folds of the comparison; 0 leaves it out.")] = 5,
    report: Annotated[
        bool, typer.Option(help="A page about the pipeline beside it (.html, and .json).")
    ] = True,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Train on a table, save, compare with TF-IDF on the same folds, score on held-out texts, report, and try the saved file."""
    from sklearn.model_selection import StratifiedKFold

    from pipeline.datasets import load_reviews, split_table
    from pipeline.evaluation.compare import compare
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.files import check_writable, file_size, refuse_folder, where, with_ending
    from pipeline.saved.artifact import load_pipeline, record_scores, save_pipeline
    from pipeline.sentiment import make_sentiment_pipeline

    console = Console(soft_wrap=True, markup=False, highlight=False)
    place = where(out)
    refuse_folder(place, "sentiment.joblib")
    if report and PurePath(place).suffix in (".html", ".json"):
        raise ValueError(
            f"--out {out}: the report beside it would get this name; use another ending, or --no-report."
        )
    check_writable(place)
    lacking = lacks_for_report() if report else None
    reported = report and lacking is None
    if data is None:
        train_set, test_set = load_reviews()
        text, label = "text", "label"
    else:
        train_set, test_set = split_table(read_data(data, [text, label], encoding, sep), label)
    if cv:  # refuses what the comparison would refuse, before anything is trained
        next(StratifiedKFold(cv).split(train_set[text], train_set[label]))
    asked = {"model": model, "pooling": split_names(pooling), "layers": parse_layers(layers), "combine": combine,
             "max_length": max_length, "truncation": truncation}  # fmt: skip
    candidate = make_sentiment_pipeline(
        **{name: value for name, value in asked.items() if value is not None},
        progress=sys.stderr.isatty(),
    )
    console.print(
        f"{len(train_set)} texts to train on, {len(test_set)} held out ({data or 'the shipped reviews'})."
    )
    candidate.fit(train_set[text], train_set[label])
    path = save_pipeline(candidate.set_params(bertvectorizer__progress=False), out)
    console.print(
        f"Saved {path} ({file_size(str(path)) / 1e6:.0f} MB)."
    )  # first: whatever fails below, the model is there
    table = (
        compare(train_set[text], train_set[label], model=candidate, cv=cv, n_timed=0)
        if cv
        else None
    )
    if table is not None:
        print_comparison(console, table, f"{cv}-fold cross-validation on the training texts")
    candidate.set_params(bertvectorizer__progress=sys.stderr.isatty())
    if reported:
        by = (
            test_set[[name for name in ("domain", "trait") if name in test_set]]
            if data is None
            else None
        )
        scores = evaluate(
            candidate,
            test_set[text],
            test_set[label],
            by=by,
            train=(train_set[text], train_set[label]),
        )
    else:
        scores = evaluate(
            candidate, test_set[text], test_set[label], n_mistakes=0, n_examples=0, n_map=0
        )
    print_scores(console, {**scores, "slices": {}, "mistakes": []}, "On the held-out texts")
    record_scores(
        path,
        {
            "held out": {
                name: value for name, value in scores.items() if isinstance(value, int | float)
            }
        },
    )
    if reported:
        origin = where(data) if data else "the shipped reviews"
        tables = {"held_out_texts": (origin, test_set), "training_texts": (origin, train_set)}
        write_page(
            console, scores, with_ending(place, ".html"), candidate, path, tables, comparison=table
        )
    elif lacking:
        console.print(lacking)
    console.print(f"{path}, loaded again, says:")
    label_texts(console, load_pipeline(path), list(EXAMPLES))
