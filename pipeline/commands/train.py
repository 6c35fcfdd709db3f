"""Command train."""

from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    SHIPPED,
    Classifier,
    ClassWeight,
    Encoder,
    GroupColumn,
    Labelled,
    OwnTestData,
    Regularisation,
    Seed,
    Table,
    TrainingData,
    in_file,
    make_classifier,
    parse_C,
    parse_layers,
    split_names,
    with_groups,
)
from pipeline.commands.predict import label_texts
from pipeline.commands.printing import plain_console, print_comparison, print_cut, print_scores
from pipeline.commands.report import write_page

_LEAST = 5  # texts per class, to train and to test
_MANY_CLASSES = 10  # with more, the six fits of a stack take minutes


@dataclass(frozen=True)
class Vectors:
    """Settings of BertVectorizer's vectors."""

    pooling: Annotated[
        str | None,
        typer.Option(help="cls, mean, max, pooler, several, or checkpoint (as published)."),
    ] = None
    prompt: Annotated[str | None, typer.Option(help="Text before each text: 'query: '.")] = None
    layers: Annotated[
        str | None, typer.Option(help="A layer (-1), several (-4,-3,-2,-1) or all.")
    ] = None
    combine: Annotated[
        str | None,
        typer.Option(help="concat, mean, sum or learned (a weighted sum) of the layers."),
    ] = None
    truncation: Annotated[
        str | None, typer.Option(help="head, tail, head_tail, window or error.")
    ] = None

    def options(self) -> dict[str, Any]:
        """Return parameters of BertVectorizer."""
        parsed = {"pooling": split_names(self.pooling), "layers": parse_layers(self.layers)}
        given = {**vars(self), **parsed}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Head:
    """The classifier on the vectors."""

    classifier: Classifier = "logistic"
    class_weight: ClassWeight = None
    C: Regularisation = None
    ngrams: Annotated[
        bool | None,
        typer.Option(
            help="Stack TF-IDF of words and word pairs with BERT; the default of train for up to "
            f"{_MANY_CLASSES} classes."
        ),
    ] = None

    def make(
        self, seed: int, default_C: str = "cv", default_ngrams: bool = False, **vectors: Any
    ) -> Any:
        """Return the pipeline, not fitted."""
        from pipeline.stacking import make_sentiment_pipeline

        logistic = self.classifier == "logistic"
        ngrams = default_ngrams and logistic if self.ngrams is None else self.ngrams
        options = {"class_weight": self.class_weight, "ngrams": ngrams, **vectors}
        if logistic:
            model = make_sentiment_pipeline(C=parse_C(self.C or default_C), **options)
            names = [n for n in model.get_params() if n.endswith("regression__random_state")]
            return model.set_params(**dict.fromkeys(names, seed))
        if ngrams:
            raise ValueError("--ngrams stacks logistic regressions; leave out --classifier.")
        C = None if self.C is None else parse_C(self.C)
        if C == "cv":
            raise ValueError("--C cv works only with --classifier logistic; give a number.")
        head = make_classifier(
            self.classifier, C=C, class_weight=self.class_weight, random_state=seed
        )
        model = make_sentiment_pipeline(**options)
        model.steps[-1] = (type(head).__name__.lower(), head)
        return model


@dataclass(frozen=True)
class _Sets:
    """Training and held-out rows, with the class and group of each."""

    train: Labelled
    test: Labelled
    codes: Any
    groups: Any


@with_groups
def train(
    *,
    data: TrainingData = None,
    table: Table,
    test_data: OwnTestData = None,
    group_column: GroupColumn = None,
    encoder: Encoder,
    vectors: Vectors,
    head: Head,
    out: Annotated[str, typer.Option(help="Path of the trained pipeline.")] = DEFAULT_ARTIFACT,
    sign: Annotated[
        str | None, typer.Option(help="Sign the pipeline with this Ed25519 key (.pem).")
    ] = None,
    cv: Annotated[int, typer.Option(help="Folds of the comparison; 0 skips it.")] = 5,
    seed: Seed = 0,
    report: Annotated[
        bool, typer.Option(help="Write a page about the pipeline beside it (.html, .json).")
    ] = True,
) -> None:
    """Train, save and evaluate a pipeline, and write a report."""
    from pipeline.evaluation.compare import compare
    from pipeline.files import file_size
    from pipeline.saved.artifact import save_pipeline
    from pipeline.saved.manifest import vectorizers_in
    from pipeline.saved.signing import signing_key

    console, computing, key = plain_console(), encoder.options(), signing_key(sign)
    no_report = _check_outputs(out, report)
    options = {**computing, **vectors.options()}
    model = head.make(seed, default_ngrams=True, **options)  # what is wrong is refused first
    sets = _read(data, test_data, table, group_column, seed, cv)
    learn, held_out = sets.train, sets.test
    if sets.codes.max() >= _MANY_CLASSES:
        model = head.make(seed, **options)
    console.print(
        f"{len(learn.table)} texts to train on, {len(held_out.table)} held out ({learn.source}"
        f"{f', {test_data}' if test_data else ''})."
    )
    model = _fit(console, model, sets, seed)
    print_cut(console, *map(attrgetter("truncation_report_"), vectorizers_in(model)))
    columns = {"text": learn.text, "label": learn.label}
    path = save_pipeline(model, out, columns=columns, sign=key)
    # first, so that the model is safe if anything below fails
    console.print(f"Saved {path} ({file_size(str(path)) / 1e6:.0f} MB).")
    comparison = None
    if cv:
        comparison = compare(learn.texts, learn.labels, model=model, cv=cv, groups=sets.groups,
                             random_state=seed)  # fmt: skip
        print_comparison(console, comparison, f"{cv}-fold cross-validation on the training texts")
    scores = _score(console, model, sets, path, key, report=report and not no_report)
    if report and not no_report:
        _write_page(console, scores, model, path, sets, comparison)
    if no_report:
        console.print(no_report)
    _try(console, path, held_out, model, seed)


def _check_outputs(out: str, report: bool) -> str | None:
    """Check the outputs, and return why there will be no report."""
    from pipeline.files import check_writable, refuse_folder, where
    from pipeline.report.page import check_report_extra

    place = where(out)
    refuse_folder(place, "sentiment.joblib")
    if report and PurePath(place).suffix in (".html", ".json"):
        raise ValueError(
            f"--out {out}: the report beside it would get this name. Use another ending, or "
            "--no-report."
        )
    check_writable(place)
    try:
        if report:
            check_report_extra()
    except ImportError as error:
        return f"No report: {error}"
    return None


def _read(
    data: str | None,
    test_data: str | None,
    table: Table,
    group_column: str | None,
    seed: int,
    cv: int,
) -> _Sets:
    """Read the training and held-out rows, and check them early."""
    from pipeline.datasets import split_rows
    from pipeline.evaluation.folds import check_classes, split_folds
    from pipeline.texts import class_numbers, group_numbers, text_groups

    rows = table.learn(data, _LEAST if test_data is None else max(2, cv), group_column)
    if test_data is not None:
        held_out = table.known(table.read(test_data), rows.labels.unique().tolist())
    elif data is None:
        held_out = table.read(None, held_out=True)
    else:
        training, tested = split_rows(rows.table, rows.label, text=rows.text, groups=group_column,
                                      random_state=seed)  # fmt: skip
        rows, held_out = rows.at(training), rows.at(tested)
    values = None if group_column is None else rows.table[group_column]
    groups = text_groups(rows.texts, group_numbers(values, len(rows.table)))
    classes, codes = class_numbers(rows.labels, len(rows.table), warn=False)
    if cv:  # raise what the comparison would raise, before training
        check_classes(split_folds(cv, codes, seed, groups), classes, codes)
    return _Sets(rows, held_out, codes, groups)


def _fit(console: Console, model: Any, sets: _Sets, seed: int) -> Any:
    """Fit, keeping groups together in the folds that choose C."""
    from pipeline.evaluation.folds import keep_groups
    from pipeline.progress import progress

    own_folds = {name: cv for name, cv in model.get_params().items() if name.endswith("__cv")}
    if sets.groups is not None:
        model = keep_groups(model, sets.codes, sets.groups, seed)
    with progress("fitting the classifier") as part:
        part.show(0)
        model.fit(sets.train.texts, sets.train.labels).set_params(**own_folds)
    heads = [model[-1], *(part[-1] for part in getattr(model[-1], "estimators_", []))]
    for C in (head.C_ for head in heads if hasattr(head, "C_")):
        console.print(f"C={C:g}, chosen by the log loss.")
    if not hasattr(model, "predict_proba"):
        console.print(
            f"A {type(model[-1]).__name__} gives no probabilities: no log loss, no calibration, no "
            "search for wrong labels and no predict --data; predict prints only labels. Use "
            "--classifier logistic for all of them."
        )
    return model


def _score(
    console: Console, model: Any, sets: _Sets, path: Path | str, key: Any, *, report: bool
) -> dict[str, Any]:
    from pipeline.evaluation.evaluate import evaluate
    from pipeline.saved.artifact import record_scores

    test = sets.test
    details: dict[str, Any] = {"n_mistakes": 0, "n_examples": 0, "n_map": 0}
    if report:
        details = {"train": (sets.train.texts, sets.train.labels)}
        if test.source == SHIPPED:
            details["by"] = test.table[[n for n in ("domain", "trait") if n in test.table]]
    scores: dict[str, Any] = in_file(evaluate(model, test.texts, test.labels, **details), test)
    print_scores(console, {**scores, "slices": {}, "mistakes": []}, "On the held-out texts")
    numbers = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    record_scores(path, {"held out": numbers}, key)
    return scores


def _write_page(
    console: Console, scores: dict[str, Any], model: Any, path: Path | str, sets: _Sets,
    comparison: Any,
) -> None:  # fmt: skip
    from pipeline.files import with_ending

    tables = {"held_out_texts": sets.test.origin(), "training_texts": sets.train.origin()}
    title = f"{PurePath(path).name} on the held-out texts"
    write_page(console, scores, with_ending(path, ".html"), model, path, tables, title,
               comparison=comparison)  # fmt: skip


def _try(console: Console, path: Path | str, held_out: Labelled, model: Any, seed: int) -> None:
    import numpy as np

    from pipeline.saved.allow_list import GROUPS, name_of
    from pipeline.saved.artifact import load_pipeline

    places = np.random.default_rng(seed).permutation(len(held_out.table))[:3]
    three = held_out.at(places).table.sort_index()
    kind = type(model[-1])
    group = kind.__module__.partition(".")[0]
    fitted = load_pipeline(path, trusted=[group if group in GROUPS else name_of(kind)])
    console.print(f"{path}, loaded again, predicts for three held-out rows of {held_out.source}:")
    label_texts(console, fitted, three[held_out.text].tolist(), {
        "row": three.index.tolist(), "label": three[held_out.label].tolist()})  # fmt: skip
