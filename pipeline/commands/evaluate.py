"""Commands evaluate, layers, compare and explain."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    ArtifactPath,
    CacheFolder,
    Encoder,
    Folds,
    GroupColumn,
    Groups,
    Missing,
    OwnTestData,
    Seed,
    Table,
    TableOut,
    TestData,
    Threads,
    TrainingData,
    Trust,
    in_file,
    limit_threads,
    rows_for,
    split_list,
    texts_to_answer,
    with_cache,
    with_groups,
)
from pipeline.commands.printing import (
    plain_console,
    print_comparison,
    print_cut,
    print_explanations,
    print_scores,
    print_study,
)
from pipeline.commands.train import Head

_WHY_LOCAL = "figures and word vectors are local files. Name a path, and copy it there."
_ROWS = "majority, tfidf, word2vec, static, cls, default, ngrams, layers, finetuned"


@with_groups
def evaluate(
    *,
    data: TestData = None,
    table: Table,
    pipeline: ArtifactPath = DEFAULT_ARTIFACT,
    trust: Trust,
    by: Groups = None,
    train_data: Annotated[
        str | None, typer.Option(help="The training data; texts in both files are reported.")
    ] = None,
    mistakes: Annotated[int, typer.Option(help="Number of the surest mistakes to print.")] = 0,
    cache: CacheFolder = None,
    threads: Threads = None,
    seed: Seed = 0,
) -> None:
    """Score a saved pipeline on labelled texts that it has not seen."""
    limit_threads(threads)
    from pipeline.evaluation.evaluate import evaluate as score_texts
    from pipeline.saved.artifact import load_pipeline

    table = table.of_pipeline(pipeline)
    tested = table.read(data, by, held_out=True)
    fitted = with_cache(load_pipeline(pipeline, **trust.options()), cache)
    tested = table.known(tested, fitted.classes_)
    train = None
    if train_data is not None:
        known = table.known(table.read(train_data), fitted.classes_)
        train = rows_for(fitted, known), known.labels
    scores = score_texts(fitted, rows_for(fitted, tested), tested.labels,
                         by=tested.table[by] if by else None, train=train, n_mistakes=mistakes,
                         random_state=seed)  # fmt: skip
    scores = in_file(scores, tested)
    print_scores(Console(), scores, f"{pipeline} on {data or 'the held-out shipped reviews'}")
    sizes = {g["value"]: g["n_texts"] for g in scores["slices"].get("by truncation", [])}
    print_cut(plain_console(), {"texts_cut": sizes.get("cut", 0), "n_texts": scores["n_texts"]})


@with_groups
def study_layers(
    *,
    data: TrainingData = None,
    table: Table,
    group_column: GroupColumn = None,
    encoder: Encoder,
    pooling: Annotated[
        str, typer.Option(help="Poolings to try: cls, mean, max, or several of them.")
    ] = "cls,mean,max",
    cv: Folds = 5,
    seed: Seed = 0,
    nested: Annotated[
        bool, typer.Option("--nested", help="Add the unbiased score of picking the best.")
    ] = False,
    out: TableOut = None,
    figures: Annotated[
        str | None, typer.Option(help="Folder for a heatmap and a bar chart (PNG).")
    ] = None,
) -> None:
    """Score every layer with every pooling, and combinations of layers."""
    options = encoder.options()
    from pipeline.datasets import write_table
    from pipeline.evaluation.layer_study import layer_study
    from pipeline.evaluation.plots import write_figures
    from pipeline.vectorizer import BertVectorizer

    folder = _check_outputs(out, data, figures)
    rows = table.learn(data, cv, group_column)
    groups = None if group_column is None else rows.table[group_column]
    vectorizer = BertVectorizer(**options)
    poolings = tuple(split_list(pooling))
    combined = "mean" if "mean" in poolings else poolings[0]
    study = layer_study(rows.texts, rows.labels, vectorizer=vectorizer, cv=cv, groups=groups,
                        poolings=poolings, nested=nested, combination_pooling=combined,
                        random_state=seed, n_jobs=-1)  # fmt: skip
    console = plain_console()
    print_study(console, study)
    if out is not None:
        write_table(study, out)
        console.print(f"Wrote {out}.")
    if folder is not None:
        for path in write_figures(study, folder):
            console.print(f"Wrote {path}.")


def _check_outputs(out: str | None, data: str | None, figures: str | None) -> Path | None:
    from pipeline.datasets import check_output
    from pipeline.evaluation.plots import check_matplotlib
    from pipeline.files import local_path

    folder = None if figures is None else local_path(figures, "folder", _WHY_LOCAL)
    if folder is not None:
        check_matplotlib()
    if out is not None:
        check_output(out, data)
    return folder


@with_groups
def compare_models(
    *,
    data: TrainingData = None,
    table: Table,
    group_column: GroupColumn = None,
    test: Annotated[
        bool, typer.Option("--test", help="One split: the held-out reviews, or a fifth of --data.")
    ] = False,
    test_data: OwnTestData = None,
    models: Annotated[str | None, typer.Option(help=f"Rows to compare: {_ROWS}; or all.")] = None,
    fine_tuned: Annotated[
        bool, typer.Option("--fine-tuned", help="Add a fine-tuned BERT; takes minutes to hours.")
    ] = False,
    encoder: Encoder,
    head: Head,
    truncation: Annotated[
        str, typer.Option(help="head, tail, head_tail, window or error.")
    ] = "head",
    word_vectors: Annotated[
        str | None, typer.Option(help="Word vectors in word2vec's format, instead of training.")
    ] = None,
    cv: Folds = 5,
    seed: Seed = 0,
    scoring: Annotated[
        str, typer.Option(help="Score behind the verdict, such as f1_macro or balanced_accuracy.")
    ] = "accuracy",
    out: TableOut = None,
    figures: Annotated[str | None, typer.Option(help="Folder for a chart (PNG).")] = None,
) -> None:
    """Compare baselines and uses of BERT on the same folds or split."""
    computing = {**encoder.options(), "truncation": truncation}
    from pipeline.datasets import split_rows, write_table
    from pipeline.evaluation.baselines import QUICK
    from pipeline.evaluation.compare import compare
    from pipeline.evaluation.plots import write_comparison
    from pipeline.files import local_path
    from pipeline.vectorizer import BertVectorizer

    vectors = None if word_vectors is None else local_path(word_vectors, "file", _WHY_LOCAL)
    if test and test_data is not None:
        raise ValueError("Give --test or --test-data, not both.")
    folder = _check_outputs(out, data, figures)
    learn, tested = table.learn(data, cv, group_column), None
    if test_data is not None:
        tested = table.known(table.read(test_data), learn.labels.unique().tolist())
    elif test and data is None:
        tested = table.read(None, held_out=True)
    elif test:
        split = split_rows(learn.table, learn.label, text=learn.text, groups=group_column,
                           random_state=seed)  # fmt: skip
        learn, tested = map(learn.at, split)
    groups = None if group_column is None else learn.table[group_column]
    rows: Any = models if models in (None, "all") else split_list(str(models))
    if fine_tuned and rows != "all" and "finetuned" not in (rows or []):
        rows = [*(rows or QUICK), "finetuned"]
    options: dict[str, Any] = {"vectorizer": BertVectorizer(**computing)}
    if head != Head():
        options["model"] = head.make(seed, "0.1", **computing)
        rows = rows or [name for name in QUICK if name != "word2vec"]
    held_out = None if tested is None else (tested.texts, tested.labels)
    comparison = compare(learn.texts, learn.labels, models=rows, test=held_out, cv=cv,
                         groups=groups, scoring=scoring, word_vectors=vectors, n_jobs=-1,
                         random_state=seed, **options)  # fmt: skip
    console = plain_console()
    how = (
        f"{comparison.attrs['n_folds']}-fold cross-validation"
        if tested is None
        else f"{len(tested.table)} held-out texts"
    )
    title = f"{learn.source}: {how}, {len(learn.table)} texts to train on"
    print_comparison(console, comparison, title)
    if out is not None:
        write_table(comparison.rename_axis("name").reset_index(), out)
        console.print(f"Wrote {out}.")
    if folder is not None:
        console.print(f"Wrote {write_comparison(comparison, folder)}.")


@with_groups
def explain(
    *,
    text: Annotated[
        list[str] | None, typer.Option(help="A text to explain; can be repeated.")
    ] = None,
    pipeline: ArtifactPath = DEFAULT_ARTIFACT,
    trust: Trust,
    missing: Missing = "error",
    level: Annotated[str, typer.Option(help="word or token.")] = "word",
    method: Annotated[
        str, typer.Option(help="auto, exact (a sum over tokens) or occlusion (omit each word).")
    ] = "auto",
) -> None:
    """Show which words made a prediction."""
    from pipeline import explanation
    from pipeline.answers import gives_several, several_labels
    from pipeline.columns import from_texts
    from pipeline.saved.artifact import load_pipeline

    nothing = 'Nothing to explain: give --text "...", or pipe lines to standard input.'
    texts = texts_to_answer(text, missing, nothing)
    if not texts:
        raise ValueError(nothing)
    fitted = load_pipeline(pipeline, **trust.options())
    only = "--text gives only texts; call pipeline.explain with a DataFrame"
    X = from_texts(fitted, texts, only)
    if gives_several(fitted, X[:1]):
        raise several_labels(fitted)
    options: Any = {"level": level, "method": method, "against": "runner-up"}
    frames = explanation.explain(fitted, texts, **options)
    print_explanations(Console(), texts, frames, fitted.predict(X))
