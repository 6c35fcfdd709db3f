"""train: a table becomes a saved pipeline, compared, scored and reported on."""

from operator import attrgetter
from pathlib import PurePath
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    BertModel,
    ClassWeight,
    Device,
    Encoding,
    GroupColumn,
    LabelColumn,
    MaxLength,
    Precision,
    Regularisation,
    Separator,
    TextColumn,
    parse_C,
    parse_layers,
    read_labelled,
    split_names,
)
from pipeline.commands.predict import label_texts
from pipeline.commands.printing import plain_console, print_comparison, print_cut, print_scores
from pipeline.commands.report import write_page

EXAMPLES = (
    "A quiet, lovely film that stayed with me for days.",
    "Two hours of my life I want back.",
    "The food was cold and nobody cared.",
)


def train(
    data: Annotated[
        str | None, typer.Option(help="CSV or Parquet file; the shipped reviews by default.")
    ] = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    model: BertModel = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="cls, mean, max, pooler, or several: cls,mean; checkpoint: its own."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Put before each text: 'query: '.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="A layer (-1), several (-4,-3,-2,-1) or all.")
    ] = None,
    combine: Annotated[
        str | None,
        typer.Option(help="concat, mean, sum or learned (a weighted sum) of the layers."),
    ] = None,
    max_length: MaxLength = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    truncation: Annotated[
        str | None, typer.Option(help="head, tail, head_tail, window or error.")
    ] = None,
    class_weight: ClassWeight = None,
    ngrams: Annotated[
        bool, typer.Option("--ngrams", help="TF-IDF of words and pairs beside BERT, stacked.")
    ] = False,
    C: Regularisation = "cv",
    group_column: GroupColumn = None,
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
    """Train on a table, save, compare with TF-IDF, score held-out texts, and write a report."""
    from pipeline.evaluation.compare import compare
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.evaluation.folds import check_classes, split_folds
    from pipeline.files import check_writable, file_size, refuse_folder, where, with_ending
    from pipeline.report.page import check_report_extra
    from pipeline.saved.artifact import load_pipeline, record_scores, save_pipeline
    from pipeline.saved.manifest import vectorizers_in
    from pipeline.sentiment import make_sentiment_pipeline
    from pipeline.texts import class_numbers, group_numbers, text_groups

    console = plain_console()
    place = where(out)
    refuse_folder(place, "sentiment.joblib")
    if report and PurePath(place).suffix in (".html", ".json"):
        raise ValueError(
            f"--out {out}: the report beside it would get this name; use another ending, or "
            "--no-report."
        )
    check_writable(place)
    no_report = None
    try:
        if report:
            check_report_extra()
    except ImportError as error:
        report, no_report = False, f"No report: {error}"
    train_set, test_set, text, label = read_labelled(
        data, text, label, encoding, sep, group=group_column, split=True
    )
    training, held_out = ((table[text], table[label]) for table in (train_set, test_set))
    values = None if group_column is None else train_set[group_column]
    groups = text_groups(training[0], group_numbers(values, len(train_set)))
    classes, codes = class_numbers(training[1], len(train_set), warn=False)
    if cv:  # refuses what the comparison would refuse, before anything is trained
        check_classes(split_folds(cv, codes, 0, groups), classes, codes)
    options = {"model": model, "pooling": split_names(pooling), "prompt": prompt,
               "layers": parse_layers(layers), "combine": combine,
               "max_length": max_length, "truncation": truncation, "device": device,
               "dtype": dtype, "class_weight": class_weight, "ngrams": ngrams,
               "C": parse_C(C)}  # fmt: skip
    candidate = make_sentiment_pipeline(
        **{name: value for name, value in options.items() if value is not None}
    )
    source = data or "the shipped reviews"
    console.print(f"{len(train_set)} texts to train on, {len(test_set)} held out ({source}).")
    candidate = _fit(console, candidate, *training, codes, groups)
    print_cut(console, *map(attrgetter("truncation_report_"), vectorizers_in(candidate)))
    path = save_pipeline(candidate, out, columns={"text": text, "label": label})
    # first: whatever fails below, the model is there
    console.print(f"Saved {path} ({file_size(str(path)) / 1e6:.0f} MB).")
    comparison = None
    if cv:
        comparison = compare(*training, model=candidate, cv=cv, groups=groups, n_timed=0)
        print_comparison(console, comparison, f"{cv}-fold cross-validation on the training texts")
    details: dict[str, Any] = {"n_mistakes": 0, "n_examples": 0, "n_map": 0}
    if report:
        details = {"train": training}
        if data is None:
            details["by"] = test_set[[name for name in ("domain", "trait") if name in test_set]]
    scores = evaluate(candidate, *held_out, **details)
    print_scores(console, {**scores, "slices": {}, "mistakes": []}, "On the held-out texts")
    numbers = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    record_scores(path, {"held out": numbers})
    if report:
        origin = where(data) if data else source
        tables = {"held_out_texts": (origin, test_set), "training_texts": (origin, train_set)}
        title = f"{PurePath(path).name} on the held-out texts"
        write_page(console, scores, with_ending(place, ".html"), candidate, path, tables, title,
                   comparison=comparison)  # fmt: skip
    if no_report:
        console.print(no_report)
    console.print(f"{path}, loaded again, says:")
    label_texts(console, load_pipeline(path), list(EXAMPLES))


def _fit(console: Console, model: Any, X: Any, y: Any, codes: Any, groups: Any) -> Any:
    """Fit, with groups kept together in the folds that choose C, and say which was chosen."""
    from pipeline.evaluation.folds import keep_groups
    from pipeline.progress import progress

    own_folds = {name: cv for name, cv in model.get_params().items() if name.endswith("__cv")}
    if groups is not None:
        model = keep_groups(model, codes, groups, 0)
    with progress("fitting the classifier") as part:
        part.show(0)
        model.fit(X, y).set_params(**own_folds)
    if hasattr(model[-1], "C_"):
        console.print(f"C={model[-1].C_:g}, chosen by the log loss.")
    return model
