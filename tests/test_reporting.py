"""report: the page and its JSON hold what the library returns."""

import hashlib
import json
import shutil

import pytest

from pipeline import compare, evaluate, read_table
from tests.commands import ROWS, assert_one_error_line, assert_passed, write_csv


def nearly(value):
    """Ignore the last bits, in which products of matrices differ between processes."""
    if isinstance(value, dict):
        return {name: nearly(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [nearly(inner) for inner in value]
    return pytest.approx(value, abs=1e-9) if isinstance(value, float) else value


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")
def test_report_writes_what_evaluate_finds(run, artifact, fitted, tmp_path):
    rows = [(text, label, f"domain {i % 2}") for i, (text, label) in enumerate(ROWS)]
    data = write_csv(tmp_path / "test.csv", ["text", "label", "domain"], rows)
    known = write_csv(tmp_path / "train.csv", ["text", "label"], ROWS)
    out = tmp_path / "reports" / "page.html"
    result = run(
        "report --by domain --mistakes 3",
        pipeline=artifact,
        data=data,
        train_data=known,
        out=out,
        title="Mine & <yours>",
    )
    assert_passed(result)
    assert (
        result.out == f"Wrote {out}, a report for the browser, and page.json, the same numbers.\n"
    )
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    table = read_table(data)
    expected = evaluate(
        fitted,
        table["text"],
        table["label"],
        by=table[["domain"]],
        train=(table["text"], table["label"]),
        n_mistakes=3,
    )
    assert told["scores"] == nearly(json.loads(json.dumps(expected)))
    assert (told["comparison"], told["layers"]) == (None, None)
    assert {name: told["provenance"][name]["file"] for name in ("data", "training_data")} == {
        "data": "test.csv",
        "training_data": "train.csv",
    }
    assert told["provenance"]["data"]["sha256"] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert "<title>Mine &amp; &lt;yours&gt;</title>" in out.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::pipeline.exceptions.LeakWarning")
def test_report_compares_and_studies_layers_on_the_training_texts(
    run, artifact, fitted, data, tmp_path
):
    out = tmp_path / "page.html"
    common = ("report", "--pipeline", artifact, "--data", data, "--train-data", data, "--out", out)
    assert run(*common, "--compare", "--layers", "run").code == 0
    told = json.loads(out.with_suffix(".json").read_text())
    table = read_table(data)
    rows = ["majority", "tfidf", "static", "cls", "default", "ngrams"]
    expected = compare(table["text"], table["label"], model=fitted, models=rows)
    assert [row["accuracy"] for row in told["comparison"]] == expected["accuracy"].tolist()
    assert told["layers"]["nested"]["score"] > 0
    assert {row["layer"] for row in told["layers"]["rows"]} == {0, 1, 2, 3, None}
    saved = tmp_path / "layers.csv"
    study = ("layers", "--data", data, "--bert", fitted[0].model, "--out", saved)
    assert run(*study).code == 0
    assert run(*common, "--layers", saved).code == 0
    again = json.loads(out.with_suffix(".json").read_text())["layers"]["rows"]
    assert again == told["layers"]["rows"]


def test_a_report_of_the_shipped_reviews_stands_beside_the_model(
    run, artifact, tmp_path, few_reviews
):
    model = tmp_path / "m.joblib"
    for ending in ("", ".json"):
        shutil.copyfile(f"{artifact}{ending}", f"{model}{ending}")
    result = run("report", pipeline=model)
    assert result.code == 0
    told = json.loads((tmp_path / "m.json").read_text())
    assert told["title"] == "m.joblib on the held-out shipped reviews"
    assert {"by domain", "by trait"} <= set(told["scores"]["slices"])
    assert told["scores"]["duplicates"] is None


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--compare"], ["--compare needs training texts; give --train-data"]),
        (["--layers", "run"], ["--layers run needs training texts; give --train-data"]),
        (["--by", "nothing"], ["nothing"]),
        (["--out", "report.pdf"], ["report.pdf", "does not end in .html"]),
        (["--layers", "none.csv"], ["none.csv"]),
    ],
)
def test_what_no_report_can_be_made_of_is_told_in_a_line(
    run, artifact, data, tmp_path, arguments, parts
):
    common = ("report", "--pipeline", artifact, "--data", data, "--out", tmp_path / "page.html")
    assert_one_error_line(run(*common, *arguments), *parts)
    assert not (tmp_path / "page.html").exists()
