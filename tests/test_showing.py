"""tokens and models: what is shown of one text, and of the published models."""

import pytest

from pipeline.checkpoints.catalogue import catalogue
from tests.commands import assert_one_error_line


def test_tokens_shows_what_bert_makes_of_a_text(run):
    result = run("tokens", "I love Paris", "--max-length", 7)
    assert (result.code, result.err) == (0, "")
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
    result = run("tokens", "a lovely film " * 40, "--model", tiny_bert, "--max-length", 50)
    assert result.code == 0
    tokens, ids, mask, cut, *_ = result.out.splitlines()
    assert len(tokens.split()) == len(ids.split()) == len(mask.split()) == 51
    assert "did not fit into max_length=50" in cut


def test_a_text_longer_than_the_model_says_which_limit_cut_it(run, tiny_bert):
    result = run("tokens", "a lovely film " * 40, "--model", tiny_bert)
    assert "max_length=None" not in result.out
    assert "64" in next(line for line in result.out.splitlines() if line.startswith("cut"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--max-length", "2"], ["max_length=2; allowed are 3", "to 64"]),
        (["--max-length", "65"], ["max_length=65; allowed are 3", "to 64"]),
        (["--model", "no/such/model"], ["model='no/such/model'", "nor a hub id"]),
    ],
)
def test_tokens_refuses_wrong_values_in_one_line(arguments, parts, run, tiny_bert):
    assert_one_error_line(run("tokens", "film", "--model", tiny_bert, *arguments), *parts)


@pytest.mark.parametrize("columns", ["80", "40", "200"])
def test_models_lists_every_id_unbroken_with_its_numbers_and_where_it_is(columns, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    result = run("models")
    assert (result.code, result.err) == (0, "")
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
