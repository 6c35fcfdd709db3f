"""Command labels."""

from typing import Annotated

import typer

from pipeline.commands.options import (
    Encoder,
    Folds,
    GroupColumn,
    Seed,
    Table,
    TableOut,
    TrainingData,
    with_groups,
)
from pipeline.commands.printing import plain_console, print_issues
from pipeline.commands.train import Head


@with_groups
def labels(
    *,
    data: TrainingData = None,
    table: Table,
    group_column: GroupColumn = None,
    encoder: Encoder,
    head: Head,
    cv: Folds = 5,
    seed: Seed = 0,
    show: Annotated[int, typer.Option(help="Number of texts to print.")] = 10,
    out: TableOut = None,
) -> None:
    """Rank the texts of a table by how doubtful their label is."""
    classifier = head.make(seed, **encoder.options())
    from pipeline.datasets import check_output, write_table
    from pipeline.evaluation.failures import label_issues

    if out is not None:
        check_output(out, data)
    rows = table.learn(data, cv, group_column)
    groups = None if group_column is None else rows.table[group_column]
    issues = label_issues(classifier, rows.texts, rows.labels, cv=cv, groups=groups,
                          random_state=seed)  # fmt: skip
    issues.index = rows.table.index[issues.index]
    console = plain_console()
    print_issues(console, issues, show)
    if out is not None:
        write_table(issues.reset_index(names="row"), out)
        console.print(f"Wrote {out}: all texts, the most doubtful first; rows count from 0.")
