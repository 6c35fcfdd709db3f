"""What a table of 100 million rows takes, on paper, from the rates that were measured; and the measured tables of its page.

    python -m benchmarks.paper_model [--write]

Reads results/score_table.json and results/score_million.json, prints the part of docs/scaling-out.md that holds their numbers;
--write puts it there. A test compares the page with what this prints.
"""

import argparse
import math
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.results_file import read_rows

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling-out.md"
BEGIN, END = (
    "<!-- measured: python -m benchmarks.paper_model --write -->\n",
    "<!-- end of measured -->\n",
)
ROWS, SHARD_ROWS = 100_000_000, 2048
HOURS = (24, 8, 1)
FULL = 100_000  # rows of score_table; with fewer, what starts once weighs more


def measured_text() -> str:
    """Return the measured part of the page."""
    ways = {row["way"]: row for row in read_rows("score_table")}
    (million,) = read_rows("score_million")
    fewest = min(row["rows"] for row in ways.values())
    return "\n".join(
        [
            *(
                [
                    f"The table is of fewer rows than the {FULL:,} it is made for: what starts once weighs more in it.",
                    "",
                ]
                if fewest < FULL
                else []
            ),
            *speeds(ways),
            "",
            *over_kills(million),
            "",
            "### A hundred million rows, on paper",
            "",
            *on_paper(ways, million),
        ]
    )


def speeds(ways: dict[str, dict[str, Any]]) -> list[str]:
    """Say how fast each way was, and what the layer of score_table costs."""
    plain = ways["predict_proba, 2 threads"]
    lines = [
        f"Labelling {plain['rows']:,} distinct short texts of a CSV file, two cores (`benchmarks/score_table.py`);",
        "each ratio is to `predict_proba` in the same run:",
        "",
        "| way | rows per second | of predict_proba, 2 threads | peak memory, MiB | of a worker |",
        "|---|---|---|---|---|",
    ]
    for row in ways.values():
        if "peak_mib" in row:
            worker = row["worker_peak_mib"] or "-"
            lines.append(
                f"| {row['way']} | {row['rows_per_s']:,.0f} | {row['speed_over_plain']:.2f} | {row['peak_mib']:,} | {worker} |"
            )
    costs = [
        100
        * (
            ways[f"predict_proba, {threads}"]["rows_per_s"]
            / ways[f"score_table, serial, {threads}"]["rows_per_s"]
            - 1
        )
        for threads in ("1 thread", "2 threads")
    ]
    one = ways["predict_proba, 1 thread"]["rows_per_s"]
    two = plain["rows_per_s"] / one
    processes, dask = (
        ways[f"score_table, {way}"]["rows_per_s"] / one
        for way in ("2 processes", "Dask, 2 workers")
    )
    return [
        *lines,
        "",
        *paragraph(
            f"Scoring each row exactly once changes the time of plain `predict_proba` by {costs[0]:+.1f} % with one thread and",
            f"by {costs[1]:+.1f} % with two.",
            f"On two cores two threads of one process were {two:.2f} times as fast as one, two processes {processes:.2f},",
            f"and two Dask workers {dask:.2f} times; the start of processes and workers, some seconds, is in it.",
        ),
    ]


def over_kills(million: dict[str, Any]) -> list[str]:
    """Say what the run over two kills took."""
    worker, driver = (f"{million['kills'][victim]:.0%}" for victim in ("worker", "driver"))
    rate, lost = f"{million['rows_per_s']:,.0f}", million["seconds_lost"]
    cost = f"{lost:,.0f} s are what the kills cost." if lost > 0 else (
        "What the kills cost cannot be told: other work on the machine came and went, and it was faster after them than before."
    )  # fmt: skip
    return paragraph(
        f"{million['rows']:,} rows in {million['executor']}, one of them killed by `kill -9` at {worker} of the parts",
        f"and the driver at {driver}, then run again (`benchmarks/score_million.py`): {million['seconds']:,.0f} s, {rate} rows",
        f"per second. {cost} Every row was there once, in its place,",
        f"and {million['parts_compared_with_serial']} parts that the serial executor scored again had the same bytes.",
        f"Peak memory: driver {million['driver_peak_mib']:,} MiB, worker {million['worker_peak_mib']:,}.",
    )


def on_paper(ways: dict[str, dict[str, Any]], million: dict[str, Any]) -> list[str]:
    """Compute shards, workers, hours and storage for ROWS rows."""
    rate = ways["score_table, 2 processes"]["rows_per_s"] / 2
    cutting = ways["reading and cutting alone"]["rows_per_s"]
    size = million["output_bytes_per_row"]
    hours = ROWS / rate / 3600
    return [
        *paragraph(
            f"With r = {rate:,.0f} rows per second and worker (half of two processes', one core each), {size:.0f} bytes of",
            f"output per row and d = {cutting:,.0f} rows per second that one driver reads and cuts:",
        ),
        "",
        "| quantity | formula | value |",
        "|---|---|---|",
        f"| parts | rows / {SHARD_ROWS:,} | {math.ceil(ROWS / SHARD_ROWS):,} |",
        f"| seconds per part | {SHARD_ROWS:,} / r | {SHARD_ROWS / rate:.1f} |",
        f"| core hours | rows / r / 3,600 | {hours:,.0f} |",
        *(
            f"| workers for {limit} h | core hours / {limit} | {math.ceil(hours / limit):,} |"
            for limit in HOURS
        ),
        f"| most workers one driver feeds | d / r | {cutting / rate:,.0f} |",
        f"| output | rows x bytes per row | {ROWS * size / 1e9:.1f} GB |",
        "",
        *paragraph(
            "No such run was made. The model leaves out what a cluster adds: workers that wait for storage, machines that are",
            "slower than this one, the time to start; and longer texts: r is of short ones, and goes down as the number of",
            "tokens goes up.",
        ),
    ]


def paragraph(*pieces: str) -> list[str]:
    """Fill lines as the page's are."""
    return textwrap.wrap(" ".join(pieces), 140, break_long_words=False, break_on_hyphens=False)


def page_with(text: str) -> str:
    """Return the page with this as its measured part."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{text}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Print the measured part, or put it into its page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(page_with(measured_text()), encoding="utf-8")
    else:
        print(measured_text())


if __name__ == "__main__":
    main()
