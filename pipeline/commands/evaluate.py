"""evaluate, layers, compare, explain."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    ArtifactPath,
    BertModel,
    ClassWeight,
    Device,
    Encoding,
    Folds,
    GroupColumn,
    Groups,
    ItsLabel,
    ItsText,
    LabelColumn,
    MaxLength,
    Precision,
    Separator,
    TableOut,
    TestData,
    TextColumn,
    TrainingData,
    Trusted,
    columns_by,
    its_columns,
    read_data,
    read_labelled,
    read_lines,
    rows_for,
    split_list,
)
from pipeline.commands.printing import (
    plain_console,
    print_comparison,
    print_cut,
    print_explanations,
    print_scores,
    print_study,
)

_WHY_LOCAL = "figures and word vectors are files here. Name a path, and copy it."
_ROWS = "majority, tfidf, word2vec, static, cls, default, ngrams, layers, finetuned"


def evaluate(
    data: TestData = None,
    text: ItsText = None,
    label: ItsLabel = None,
    model: ArtifactPath = DEFAULT_ARTIFACT,
    trusted: Trusted = None,
    by: Groups = None,
    train_data: Annotated[
        str | None, typer.Option(help="What it was trained on: texts in both files are told.")
    ] = None,
    mistakes: Annotated[int, typer.Option(help="How many of the surest mistakes to print.")] = 0,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Score a saved pipeline on labelled texts it has not seen."""
    from pipeline.evaluation.evaluate import evaluate as score_texts
    from pipeline.saved.artifact import load_pipeline

    text, label = its_columns(model, text, label)
    _, table, text, label = read_labelled(data, text, label, encoding, sep, by=by)
    groups = columns_by(table, by)
    train = None
    fitted = load_pipeline(model, trusted=trusted or ())
    if train_data is not None:
        known = read_data(train_data, [text, label], encoding, sep)
        train = rows_for(fitted, known, text), known[label]
    rows = rows_for(fitted, table, text)
    scores = score_texts(fitted, rows, table[label], by=groups, train=train,
                         n_mistakes=mistakes)  # fmt: skip
    print_scores(Console(), scores, f"{model} on {data or 'the held-out shipped reviews'}")
    # how many tokens is not among the scores
    sizes = {g["value"]: g["n_texts"] for g in scores["slices"].get("by truncation", [])}
    print_cut(plain_console(), {"texts_cut": sizes.get("cut", 0), "n_texts": scores["n_texts"]})


def study_layers(
    data: TrainingData = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    model: BertModel = None,
    pooling: Annotated[
        str, typer.Option(help="Poolings to try: cls, mean, max, or several.")
    ] = "cls,mean,max",
    max_length: MaxLength = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    cv: Folds = 5,
    group_column: GroupColumn = None,
    nested: Annotated[
        bool, typer.Option("--nested", help="Also the honest score of taking the best.")
    ] = False,
    out: TableOut = None,
    figures: Annotated[
        str | None, typer.Option(help="Folder for a heatmap and a bar chart (PNG).")
    ] = None,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Score every layer with every pooling, and combinations of layers."""
    from pipeline.datasets import write_table
    from pipeline.evaluation.layer_study import layer_study
    from pipeline.evaluation.plots import write_figures
    from pipeline.vectorizer import DEFAULT_MODEL, BertVectorizer

    folder = _check_outputs(out, data, figures)
    table, _, text, label = read_labelled(data, text, label, encoding, sep, group=group_column)
    groups = None if group_column is None else table[group_column]
    options: dict[str, Any] = {"max_length": max_length, "device": device, "dtype": dtype}
    vectorizer = BertVectorizer(model or DEFAULT_MODEL, **options)
    poolings = tuple(split_list(pooling))
    combined = "mean" if "mean" in poolings else poolings[0]
    study = layer_study(table[text], table[label], vectorizer=vectorizer, cv=cv, groups=groups,
                        poolings=poolings, nested=nested, combination_pooling=combined,
                        n_jobs=-1)  # fmt: skip
    console = plain_console()
    print_study(console, study)
    if out is not None:
        write_table(study, out)
        console.print(f"Wrote {out}.")
    if folder is not None:
        for path in write_figures(study, folder):
            console.print(f"Wrote {path}.")


def _check_outputs(out: str | None, data: str | None, figures: str | None) -> Path | None:
    """Refuse outputs that cannot be written, and return the folder of figures."""
    from pipeline.datasets import check_output
    from pipeline.evaluation.plots import check_matplotlib
    from pipeline.files import local_path

    folder = None if figures is None else local_path(figures, "folder", _WHY_LOCAL)
    if folder is not None:
        check_matplotlib()
    if out is not None:
        check_output(out, data)
    return folder


def compare_models(
    data: TrainingData = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    test: Annotated[
        bool, typer.Option("--test", help="One split: the held-out reviews, or a fifth of --data.")
    ] = False,
    test_data: Annotated[
        str | None, typer.Option(help="One split: score on this file, with the same columns.")
    ] = None,
    models: Annotated[str | None, typer.Option(help=f"Rows: {_ROWS}; or all.")] = None,
    fine_tuned: Annotated[
        bool, typer.Option("--fine-tuned", help="Also a fine-tuned BERT; takes minutes to hours.")
    ] = False,
    model: BertModel = None,
    max_length: MaxLength = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    truncation: Annotated[
        str, typer.Option(help="head, tail, head_tail, window or error.")
    ] = "head",
    word_vectors: Annotated[
        str | None, typer.Option(help="Word vectors in word2vec's format, instead of training.")
    ] = None,
    cv: Folds = 5,
    group_column: GroupColumn = None,
    scoring: Annotated[
        str, typer.Option(help="What decides the verdict, such as f1_macro or balanced_accuracy.")
    ] = "accuracy",
    class_weight: ClassWeight = None,
    out: TableOut = None,
    figures: Annotated[str | None, typer.Option(help="Folder for a picture (PNG).")] = None,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Score baselines and uses of BERT on the same folds or split, each against TF-IDF."""
    from pipeline.datasets import write_table
    from pipeline.evaluation.baselines import QUICK
    from pipeline.evaluation.compare import compare
    from pipeline.evaluation.plots import write_comparison
    from pipeline.files import local_path
    from pipeline.sentiment import make_sentiment_pipeline
    from pipeline.vectorizer import DEFAULT_MODEL

    vectors = None if word_vectors is None else local_path(word_vectors, "file", _WHY_LOCAL)
    if test and test_data is not None:
        raise ValueError("Give --test or --test-data, not both.")
    folder = _check_outputs(out, data, figures)
    train_set, test_set, text, label = read_labelled(
        data, text, label, encoding, sep, group=group_column, split=test
    )
    groups = None if group_column is None else train_set[group_column]
    if test_data is not None:
        test_set = read_data(test_data, [text, label], encoding, sep)
    rows: Any = models if models in (None, "all") else split_list(str(models))
    if fine_tuned and rows != "all" and "finetuned" not in (rows or []):
        rows = [*(rows or QUICK), "finetuned"]
    default = make_sentiment_pipeline(
        class_weight=class_weight, model=model or DEFAULT_MODEL, max_length=max_length,
        truncation=truncation, device=device, dtype=dtype,
    )  # fmt: skip
    options: dict[str, Any] = {"vectorizer": default[0]}
    if class_weight is not None:
        options["model"] = default
        rows = rows or [name for name in QUICK if name != "word2vec"]
    held_out = (test_set[text], test_set[label]) if test or test_data is not None else None
    table = compare(train_set[text], train_set[label], models=rows, test=held_out, cv=cv,
                    groups=groups, scoring=scoring, word_vectors=vectors, n_jobs=-1,
                    **options)  # fmt: skip
    console = plain_console()
    how = (
        f"{table.attrs['n_folds']}-fold cross-validation"
        if held_out is None
        else f"{len(test_set)} held-out texts"
    )
    title = f"{data or 'the shipped reviews'}: {how}, {len(train_set)} texts to train on"
    print_comparison(console, table, title)
    if out is not None:
        write_table(table.rename_axis("name").reset_index(), out)
        console.print(f"Wrote {out}.")
    if folder is not None:
        console.print(f"Wrote {write_comparison(table, folder)}.")


def explain(
    text: Annotated[
        list[str] | None, typer.Option(help="A text to explain; may be given several times.")
    ] = None,
    model: ArtifactPath = DEFAULT_ARTIFACT,
    trusted: Trusted = None,
    level: Annotated[str, typer.Option(help="word or token.")] = "word",
    method: Annotated[
        str, typer.Option(help="auto, exact (a sum over tokens) or occlusion (each word left out).")
    ] = "auto",
) -> None:
    """Show which words made a prediction, of texts or of the lines of standard input."""
    from pipeline import explanation
    from pipeline.answers import gives_several, several_labels
    from pipeline.columns import from_texts
    from pipeline.saved.artifact import load_pipeline

    if not text and sys.stdin.isatty():
        raise ValueError('Nothing to explain: give --text "...", or pipe lines to standard input.')
    texts = list(text) if text else read_lines(sys.stdin)
    fitted = load_pipeline(model, trusted=trusted or ())
    only = "--text gives texts alone: call pipeline.explain with a DataFrame"
    X = from_texts(fitted, texts, only)
    if texts and gives_several(fitted, X[:1]):
        raise several_labels(fitted)
    options: Any = {"level": level, "method": method, "against": "runner-up"}
    frames = explanation.explain(fitted, texts, **options)
    print_explanations(Console(), texts, frames, fitted.predict(X) if texts else [])
