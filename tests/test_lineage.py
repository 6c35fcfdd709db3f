"""Provenance: hashes that can be checked, no name of a user, machine or folder."""

import getpass
import hashlib
import json
import platform
from pathlib import Path

import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import BertVectorizer, save_pipeline
from pipeline.evaluation.baselines import make_tfidf_baseline
from pipeline.report.lineage import trace_lineage
from pipeline.saved.manifest import installed_versions

TABLE = pd.DataFrame({"text": ["A lovely film.", "A dull film."] * 3, "label": ["good", "bad"] * 3})


@pytest.fixture(scope="module")
def fitted(tiny_bert):
    return make_pipeline(BertVectorizer(tiny_bert, layers=(-2, -1)), LogisticRegression()).fit(
        TABLE["text"], TABLE["label"]
    )


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_names_the_model_the_file_and_the_data_by_their_hashes(fitted, tiny_bert, tmp_path):
    artifact = save_pipeline(fitted, tmp_path / "m.joblib")
    data = tmp_path / "data.csv"
    TABLE.to_csv(data, index=False)
    told = trace_lineage(
        fitted,
        artifact=artifact,
        tables={"data": (data, TABLE), "other": ("made up", TABLE)},
        random_state=7,
    )
    (model,) = told["models"]
    assert model["sha256"]["model.safetensors"] == sha256(Path(tiny_bert) / "model.safetensors")
    assert {name: model[name] for name in ("id", "kind", "revision", "layers", "pooling")} == {
        "id": "bert",
        "kind": fitted[0].source_["kind"],
        "revision": None,
        "layers": (-2, -1),
        "pooling": fitted[0].pooling,
    }
    assert told["artifact"]["sha256"] == sha256(artifact)
    assert told["artifact"]["size_bytes"] == artifact.stat().st_size
    assert (
        told["artifact"]["created"]
        == json.loads((tmp_path / "m.joblib.json").read_text())["created"]
    )
    rows = told["data"].pop("sha256_of_rows")
    assert told["data"] == {"file": "data.csv", "sha256": sha256(data), "rows": 6}
    assert told["other"] == {"source": "made up", "rows": 6, "sha256_of_rows": rows}
    assert (told["seed"], told["versions"]) == (7, installed_versions())


def test_the_hash_of_rows_is_of_the_cells_and_of_their_order(fitted):
    def of(table):
        return trace_lineage(fitted, tables={"data": ("x", table)})["data"]["sha256_of_rows"]

    assert of(TABLE) == of(TABLE.astype(object).set_axis(range(5, 11)))
    lone = pd.Series(["\ud800"] * 6, dtype=object)
    others = [
        TABLE[::-1],
        TABLE[:5],
        TABLE[["text"]],
        TABLE.replace("good", "good "),
        TABLE.assign(text=lone),
    ]
    assert len({of(TABLE), *map(of, others)}) == 6


def test_it_names_no_user_machine_or_folder(fitted, tmp_path):
    artifact = save_pipeline(fitted, tmp_path / "m.joblib")
    command = ["run_pipeline.py", "report", "--model", str(artifact),
               f"--data={tmp_path / 'my data.csv'}", "--by", "domain", "--out",
               "../somebody/x.html", "--title", "~ready"]  # fmt: skip
    told = trace_lineage(fitted, artifact=artifact, command=command)
    assert told["command"] == (
        "run_pipeline.py report --model m.joblib '--data=my data.csv' --by domain --out x.html "
        "--title '~ready'"
    )
    written = json.dumps(told)
    for name in (str(tmp_path), str(Path.home()), platform.node()):
        assert name not in written
    assert f"/{getpass.getuser()}" not in written


def test_a_hub_id_stays_whole(fitted, monkeypatch):
    monkeypatch.setitem(fitted[0].source_, "model", "google-bert/bert-base-cased")
    monkeypatch.setitem(fitted[0].source_, "revision", "0123abc")
    (model,) = trace_lineage(fitted)["models"]
    assert (model["id"], model["revision"]) == ("google-bert/bert-base-cased", "0123abc")


def test_a_damaged_manifest_and_a_model_without_bert_are_no_obstacle(fitted, tmp_path):
    artifact = save_pipeline(fitted, tmp_path / "m.joblib")
    (tmp_path / "m.joblib.json").write_text("{")
    assert trace_lineage(fitted, artifact=artifact)["artifact"]["created"] is None
    assert trace_lineage(make_tfidf_baseline().fit(TABLE["text"], TABLE["label"]))["models"] == []
