"""walk_text: tokens, ids, mask and hidden states are those of HF's tokenizer and forward."""

import json

import numpy as np
import pytest
import torch

from pipeline import walk_text
from pipeline.checkpoints.checkpoint import installed_folder
from pipeline.vectorizer import DEFAULT_MODEL
from tests.conftest import FAMILIES, TEXTS, build_model

TOLERANCE = 1e-5
SHORT = ["I love Paris", "", "Überraschend gut 😀", "don't miss it!", "film"]


def reference(oracle, text, max_length):
    """Do what a tutorial does: HF's tokenizer pads and cuts, HF's model gets ids and mask."""
    encoding = oracle.tokenizer(
        text, padding="max_length", truncation=True, max_length=max_length, return_tensors="pt"
    )
    with torch.inference_mode():
        output = oracle.model(
            input_ids=encoding["input_ids"],
            attention_mask=encoding["attention_mask"],
            output_hidden_states=True,
        )
    ids, mask = encoding["input_ids"][0].numpy(), encoding["attention_mask"][0].numpy()
    return (
        oracle.tokenizer.convert_ids_to_tokens(ids),
        ids,
        mask,
        torch.stack(output.hidden_states).numpy(),
    )


def assert_same(walk, oracle, text, max_length):
    tokens, ids, mask, states = reference(oracle, text, max_length)
    assert walk.tokens == tokens
    assert walk.input_ids.tolist() == ids.tolist()
    assert walk.attention_mask.tolist() == mask.tolist()
    assert walk.hidden_states.shape == states.shape
    assert walk.hidden_states.dtype == np.float32
    assert np.abs(walk.hidden_states - states).max() <= TOLERANCE


@pytest.mark.parametrize("max_length", [3, 7, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_walk_is_hugging_faces_own(family, max_length, model_folder, hugging_face):
    folder = model_folder(family)
    for text in SHORT:
        assert_same(
            walk_text(text, model=folder, max_length=max_length),
            hugging_face(folder),
            text,
            max_length,
        )


@pytest.mark.parametrize("max_length", [7, 40])
def test_a_walk_through_the_default_model_is_hugging_faces_own(max_length, hugging_face):
    oracle = hugging_face(str(installed_folder(DEFAULT_MODEL)))
    for text in SHORT:
        assert_same(walk_text(text, max_length=max_length), oracle, text, max_length)


def test_the_example_that_every_tutorial_shows():
    walk = walk_text("I love Paris", max_length=7)
    assert walk.tokens == ["[CLS]", "i", "love", "paris", "[SEP]", "[PAD]", "[PAD]"]
    assert walk.input_ids.tolist() == [101, 1045, 2293, 3000, 102, 0, 0]
    assert walk.attention_mask.tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert walk.hidden_states.shape == (7, 1, 7, 384)
    assert walk.n_lost == 0


@pytest.mark.parametrize("text", TEXTS)
def test_without_max_length_nothing_is_padded_and_nothing_cut(text, tiny_bert, hugging_face):
    walk = walk_text(text, model=tiny_bert)
    assert walk.input_ids.tolist() == hugging_face(tiny_bert).ids(text)
    assert walk.attention_mask.tolist() == [1] * len(walk.tokens)
    assert (
        np.abs(walk.hidden_states[:, 0] - hugging_face(tiny_bert).hidden_states(text)).max()
        <= TOLERANCE
    )
    assert walk.n_lost == 0


def test_the_last_hidden_state_and_the_cls_vector_are_parts_of_the_hidden_states(tiny_bert):
    walk = walk_text("I love Paris", model=tiny_bert, max_length=12)
    assert walk.last_hidden_state.shape == (1, 12, 32)
    assert np.array_equal(walk.last_hidden_state, walk.hidden_states[3])
    assert np.array_equal(walk.cls_vector, walk.hidden_states[3, 0, 0])


def test_padding_changes_no_vector_of_a_real_token(tiny_bert):
    bare, padded = (
        walk_text("I love Paris", model=tiny_bert),
        walk_text("I love Paris", model=tiny_bert, max_length=30),
    )
    n_tokens = len(bare.tokens)
    assert padded.attention_mask.tolist() == [1] * n_tokens + [0] * (30 - n_tokens)
    assert np.abs(padded.hidden_states[:, :, :n_tokens] - bare.hidden_states).max() <= TOLERANCE


@pytest.mark.parametrize("max_length", [3, 10, 64, None])
def test_a_text_that_is_cut_keeps_its_start_and_says_how_many_tokens_it_lost(
    max_length, tiny_bert, hugging_face
):
    text = "a lovely film " * 40
    n_tokens = len(hugging_face(tiny_bert).tokenizer(text)["input_ids"])
    walk = walk_text(text, model=tiny_bert, max_length=max_length)
    assert walk.input_ids.tolist() == hugging_face(tiny_bert).ids(text, max_length or 64)
    assert walk.n_lost == n_tokens - (max_length or 64) > 0


def test_padding_uses_the_models_own_padding_token_when_its_config_leaves_it_out(
    tmp_path, hugging_face
):
    folder = build_model(tmp_path / "model", "roberta")
    config = json.loads((folder / "config.json").read_text())
    config.pop("pad_token_id", None)  # a config may leave out what is RoBERTa's default, 1
    (folder / "config.json").write_text(json.dumps(config))
    assert_same(
        walk_text("I love Paris", model=str(folder), max_length=30),
        hugging_face(str(folder)),
        "I love Paris",
        30,
    )


# ---- what is refused


@pytest.mark.parametrize("max_length", [-1, 0, 2, 65, 512])
def test_a_max_length_out_of_range_says_the_range(max_length, tiny_bert):
    with pytest.raises(
        ValueError, match=rf"max_length={max_length}; allowed are 3 .* to 64, the limit of '.*bert'"
    ):
        walk_text("I love Paris", model=tiny_bert, max_length=max_length)


def test_a_text_that_just_fits_loses_nothing(tiny_bert, hugging_face):
    n_tokens = len(hugging_face(tiny_bert).ids("I love Paris"))
    assert walk_text("I love Paris", model=tiny_bert, max_length=n_tokens).n_lost == 0
    assert walk_text("I love Paris", model=tiny_bert, max_length=n_tokens - 1).n_lost == 1
