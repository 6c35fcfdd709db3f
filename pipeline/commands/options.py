"""Options that several commands share, and how their values are read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    import pandas as pd

# Paths are str: a Path would take a slash from s3://.
DEFAULT_ARTIFACT = str(Path("models") / "sentiment.joblib")
ArtifactPath = Annotated[str, typer.Option("--model", help="A file written by train.")]
Trusted = Annotated[
    list[str] | None,
    typer.Option(
        help="What the file may name besides: my_package.MyStep, or lightgbm, xgboost, catboost, "
        "imblearn; may be given several times."
    ),
]
BertModel = Annotated[str | None, typer.Option(help="BERT model: hub id or folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")]
MaxLength = Annotated[int | None, typer.Option(help="Most tokens per text.")]
TestData = Annotated[
    str | None,
    typer.Option(help="CSV, JSON lines or Parquet; the held-out shipped reviews by default."),
]
TrainingData = Annotated[
    str | None,
    typer.Option(help="CSV, JSON lines or Parquet; the shipped training reviews by default."),
]
TextColumn = Annotated[str, typer.Option(help="Its text column.")]
LabelColumn = Annotated[str, typer.Option(help="Its label column.")]
# of a saved pipeline
ItsText = Annotated[
    str | None, typer.Option("--text", help="The text column; by default as in training.")
]
ItsLabel = Annotated[
    str | None, typer.Option("--label", help="The label column; by default as in training.")
]
Groups = Annotated[
    list[str] | None, typer.Option(help="A column to score by; may be given several times.")
]
Folds = Annotated[int, typer.Option(help="Folds.")]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Texts with one value here stay on one side of every split."),
]
ClassWeight = Annotated[
    str | None, typer.Option(help="balanced: rare classes count as much as frequent ones.")
]
Regularisation = Annotated[
    str, typer.Option("--C", help="Inverse regularisation, or cv: chosen by cross-validation.")
]
TableOut = Annotated[str | None, typer.Option(help="Where the table goes: .csv or .parquet.")]
Encoding = Annotated[str, typer.Option(help="Encoding of the CSV file.")]
Separator = Annotated[str, typer.Option(help="Column separator of the CSV file.")]


def read_data(path: str, columns: list[str], encoding: str, sep: str) -> "pd.DataFrame":
    r"""Read a table that has these columns; ``\t`` typed in a shell is a tab."""
    from pipeline.datasets import read_table

    return read_table(path, columns=columns, encoding=encoding, sep=sep.replace("\\t", "\t"))


def read_labelled(
    data: str | None,
    text: str,
    label: str,
    encoding: str,
    sep: str,
    *,
    by: list[str] | None = None,
    group: str | None = None,
    split: bool = False,
) -> "tuple[pd.DataFrame, pd.DataFrame, str, str]":
    """Return training texts, test texts and column names, by default of the shipped reviews."""
    from pipeline.csv_table import check_names
    from pipeline.datasets import load_reviews, split_table, typed_labels

    if data is None:
        train, test = load_reviews()
        check_names(list(train.columns), [group] if group else [], "the shipped reviews")
        return train, test, "text", "label"
    columns = dict.fromkeys([text, label, *(by or []), *([group] if group else [])])
    table = read_data(data, list(columns), encoding, sep)
    table = table.assign(**{label: typed_labels(table[label])})
    if split:
        return *split_table(table, label, text=text, groups=group), text, label
    return table, table, text, label


def its_columns(model: str, text: str | None, label: str | None) -> tuple[str, str]:
    """Return the columns as given, as in the training of a saved pipeline, or text and label."""
    from pipeline.files import where
    from pipeline.saved.manifest import columns_of

    known = columns_of(where(model)) if text is None or label is None else {}
    return text or known.get("text", "text"), label or known.get("label", "label")


def rows_for(fitted: Any, table: "pd.DataFrame", text: str) -> Any:
    """Return what a fitted model takes of a table: its texts, or its columns."""
    from pipeline.columns import as_fitted
    from pipeline.datasets import columns_for

    return as_fitted(columns_for(fitted, list(table.columns), text, "the table"), table, text)


def columns_by(table: "pd.DataFrame", by: list[str] | None) -> "pd.DataFrame | None":
    """Return the columns to score by, None if there are none."""
    missing = [name for name in by or [] if name not in table]
    if missing:
        raise ValueError(
            f"--by {missing[0]!r} is no column of the table; there are "
            f"{', '.join(map(repr, table.columns))}."
        )
    return table[by] if by else None


def read_lines(stream: TextIO) -> list[str]:
    """Return the lines of a stream without their ends."""
    return [line.rstrip("\r\n") for line in stream]


def split_list(value: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [part.strip() for part in value.split(",")]


def split_names(value: str | None) -> Any:
    """Read ``"cls"`` as one name, ``"cls,mean"`` as several."""
    return None if value is None else _one_or_several(split_list(value))


def parse_layers(value: str | None) -> Any:
    """Read ``"all"``, ``"-1"`` as one layer, ``"-2,-1"`` as several."""
    if value is None or value == "all":
        return value
    try:
        return _one_or_several(list(map(int, value.split(","))))
    except ValueError:
        raise ValueError(
            f"--layers {value!r}; allowed are a number (-1), several (-4,-3,-2,-1), or all."
        ) from None


def parse_C(value: str) -> Any:
    """Read ``"cv"``, or a number above 0."""
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
