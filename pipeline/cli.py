"""The sub-commands of run_pipeline.py: they read, call, print and write; no logic of their own."""

import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.printing import (
    describe_inspection,
    describe_verification,
    print_comparison,
    print_explanations,
    print_labels,
    print_scores,
    print_study,
)

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_ARTIFACT = Path("models") / "sentiment.joblib"
EXAMPLES = (
    "A quiet, lovely film that stayed with me for days.",
    "Two hours of my life I want back.",
    "The food was cold and nobody cared.",
)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Frozen BERT features and a LogisticRegression: train, predict, evaluate. Without a command: train with the defaults.",
)
_ROWS = "majority, tfidf, word2vec, static, cls, default, layers, finetuned"
Encoding = Annotated[str, typer.Option(help="Encoding of the CSV file.")]
Separator = Annotated[str, typer.Option(help="Column separator of the CSV file.")]
ArtifactPath = Annotated[Path, typer.Option("--model", help="A file written by train.")]


def main() -> None:
    """Run the command line: one clear line and exit code 2 for a user's mistake, never a traceback."""
    warnings.showwarning = _show_warning
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:  # None: closed, as by `>&-`
                sys.stdout.flush()  # here, where a reader that went away can still be forgiven
    except BrokenPipeError:  # as in `| head`
        _forgive_reader()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer and rich make exit code 1 of it
            _forgive_reader()
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get("PIPELINE_TRACEBACK"):
            raise
        Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(f"Error: {' '.join(str(error).split())}")
        sys.exit(2)


def _forgive_reader() -> NoReturn:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(0)


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        train()


@app.command()
def train(
    data: Annotated[Path | None, typer.Option(help="CSV or Parquet file; the shipped reviews by default.")] = None,
    text: Annotated[str, typer.Option(help="Its text column.")] = "text",
    label: Annotated[str, typer.Option(help="Its label column.")] = "label",
    model: Annotated[str | None, typer.Option(help="BERT model: hub id or folder.")] = None,
    pooling: Annotated[str | None, typer.Option(help="cls, mean, max, pooler, or several: cls,mean.")] = None,
    layers: Annotated[str | None, typer.Option(help="A layer (-1), several (-4,-3,-2,-1) or all.")] = None,
    combine: Annotated[str | None, typer.Option(help="concat, mean, sum or learned (a weighted sum) of the layers.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens per text.")] = None,
    truncation: Annotated[str | None, typer.Option(help="head, tail, head_tail, window or error.")] = None,
    out: Annotated[Path, typer.Option(help="Where the trained pipeline is written.")] = DEFAULT_ARTIFACT,
    cv: Annotated[int, typer.Option(help="Folds of the comparison; 0 leaves it out.")] = 5,
    report: Annotated[bool, typer.Option(help="A page about the pipeline beside it (.html, and .json).")] = True,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Train on a table, compare with TF-IDF on the same folds, score on held-out texts, save, report, and try the saved file."""
    from pipeline.artifact import load_pipeline, save_pipeline
    from pipeline.datasets import load_reviews, split_table
    from pipeline.evaluation.comparison import compare
    from pipeline.evaluation.scores import evaluate
    from pipeline.sentiment import make_sentiment_pipeline

    console = Console(soft_wrap=True, markup=False, highlight=False)
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; name a file, such as {out / 'sentiment.joblib'}.")
    if report and out.suffix in (".html", ".json"):
        raise ValueError(f"--out {out}: the report beside it would get this name; use another ending, or --no-report.")
    lacking = _lacks_for_report() if report else None
    reported = report and lacking is None
    if data is None:
        train_set, test_set = load_reviews()
        text, label = "text", "label"
    else:
        train_set, test_set = split_table(_read(data, [text, label], encoding, sep), label)
    asked = {"model": model, "pooling": _names(pooling), "layers": _layers(layers), "combine": combine,
             "max_length": max_length, "truncation": truncation}  # fmt: skip
    candidate = make_sentiment_pipeline(
        **{name: value for name, value in asked.items() if value is not None}, progress=sys.stderr.isatty()
    )
    console.print(f"{len(train_set)} texts to train on, {len(test_set)} held out ({data or 'the shipped reviews'}).")
    table = compare(train_set[text], train_set[label], model=candidate, cv=cv, n_timed=0) if cv else None
    if table is not None:
        print_comparison(console, table, f"{cv}-fold cross-validation on the training texts")
    candidate.fit(train_set[text], train_set[label])
    if reported:
        by = test_set[[name for name in ("domain", "trait") if name in test_set]] if data is None else None
        scores = evaluate(candidate, test_set[text], test_set[label], by=by, train=(train_set[text], train_set[label]))
    else:
        scores = evaluate(candidate, test_set[text], test_set[label], n_mistakes=0, n_examples=0, n_map=0)
    print_scores(console, {**scores, "slices": {}, "mistakes": []}, "On the held-out texts")
    candidate.set_params(bertvectorizer__progress=False)
    path = save_pipeline(candidate, out, scores={"held out": {k: v for k, v in scores.items() if isinstance(v, int | float)}})
    if reported:
        origin: Path | str = data or "the shipped reviews"
        tables = {"held_out_texts": (origin, test_set), "training_texts": (origin, train_set)}
        _write_report(console, scores, out.with_suffix(".html"), candidate, path, tables, comparison=table)
    elif lacking:
        console.print(lacking)
    console.print(f"Saved {path} ({path.stat().st_size / 1e6:.0f} MB). Loaded again, it says:")
    _label(console, load_pipeline(path), list(EXAMPLES))


@app.command()
def predict(
    model: ArtifactPath = DEFAULT_ARTIFACT,
    text: Annotated[list[str] | None, typer.Option(help="A text to label; may be given several times.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="CSV or Parquet to label: a file, a folder, a pattern, an address such as s3://...; or several."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the labels go: .csv, .parquet, or a folder of parts.")] = None,
    column: Annotated[str, typer.Option(help="Text column of the file.")] = "text",
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
    workers: Annotated[
        int | None, typer.Option(help="Processes for --data, of one thread each; by default one per core for a long table.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Score on the workers of this Dask scheduler instead, such as tcp://10.0.0.5:8786.")
    ] = None,
    resources: Annotated[str | None, typer.Option(help="What these workers must have, such as GPU=1.")] = None,
    on_bad_row: Annotated[str, typer.Option(help="A row that cannot be labelled: error, or null to go on without.")] = "error",
    shard_rows: Annotated[int | None, typer.Option(help="Rows of a part: what a crash costs, and what is in memory.")] = None,
) -> None:
    """Label texts: --text "...", a table of any size (--data in.csv --out out.csv), or the lines of standard input."""
    from pipeline.artifact import load_pipeline

    if data and text:
        raise ValueError("Give --data or --text, not both.")
    if bool(data) != (out is not None):
        raise ValueError("--data and --out belong together: the table to label and where to write it.")
    if data and out is not None:
        options = {"encoding": encoding, "sep": sep.replace("\\t", "\t"), "on_bad_row": on_bad_row, "shard_rows": shard_rows}
        given = {name: value for name, value in options.items() if value is not None}
        _predict_table(model, data, out, column, {**_executor(workers, scheduler, resources), **given})
        return
    if not text and (sys.stdin is None or sys.stdin.isatty()):  # None: closed, as by `<&-`
        raise ValueError('Nothing to label: give --text "...", --data FILE --out FILE, or pipe lines to standard input.')
    texts = list(text) if text else _lines(sys.stdin)
    _label(Console(), load_pipeline(model), texts)


@app.command()
def evaluate(
    data: Annotated[Path | None, typer.Option(help="CSV or Parquet file; the held-out shipped reviews by default.")] = None,
    text: Annotated[str, typer.Option(help="Its text column.")] = "text",
    label: Annotated[str, typer.Option(help="Its label column.")] = "label",
    model: ArtifactPath = DEFAULT_ARTIFACT,
    by: Annotated[list[str] | None, typer.Option(help="A column to score by; may be given several times.")] = None,
    mistakes: Annotated[int, typer.Option(help="How many of the surest mistakes to print.")] = 0,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Score a saved pipeline on labelled texts it has not seen."""
    from pipeline.artifact import load_pipeline
    from pipeline.datasets import load_reviews
    from pipeline.evaluation.scores import evaluate as score_texts

    if data is None:
        table, text, label = load_reviews()[1], "text", "label"
    else:
        table = _read(data, [text, label, *(by or [])], encoding, sep)
    columns = _columns(table, by)
    scores = score_texts(_with_progress(load_pipeline(model)), table[text], table[label], by=columns, n_mistakes=mistakes)
    print_scores(Console(), scores, f"{model} on {data or 'the held-out shipped reviews'}")


@app.command()
def report(
    model: ArtifactPath = DEFAULT_ARTIFACT,
    data: Annotated[Path | None, typer.Option(help="CSV or Parquet file; the held-out shipped reviews by default.")] = None,
    text: Annotated[str, typer.Option(help="Its text column.")] = "text",
    label: Annotated[str, typer.Option(help="Its label column.")] = "label",
    by: Annotated[list[str] | None, typer.Option(help="A column to score by; may be given several times.")] = None,
    train_data: Annotated[Path | None, typer.Option(help="What it was trained on: for the texts nearest to mistakes.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Cross-validate it and the baselines on the training texts.")
    ] = False,
    layers: Annotated[str | None, typer.Option(help="A table that `layers --out` wrote, or `run` to study them now.")] = None,
    mistakes: Annotated[int, typer.Option(help="How many of the surest mistakes to show.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Where the page goes; beside the model by default.")] = None,
    title: Annotated[str | None, typer.Option(help="Its heading.")] = None,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Write a page about a saved pipeline: scores, baselines, curves, groups, explained mistakes, a map; and the same as JSON."""
    from pipeline.artifact import load_pipeline
    from pipeline.datasets import load_reviews
    from pipeline.evaluation.comparison import compare as cross_validate
    from pipeline.evaluation.scores import evaluate as score_texts
    from pipeline.report.page import check_page_name, check_report_extra

    check_report_extra()
    page = check_page_name(model.with_suffix(".html") if out is None else out)
    origin: Path | str = data or "the held-out shipped reviews"
    if data is None:
        reviews, table = load_reviews()
        text, label, by = "text", "label", by or ["domain", "trait"]
    else:
        reviews, table = None, _read(data, [text, label, *(by or [])], encoding, sep)
    tables = {"data": (origin, table)}
    known = None if train_data is None else _read(train_data, [text, label], encoding, sep)
    if train_data is not None and known is not None:
        tables["training_data"] = (train_data, known)
    studied = known if known is not None else reviews
    if studied is None and (compare or layers == "run"):
        raise ValueError(f"{'--compare' if compare else '--layers run'} needs texts to train on; give --train-data.")
    fitted = load_pipeline(model)
    scores = score_texts(_with_progress(fitted), table[text], table[label], by=_columns(table, by), n_mistakes=mistakes,
                         train=None if known is None else (known[text], known[label]))  # fmt: skip
    comparison = None
    if compare and studied is not None:
        rows = ("majority", "tfidf", "static", "cls", "default")
        comparison = cross_validate(studied[text], studied[label], model=_unfitted(fitted), models=rows)
    study = None if layers is None else _study(layers, fitted, studied, text, label)
    heading = title or f"{model.name} on {data.name if data else origin}"
    _write_report(Console(soft_wrap=True, markup=False, highlight=False), scores, page, fitted, model, tables,
                  comparison=comparison, layers=study, title=heading)  # fmt: skip


@app.command("layers")
def study_layers(
    data: Annotated[Path | None, typer.Option(help="CSV or Parquet file; the shipped training reviews by default.")] = None,
    text: Annotated[str, typer.Option(help="Its text column.")] = "text",
    label: Annotated[str, typer.Option(help="Its label column.")] = "label",
    model: Annotated[str | None, typer.Option(help="BERT model: hub id or folder.")] = None,
    pooling: Annotated[str, typer.Option(help="Poolings to try: cls, mean, max, or several.")] = "cls,mean,max",
    max_length: Annotated[int | None, typer.Option(help="Most tokens per text.")] = None,
    cv: Annotated[int, typer.Option(help="Folds.")] = 5,
    nested: Annotated[bool, typer.Option("--nested", help="Also the honest score of taking the best.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where the table goes: .csv or .parquet.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for a heatmap and a bar chart (PNG).")] = None,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Score every layer with every pooling, and combinations of layers; every text is encoded once."""
    from pipeline.datasets import check_output, load_reviews, write_table
    from pipeline.evaluation.figures import check_matplotlib, write_figures
    from pipeline.evaluation.layer_scores import layer_study
    from pipeline.vectorizer import DEFAULT_MODEL, BertVectorizer

    if figures is not None:
        check_matplotlib()
    if out is not None:
        check_output(out, data or out.parent)
    if data is None:
        table, text, label = load_reviews()[0], "text", "label"
    else:
        table = _read(data, [text, label], encoding, sep)
    vectorizer = BertVectorizer(model or DEFAULT_MODEL, max_length=max_length, progress=sys.stderr.isatty())
    poolings = tuple(part.strip() for part in pooling.split(","))
    combined = "mean" if "mean" in poolings else poolings[0]
    study = layer_study(table[text], table[label], vectorizer=vectorizer, cv=cv, poolings=poolings, nested=nested,
                        combination_pooling=combined, n_jobs=-1)  # fmt: skip
    console = Console(soft_wrap=True, markup=False, highlight=False)
    print_study(console, study)
    if out is not None:
        write_table(study, out)
        console.print(f"Wrote {out}.")
    if figures is not None:
        for path in write_figures(study, figures):
            console.print(f"Wrote {path}.")


@app.command("compare")
def compare_models(
    data: Annotated[Path | None, typer.Option(help="CSV or Parquet file; the shipped training reviews by default.")] = None,
    text: Annotated[str, typer.Option(help="Its text column.")] = "text",
    label: Annotated[str, typer.Option(help="Its label column.")] = "label",
    test: Annotated[bool, typer.Option("--test", help="One split: the held-out reviews, or a fifth of --data.")] = False,
    test_data: Annotated[Path | None, typer.Option(help="One split: score on this file, with the same columns.")] = None,
    models: Annotated[str | None, typer.Option(help=f"Rows: {_ROWS}; or all.")] = None,
    fine_tuned: Annotated[bool, typer.Option("--fine-tuned", help="Also a fine-tuned BERT; takes minutes to hours.")] = False,
    model: Annotated[str | None, typer.Option(help="BERT model: hub id or folder.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens per text.")] = None,
    truncation: Annotated[str, typer.Option(help="head, tail, head_tail, window or error.")] = "head",
    word_vectors: Annotated[Path | None, typer.Option(help="Word vectors in word2vec's format, instead of training.")] = None,
    cv: Annotated[int, typer.Option(help="Folds.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Where the table goes: .csv or .parquet.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for a picture (PNG).")] = None,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Score baselines and uses of BERT on the same folds or split, each against TF-IDF, with times and sizes."""
    from pipeline.datasets import check_output, load_reviews, split_table, write_table
    from pipeline.evaluation.candidates import QUICK
    from pipeline.evaluation.comparison import compare
    from pipeline.evaluation.figures import check_matplotlib, write_comparison
    from pipeline.vectorizer import DEFAULT_MODEL, BertVectorizer

    if test and test_data is not None:
        raise ValueError("Give --test or --test-data, not both.")
    if figures is not None:
        check_matplotlib()
    if out is not None:
        check_output(out, data or out.parent)
    if data is None:
        train_set, test_set = load_reviews()
        text, label = "text", "label"
    else:
        train_set = test_set = _read(data, [text, label], encoding, sep)
        if test:
            train_set, test_set = split_table(train_set, label)
    if test_data is not None:
        test_set = _read(test_data, [text, label], encoding, sep)
    rows: Any = None if models is None else "all" if models == "all" else [name.strip() for name in models.split(",")]
    if fine_tuned and rows != "all" and "finetuned" not in (rows or []):
        rows = [*(rows or QUICK), "finetuned"]
    options: dict[str, Any] = {"max_length": max_length, "truncation": truncation, "progress": sys.stderr.isatty()}
    vectorizer = BertVectorizer(model or DEFAULT_MODEL, **options)
    held_out = (test_set[text], test_set[label]) if test or test_data is not None else None
    table = compare(train_set[text], train_set[label], models=rows, test=held_out, cv=cv, vectorizer=vectorizer,
                    word_vectors=word_vectors, n_jobs=-1)  # fmt: skip
    console = Console(soft_wrap=True, markup=False, highlight=False)
    how = f"{table.attrs['n_folds']}-fold cross-validation" if held_out is None else f"{len(test_set)} held-out texts"
    print_comparison(console, table, f"{data or 'the shipped reviews'}: {how}, {len(train_set)} texts to train on")
    if out is not None:
        write_table(table.rename_axis("name").reset_index(), out)
        console.print(f"Wrote {out}.")
    if figures is not None:
        console.print(f"Wrote {write_comparison(table, figures)}.")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A saved pipeline, .joblib or .skops.")] = DEFAULT_ARTIFACT,
    json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show what is in a saved pipeline without unpickling it: also one that is not to be trusted."""
    from pipeline.artifact import inspect_artifact

    found = inspect_artifact(file)
    if json:
        from json import dumps

        print(dumps(found, indent=2))
        return
    for line in describe_inspection(found):
        print(line)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A saved pipeline, or a model folder written by fetch.")] = DEFAULT_ARTIFACT,
    sha256: Annotated[str | None, typer.Option(help="The hash it must have, as you know it from elsewhere.")] = None,
) -> None:
    """Check a saved pipeline: the hashes of file and weights, every name in it, and its answers to the probe texts."""
    from pipeline.artifact import verify_artifact
    from pipeline.checkpoints.provenance import verify_folder

    if file.is_dir():
        for name, found in verify_folder(file).items():
            print(f"{found}  {name}: as in SHA256SUMS")
        return

    for line in describe_verification(file, verify_artifact(file, sha256=sha256)):
        print(line)


@app.command()
def explain(
    text: Annotated[list[str] | None, typer.Option(help="A text to explain; may be given several times.")] = None,
    model: ArtifactPath = DEFAULT_ARTIFACT,
    level: Annotated[str, typer.Option(help="word or token.")] = "word",
    method: Annotated[str, typer.Option(help="auto, exact (a sum over tokens) or occlusion (each word left out).")] = "auto",
) -> None:
    """Show which words made a prediction: coloured in a terminal, tab-separated elsewhere; or of the lines of standard input."""
    from pipeline import explanation
    from pipeline.artifact import load_pipeline

    if not text and sys.stdin.isatty():
        raise ValueError('Nothing to explain: give --text "...", or pipe lines to standard input.')
    texts = list(text) if text else _lines(sys.stdin)
    fitted = load_pipeline(model)
    frames = explanation.explain(fitted, texts, level=level, method=method)  # type: ignore[arg-type]
    print_explanations(Console(), texts, frames, fitted.predict(texts) if texts else [])


@app.command()
def tokens(
    text: Annotated[str, typer.Argument(help="One text.")],
    max_length: Annotated[int | None, typer.Option(help="Pad or cut to this many tokens.")] = None,
    model: Annotated[str | None, typer.Option(help="BERT model: hub id or folder.")] = None,
) -> None:
    """Show what BERT makes of one text: tokens, ids, attention mask and the shapes of its vectors."""
    from pipeline.vectorizer import DEFAULT_MODEL
    from pipeline.walk import walk_text

    walk = walk_text(text, model=model or DEFAULT_MODEL, max_length=max_length)
    n_states = len(walk.hidden_states)
    print("tokens           ", *walk.tokens)
    print("input_ids        ", *walk.input_ids)
    print("attention_mask   ", *walk.attention_mask)
    if walk.n_lost:
        print(f"cut               {walk.n_lost} tokens did not fit into max_length={len(walk.tokens)}")
    print("last hidden state", f"{walk.last_hidden_state.shape}: texts, tokens, hidden size; one vector per token")
    print("[CLS] vector     ", f"{walk.cls_vector.shape}: the first of them, one vector for the text")
    print("all hidden states", f"{n_states}: the embedding output and {n_states - 1} layers, each {walk.last_hidden_state.shape}")


@app.command()
def models() -> None:
    """List the published BERT models, and which of them are on this machine."""
    from pipeline.checkpoints.catalogue import catalogue
    from pipeline.checkpoints.checkpoint import where

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layers", "width", "heads", "parameters", "vocabulary"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("case", "language", "here", "name", "model"):  # ids last and unbroken, so that they can be copied
        table.add_column(name, no_wrap=True)
    for entry in catalogue():
        numbers = (entry.n_layers, entry.hidden_size, entry.n_heads, f"{entry.n_parameters / 1e6:.1f} M", entry.n_vocabulary)
        here = where(entry.model) or "no"
        table.add_row(*map(str, numbers), entry.case, entry.languages, here, entry.name, entry.model)
    Console(width=max(Console().width, 200)).print(table)  # a narrower terminal wraps the long ids, and only those
    print("Any other encoder of these families works too, by its hub id or folder.")


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(help="BERT model: hub id.")],
    to: Annotated[Path, typer.Option(help="Folder for its files; made where it is missing.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
) -> None:
    """Fetch a model to a folder that can be carried to a machine without a connection: files, SHA256SUMS, origin."""
    from pipeline.checkpoints.model_folder import fetch_to

    fetched = fetch_to(model, to, revision)
    at = f"commit {fetched.revision}" if fetched.revision else "the installed copy"
    print(f"{fetched.model} ({at}) is in {fetched.folder}:")
    for name, size in fetched.files.items():
        print(f"{size:>12,} {name}")
    path = shlex.quote(str(fetched.folder))
    print(f"Use it anywhere by its folder: model={str(fetched.folder)!r}, or --model {path}")
    print(f"Check it after copying: python run_pipeline.py verify {path}, or cd {path} && sha256sum -c SHA256SUMS")


# ---- reading and printing


def _read(path: Path, columns: list[str], encoding: str, sep: str) -> "pd.DataFrame":
    from pipeline.datasets import read_table

    return read_table(path, columns=columns, encoding=encoding, sep=sep.replace("\\t", "\t"))


def _columns(table: "pd.DataFrame", by: list[str] | None) -> "pd.DataFrame | None":
    absent = [name for name in by or [] if name not in table]
    if absent:
        raise ValueError(f"--by {absent[0]!r} is no column of the table; there are {', '.join(map(repr, table.columns))}.")
    return table[by] if by else None


def _lacks_for_report() -> str | None:
    """Return the line that says why no report can be written; None where one can."""
    from pipeline.report.page import check_report_extra

    try:
        check_report_extra()
    except ImportError as error:
        return f"No report: {error}"
    return None


def _write_report(
    console: Console,
    scores: dict[str, Any],
    page: Path,
    fitted: Any,
    artifact: Path,
    tables: "dict[str, tuple[Path | str, pd.DataFrame]]",
    *,
    comparison: "pd.DataFrame | None" = None,
    layers: "pd.DataFrame | None" = None,
    title: str | None = None,
) -> None:
    from pipeline.report.lineage import trace_lineage
    from pipeline.report.page import write_report

    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    provenance = trace_lineage(fitted, artifact=artifact, tables=tables, command=command)
    heading = title or f"{artifact.name} on the held-out texts"
    write_report(scores, page, comparison=comparison, layers=layers, provenance=provenance, title=heading)
    console.print(f"Wrote {page}, a report for the browser, and {page.with_suffix('.json').name}, the same numbers.")


def _unfitted(fitted: Any) -> Any:
    """Return a loaded pipeline to be fitted anew, with the cache that a loaded one does without."""
    from sklearn.base import clone

    pipeline = clone(fitted)
    name = f"{pipeline.steps[0][0]}__cache"
    return pipeline.set_params(**{name: "memory"}) if name in pipeline.get_params() else pipeline


def _study(layers: str, fitted: Any, table: "pd.DataFrame | None", text: str, label: str) -> "pd.DataFrame":
    from pipeline.datasets import read_table
    from pipeline.evaluation.layer_scores import layer_study
    from pipeline.vectorizer import BertVectorizer

    if layers != "run" or table is None:
        return read_table(layers, columns=["kind", "features", "pooling"])
    vectorizer = _unfitted(fitted).steps[0][1]
    if not isinstance(vectorizer, BertVectorizer):
        raise ValueError(f"--layers run: the pipeline begins with a {type(vectorizer).__name__}, which has no layers to study.")
    return layer_study(table[text], table[label], vectorizer=vectorizer, nested=True, n_jobs=-1)


def _lines(stream: TextIO) -> list[str]:
    return [line.rstrip("\r\n") for line in stream]


def _names(value: str | None) -> Any:
    if value is None:
        return None
    names = tuple(part.strip() for part in value.split(","))
    return names[0] if len(names) == 1 else names


def _layers(value: str | None) -> Any:
    if value is None or value == "all":
        return value
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise ValueError(f"--layers {value!r}; allowed are a number (-1), several (-4,-3,-2,-1), or all.") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _with_progress(pipeline: Any) -> Any:
    """Show the bar of a loaded pipeline's vectorizer where somebody can see it."""
    name = f"{pipeline.steps[0][0]}__progress"
    return pipeline.set_params(**{name: True}) if sys.stderr.isatty() and name in pipeline.get_params() else pipeline


def _probabilities(fitted: Any, texts: Any) -> Any:
    if not hasattr(fitted, "predict_proba"):
        raise ValueError(
            f"The saved {type(fitted[-1]).__name__} gives no probabilities (predict_proba); train another classifier."
        )
    if not len(texts):  # no classifier takes zero rows
        import numpy as np

        return np.empty((0, len(fitted.classes_)))
    return fitted.predict_proba(texts)


def _label(console: Console, fitted: Any, texts: list[str]) -> None:
    print_labels(console, texts, _probabilities(fitted, texts), fitted.classes_)


def _executor(workers: int | None, scheduler: str | None, resources: str | None) -> dict[str, Any]:
    """Return the options of score_table that say where it runs."""
    if scheduler is None:
        if resources is not None:
            raise ValueError("--resources are those of a Dask cluster's workers: give its --scheduler too.")
        return {"executor": {None: "auto", 1: "serial"}.get(workers, "processes"), "workers": workers}
    if "://" not in scheduler:
        raise ValueError(f"--scheduler {scheduler} is no address; `dask scheduler` prints its own, such as tcp://10.0.0.5:8786.")
    if workers is not None:
        raise ValueError(f"--workers {workers} are processes of this machine; the cluster at {scheduler} has its own.")
    from pipeline.scoring.dask_executor import DaskExecutor

    return {"executor": DaskExecutor(scheduler, resources=_amounts(resources or ""))}


def _amounts(resources: str) -> dict[str, float]:
    """Read resources as `dask worker` does: ``"GPU=1,memory=16e9"``."""
    amounts = {}
    for resource in filter(None, resources.split(",")):
        name, _, amount = resource.partition("=")
        try:
            amounts[name.strip()] = float(amount)
        except ValueError:
            raise ValueError(f"--resources {resources}: {resource!r} is not NAME=NUMBER, such as GPU=1.") from None
    return amounts


def _predict_table(model: Path, data: list[str], out: Path, column: str, options: dict[str, Any]) -> None:
    from pipeline.scoring.table import score_table

    try:
        scored = score_table(model, data if len(data) > 1 else data[0], out, text=column, **options)
    except KeyboardInterrupt:
        Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(
            "Interrupted. What is finished is kept: the same command goes on from there."
        )
        raise typer.Exit(130) from None
    told = [f"Wrote {scored.n_rows} rows to {scored.out}, with the new columns {', '.join(scored.columns)}."]
    if scored.n_skipped:
        told.append(f"{scored.n_skipped} of them were finished by an earlier run.")
    if scored.n_parts > 1 and scored.n_skipped < scored.n_rows:
        told.append(f"{scored.rows_per_second:.0f} rows per second.")
    if scored.n_bad:
        told.append(f"{scored.n_bad} of them have no label; the column {scored.columns[-1]} says why.")
    Console(soft_wrap=True, markup=False, highlight=False).print("\n".join(told))


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(f"Warning: {message}")
