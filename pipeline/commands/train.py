"""Command train."""

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any

from typer import Option

from pipeline.commands.evaluate import score_rows, write_page
from pipeline.commands.options import (
    DEFAULT_ARTIFACT,
    MANY_CLASSES,
    SHIPPED,
    Encoder,
    GroupColumn,
    Head,
    Labelled,
    OwnTestData,
    Seed,
    Table,
    TrainingData,
    given,
    split_list,
)
from pipeline.commands.predict import label_texts
from pipeline.commands.printing import (
    plain_console,
    print_comparison,
    print_cut,
    print_scores,
    say,
)

_LEAST = 5  # texts per class, to train and to test


@dataclass(frozen=True)
class Vectors:
    """Settings of BertVectorizer's vectors."""

    pooling: Annotated[
        str | None,
        Option(help="cls, mean, max, pooler, several, or checkpoint (as published)."),
    ] = None
    prompt: Annotated[str | None, Option(help="Text before each text: 'query: '.")] = None
    layers: Annotated[str | None, Option(help="A layer (-1), several (-4,-3,-2,-1) or all.")] = None
    combine: Annotated[
        str | None,
        Option(help="concat, mean, sum or learned (a weighted sum) of the layers."),
    ] = None
    truncation: Annotated[str | None, Option(help="head, tail, head_tail, window or error.")] = None

    def options(self) -> dict[str, Any]:
        """Return parameters of BertVectorizer."""
        parameters = given(**vars(self))
        if self.pooling is not None:
            parameters["pooling"] = _one_or_several(split_list(self.pooling))
        if self.layers is not None and self.layers != "all":
            parameters["layers"] = _parse_layers(self.layers)
        return parameters


def _parse_layers(value: str) -> Any:
    """Parse ``"-1"`` as one layer, ``"-2,-1"`` as several."""
    try:
        return _one_or_several(list(map(int, value.split(","))))
    except ValueError:
        raise ValueError(
            f"--layers {value!r}; allowed are a number (-1), several (-4,-3,-2,-1), or all."
        ) from None


def _one_or_several(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def train(
    *,
    data: TrainingData = None,
    table: Table,
    test_data: OwnTestData = None,
    group_column: GroupColumn = None,
    encoder: Encoder,
    vectors: Vectors,
    head: Head,
    out: Annotated[str, Option(help="Path of the trained pipeline.")] = DEFAULT_ARTIFACT,
    sign: Annotated[
        str | None, Option(help="Sign the pipeline with this Ed25519 key (.pem).")
    ] = None,
    cv: Annotated[int, Option(help="Folds of the comparison; 0 skips it.")] = 5,
    seed: Seed = 0,
    report: Annotated[
        bool, Option(help="Write a page about the pipeline beside it (.html, .json).")
    ] = True,
) -> None:
    """Train, save and evaluate a pipeline, and write a report."""
    from pipeline.evaluation.compare import compare
    from pipeline.files import file_size, with_ending
    from pipeline.saved.artifact import save_pipeline
    from pipeline.saved.manifest import vectorizers_in
    from pipeline.saved.signing import signing_key

    computing, key = encoder.options(), signing_key(sign)
    no_report = _check_outputs(out, report)
    options = {**computing, **vectors.options()}
    model = head.make(seed, default_ngrams=True, **options)
    learn, held_out, codes, groups = _read(data, test_data, table, group_column, seed, cv)
    if codes.max() >= MANY_CLASSES:
        model = head.make(seed, **options)
    files = f"{learn.source}, {test_data}" if test_data else learn.source
    say(f"{len(learn.table)} texts to train on, {len(held_out.table)} held out ({files}).")
    model = _fit(model, learn, codes, groups, seed)
    print_cut(*(vectorizer.truncation_report_ for vectorizer in vectorizers_in(model)))
    columns = {"text": learn.text, "label": learn.label}
    path = save_pipeline(model, out, columns=columns, sign=key)
    # before anything that may fail
    say(f"Saved {path} ({file_size(str(path)) / 1e6:.0f} MB).")
    comparison = None
    if cv:
        comparison = compare(learn.texts, learn.labels, model=model, cv=cv, groups=groups,
                             random_state=seed)  # fmt: skip
        print_comparison(comparison, f"{cv}-fold cross-validation on the training texts")
    report = report and not no_report
    scores = _score(model, held_out, learn if report else None, path, key)
    if report:
        tables = {"held_out_texts": held_out.origin(), "training_texts": learn.origin()}
        title = f"{PurePath(path).name} on the held-out texts"
        write_page(scores, with_ending(path, ".html"), model, path, tables, title,
                   comparison=comparison)  # fmt: skip
    if no_report:
        say(no_report)
    _try(path, held_out, model, seed)


def _check_outputs(out: str, report: bool) -> str | None:
    """Check the outputs; return why there will be no report."""
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
) -> tuple[Labelled, Labelled, Any, Any]:
    """Return rows to train on and to test, and codes and groups of the first."""
    from pipeline.evaluation.folds import check_classes, split_folds
    from pipeline.texts import class_numbers, group_numbers, text_groups

    rows = table.learn(data, _LEAST if test_data is None else max(2, cv), group_column)
    rows, held_out = table.hold_out(rows, test_data, seed)
    groups = text_groups(rows.texts, group_numbers(rows.groups, len(rows.table)))
    classes, codes = class_numbers(rows.labels, len(rows.table), warn=False)
    if cv:  # refuse before training what the comparison refuses
        check_classes(split_folds(cv, codes, seed, groups), classes, codes)
    return rows, held_out, codes, groups


def _fit(model: Any, learn: Labelled, codes: Any, groups: Any, seed: int) -> Any:
    """Fit, keeping groups together in the folds that choose C."""
    from pipeline.evaluation.folds import keep_groups
    from pipeline.progress import progress

    own_folds = {name: cv for name, cv in model.get_params().items() if name.endswith("__cv")}
    if groups is not None:
        model = keep_groups(model, codes, groups, seed)
    with progress("fitting the classifier") as part:
        part.show(0)
        model.fit(learn.texts, learn.labels).set_params(**own_folds)
    heads = [model[-1], *(part[-1] for part in getattr(model[-1], "estimators_", []))]
    for C in (head.C_ for head in heads if hasattr(head, "C_")):
        say(f"C={C:g}, chosen by the log loss.")
    if not hasattr(model, "predict_proba"):
        say(
            f"A {type(model[-1]).__name__} gives no probabilities: no log loss, no calibration, no "
            "search for wrong labels and no predict --data; predict prints only labels. Use "
            "--classifier logistic for all of them."
        )
    return model


def _score(
    model: Any, held_out: Labelled, train: Labelled | None, path: Path | str, key: Any
) -> dict[str, Any]:
    """Evaluate, in detail if given the training rows, and record the scores."""
    from pipeline.saved.artifact import record_scores

    by = ("domain", "trait") if train and held_out.source == SHIPPED else ()
    few: Any = {} if train else {"n_mistakes": 0, "n_examples": 0, "n_map": 0}
    columns = [name for name in by if name in held_out.table]
    scores = score_rows(model, held_out, train, columns, **few)
    brief = {**scores, "slices": {}, "mistakes": []}
    print_scores(plain_console(), brief, "On the held-out texts")
    numbers = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    record_scores(path, {"held out": numbers}, key)
    return scores


def _try(path: Path | str, held_out: Labelled, model: Any, seed: int) -> None:
    import numpy as np

    from pipeline.saved.allow_list import GROUPS, name_of
    from pipeline.saved.artifact import load_pipeline

    places = np.random.default_rng(seed).permutation(len(held_out.table))[:3]
    three = held_out.at(places).table.sort_index()
    kind = type(model[-1])
    group = kind.__module__.partition(".")[0]
    fitted = load_pipeline(path, trusted=[group if group in GROUPS else name_of(kind)])
    say(f"{path}, loaded again, predicts for three held-out rows of {held_out.source}:")
    known = {"row": three.index, "label": three[held_out.label]}
    label_texts(fitted, three[held_out.text].tolist(), known)
