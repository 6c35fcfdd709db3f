"""inspect, verify, fetch, tokens and models."""

import hashlib
import json
from pathlib import Path

import pytest

from pipeline.checkpoints.catalogue import catalogue
from pipeline.vectorizer import DEFAULT_MODEL
from tests.commands import ROWS, assert_one_error_line, assert_passed
from tests.scoring_steps import save_obeying


def test_fetch_says_what_it_wrote_and_how_to_use_it(run, tmp_path):
    folder = tmp_path / "a folder"
    result = run("fetch", DEFAULT_MODEL, "--to", folder)
    assert_passed(result)
    assert f"{DEFAULT_MODEL} (the installed copy) is in {folder}:" in result.out
    for path in filter(Path.is_file, folder.rglob("*")):
        assert f"{path.stat().st_size:,} {path.relative_to(folder)}" in result.out
    assert f"--bert '{folder}'" in result.out
    assert f"cd '{folder}' && sha256sum -c SHA256SUMS" in result.out


def test_fetch_without_a_connection_ends_with_one_line(run, tmp_path):
    result = run("fetch acme/tiny-bert --revision v1", to=tmp_path / "m")
    assert_one_error_line(
        result, "'acme/tiny-bert' at revision 'v1' was not found", "HF_HUB_OFFLINE"
    )
    assert not (tmp_path / "m").exists()


def test_inspect_shows_names_manifest_and_contents(run, artifact):
    result = run("inspect", artifact)
    assert result.code == 0
    for part in (
        "all allowed",
        "pipeline.vectorizer.BertVectorizer",
        "classes: ['negative', 'positive']",
        "coef_: <array",
    ):
        assert part in result.out
    told = json.loads(run("inspect", artifact, "--json").out)
    assert told["refused"] == []
    assert told["manifest"]["n_training_texts"] == len(ROWS)


def test_inspect_shows_what_must_not_be_opened_and_every_other_command_refuses_it(
    run, tmp_path, data
):
    marker = tmp_path / "was run"
    path = tmp_path / "m.joblib"
    path.write_bytes(
        b"\x80\x04cos\nmkdir\n\x8c" + bytes([len(str(marker))]) + str(marker).encode() + b"\x85R."
    )
    result = run("inspect", path)
    assert result.code == 0
    assert "REFUSED   os.mkdir: load_pipeline will not open this file" in result.out
    assert str(marker) in result.out
    for command in (
        ("verify", path),
        ("predict", "--pipeline", path, "--text", "x"),
        ("evaluate", "--pipeline", path, "--data", data),
    ):
        assert_one_error_line(
            run(*command), "is refused: it names os.mkdir", "Nothing of it was run"
        )
    assert not marker.exists()


def test_verify_tells_every_check(run, artifact):
    result = run("verify", artifact)
    assert result.code == 0
    assert "complete and as saved" in result.out
    assert "3 answered as when saved, to 0" in result.out
    sha256 = hashlib.sha256(Path(artifact).read_bytes()).hexdigest()
    assert run("verify", artifact, "--sha256", sha256).code == 0
    assert_one_error_line(
        run("verify", artifact, "--sha256", "0" * 64), "is not the requested file"
    )


def test_verify_names_what_is_wrong(run, artifact, tmp_path):
    for name in (Path(artifact).name, f"{Path(artifact).name}.json"):
        (tmp_path / name).write_bytes(Path(artifact).with_name(name).read_bytes())
    copy = tmp_path / Path(artifact).name
    copy.write_bytes(copy.read_bytes()[:-1])
    assert_one_error_line(run("verify", copy), "is not the file that was saved", "bytes, not")
    assert_one_error_line(
        run("verify", tmp_path / "nothing.joblib"), "does not exist; train writes one"
    )


def test_verify_checks_a_fetched_model_folder_too(run, tmp_path):
    assert run("fetch", DEFAULT_MODEL, "--to", tmp_path / "model").code == 0
    result = run("verify", tmp_path / "model")
    assert result.code == 0
    assert "model.safetensors: as in SHA256SUMS" in result.out
    (tmp_path / "model" / "config.json").write_text("{}")
    assert_one_error_line(run("verify", tmp_path / "model"), "config.json")
    (tmp_path / "empty").mkdir()
    assert_one_error_line(run("verify", tmp_path / "empty"), "has no SHA256SUMS")


def test_tokens_shows_what_bert_makes_of_a_text(run):
    result = run("tokens", "I love Paris", "--max-length", 7)
    assert_passed(result)
    tokens, ids, mask, *rest = result.out.splitlines()
    assert tokens.split() == ["tokens", "[CLS]", "i", "love", "paris", "[SEP]", "[PAD]", "[PAD]"]
    assert ids.split() == ["input_ids", *"101 1045 2293 3000 102 0 0".split()]
    assert mask.split() == ["attention_mask", *"1 1 1 1 1 0 0".split()]
    last, cls, every = rest
    assert last.startswith("last hidden state")
    assert "(1, 7, 384)" in last
    assert cls.startswith("[CLS] vector")
    assert "(384,)" in cls
    assert every.startswith("all hidden states")
    assert every.split()[3].rstrip(":") == "7"


def test_tokens_of_a_long_text_stand_on_one_line_and_say_what_was_cut(run, tiny_bert):
    result = run("tokens", "a lovely film " * 40, "--bert", tiny_bert, "--max-length", 50)
    assert result.code == 0
    tokens, ids, mask, cut, *_ = result.out.splitlines()
    assert len(tokens.split()) == len(ids.split()) == len(mask.split()) == 51
    assert "did not fit into max_length=50" in cut


def test_a_text_longer_than_the_model_says_which_limit_cut_it(run, tiny_bert):
    result = run("tokens", "a lovely film " * 40, "--bert", tiny_bert)
    assert "max_length=None" not in result.out
    assert "64" in next(line for line in result.out.splitlines() if line.startswith("cut"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--max-length", "2"], ["max_length=2; allowed are 3", "to 64"]),
        (["--max-length", "65"], ["max_length=65; allowed are 3", "to 64"]),
        (["--bert", "no/such/model"], ["model='no/such/model'", "nor a hub id"]),
    ],
)
def test_tokens_refuses_wrong_values_in_one_line(arguments, parts, run, tiny_bert):
    assert_one_error_line(run("tokens film", *arguments, bert=tiny_bert), *parts)


@pytest.mark.parametrize("columns", ["80", "40", "200"])
def test_models_lists_every_id_unbroken_with_its_numbers_and_where_it_is(columns, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    result = run("models")
    assert_passed(result)
    lines = result.out.splitlines()
    for entry in catalogue():
        line = next(line for line in lines if entry.model in line.replace("│", " ").split())
        assert {str(entry.n_layers), str(entry.hidden_size), str(entry.n_vocabulary)} <= set(
            line.replace("│", " ").split()
        )
        assert entry.name in line
    default = next(line for line in lines if "(default)" in line)
    assert "sentence-transformers/all-MiniLM-L6-v2" in default
    assert "installed copy" in default


def test_commands_open_what_they_are_told_to_trust(run, tmp_path, data):
    class_name = "tests.scoring_steps.Obeys"
    path = save_obeying(tmp_path)
    for command in (("verify", path), ("predict", "--pipeline", path, "--text", "a lovely film")):
        assert_one_error_line(run(*command), f"names {class_name}")
        assert run(*command, "--trusted", class_name).code == 0
    labels = tmp_path / "labels.csv"
    table = ("predict", "--pipeline", path, "--data", data, "--out", labels, "--workers", 1)
    assert run(*table, "--trusted", class_name).code == 0
    assert len(labels.read_text().splitlines()) == len(ROWS) + 1
    result = run("verify", path, "--trusted", "lightgmb")
    assert_one_error_line(result, "'lightgmb' is neither a full name", "'lightgbm'")
