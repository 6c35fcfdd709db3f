"""predict: texts, lines and tables get labels and keep all they had."""

import csv
import io
import re
import signal
import subprocess
import sys
from functools import partial

import pandas as pd
import pytest

from tests.commands import (
    ENVIRONMENT,
    PROGRAM,
    ROWS,
    Terminal,
    assert_one_error_line,
    assert_passed,
    expected_lines,
    read_csv,
    write_csv,
)


def test_texts_of_the_command_line_are_labelled_one_a_line(run, artifact, fitted):
    texts = ["A lovely film.", "Dull!", "東京 [bold]x[/bold] [/]", ""]
    result = run(
        "predict --missing empty",
        *(part for text in texts for part in ("--text", text)),
        pipeline=artifact,
    )
    assert result.code == 0
    assert "1 of 4" in result.err
    assert result.out.splitlines() == expected_lines(fitted, texts)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_of_standard_input_are_labelled_one_a_line(end, run, artifact, fitted):
    texts = [
        "A lovely film.",
        "",
        "  Dull, with\ta tab  ",
        "Überraschend gut 😀",
        "no newline at the end",
    ]
    lines = io.StringIO(end.join(texts), newline="")
    result = run("predict --missing empty", pipeline=artifact, stdin=lines)
    assert result.code == 0
    assert "1 of 5 rows, first in row 1" in result.err
    assert result.out.splitlines() == expected_lines(fitted, texts)


def test_a_terminal_gets_a_table_and_markup_in_a_text_stays_text(
    run, artifact, fitted, monkeypatch
):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run("predict", pipeline=artifact, text="a [red]film[/red] [/]").code == 0
    assert "probability" in terminal.getvalue()
    assert "a [red]film[/red] [/]" in terminal.getvalue()
    assert "\t" not in terminal.getvalue()
    assert f"{fitted.predict_proba(['a [red]film[/red] [/]']).max():.3f}" in terminal.getvalue()


def test_nothing_to_label_at_a_terminal_says_the_three_ways_to_give_something(run, artifact):
    assert_one_error_line(
        run("predict", pipeline=artifact, stdin=Terminal()),
        "Nothing to label",
        "--text",
        "--data",
        "pipe",
    )


def test_an_empty_pipe_gives_no_lines(run, artifact):
    result = run("predict", pipeline=artifact, stdin="")
    assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--text", "film", "--data", "in.csv", "--out", "out.csv"],
            ["--data or --text, not both"],
        ),
        (["--data", "in.csv"], ["--data and --out belong together"]),
        (["--out", "out.csv"], ["--data and --out belong together"]),
        (["--text", "film", "--out", "out.csv"], ["--data and --out belong together"]),
        (
            ["--text", "film", "--pipeline", "none.joblib"],
            ["none.joblib does not exist", "train writes one"],
        ),
        (["--text", "film", "--pipeline", "."], ["is a folder, not a file"]),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, parts, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_error_line(run("predict", *arguments), *parts)


HEADER = ["id", "text", "note", "when"]

CELLS = [
    ["001", "A lovely film.", "NA", "2024-01-02"],
    ["1e5", 'He said "quiet", then left.', "null", ""],
    ["-0.0", "two\nlines, and a comma", "None", " padded "],
    ["9007199254740993", "", "nan", "TRUE"],
    ["0x1F", "Überraschend gut 😀", "N/A", "a\r\nb"],
    ["1_000", "A lovely film.", "=SUM(A1)", "\t"],
    ["+7", "dull", "'", 'quote " at the end"'],
]


def check_predictions(rows, fitted, text_column="text"):
    """Each row has the label and the probabilities that its text has alone."""
    for row in rows:
        probability = fitted.predict_proba([row[text_column]])[0]
        assert row["label"] == fitted.classes_[probability.argmax()]
        assert float(row["probability_negative"]) == pytest.approx(probability[0], abs=1e-5)
        assert float(row["probability_positive"]) == pytest.approx(probability[1], abs=1e-5)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_csv_table_keeps_every_cell_and_gets_label_and_probabilities(
    quoting, run, artifact, fitted, tmp_path
):
    source, out = (
        write_csv(tmp_path / "in.csv", HEADER, CELLS, quoting=quoting),
        tmp_path / "out.csv",
    )
    before = source.read_bytes()
    error = "row 3 cannot be scored: the text is missing"
    assert_one_error_line(
        run("predict", pipeline=artifact, data=source, out=out), error, "--missing empty"
    )
    result = run("predict --missing empty", pipeline=artifact, data=source, out=out)
    assert_passed(result)
    added = ["label", "probability_negative", "probability_positive"]
    assert result.out.splitlines() == [
        f"Wrote 7 rows to {out}, with the new columns {', '.join(added)}.",
        "1 of them have no text and are labelled as empty texts.",
    ]
    header, *rows = read_csv(out)
    assert header == HEADER + added
    assert [row[:4] for row in rows] == CELLS
    check_predictions([dict(zip(header, row, strict=True)) for row in rows], fitted)
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


@pytest.mark.parametrize("ending", [".parquet", ".pq", ".csv"])
def test_a_parquet_table_keeps_its_types_and_may_become_csv(
    ending, run, artifact, fitted, tmp_path
):
    frame = pd.DataFrame(
        {"number": [1, 2, 3], "text": ["A lovely film.", "dull", "-"], "flag": [True, False, True]}
    )
    frame.to_parquet(tmp_path / "in.parquet")
    out = tmp_path / f"out{ending}"
    assert run("predict", pipeline=artifact, data=tmp_path / "in.parquet", out=out).code == 0
    if ending == ".csv":
        header, *rows = read_csv(out)
        assert [row[:3] for row in rows] == [
            [str(value) for value in row] for row in frame.to_numpy().tolist()
        ]
        check_predictions([dict(zip(header, row, strict=True)) for row in rows], fitted)
    else:
        found = pd.read_parquet(out)
        pd.testing.assert_frame_equal(found[["number", "text", "flag"]], frame)
        check_predictions(found.to_dict("records"), fitted)


def test_columns_that_are_there_already_are_kept_and_the_new_ones_called_predicted(
    run, artifact, fitted, tmp_path
):
    source = write_csv(
        tmp_path / "in.csv",
        ["label", "text", "probability_positive"],
        [["mine", "A lovely film.", "7"]],
    )
    assert run("predict", pipeline=artifact, data=source, out=tmp_path / "out.csv").code == 0
    header, row = read_csv(tmp_path / "out.csv")
    assert header == [
        "label", "text", "probability_positive", "predicted_label", "probability_negative",
        "predicted_probability_positive",
    ]  # fmt: skip
    assert row[:4] == ["mine", "A lovely film.", "7", fitted.predict(["A lovely film."])[0]]


def test_a_column_without_a_name_keeps_having_none(run, artifact, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["", "text"], [["0", "A lovely film."], ["1", "dull"]])
    assert run("predict", pipeline=artifact, data=source, out=tmp_path / "out.csv").code == 0
    header, *rows = read_csv(tmp_path / "out.csv")
    assert header[:2] == ["", "text"]
    assert [row[0] for row in rows] == ["0", "1"]


def test_other_columns_separators_and_encodings_can_be_named(run, artifact, fitted, tmp_path):
    source, out = tmp_path / "in.tsv", tmp_path / "out.csv"
    source.write_text("id\treview\n007\tTrès bien, é\n", encoding="latin-1")
    options = ["--text-column", "review", "--sep", "\\t", "--encoding", "latin-1"]
    assert run("predict", *options, pipeline=artifact, data=source, out=out).code == 0
    header, row = read_csv(out)
    assert row[:2] == ["007", "Très bien, é"]
    check_predictions([dict(zip(header, row, strict=True))], fitted, "review")


def test_a_table_without_rows_gives_a_table_without_rows(run, artifact, tmp_path):
    source = write_csv(tmp_path / "in.csv", ["id", "text"], [])
    result = run("predict", pipeline=artifact, data=source, out=tmp_path / "out.csv")
    assert_passed(result)
    assert read_csv(tmp_path / "out.csv") == [
        ["id", "text", "label", "probability_negative", "probability_positive"]
    ]


@pytest.mark.parametrize(
    ("content", "arguments", "parts"),
    [
        (b"id,Text\n1,film\n", [], ["no column 'text'", "'id', 'Text'", "Did you mean 'Text'?"]),
        (b"id;text\n1;film\n", [], ["no column 'text'", "--sep"]),
        (
            b"text\nTr\xe8s bien\n",
            [],
            ["is not utf-8 text", "byte 7 is 0xe8", "--encoding latin-1"],
        ),
        (b"text\nfilm\n", ["--encoding", "utf-9"], ["encoding='utf-9' is unknown"]),
        (b"id,text\n1,film\n2,film,3,4\n", [], ["not a well-formed CSV table", "line 3"]),
    ],
)
def test_tables_that_cannot_be_read_say_why_and_leave_no_output(
    content, arguments, parts, run, artifact, tmp_path
):
    (tmp_path / "in.csv").write_bytes(content)
    result = run(
        "predict", *arguments, pipeline=artifact, data=tmp_path / "in.csv", out=tmp_path / "out.csv"
    )
    assert_one_error_line(
        result, str(tmp_path / "in.csv") if "utf-9" not in arguments else "Error", *parts
    )
    assert not (tmp_path / "out.csv").exists()


def test_a_missing_cell_of_a_parquet_table_names_its_row(run, artifact, tmp_path):
    pd.DataFrame({"text": ["film", None]}).to_parquet(tmp_path / "in.parquet")
    result = run(
        "predict", pipeline=artifact, data=tmp_path / "in.parquet", out=tmp_path / "out.csv"
    )
    assert_one_error_line(
        result, "row 1 cannot be scored: the text is missing", "--on-bad-row null"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


@pytest.mark.parametrize(
    ("out", "parts"),
    [
        ("in.csv", ["is the input file; name another one"]),
        ("out.xlsx", ["has the ending '.xlsx'", ".csv, .parquet, .pq and .jsonl"]),
        ("..", ["holds the input", "name another folder"]),
        ("none/out.csv", ["cannot be written", "none does not exist"]),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_and_the_input_is_kept(
    out, parts, run, artifact, tmp_path
):
    source = write_csv(tmp_path / "in.csv", ["text"], [["film"]])
    before = source.read_bytes()
    result = run("predict", pipeline=artifact, data=source, out=tmp_path / out)
    assert_one_error_line(result, *parts)
    assert source.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_an_output_without_an_ending_is_a_folder_of_parts_and_a_second_run_finds_it_finished(
    run, light_artifact, tmp_path
):
    source, out = (
        write_csv(
            tmp_path / "in.csv", ["id", "text"], [[i, text] for i, (text, _) in enumerate(ROWS)]
        ),
        tmp_path / "out",
    )
    predict = partial(run, "predict", pipeline=light_artifact, data=source, out=out)
    result = predict(shard_rows=20)
    assert (result.code, result.err) == (0, "")
    first, second = result.out.splitlines()
    columns = "label, probability_negative, probability_positive, label_error"
    assert first == f"Wrote 48 rows to {out}, with the new columns {columns}."
    assert re.fullmatch(r"\d+ rows per second\.", second)
    assert pd.read_parquet(out)["id"].tolist() == [str(i) for i in range(48)]
    assert sorted(path.name for path in out.glob("part-*")) == [
        f"part-00000{i}.parquet" for i in range(3)
    ]
    again = predict(shard_rows=20)
    assert again.code == 0
    assert again.out.splitlines()[1:] == ["48 of them were finished by an earlier run."]
    assert_one_error_line(predict(shard_rows=30), "holds another run: shard_rows (20, now 30)")


def test_workers_and_several_files_give_what_one_process_gives_of_one_file(
    run, light_artifact, tmp_path
):
    frame = pd.DataFrame(ROWS, columns=["text", "mine"])
    frame.to_parquet(tmp_path / "all.parquet")
    frame[:30].to_parquet(tmp_path / "in-1.parquet")
    frame[30:].to_parquet(tmp_path / "in-2.parquet")
    sources = [["all.parquet"], ["in-1.parquet", "in-2.parquet"], ["in-*.parquet"]]
    found = []
    for i, (names, workers) in enumerate(zip(sources, [1, 2, 1], strict=True)):
        data = [part for name in names for part in ("--data", tmp_path / name)]
        out = tmp_path / f"{i}.csv"
        assert (
            run("predict", *data, "--out", out, "--workers", workers, pipeline=light_artifact).code
            == 0
        )
        found.append(out.read_bytes())
    assert found[0] == found[1] == found[2]


def test_rows_that_cannot_be_labelled_are_counted_and_kept_where_that_is_asked_for(
    run, light_artifact, tmp_path
):
    (tmp_path / "in.csv").write_text("id,text\n1,film\n2\n3,film\n")
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    predict = partial(run, "predict", pipeline=light_artifact, data=source, out=out)
    assert_one_error_line(predict(), "line 3 has 1 cells")
    result = predict(on_bad_row="null")
    assert result.code == 0
    assert (
        result.out.splitlines()[-1] == "1 of them have no label; the column label_error says why."
    )
    header, *rows = read_csv(out)
    assert header[-1] == "label_error"
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[-1] for row in rows] == ["", "line 3 has 1 cells, the header has 2: 2", ""]
    for options, error in (
        ({"on_bad_row": "skip"}, "on_bad_row='skip'; allowed are 'error' and 'null'"),
        ({"workers": 0}, "workers=0; allowed are the numbers from 1"),
    ):
        assert_one_error_line(predict(**options), error)


def test_an_interrupt_says_how_to_go_on_and_going_on_does(run, light_artifact, tmp_path):
    out = tmp_path / "out"
    source = write_csv(tmp_path / "in.csv", ["text"], [[text] for text, _ in ROWS] * 5)
    arguments = [
        str(part)
        for part in (
            "predict",
            "--pipeline",
            light_artifact,
            "--data",
            source,
            "--out",
            out,
            "--shard-rows",
            20,
            "--workers",
            1,
        )
    ]
    code = (
        "import pipeline.scoring.run_folder as parts\n"
        "write, written = parts.write_part, []\n"
        "def interrupted(*arguments):\n"
        "    written.append(write(*arguments))\n"
        "    if len(written) == 3:\n"
        "        raise KeyboardInterrupt\n"
        "    return written[-1]\n"
        "parts.write_part = interrupted\n"
        "from pipeline.commands.cli import main\n"
        "main()\n"
    )
    environment = ENVIRONMENT | {"PYTHONPATH": str(PROGRAM.parent)}
    stopped = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert (
        stopped.stderr
        == "Interrupted. Finished parts are kept; run the same command again to resume.\n"
    )
    result = run(*arguments)
    assert result.code == 0
    assert "60 of them were finished by an earlier run." in result.out
    assert len(pd.read_parquet(out)) == 240


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL"])
def test_a_process_that_is_killed_while_it_writes_leaves_the_older_output_whole(
    number, run, light_artifact, data, tmp_path
):
    out = tmp_path / "out.csv"
    out.write_text("an older file")
    code = (
        "import os, signal, sys, pandas as pd\n"
        "def half(table, file, **options):\n"
        "    file.write('half of it')\n"
        "    file.flush()\n"
        f"    os.kill(os.getpid(), signal.{number})\n"
        "pd.DataFrame.to_csv = half\n"
        "from pipeline.commands.cli import main\n"
        "main()\n"
    )
    arguments = [
        "predict",
        "--pipeline",
        str(light_artifact),
        "--data",
        str(data),
        "--out",
        str(out),
    ]
    killed = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=ENVIRONMENT | {"PYTHONPATH": str(PROGRAM.parent)},
    )
    assert killed.returncode == -getattr(signal, number)
    assert out.read_text() == "an older file"
    assert run(*arguments).code == 0
    assert len(read_csv(out)) == len(ROWS) + 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ["--scheduler", "10.0.0.5:8786"],
            ["--scheduler 10.0.0.5:8786 is not an address", "tcp://10.0.0.5:8786"],
        ),
        (
            ["--scheduler", "tcp://127.0.0.1:9", "--workers", 2],
            ["--workers 2 starts processes on this machine"],
        ),
        (
            ["--scheduler", "tcp://127.0.0.1:9", "--resources", "GPU"],
            ["--resources GPU", "NAME=NUMBER, such as GPU=1"],
        ),
        (["--resources", "GPU=1"], ["give --scheduler too"]),
    ],
)
def test_a_dask_cluster_is_asked_for_in_full(arguments, parts, run, artifact, tmp_path):
    write_csv(tmp_path / "in.csv", ["text"], [["one"]])
    result = run(
        "predict", *arguments, pipeline=artifact, data=tmp_path / "in.csv", out=tmp_path / "out"
    )
    assert_one_error_line(result, *parts)
    assert not (tmp_path / "out").exists()
