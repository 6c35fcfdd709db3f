"""labels: texts whose label is probably wrong."""

from typing import Annotated, Any

import typer

from pipeline.commands.options import (
    BertModel,
    ClassWeight,
    Device,
    Encoding,
    Folds,
    GroupColumn,
    LabelColumn,
    MaxLength,
    Precision,
    Regularisation,
    Separator,
    TableOut,
    TextColumn,
    TrainingData,
    parse_C,
    read_labelled,
)
from pipeline.commands.printing import plain_console, print_issues


def labels(
    data: TrainingData = None,
    text: TextColumn = "text",
    label: LabelColumn = "label",
    model: BertModel = None,
    max_length: MaxLength = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    class_weight: ClassWeight = None,
    C: Regularisation = "cv",
    cv: Folds = 5,
    group_column: GroupColumn = None,
    show: Annotated[int, typer.Option(help="How many to print.")] = 10,
    out: TableOut = None,
    encoding: Encoding = "utf-8",
    sep: Separator = ",",
) -> None:
    """Rank the texts of a table by how much a classifier doubts their label."""
    from pipeline.datasets import check_output, write_table
    from pipeline.evaluation.label_issues import label_issues
    from pipeline.sentiment import make_sentiment_pipeline

    if out is not None:
        check_output(out, data)
    table, _, text, label = read_labelled(data, text, label, encoding, sep, group=group_column)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "max_length": max_length}
    if model is not None:
        options["model"] = model
    classifier = make_sentiment_pipeline(C=parse_C(C), class_weight=class_weight, **options)
    groups = None if group_column is None else table[group_column]
    issues = label_issues(classifier, table[text], table[label], cv=cv, groups=groups)
    console = plain_console()
    print_issues(console, issues, show)
    if out is not None:
        write_table(issues.reset_index(names="row"), out)
        console.print(f"Wrote {out}: every text, the most doubtful first; row 0 is the first.")
