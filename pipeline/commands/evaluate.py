"""Commands evaluate, report, labels, layers, compare and explain."""

import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from typer import Option

from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    ArtifactPath,
    CacheFolder,
    Encoder,
    Folds,
    GroupColumn,
    Groups,
    Head,
    Labelled,
    Missing,
    OwnTestData,
    Seed,
    Table,
    TableOut,
    TestData,
    Threads,
    TrainingData,
    Trust,
    limit_threads,
    split_list,
    texts_to_answer,
)
from pipeline.commands.printing import (
    print_comparison,
    print_cut,
    print_explanations,
    print_issues,
    print_scores,
    print_study,
    say,
)

if TYPE_CHECKING:
    import pandas as pd

_WHY_LOCAL = "figures and word vectors are local files. Name a path, and copy it there."
_ROWS = "majority, tfidf, word2vec, static, cls, default, ngrams, layers, finetuned"


def evaluate(
    *,
    data: TestData = None,
    table: Table,
    pipeline: ArtifactPath = DEFAULT_ARTIFACT,
    trust: Trust,
    by: Groups = None,
    train_data: Annotated[
        str | None, Option(help="The training data; texts in both files are reported.")
    ] = None,
    mistakes: Annotated[int, Option(help="Number of the surest mistakes to print.")] = 0,
    cache: CacheFolder = None,
    threads: Threads = None,
    seed: Seed = 0,
) -> None:
    """Score a saved pipeline on labelled texts that it has not seen."""
    limit_threads(threads)
    table = table.of_pipeline(pipeline)
    tested = table.read(data, by, held_out=True)
    fitted = _load(pipeline, trust, cache)
    tested = table.known(tested, fitted.classes_)
    train = None if train_data is None else table.known(table.read(train_data), fitted.classes_)
    scores = score_rows(fitted, tested, train, by, n_mistakes=mistakes, random_state=seed)
    print_scores(Console(), scores, f"{pipeline} on {data or 'the held-out shipped reviews'}")
    sizes = {g["value"]: g["n_texts"] for g in scores["slices"].get("by truncation", [])}
    print_cut({"texts_cut": sizes.get("cut", 0), "n_texts": scores["n_texts"]})


def report(
    *,
    pipeline: ArtifactPath = DEFAULT_ARTIFACT,
    trust: Trust,
    data: TestData = None,
    table: Table,
    by: Groups = None,
    train_data: Annotated[
        str | None, Option(help="The training data, for the texts nearest to mistakes.")
    ] = None,
    compare: Annotated[
        bool,
        Option("--compare", help="Cross-validate it and the baselines on the training data."),
    ] = False,
    group_column: GroupColumn = None,
    layers: Annotated[
        str | None,
        Option(help="A table written by `layers --out`, or `run` to study them now."),
    ] = None,
    mistakes: Annotated[int, Option(help="Number of the surest mistakes to show.")] = 10,
    out: Annotated[
        str | None, Option(help="Path of the page; by default beside the pipeline.")
    ] = None,
    title: Annotated[str | None, Option(help="Heading of the page.")] = None,
    cache: CacheFolder = None,
    threads: Threads = None,
    seed: Seed = 0,
) -> None:
    """Write a page about a saved pipeline, as HTML and JSON."""
    limit_threads(threads)
    from pipeline.files import check_writable, where, with_ending
    from pipeline.report.page import check_page_name, check_report_extra

    check_report_extra()
    page = check_page_name(with_ending(where(pipeline), ".html") if out is None else out)
    check_writable(page)
    table = table.of_pipeline(pipeline)
    tested = table.read(data, by, held_out=True)
    if data is None:
        by = by or ["domain", "trait"]
    train = None if train_data is None else table.read(train_data, group=group_column)
    learn, study = train, compare or layers == "run"
    if study and learn is None:
        if data is not None:
            option = "--compare" if compare else "--layers run"
            raise ValueError(f"{option} needs training texts; give --train-data.")
        learn = table.read(None, group=group_column)
    fitted = _load(pipeline, trust, cache)
    tested = table.known(tested, fitted.classes_)
    train = train and table.known(train, fitted.classes_)
    learn = learn and table.known(learn, fitted.classes_)
    scores = score_rows(fitted, tested, train, by, n_mistakes=mistakes, random_state=seed)
    origin = tested.origin() if data else ("the held-out shipped reviews", tested.table)
    write_page(
        scores,
        page,
        fitted,
        where(pipeline),
        {"data": origin, **({} if train is None else {"training_data": train.origin()})},
        title or f"{PurePath(pipeline).name} on {PurePath(data).name if data else origin[0]}",
        comparison=_compare(fitted, learn, seed) if learn and compare else None,
        layers=None if layers is None else _study(layers, fitted, learn, seed),
    )


def _load(pipeline: str, trust: Trust, cache: str | None = None) -> Any:
    from pipeline.saved.artifact import load_pipeline

    fitted = load_pipeline(pipeline, **trust.options())
    return fitted if cache is None else _with_cache(fitted, cache)


def _with_cache(pipeline: Any, cache: str) -> Any:
    names = [name for name in pipeline.get_params() if name.endswith("__cache")]
    return pipeline.set_params(**dict.fromkeys(names, cache))


def score_rows(
    fitted: Any, tested: Labelled, train: Labelled | None, by: list[str] | None, **options: Any
) -> dict[str, Any]:
    """Evaluate on a table, with row numbers of the file."""
    from pipeline.evaluation.evaluate import evaluate as score_texts

    known = None if train is None else (_columns(fitted, train), train.labels)
    scores = score_texts(fitted, _columns(fitted, tested), tested.labels, train=known,
                         by=tested.table[by] if by else None, **options)  # fmt: skip
    places = tested.table.index.tolist()
    named = [*scores["mistakes"], *scores["examples"]]
    named += (scores["label_issues"] or {}).get("rows", [])
    named += (scores["map"] or {}).get("points", [])
    for answer in named:
        answer["row"] = places[answer["row"]]
    if scores["duplicates"]:
        scores["duplicates"]["rows"] = [places[row] for row in scores["duplicates"]["rows"]]
    return scores


def _columns(fitted: Any, rows: Labelled) -> Any:
    """Return what the model reads: texts or several columns."""
    from pipeline.columns import as_fitted, columns_for

    columns = columns_for(fitted, list(rows.table.columns), rows.text, "the table")
    return as_fitted(columns, rows.table, rows.text)


def write_page(
    scores: dict[str, Any],
    page: Path | str,
    fitted: Any,
    artifact: Path | str,
    tables: "dict[str, tuple[Path | str, pd.DataFrame]]",
    title: str,
    **studies: "pd.DataFrame | None",
) -> None:
    """Write a page and its JSON."""
    from pipeline.files import program
    from pipeline.report.lineage import trace_lineage
    from pipeline.report.page import write_report

    command = [program(), *sys.argv[1:]]
    provenance = trace_lineage(fitted, artifact=artifact, tables=tables, command=command)
    write_report(scores, page, provenance=provenance, title=title, **studies)
    plain = PurePath(page).with_suffix(".json").name
    say(f"Wrote {page}, a report for the browser, and {plain}, the same numbers.")


def _unfitted(fitted: Any) -> Any:
    """Return an unfitted copy with a cache, which a loaded pipeline lacks."""
    from sklearn.base import clone

    pipeline = clone(fitted)
    cached = any(v for k, v in pipeline.get_params().items() if k.endswith("__cache"))
    return pipeline if cached else _with_cache(pipeline, "memory")


def _compare(fitted: Any, learn: Labelled, seed: int) -> "pd.DataFrame":
    from pipeline.evaluation.compare import compare

    models = ("majority", "tfidf", "static", "cls", "default", "ngrams")
    return compare(_columns(fitted, learn), learn.labels, model=_unfitted(fitted), models=models,
                   text=learn.text, groups=learn.groups, random_state=seed)  # fmt: skip


def _study(layers: str, fitted: Any, learn: Labelled | None, seed: int) -> "pd.DataFrame":
    from pipeline.datasets import read_table
    from pipeline.evaluation.baselines import vectorizers_of
    from pipeline.evaluation.layer_study import layer_study

    if layers != "run" or learn is None:
        return read_table(layers, columns=["kind", "features", "pooling"])
    found = vectorizers_of(_unfitted(fitted))
    if not found:
        first = type(fitted.steps[0][1]).__name__
        raise ValueError(
            f"--layers run: the pipeline starts with a {first}, which has no layers to study."
        )
    return layer_study(learn.texts, learn.labels, vectorizer=found[0], groups=learn.groups,
                       nested=True, random_state=seed, n_jobs=-1)  # fmt: skip


def labels(
    *,
    data: TrainingData = None,
    table: Table,
    group_column: GroupColumn = None,
    encoder: Encoder,
    head: Head,
    cv: Folds = 5,
    seed: Seed = 0,
    show: Annotated[int, Option(help="Number of texts to print.")] = 10,
    out: TableOut = None,
) -> None:
    """Rank the texts of a table by how doubtful their label is."""
    classifier = head.make(seed, **encoder.options())
    from pipeline.datasets import write_table
    from pipeline.evaluation.failures import label_issues

    _check_outputs(out, data)
    rows = table.learn(data, cv, group_column)
    issues = label_issues(classifier, rows.texts, rows.labels, cv=cv, groups=rows.groups,
                          random_state=seed)  # fmt: skip
    issues.index = rows.table.index[issues.index]
    print_issues(issues, show)
    if out is not None:
        write_table(issues.reset_index(names="row"), out)
        say(f"Wrote {out}: all texts, the most doubtful first; rows count from 0.")


def layers(
    *,
    data: TrainingData = None,
    table: Table,
    group_column: GroupColumn = None,
    encoder: Encoder,
    pooling: Annotated[
        str, Option(help="Poolings to try: cls, mean, max, or several of them.")
    ] = "cls,mean,max",
    cv: Folds = 5,
    seed: Seed = 0,
    nested: Annotated[
        bool, Option("--nested", help="Add the unbiased score of picking the best.")
    ] = False,
    out: TableOut = None,
    figures: Annotated[
        str | None, Option(help="Folder for a heatmap and a bar chart (PNG).")
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
    poolings = tuple(split_list(pooling))
    combined = "mean" if "mean" in poolings else poolings[0]
    study = layer_study(rows.texts, rows.labels, vectorizer=BertVectorizer(**options), cv=cv,
                        groups=rows.groups, poolings=poolings, nested=nested,
                        combination_pooling=combined, random_state=seed, n_jobs=-1)  # fmt: skip
    print_study(study)
    if out is not None:
        write_table(study, out)
        say(f"Wrote {out}.")
    if folder is not None:
        for path in write_figures(study, folder):
            say(f"Wrote {path}.")


def _check_outputs(out: str | None, data: str | None, figures: str | None = None) -> Path | None:
    """Check the paths, and return the folder of figures."""
    from pipeline.datasets import check_output
    from pipeline.evaluation.plots import check_matplotlib
    from pipeline.files import local_path

    folder = None if figures is None else local_path(figures, "folder", _WHY_LOCAL)
    if folder is not None:
        check_matplotlib()
    if out is not None:
        check_output(out, data)
    return folder


def compare(
    *,
    data: TrainingData = None,
    table: Table,
    group_column: GroupColumn = None,
    test: Annotated[
        bool, Option("--test", help="One split: the held-out reviews, or a fifth of --data.")
    ] = False,
    test_data: OwnTestData = None,
    models: Annotated[str | None, Option(help=f"Rows to compare: {_ROWS}; or all.")] = None,
    fine_tuned: Annotated[
        bool, Option("--fine-tuned", help="Add a fine-tuned BERT; takes minutes to hours.")
    ] = False,
    encoder: Encoder,
    head: Head,
    truncation: Annotated[str, Option(help="head, tail, head_tail, window or error.")] = "head",
    word_vectors: Annotated[
        str | None, Option(help="Word vectors in word2vec's format, instead of training.")
    ] = None,
    cv: Folds = 5,
    seed: Seed = 0,
    scoring: Annotated[
        str, Option(help="Score behind the verdict, such as f1_macro or balanced_accuracy.")
    ] = "accuracy",
    out: TableOut = None,
    figures: Annotated[str | None, Option(help="Folder for a chart (PNG).")] = None,
) -> None:
    """Compare baselines and uses of BERT on the same folds or split."""
    computing = {**encoder.options(), "truncation": truncation}
    from pipeline.datasets import write_table
    from pipeline.evaluation.baselines import QUICK
    from pipeline.evaluation.compare import compare as compare_models
    from pipeline.evaluation.plots import write_comparison
    from pipeline.files import local_path
    from pipeline.vectorizer import BertVectorizer

    vectors = None if word_vectors is None else local_path(word_vectors, "file", _WHY_LOCAL)
    if test and test_data is not None:
        raise ValueError("Give --test or --test-data, not both.")
    folder = _check_outputs(out, data, figures)
    learn, tested = table.learn(data, cv, group_column), None
    if test or test_data is not None:
        learn, tested = table.hold_out(learn, test_data, seed)
    rows: Any = models if models in (None, "all") else split_list(str(models))
    if fine_tuned and rows != "all" and "finetuned" not in (rows or []):
        rows = [*(rows or QUICK), "finetuned"]
    options: dict[str, Any] = {"vectorizer": BertVectorizer(**computing)}
    if head != Head():
        options["model"] = head.make(seed, "0.1", **computing)
        rows = rows or [name for name in QUICK if name != "word2vec"]
    held_out = None if tested is None else (tested.texts, tested.labels)
    comparison = compare_models(learn.texts, learn.labels, models=rows, test=held_out, cv=cv,
                                groups=learn.groups, scoring=scoring, word_vectors=vectors,
                                n_jobs=-1, random_state=seed, **options)  # fmt: skip
    how = (
        f"{comparison.attrs['n_folds']}-fold cross-validation"
        if tested is None
        else f"{len(tested.table)} held-out texts"
    )
    print_comparison(comparison, f"{learn.source}: {how}, {len(learn.table)} texts to train on")
    if out is not None:
        write_table(comparison.rename_axis("name").reset_index(), out)
        say(f"Wrote {out}.")
    if folder is not None:
        say(f"Wrote {write_comparison(comparison, folder)}.")


def explain(
    *,
    text: Annotated[list[str] | None, Option(help="A text to explain; can be repeated.")] = None,
    pipeline: ArtifactPath = DEFAULT_ARTIFACT,
    trust: Trust,
    missing: Missing = "error",
    level: Annotated[str, Option(help="word or token.")] = "word",
    method: Annotated[
        str, Option(help="auto, exact (a sum over tokens) or occlusion (omit each word).")
    ] = "auto",
) -> None:
    """Show which words made a prediction."""
    from pipeline import explanation
    from pipeline.answers import gives_several, several_labels
    from pipeline.columns import from_texts

    nothing = 'Nothing to explain: give --text "...", or pipe lines to standard input.'
    texts = texts_to_answer(text, missing, nothing)
    if not texts:
        raise ValueError(nothing)
    fitted = _load(pipeline, trust)
    X = from_texts(fitted, texts, "--text gives only texts; call pipeline.explain with a DataFrame")
    if gives_several(fitted, X[:1]):
        raise several_labels(fitted)
    options: Any = {"level": level, "method": method, "against": "runner-up"}
    print_explanations(texts, explanation.explain(fitted, texts, **options), fitted.predict(X))
