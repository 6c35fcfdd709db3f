"""FrozenBert: a choice is checked against the model before anything is loaded, and a plan of it is embedded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.bert.embedding import FrozenBert
from pipeline.checkpoints.checkpoint import CheckpointError, resolve
from tests.conftest import FAMILIES, TEXTS, build_model

TOLERANCE = 1e-5


def choose(folder, **choice):
    standard = {
        "layers": -1,
        "poolings": ("mean",),
        "max_length": None,
        "truncation": "head",
        "batch_tokens": 1000,
        "device": "auto",
        "dtype": "float32",
    }
    return FrozenBert.choose(resolve(str(folder)), **standard | choice)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_choice_is_resolved_against_the_model(family, model_folder):
    bert = choose(model_folder(family), layers=(-1, 0), poolings=("cls", "max"))
    assert (bert.n_layers, bert.hidden_size, bert.layers, bert.max_length) == (3, 32, (3, 0), 64)
    assert choose(model_folder(family), layers="all").layers == (0, 1, 2, 3)
    assert choose(model_folder(family), max_length=10).max_length == 10


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_is_embedded_as_hugging_face_does_one_text_at_a_time(
    family, model_folder, hugging_face
):
    bert = choose(model_folder(family), layers=(2, 0), poolings=("cls", "mean", "max"))
    found = bert.embed(bert.plan(TEXTS[:4]))
    assert found.shape == (4, 3, 2, 32)
    for row, text in zip(found, TEXTS[:4], strict=True):
        states = hugging_face(model_folder(family)).hidden_states(text)[[2, 0]]
        expected = np.stack([states[:, 0], states.mean(axis=1), states.max(axis=1)])
        assert np.abs(row - expected).max() <= TOLERANCE


def test_token_vectors_of_a_plan_are_hidden_states(tiny_bert, hugging_face):
    bert = choose(tiny_bert, layers=(3, 1))
    made = bert.plan(["film", "soup", "film"])
    found = bert.embed_tokens(made)
    assert len(found) == made.n_distinct == 2
    states = hugging_face(tiny_bert).hidden_states("soup")
    assert np.abs(found[1] - states[[3, 1]].transpose(1, 0, 2)).max() <= TOLERANCE


def test_an_empty_plan_gives_no_rows_and_loads_nothing(tiny_bert, monkeypatch):
    monkeypatch.setattr(
        "pipeline.bert.embedding.load_encoder", lambda *a, **k: pytest.fail("a model was loaded")
    )
    bert = choose(tiny_bert, layers="all", poolings=("cls", "mean"))
    found = bert.embed(bert.plan([]))
    assert found.shape == (0, 2, 4, 32)
    assert found.dtype == np.float32
    assert bert.embed_tokens(bert.plan([], pieces=True)) == []


def test_the_pooler_needs_no_layer_but_the_last(tiny_bert, hugging_face):
    bert = choose(tiny_bert, poolings=("pooler", "cls"))
    found = bert.embed(bert.plan(["film"]))
    assert found.shape == (1, 2, 1, 32)
    assert (
        np.abs(found[0, 1, 0] - hugging_face(tiny_bert).sentence_vector("film", 3, "cls")).max()
        <= TOLERANCE
    )


# ---- refusals


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layers": 4}, r"asks for layer 4; this model has 3 layers.* to 3, or -4 to -1"),
        ({"layers": ()}, "layers is empty"),
        ({"layers": (0, -4)}, "names a layer twice"),
        (
            {"max_length": 65},
            r"max_length=65, but '.*bert' has positions for 64 tokens.*'window', 'head_tail' or 'tail'",
        ),
        (
            {"poolings": ("cls", "pooler"), "layers": (2,)},
            r"made for the last layer only; layers=\(2,\)\. Use layers=-1",
        ),
        ({"poolings": ("pooler",), "layers": "all"}, r"made for the last layer only; layers='all'"),
        ({"device": "cuda:99"}, "device='cuda:99' is not on this machine; there is .*cpu"),
        ({"device": "cpu", "dtype": "bfloat16"}, "dtype='bfloat16' needs an accelerator"),
    ],
)
def test_what_the_model_does_not_have_is_refused(choice, message, tiny_bert):
    with pytest.raises(ValueError, match=message):
        choose(tiny_bert, **choice)


@pytest.mark.parametrize("family", ["distilbert", "electra"])
def test_a_pooler_that_was_never_trained_is_refused(family, model_folder):
    with pytest.raises(
        ValueError, match=rf"needs a trained pooler, and '.*{family}' has none.*Use 'cls' or 'mean'"
    ):
        choose(model_folder(family), poolings=("pooler",))


@pytest.fixture
def mixed(tmp_path):
    """Give a model of 160 words with the tokenizer of one that has many more."""
    folder = build_model(tmp_path / "bert", "bert")
    other = build_model(tmp_path / "roberta", "roberta")
    shutil.copy(other / "tokenizer.json", folder / "tokenizer.json")
    return folder


def test_a_tokenizer_of_another_model_is_refused_with_both_sizes(mixed):
    largest = max(json.loads((mixed / "tokenizer.json").read_text())["model"]["vocab"].values())
    with pytest.raises(
        CheckpointError,
        match=rf"knows ids up to {largest}, the model's vocabulary has 160 rows.*different models",
    ):
        choose(mixed)


def add_token(folder, number):
    """Give the tokenizer one added token, in the place of a word where its id is taken."""
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["added_tokens"].append({**stored["added_tokens"][0], "id": number, "content": "<user>"})
    stored["model"]["vocab"] = {
        token: i for token, i in stored["model"]["vocab"].items() if i != number
    }
    (folder / "tokenizer.json").write_text(json.dumps(stored))


def test_one_token_more_than_the_vocabulary_has_is_refused_and_one_that_fits_is_not(
    tiny_bert, tmp_path
):
    fits, exceeds = (
        Path(shutil.copytree(tiny_bert, tmp_path / name)) for name in ("fits", "exceeds")
    )
    add_token(fits, 159)
    add_token(exceeds, 160)
    assert choose(fits).tokenizer.largest_id == 159
    with pytest.raises(
        CheckpointError, match="knows ids up to 160, the model's vocabulary has 160 rows"
    ):
        choose(exceeds)


def test_a_truncated_weights_file_is_refused_before_any_text_is_seen(tiny_bert, tmp_path):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(
        CheckpointError, match=r"cut short: \d+ bytes where \d+ are needed\. Fetch the model again"
    ):
        choose(folder)
