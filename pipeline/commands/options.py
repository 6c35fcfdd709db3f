"""Options shared by several commands, and how their values are read."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from pipeline.commands.printing import plain_console

if TYPE_CHECKING:
    import pandas as pd

# str, because a Path would take a slash from s3://
DEFAULT_ARTIFACT = str(Path("models") / "sentiment.joblib")
ArtifactPath = Annotated[str, typer.Option("--pipeline", help="A file written by train.")]
BertModel = Annotated[str | None, typer.Option(help="BERT model to start from: hub id or folder.")]
MaxLength = Annotated[int | None, typer.Option(help="Most tokens per text.")]
SHIPPED = "the shipped reviews"
MERGED = "other"
_FORMATS = "CSV, TSV, JSON lines, Excel or Parquet"
TestData = Annotated[
    str | None, typer.Option(help=f"{_FORMATS}; by default the held-out shipped reviews.")
]
TrainingData = Annotated[
    str | None, typer.Option(help=f"{_FORMATS}; by default the shipped training reviews.")
]
OwnTestData = Annotated[
    str | None,
    typer.Option(
        help="Score on this file, with the same columns, instead of on a fifth of --data."
    ),
]
Groups = Annotated[list[str] | None, typer.Option(help="A column to score by; can be repeated.")]
Folds = Annotated[int, typer.Option(help="Folds.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Column of groups; each stays on one side of every split."),
]
ClassWeight = Annotated[str | None, typer.Option(help="balanced gives rare classes more weight.")]
Regularisation = Annotated[
    str | None,
    typer.Option("--C", help="Inverse regularisation, or cv (default) to cross-validate it."),
]
Classifier = Annotated[
    str,
    typer.Option(
        help="logistic, linear-svm, ridge, hist-gradient-boosting, or an import path such as "
        "sklearn.svm.SVC."
    ),
]
CacheFolder = Annotated[
    str | None,
    typer.Option("--cache", help="Folder for vectors, to resume after an interruption."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Most threads to use.")]
TextColumn = Annotated[
    str | None, typer.Option(help="Text column; by default as in training, or text.")
]
Encoding = Annotated[str, typer.Option(help="Encoding of a CSV file.")]
Separator = Annotated[
    str | None,
    typer.Option(help="Separator of a CSV file, such as ';' or tab; by default from its name."),
]
Missing = Annotated[
    Literal["error", "empty"],
    typer.Option(help="Rows without a text: error, or empty to use an empty text."),
]
TableOut = Annotated[str | None, typer.Option(help="Write the table to: .csv or .parquet.")]

_OLD_NAMES = {
    "--text": ("--text-column",),
    "--column": ("--text-column",),
    "--label": ("--label-column",),
    "--model": ("--bert", "--pipeline"),
}


class Command(TyperCommand):
    """A command that accepts former names of options, and can be interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and say what is kept if it is interrupted."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            cache = ctx.params.get("cache", "")
            kept = (
                f"Vectors are kept in {cache}, except for the last few thousand texts. Run the "
                "same command again to resume."
            )
            if cache is None:
                kept = "Use --cache FOLDER to keep vectors for the next time."
            say(f"Interrupted. {kept if cache != '' else ''}".rstrip())
            raise typer.Exit(130) from None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replace former names of options."""
        known = {name for param in self.params for name in param.opts}
        end = args.index("--") if "--" in args else len(args)
        hinted = set()
        for i, word in enumerate(args[:end]):
            old, equals, value = word.partition("=")
            new = next((name for name in _OLD_NAMES.get(old, ()) if name in known), None)
            if new is None or old in known:
                continue
            args[i] = f"{new}{equals}{value}"
            if old not in hinted:
                plain_console(stderr=True).print(f"Hint: {old} is now called {new}.")
            hinted.add(old)
        return super().parse_args(ctx, args)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the dataclass parameters of a command into single options."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += inspect.signature(parameter.annotation).parameters.values()  # type: ignore[arg-type]
        else:
            parameters.append(parameter)

    def call(**given: Any) -> None:
        for name, group in groups.items():
            own = [field.name for field in fields(group) if field.name in given]
            given[name] = group(**{field: given.pop(field) for field in own})
        command(**given)

    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    call.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    return call


# ---- saved pipelines


@dataclass(frozen=True)
class Trust:
    """What a command trusts in a saved file."""

    trusted: Annotated[
        list[str] | None,
        typer.Option(
            help="More names that the file may contain: my_package.MyStep, or lightgbm, xgboost, "
            "catboost, imblearn; can be repeated."
        ),
    ] = None
    trusted_key: Annotated[
        list[str] | None,
        typer.Option(help="Open only files signed by this public key (.pem); can be repeated."),
    ] = None

    def options(self) -> dict[str, Any]:
        """Return the options of load_pipeline."""
        return {"trusted": self.trusted or (), "trusted_key": self.trusted_key or None}


# ---- encoders and classifiers


@dataclass(frozen=True)
class Encoder:
    """The BERT model of a command and its settings."""

    bert: BertModel = None
    max_length: MaxLength = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto"
    cache: CacheFolder = None
    threads: Threads = None

    def options(self) -> dict[str, Any]:
        """Return parameters of BertVectorizer, after limiting the threads."""
        limit_threads(self.threads)
        given = {"model": self.bert, "max_length": self.max_length, "cache": self.cache}
        return {
            "device": self.device,
            "dtype": self.dtype,
            **{name: value for name, value in given.items() if value is not None},
        }


def limit_threads(threads: int | None) -> None:
    """Limit the threads of every library."""
    if threads is None:
        return
    for name in ("OMP", "MKL", "OPENBLAS", "RAYON"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


_CLASSIFIERS = {
    "linear-svm": "sklearn.svm.LinearSVC",
    "ridge": "sklearn.linear_model.RidgeClassifier",
    "hist-gradient-boosting": "sklearn.ensemble.HistGradientBoostingClassifier",
}


def make_classifier(name: str, **given: Any) -> Any:
    """Return a classifier by name or import path, with its parameters."""
    from sklearn.base import is_classifier

    path = _CLASSIFIERS.get(name, name)
    module, _, kind = path.rpartition(".")
    allowed = (
        f"allowed are logistic, {', '.join(_CLASSIFIERS)}, and the import path of a scikit-learn "
        "classifier, such as sklearn.ensemble.RandomForestClassifier"
    )
    if not module:
        raise ValueError(f"--classifier {name}: {allowed}.")
    try:
        classifier = getattr(importlib.import_module(module), kind)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"--classifier {name}: {error}; {allowed}.") from None
    if not (hasattr(classifier, "get_params") and is_classifier(classifier)):
        hint = ", perhaps a regressor" if hasattr(classifier, "predict") else ""
        raise ValueError(f"--classifier {name} is not a classifier{hint}; {allowed}.")
    known = classifier.get_params()
    wanted = {key: value for key, value in given.items() if value is not None}
    for key in wanted:
        if key not in known and key != "random_state":
            option = "--C" if key == "C" else f"--{key.replace('_', '-')}"
            raise ValueError(f"--classifier {name}: a {kind} has no {key}; leave out {option}.")
    if name == "linear-svm":  # liblinear's dual solver needs many more iterations
        classifier.set_params(dual=False)
    return classifier.set_params(**{key: value for key, value in wanted.items() if key in known})


@dataclass(frozen=True)
class Labelled:
    """Rows with a text and a label each."""

    table: "pd.DataFrame"
    text: str
    label: str
    source: str

    @property
    def texts(self) -> "pd.Series":
        """The texts."""
        return self.table[self.text]

    @property
    def labels(self) -> "pd.Series":
        """The labels."""
        return self.table[self.label]

    def origin(self) -> tuple[Any, "pd.DataFrame"]:
        """Return the origin of the table, and the table."""
        from pipeline.files import where

        return self.source if self.source == SHIPPED else where(self.source), self.table

    def at(self, places: Any) -> "Labelled":
        """Return some of the rows."""
        return replace(self, table=self.table.iloc[places])


@dataclass(frozen=True)
class Table:
    """How to read a table of texts and labels."""

    text_column: TextColumn = None
    label_column: Annotated[
        str | None, typer.Option(help="Label column; by default as in training, or label.")
    ] = None
    encoding: Encoding = "utf-8"
    sep: Separator = None
    missing: Missing = "error"
    drop_missing_labels: Annotated[
        bool, typer.Option("--drop-missing-labels", help="Leave out rows without a label.")
    ] = False
    rare: Annotated[
        Literal["error", "drop", "merge"],
        typer.Option(
            help="For classes with too few texts, or unknown to the pipeline: error, drop their "
            f"rows, or merge them into one class called {MERGED}."
        ),
    ] = "error"

    def of_pipeline(self, place: str) -> "Table":
        """Return this table with defaults from a pipeline's training columns."""
        known = its_columns(place)
        text, label = (known.get(kind) for kind in ("text", "label"))
        return replace(
            self,
            text_column=self.text_column or text,
            label_column=self.label_column or label,
        )

    def read(
        self,
        data: str | None,
        by: list[str] | None = None,
        group: str | None = None,
        *,
        held_out: bool = False,
    ) -> Labelled:
        """Return texts and typed labels of a table, or the shipped reviews."""
        from pipeline.csv_table import check_names
        from pipeline.datasets import load_reviews, missing_cells, read_table, typed_labels

        text, label = self.text_column or "text", self.label_column or "label"
        columns = dict.fromkeys(by or [], "--by") | ({group: "--group-column"} if group else {})
        if data is None:
            source, table = SHIPPED, load_reviews()[held_out]
            check_names(list(table.columns), columns, source)
            return Labelled(table, "text", "label", source)
        columns |= {text: "--text-column", label: "--label-column"}
        table = read_table(data, columns=columns, encoding=self.encoding, sep=self.sep)
        if empty := missing_cells(table[label]):
            what = (
                f"{data}: column {label!r} is empty in {len(empty)} of {len(table)} rows, first "
                f"in row {empty[0]} (0 is the first)"
            )
            if not self.drop_missing_labels:
                raise ValueError(f"{what}. Use --drop-missing-labels to leave them out.")
            say(f"{what}; left out.")
            table = table.drop(index=empty)
        texts = with_empty(table[text], self.missing, f"{data}: column {text!r}")
        if holds_numbers(texts):
            say(f"{data}: column {text!r} holds only numbers; use --text-column for another.")
        columns_read = {label: typed_labels(table[label]), text: texts}
        return Labelled(table.assign(**columns_read), text, label, data)

    def learn(self, data: str | None, least: int, group: str | None = None) -> Labelled:
        """Return the training rows, with rare classes dropped or merged if requested."""
        from pipeline.datasets import rare_labels

        rows = self.read(data, group=group)
        groups = None if group is None else rows.table[group]
        rare = [] if self.rare == "error" else rare_labels(rows.labels, rows.texts, groups, least)
        rows = self._without(rows, rare, "with too few texts")
        if rare and 0 < (n := int((rows.labels == MERGED).sum())) < least:
            raise ValueError(
                f"{rows.source}: the rare classes have {n} texts together, too few for a class of "
                "their own. Use --rare drop to leave them out."
            )
        return rows

    def known(self, rows: Labelled, classes: Sequence[Any]) -> Labelled:
        """Return rows without classes unknown to a model, if requested."""
        from pipeline.answers import positions

        found = rows.labels.unique().tolist()
        unknown = [] if self.rare == "error" else positions(found, classes)[1]
        if unknown and self.rare == "merge" and MERGED not in classes:
            raise ValueError(
                f"--rare merge: the pipeline has no class {MERGED!r}, as made by train --rare "
                "merge. Use --rare drop to leave out unknown classes."
            )
        return self._without(rows, unknown, "that were not trained on")

    def _without(self, rows: Labelled, labels: list[Any], why: str) -> Labelled:
        if not labels:
            return rows
        is_gone = rows.labels.isin(labels)
        names = ", ".join(repr(str(label)) for label in labels[:5])
        message = f"{rows.source}: {is_gone.sum()} texts of {len(labels)} classes {why} ({names}"
        message += ", ...)" if labels[5:] else ")"
        if self.rare == "drop":
            say(f"{message} are left out.")
            return replace(rows, table=rows.table[~is_gone])
        say(f"{message} are merged into the class {MERGED!r}; labels are texts.")
        merged = rows.labels.astype("str").mask(is_gone, MERGED)
        return replace(rows, table=rows.table.assign(**{rows.label: merged}))


def say(message: str) -> None:
    """Print on standard error what was done to the data."""
    plain_console(stderr=True).print(message)


def with_empty(texts: "pd.Series", missing: str, what: str) -> "pd.Series":
    """Return texts with missing ones as empty, or raise."""
    from pipeline.datasets import missing_cells

    if not (empty := missing_cells(texts)):
        return texts
    message = f"{what} is empty in {len(empty)} of {len(texts)} rows, first in row {empty[0]}"
    if missing == "error":
        raise ValueError(
            f"{message} (0 is the first). Fill or delete these rows, or use --missing empty to "
            "read them as empty texts."
        )
    say(f"{message}; read as empty texts.")
    return texts.mask(texts.index.isin(empty), "")


def holds_numbers(texts: "pd.Series") -> bool:
    """Return whether all texts are numbers."""
    import pandas as pd

    return len(texts) > 0 and bool(pd.to_numeric(texts, errors="coerce").notna().all())


def its_columns(place: str) -> dict[str, str]:
    """Return the training columns of a saved pipeline, empty if unknown."""
    from pipeline.files import where
    from pipeline.saved.manifest import columns_of

    return columns_of(where(place))


def rows_for(fitted: Any, rows: Labelled) -> Any:
    """Return the texts of a table, or the columns of a model."""
    from pipeline.columns import as_fitted, columns_for

    columns = columns_for(fitted, list(rows.table.columns), rows.text, "the table")
    return as_fitted(columns, rows.table, rows.text)


def in_file(scores: Any, rows: Labelled) -> Any:
    """Name the rows of an evaluation by their places in the file."""
    places = rows.table.index.tolist()
    named = [*scores["mistakes"], *scores["examples"]]
    named += (scores["label_issues"] or {}).get("rows", [])
    named += (scores["map"] or {}).get("points", [])
    for answer in named:
        answer["row"] = places[answer["row"]]
    if scores["duplicates"]:
        scores["duplicates"]["rows"] = [places[row] for row in scores["duplicates"]["rows"]]
    return scores


def texts_to_answer(texts: list[str] | None, missing: str, nothing: str) -> list[str]:
    """Return the given texts, or the lines of standard input."""
    import pandas as pd

    if texts:
        what = "--text"
    elif sys.stdin is None or sys.stdin.isatty():  # None: closed, as by `<&-`
        raise ValueError(nothing)
    else:
        what, texts = "standard input", [line.rstrip("\r\n") for line in sys.stdin]
    return with_empty(pd.Series(texts, dtype="str"), missing, what).tolist()


def split_list(value: str) -> list[str]:
    """Split a comma-separated list of names."""
    return [part.strip() for part in value.split(",")]


def split_names(value: str | None) -> Any:
    """Parse ``"cls"`` as one name, ``"cls,mean"`` as several."""
    return None if value is None else _one_or_several(split_list(value))


def parse_layers(value: str | None) -> Any:
    """Parse ``"all"``, ``"-1"`` as one layer, ``"-2,-1"`` as several."""
    if value is None or value == "all":
        return value
    try:
        return _one_or_several(list(map(int, value.split(","))))
    except ValueError:
        raise ValueError(
            f"--layers {value!r}; allowed are a number (-1), several (-4,-3,-2,-1), or all."
        ) from None


def parse_C(value: str) -> Any:
    """Parse ``"cv"``, or a number above 0."""
    if value == "cv":
        return value
    try:
        C = float(value)
    except ValueError:
        C = 0.0
    if not 0 < C < float("inf"):
        raise ValueError(f"--C {value}; allowed are numbers above 0, and cv to choose one.")
    return C


def _one_or_several(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


def with_cache(pipeline: Any, cache: str | None) -> Any:
    """Set the cache folder of a loaded pipeline's vectorizers, if given."""
    names = [name for name in pipeline.get_params() if name.endswith("__cache")]
    return pipeline if cache is None else pipeline.set_params(**dict.fromkeys(names, cache))
