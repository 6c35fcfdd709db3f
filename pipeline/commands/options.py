"""What several commands take: options with one meaning, and how their values are read. Used by the other commands."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    import pandas as pd

# Paths are str: a Path would take a slash from s3://. What is called with them says where they point.
DEFAULT_ARTIFACT = str(Path("models") / "sentiment.joblib")
Encoding = Annotated[str, typer.Option(help="Encoding of the CSV file.")]
Separator = Annotated[str, typer.Option(help="Column separator of the CSV file.")]
ArtifactPath = Annotated[str, typer.Option("--model", help="A file written by train.")]


def read_data(path: str, columns: list[str], encoding: str, sep: str) -> "pd.DataFrame":
    r"""Read a table that has these columns; ``\t`` typed in a shell is a tab."""
    from pipeline.datasets import read_table

    return read_table(path, columns=columns, encoding=encoding, sep=sep.replace("\\t", "\t"))


def columns_by(table: "pd.DataFrame", by: list[str] | None) -> "pd.DataFrame | None":
    """Return the columns to score by; None where none is asked for."""
    absent = [name for name in by or [] if name not in table]
    if absent:
        raise ValueError(
            f"--by {absent[0]!r} is no column of the table; there are {', '.join(map(repr, table.columns))}."
        )
    return table[by] if by else None


def read_lines(stream: TextIO) -> list[str]:
    """Return the lines of a stream without their ends."""
    return [line.rstrip("\r\n") for line in stream]


def split_names(value: str | None) -> Any:
    """Read ``"cls"`` as one name, ``"cls,mean"`` as several."""
    if value is None:
        return None
    names = tuple(part.strip() for part in value.split(","))
    return names[0] if len(names) == 1 else names


def parse_layers(value: str | None) -> Any:
    """Read ``"all"``, ``"-1"`` as one layer, ``"-2,-1"`` as several."""
    if value is None or value == "all":
        return value
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise ValueError(
            f"--layers {value!r}; allowed are a number (-1), several (-4,-3,-2,-1), or all."
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers


def with_progress(pipeline: Any) -> Any:
    """Show the bar of a loaded pipeline's vectorizer where somebody can see it."""
    name = f"{pipeline.steps[0][0]}__progress"
    return (
        pipeline.set_params(**{name: True})
        if sys.stderr.isatty() and name in pipeline.get_params()
        else pipeline
    )
