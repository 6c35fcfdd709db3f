"""Token and word tables: windows merged, duplicates repeated, words averaged."""

from functools import partial

import numpy as np
import pytest

from pipeline.bert.embedding import FrozenBert
from pipeline.bert.pooling import combine_layers
from pipeline.checkpoints.checkpoint import resolve
from pipeline.token_level import merge_windows, token_frame, word_frame

NAMES = [f"v{i}" for i in range(32)]
CONCAT = partial(combine_layers, combine="concat")


def prepared(folder, texts, max_length=64, truncation="head"):
    bert = FrozenBert.choose(
        resolve(folder),
        layers=2,
        poolings=("mean",),
        max_length=max_length,
        truncation=truncation,
        batch_tokens=1024,
        device="cpu",
        dtype="float32",
    )
    made = bert.plan(texts, pieces=True)
    return made, bert.embed_tokens(made), bert.tokenizer


def test_merged_windows_are_the_means_over_the_windows_a_token_stands_in():
    rng = np.random.default_rng(0)
    windows = [np.array([0, 1, 2, 3]), np.array([2, 3, 4, 5]), np.array([4, 5, 6])]
    vectors = [rng.normal(size=(len(w) + 2, 2, 3)).astype(np.float32) for w in windows]
    kept, merged = merge_windows(vectors, windows, 1, 1)
    assert kept.tolist() == list(range(7))
    for token in range(7):
        held = [
            v[1 + list(w).index(token)] for v, w in zip(vectors, windows, strict=True) if token in w
        ]
        assert np.allclose(merged[1 + token], np.mean(held, axis=0), atol=1e-6)
    assert np.allclose(merged[0], np.mean([v[0] for v in vectors], axis=0), atol=1e-6)
    assert np.allclose(merged[-1], np.mean([v[-1] for v in vectors], axis=0), atol=1e-6)


def test_a_single_window_is_passed_on_as_it_is():
    vector, window = np.ones((4, 1, 2), dtype=np.float32), np.array([5, 6])
    kept, merged = merge_windows([vector], [window], 1, 1)
    assert merged is vector
    assert kept is window


def test_duplicates_have_rows_of_their_own_in_the_order_of_the_texts(tiny_bert):
    texts = ["film", "soup soup", "film"]
    made, vectors, tokenizer = prepared(tiny_bert, texts)
    frame = token_frame(made, vectors, tokenizer, CONCAT, ["a", "b", "c"], NAMES)
    assert list(dict.fromkeys(frame["text"])) == ["a", "b", "c"]
    first, last = (
        frame[frame["text"] == label].drop(columns="text").reset_index(drop=True) for label in "ac"
    )
    assert first.equals(last)
    assert frame["text"].is_monotonic_increasing


def test_the_tables_are_lossless_about_columns_and_kinds(tiny_bert):
    made, vectors, tokenizer = prepared(tiny_bert, ["A quiet film"])
    frame = token_frame(made, vectors, tokenizer, CONCAT, [0], NAMES)
    assert list(frame.columns) == ["text", "position", "token", "token_id", *NAMES]
    assert {frame[name].dtype for name in NAMES} == {np.dtype("float32")}
    words = word_frame(made, vectors, tokenizer, CONCAT, [0], NAMES)
    assert list(words.columns) == ["text", "position", "word", "n_tokens", *NAMES]
    assert words["n_tokens"].sum() + 2 == len(frame)


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail", "window"])
def test_word_rows_of_a_cut_text_are_those_of_the_tokens_that_are_left(truncation, tiny_bert):
    text = "film soup paris dull days hours life spring"
    made, vectors, tokenizer = prepared(tiny_bert, [text], max_length=7, truncation=truncation)
    tokens = token_frame(made, vectors, tokenizer, CONCAT, [0], NAMES).iloc[1:-1]
    words = word_frame(made, vectors, tokenizer, CONCAT, [0], NAMES)
    assert words["n_tokens"].sum() == len(tokens)
    start = 0
    for row in range(len(words)):
        stop = start + words["n_tokens"][row]
        expected = tokens[NAMES].iloc[start:stop].to_numpy().mean(axis=0)
        assert np.allclose(words[NAMES].iloc[row].to_numpy(dtype=float), expected, atol=1e-6)
        start = stop
    assert set(words["word"]) <= set(text.split())
