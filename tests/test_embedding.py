"""plan, embed, embed_tokens: each distinct text once, windows weighted by their tokens, everything that is cut counted."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.bert.batching import batch_by_length, pack_by_length
from pipeline.bert.embedding import embed, embed_tokens, plan
from pipeline.bert.encoder import load_encoder
from pipeline.bert.tokenizing import TextTokenizer
from pipeline.checkpoints.checkpoint import resolve
from tests.conftest import TEXTS

TOLERANCE = 1e-5
LONG = f"{TEXTS[0]} {TEXTS[4]}"
SOME = ["film", LONG, "", "film", TEXTS[3], LONG]


def within(batch_tokens):
    return partial(pack_by_length, batch_tokens=batch_tokens)


@pytest.fixture
def tokenizer(tiny_bert):
    """Give a tokenizer of the tiny model by length and policy."""
    text = Path(tiny_bert, "tokenizer.json").read_text(encoding="utf-8")
    return lambda max_length, truncation: TextTokenizer(text, max_length, truncation)


@pytest.fixture(params=[True, False], ids=["packed", "hugging face"])
def encoder(tiny_bert, request):
    return load_encoder(resolve(tiny_bert), 3, packed=request.param)


def pooled(state, pooling):
    return {"cls": state[0], "mean": state.mean(axis=0), "max": state.max(axis=0)}[pooling]


def slow_embed(oracle, text, poolings, layers, max_length):
    """Windows by transformers, one forward pass each, averaged by their numbers of tokens."""
    windows = oracle.tokenizer(
        text,
        truncation=True,
        max_length=max_length,
        stride=(max_length - 2) // 4,
        return_overflowing_tokens=True,
    )["input_ids"]
    states = [oracle.hidden_states_of_ids(ids) for ids in windows]
    total = sum(len(ids) for ids in windows)
    return np.array(
        [
            [
                sum(
                    len(ids) * pooled(s[layer], pooling)
                    for ids, s in zip(windows, states, strict=True)
                )
                / total
                for layer in layers
            ]
            for pooling in poolings
        ]
    )


# ---- the plan


def test_each_distinct_text_is_planned_once_in_the_order_of_first_sight(tokenizer):
    made = plan(SOME, tokenizer(64, "head"), within(100))
    assert made.row_of.tolist() == [0, 1, 2, 0, 3, 1]
    assert made.n_distinct == 4
    assert len(made.tokenized.input_ids) == 4
    assert made.encodings is None
    assert sorted(int(i) for batch in made.batches for i in batch) == [0, 1, 2, 3]


def test_texts_that_differ_in_anything_are_distinct(tokenizer):
    assert (
        plan(["film", "Film", "film ", "fi\u200blm"], tokenizer(64, "head"), within(100)).n_distinct
        == 4
    )


@pytest.mark.parametrize("group", [pack_by_length, batch_by_length])
def test_every_batch_is_grouped_as_asked_and_keeps_the_budget(group, tokenizer):
    made = plan(TEXTS, tokenizer(10, "window"), partial(group, batch_tokens=25))
    for batch in made.batches:
        lengths = [len(made.tokenized.input_ids[i]) for i in batch]
        assert group is pack_by_length or len(set(lengths)) == 1
        assert sum(lengths) <= 25


def test_pieces_belong_to_the_distinct_texts(tokenizer):
    made = plan(["film", "soup", "film"], tokenizer(64, "head"), within(100), pieces=True)
    assert len(made.encodings) == made.n_distinct == 2
    split = plan(
        [("the", "film"), ("soup",), ("the", "film")],
        tokenizer(64, "head"),
        within(100),
        pieces=True,
    )
    assert split.row_of.tolist() == [0, 1, 0]
    assert [max(encoding.word_ids) for encoding in split.encodings] == [1, 0]


@pytest.mark.parametrize("pieces", [False, True])
def test_no_texts_make_an_empty_plan(pieces, tokenizer, encoder):
    made = plan([], tokenizer(64, "window"), within(100), pieces=pieces)
    assert made.n_distinct == 0
    assert made.batches == []
    assert made.truncation_report() == {
        "n_texts": 0,
        "texts_cut": 0,
        "n_tokens": 0,
        "tokens_lost": 0,
        "share_lost": 0.0,
        "texts_in_windows": 0,
    }
    assert embed(made, encoder, poolings=["cls"], layers=[0, 3], hidden_size=32).shape == (
        0,
        1,
        2,
        32,
    )
    assert embed_tokens(made, encoder, layers=[3]) == []


# ---- the report


@pytest.mark.parametrize("max_length", [3, 6, 12, 64])
@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail", "window"])
def test_the_report_is_what_counting_row_by_row_gives(
    truncation, max_length, tokenizer, hugging_face, tiny_bert
):
    texts = [*SOME, *TEXTS]
    cut = in_windows = n_tokens = lost = 0
    for text in texts:
        length = len(hugging_face(tiny_bert).ids(text, 512))
        n_tokens += length
        if length > max_length and truncation == "window":
            in_windows += 1
        elif length > max_length:
            cut += 1
            lost += length - max_length
    assert plan(texts, tokenizer(max_length, truncation), within(100)).truncation_report() == {
        "n_texts": len(texts),
        "texts_cut": cut,
        "n_tokens": n_tokens,
        "tokens_lost": lost,
        "share_lost": pytest.approx(lost / n_tokens),
        "texts_in_windows": in_windows,
    }


# ---- vectors


@pytest.mark.parametrize(("max_length", "batch_tokens"), [(64, 1000), (10, 1000), (10, 1), (7, 30)])
def test_vectors_are_those_of_the_slow_windows_whatever_the_batches(
    max_length, batch_tokens, tokenizer, encoder, hugging_face, tiny_bert
):
    poolings, layers = ("max", "cls", "mean"), (3, 0, 2)
    made = plan(SOME, tokenizer(max_length, "window"), within(batch_tokens))
    found = embed(made, encoder, poolings=poolings, layers=layers, hidden_size=32)
    expected = {
        text: slow_embed(hugging_face(tiny_bert), text, poolings, layers, max_length)
        for text in set(SOME)
    }
    assert found.dtype == np.float32
    assert found.shape == (len(SOME), 3, 3, 32)
    for row, text in zip(found, SOME, strict=True):
        assert np.abs(row - expected[text]).max() <= TOLERANCE


def test_the_pooler_of_a_text_in_windows_is_their_weighted_mean(
    tokenizer, encoder, hugging_face, tiny_bert
):
    made = plan([LONG], tokenizer(10, "window"), within(1000))
    found = embed(made, encoder, poolings=["pooler"], layers=[3], hidden_size=32)
    windows = [ids[None] for ids in made.tokenized.input_ids]
    assert len(windows) > 2
    of_each = [encoder.pooler_output(encoder.hidden_states(ids)[-1]).numpy()[0] for ids in windows]
    expected = np.average(of_each, axis=0, weights=[ids.shape[1] for ids in windows])
    assert np.abs(found[0, 0, 0] - expected).max() <= TOLERANCE


def test_duplicates_get_equal_rows_that_are_not_the_same_memory(tokenizer, encoder):
    found = embed(
        plan(["film", "film"], tokenizer(64, "head"), within(100)),
        encoder,
        poolings=["mean"],
        layers=[3],
        hidden_size=32,
    )
    assert np.array_equal(found[0], found[1])
    found[0] = 0
    assert found[1].any()


@pytest.mark.parametrize("batch_tokens", [1, 30, 1000])
def test_on_batch_is_told_of_every_sequence(batch_tokens, tokenizer, encoder):
    made = plan(SOME, tokenizer(10, "window"), within(batch_tokens))
    told = []
    embed(made, encoder, poolings=["cls"], layers=[0], hidden_size=32, on_batch=told.append)
    assert told == [len(batch) for batch in made.batches]
    assert sum(told) == len(made.tokenized.input_ids) > made.n_distinct


@pytest.mark.parametrize("max_length", [10, 64])
def test_token_vectors_are_the_hidden_states_of_every_sequence(
    max_length, tokenizer, encoder, hugging_face, tiny_bert
):
    made = plan(SOME, tokenizer(max_length, "window"), within(40))
    found = embed_tokens(made, encoder, layers=(2, 0))
    assert len(found) == len(made.tokenized.input_ids)
    for ids, vectors in zip(made.tokenized.input_ids, found, strict=True):
        states = hugging_face(tiny_bert).hidden_states_of_ids(ids.tolist())
        assert vectors.dtype == np.float32
        assert np.abs(vectors - np.stack([states[2], states[0]], axis=1)).max() <= TOLERANCE
