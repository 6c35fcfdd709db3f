"""Options of several commands, and how they are read."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Exit, Option
from typer.core import TyperCommand

from pipeline.commands.printing import note

if TYPE_CHECKING:
    import pandas as pd

# str, because a Path would take a slash from s3://
DEFAULT_ARTIFACT = str(Path("models") / "sentiment.joblib")
ArtifactPath = Annotated[str, Option("--pipeline", help="A file written by train.")]
BertModel = Annotated[str | None, Option(help="BERT model to start from: hub id or folder.")]
SHIPPED = "the shipped reviews"
MERGED = "other"
_FORMATS = "CSV, TSV, JSON lines, Excel or Parquet"
TestData = Annotated[
    str | None, Option(help=f"{_FORMATS}; by default the held-out shipped reviews.")
]
TrainingData = Annotated[
    str | None, Option(help=f"{_FORMATS}; by default the shipped training reviews.")
]
OwnTestData = Annotated[
    str | None,
    Option(help="Score on this file, with the same columns, instead of on a fifth of --data."),
]
Groups = Annotated[list[str] | None, Option(help="A column to score by; can be repeated.")]
Folds = Annotated[int, Option(help="Folds.")]
Seed = Annotated[int, Option(help="Random seed.")]
GroupColumn = Annotated[
    str | None,
    Option(help="Column of groups; each stays on one side of every split."),
]
CacheFolder = Annotated[
    str | None,
    Option("--cache", help="Folder for vectors, to resume after an interruption."),
]
Threads = Annotated[int | None, Option(min=1, help="Most threads to use.")]
TextColumn = Annotated[str | None, Option(help="Text column; by default as in training, or text.")]
Encoding = Annotated[str, Option(help="Encoding of a CSV file.")]
Separator = Annotated[
    str | None,
    Option(help="Separator of a CSV file, such as ';' or tab; by default from its name."),
]
Missing = Annotated[
    Literal["error", "empty"],
    Option(help="Rows without a text: error, or empty to use an empty text."),
]
TableOut = Annotated[str | None, Option(help="Write the table to: .csv or .parquet.")]

_OLD_NAMES = {
    "--text": ("--text-column",),
    "--column": ("--text-column",),
    "--label": ("--label-column",),
    "--model": ("--bert", "--pipeline"),
}


class Command(TyperCommand):
    """A command with former option names and interrupts."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; if interrupted, say what is kept."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            message = "Interrupted."
            if cache := ctx.params.get("cache"):
                message += (
                    f" Vectors are kept in {cache}, except for the last few thousand texts. Run "
                    "the same command again to resume."
                )
            elif "cache" in ctx.params:
                message += " Use --cache FOLDER to keep vectors for the next time."
            note(message)
            raise Exit(130) from None

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
                note(f"Hint: {old} is now called {new}.")
            hinted.add(old)
        return super().parse_args(ctx, args)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Split the dataclass parameters of a command into options."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(command).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += inspect.signature(parameter.annotation).parameters.values()  # type: ignore[arg-type]
        else:
            parameters.append(parameter)

    def call(**values: Any) -> None:
        for name, group in groups.items():
            own = {f.name: values.pop(f.name) for f in fields(group) if f.name in values}
            values[name] = group(**own)
        command(**values)

    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    call.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    call.__name__, call.__doc__ = command.__name__, command.__doc__
    return call


@dataclass(frozen=True)
class Trust:
    """What a command trusts in a saved file."""

    trusted: Annotated[
        list[str] | None,
        Option(
            help="More names that the file may contain: my_package.MyStep, or lightgbm, xgboost, "
            "catboost, imblearn; can be repeated."
        ),
    ] = None
    trusted_key: Annotated[
        list[str] | None,
        Option(help="Open only files signed by this public key (.pem); can be repeated."),
    ] = None

    def options(self) -> dict[str, Any]:
        """Return the options of load_pipeline."""
        return {"trusted": self.trusted or (), "trusted_key": self.trusted_key or None}


MANY_CLASSES = 10  # with more, the six fits of a stack take minutes


@dataclass(frozen=True)
class Encoder:
    """The BERT model of a command and its settings."""

    bert: BertModel = None
    max_length: Annotated[int | None, Option(help="Most tokens per text.")] = None
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    dtype: Annotated[str, Option(help="auto, float32, float16 or bfloat16.")] = "auto"
    cache: CacheFolder = None
    threads: Threads = None

    def options(self) -> dict[str, Any]:
        """Limit the threads, and return parameters of BertVectorizer."""
        limit_threads(self.threads)
        return given(model=self.bert, max_length=self.max_length, device=self.device,
                     dtype=self.dtype, cache=self.cache)  # fmt: skip


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


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


@dataclass(frozen=True)
class Head:
    """The classifier on the vectors."""

    classifier: Annotated[
        str,
        Option(
            help="logistic, linear-svm, ridge, hist-gradient-boosting, or an import path such as "
            "sklearn.svm.SVC."
        ),
    ] = "logistic"
    class_weight: Annotated[
        str | None,
        Option(help="balanced gives rare classes more weight."),
    ] = None
    C: Annotated[
        str | None,
        Option("--C", help="Inverse regularisation, or cv (default) to cross-validate it."),
    ] = None
    ngrams: Annotated[
        bool | None,
        Option(
            help="Stack TF-IDF of words and word pairs with BERT; the default of train for up to "
            f"{MANY_CLASSES} classes."
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
            model = make_sentiment_pipeline(C=_parse_C(self.C or default_C), **options)
            names = [n for n in model.get_params() if n.endswith("regression__random_state")]
            return model.set_params(**dict.fromkeys(names, seed))
        if ngrams:
            raise ValueError("--ngrams stacks logistic regressions; leave out --classifier.")
        if self.C == "cv":
            raise ValueError("--C cv works only with --classifier logistic; give a number.")
        head = self._other(seed)
        model = make_sentiment_pipeline(**options)
        model.steps[-1] = (type(head).__name__.lower(), head)
        return model

    def _other(self, seed: int) -> Any:
        from sklearn.base import is_classifier

        name = self.classifier
        module, _, kind = _CLASSIFIERS.get(name, name).rpartition(".")
        allowed = (
            f"allowed are logistic, {', '.join(_CLASSIFIERS)}, and the import path of a "
            "scikit-learn classifier, such as sklearn.ensemble.RandomForestClassifier"
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
        C = None if self.C is None else _parse_C(self.C)
        chosen, known = given(C=C, class_weight=self.class_weight), classifier.get_params()
        for key in chosen:
            if key not in known:
                option = f"--{key.replace('_', '-')}"
                raise ValueError(f"--classifier {name}: a {kind} has no {key}; leave out {option}.")
        if "random_state" in known:
            chosen["random_state"] = seed
        if name == "linear-svm":  # liblinear's dual solver needs many more iterations
            chosen["dual"] = False
        return classifier.set_params(**chosen)


def _parse_C(value: str) -> Any:
    if value == "cv":
        return value
    try:
        C = float(value)
    except ValueError:
        C = 0.0
    if not 0 < C < float("inf"):
        raise ValueError(f"--C {value}; allowed are numbers above 0, and cv to choose one.")
    return C


@dataclass(frozen=True)
class Labelled:
    """Rows with a text and a label each."""

    table: "pd.DataFrame"
    text: str
    label: str
    source: str
    group: str | None = None

    @property
    def texts(self) -> "pd.Series":
        """The texts."""
        return self.table[self.text]

    @property
    def labels(self) -> "pd.Series":
        """The labels."""
        return self.table[self.label]

    @property
    def groups(self) -> "pd.Series | None":
        """The groups, if a column was named."""
        return None if self.group is None else self.table[self.group]

    def origin(self) -> tuple[Any, "pd.DataFrame"]:
        """Return the file and the table."""
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
        str | None, Option(help="Label column; by default as in training, or label.")
    ] = None
    encoding: Encoding = "utf-8"
    sep: Separator = None
    missing: Missing = "error"
    drop_missing_labels: Annotated[
        bool, Option("--drop-missing-labels", help="Leave out rows without a label.")
    ] = False
    rare: Annotated[
        Literal["error", "drop", "merge"],
        Option(
            help="For classes with too few texts, or unknown to the pipeline: error, drop their "
            f"rows, or merge them into one class called {MERGED}."
        ),
    ] = "error"

    def of_pipeline(self, place: str) -> "Table":
        """Return this with defaults from a pipeline's training columns."""
        known = its_columns(place)
        return replace(
            self,
            text_column=self.text_column or known.get("text"),
            label_column=self.label_column or known.get("label"),
        )

    def read(
        self,
        data: str | None,
        by: list[str] | None = None,
        group: str | None = None,
        *,
        held_out: bool = False,
    ) -> Labelled:
        """Return the rows of a file, or the shipped reviews."""
        import pandas as pd

        from pipeline.csv_table import check_names
        from pipeline.datasets import load_reviews, missing_cells, read_table, typed_labels

        text, label = self.text_column or "text", self.label_column or "label"
        columns = dict.fromkeys(by or [], "--by") | ({group: "--group-column"} if group else {})
        if data is None:
            source, table = SHIPPED, load_reviews()[held_out]
            check_names(list(table.columns), columns, source)
            return Labelled(table, "text", "label", source, group)
        columns |= {text: "--text-column", label: "--label-column"}
        table = read_table(data, columns=columns, encoding=self.encoding, sep=self.sep)
        if empty := missing_cells(table[label]):
            what = (
                f"{data}: column {label!r} is empty in {len(empty)} of {len(table)} rows, first "
                f"in row {empty[0]} (0 is the first)"
            )
            if not self.drop_missing_labels:
                raise ValueError(f"{what}. Use --drop-missing-labels to leave them out.")
            note(f"{what}; left out.")
            table = table.drop(index=empty)
        texts = with_empty(table[text], self.missing, f"{data}: column {text!r}")
        if len(texts) and pd.to_numeric(texts, errors="coerce").notna().all():
            note(f"{data}: column {text!r} holds only numbers; use --text-column for another.")
        columns_read = {label: typed_labels(table[label]), text: texts}
        return Labelled(table.assign(**columns_read), text, label, data, group)

    def learn(self, data: str | None, least: int, group: str | None = None) -> Labelled:
        """Return the training rows, with rare classes dropped or merged."""
        from pipeline.datasets import rare_labels

        rows = self.read(data, group=group)
        counted = rows.labels, rows.texts, rows.groups
        rare = [] if self.rare == "error" else rare_labels(*counted, least)
        rows = self._without(rows, rare, "with too few texts")
        if rare and 0 < (n := int((rows.labels == MERGED).sum())) < least:
            raise ValueError(
                f"{rows.source}: the rare classes have {n} texts together, too few for a class of "
                "their own. Use --rare drop to leave them out."
            )
        return rows

    def known(self, rows: Labelled, classes: Sequence[Any]) -> Labelled:
        """Return rows, with unknown classes dropped or merged."""
        from pipeline.answers import positions

        found = rows.labels.unique().tolist()
        unknown = [] if self.rare == "error" else positions(found, classes)[1]
        if unknown and self.rare == "merge" and MERGED not in classes:
            raise ValueError(
                f"--rare merge: the pipeline has no class {MERGED!r}, as made by train --rare "
                "merge. Use --rare drop to leave out unknown classes."
            )
        return self._without(rows, unknown, "that were not trained on")

    def hold_out(
        self, rows: Labelled, test_data: str | None, seed: int
    ) -> tuple[Labelled, Labelled]:
        """Return training and test rows."""
        from pipeline.datasets import split_rows

        if test_data is not None:
            return rows, self.known(self.read(test_data), rows.labels.unique().tolist())
        if rows.source == SHIPPED:
            return rows, self.read(None, held_out=True)
        learn, test = split_rows(rows.table, rows.label, text=rows.text, groups=rows.group,
                                 random_state=seed)  # fmt: skip
        return rows.at(learn), rows.at(test)

    def _without(self, rows: Labelled, labels: list[Any], why: str) -> Labelled:
        if not labels:
            return rows
        is_gone = rows.labels.isin(labels)
        names = ", ".join(repr(str(label)) for label in labels[:5])
        message = f"{rows.source}: {is_gone.sum()} texts of {len(labels)} classes {why} ({names}"
        message += ", ...)" if labels[5:] else ")"
        if self.rare == "drop":
            note(f"{message} are left out.")
            return replace(rows, table=rows.table[~is_gone])
        note(f"{message} are merged into the class {MERGED!r}; labels are texts.")
        merged = rows.labels.astype("str").mask(is_gone, MERGED)
        return replace(rows, table=rows.table.assign(**{rows.label: merged}))


def with_empty(texts: "pd.Series", missing: str, what: str) -> "pd.Series":
    """Return texts, missing ones as empty, or raise."""
    from pipeline.datasets import missing_cells

    if not (empty := missing_cells(texts)):
        return texts
    message = f"{what} is empty in {len(empty)} of {len(texts)} rows, first in row {empty[0]}"
    if missing == "error":
        raise ValueError(
            f"{message} (0 is the first). Fill or delete these rows, or use --missing empty to "
            "read them as empty texts."
        )
    note(f"{message}; read as empty texts.")
    return texts.mask(texts.index.isin(empty), "")


def its_columns(place: str) -> dict[str, str]:
    """Return the training columns of a saved pipeline, empty if unknown."""
    from pipeline.files import where
    from pipeline.saved.manifest import columns_of

    return columns_of(where(place))


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
