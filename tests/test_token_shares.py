"""share_out and join_words: rows add up to the linear function of the mean."""

import numpy as np
import pytest

from pipeline.bert.tokenizing import TextTokenizer
from pipeline.checkpoints.checkpoint import resolve
from pipeline.token_level import join_words, share_out, trimmed

TEXT = "Unbelievable, a lovely film"


@pytest.fixture(params=["head", "tail", "head_tail", "window"])
def cut(request, tiny_bert):
    """Give a tokenizer of nine tokens, and what it makes of the text."""
    tokenizer = TextTokenizer(resolve(tiny_bert).tokenizer_json, 9, request.param)
    (encoding,), tokenized = tokenizer.with_pieces([TEXT])
    return tokenizer, encoding, tokenized


def combine(vectors):
    return vectors.reshape(len(vectors), -1)


def test_rows_add_up_to_the_function_of_the_mean_over_all_windows(cut):
    tokenizer, encoding, tokenized = cut
    random = np.random.default_rng(0)
    vectors = [
        random.normal(size=(len(ids), 2, 3)).astype(np.float32) for ids in tokenized.input_ids
    ]
    weights = random.normal(size=(6, 4))
    frame = share_out(vectors, encoding, TEXT, tokenizer, combine, weights)
    mean = combine(np.concatenate(vectors)).astype(np.float64).mean(axis=0)  # (n_features,)
    assert np.allclose(frame[[0, 1, 2, 3]].sum(), mean @ weights)
    kept = np.unique(np.concatenate(tokenizer.windows(len(encoding.ids))))
    assert frame["token"].tolist() == ["[CLS]", *(encoding.tokens[i] for i in kept), "[SEP]"]
    words = join_words(frame, TEXT)
    assert np.allclose(words[[0, 1, 2, 3]].sum(), mean @ weights)


def test_a_token_in_two_windows_gets_what_both_add(tiny_bert):
    tokenizer = TextTokenizer(resolve(tiny_bert).tokenizer_json, 6, "window")
    (encoding,), tokenized = tokenizer.with_pieces(["a film a film a"])
    vectors = [np.ones((len(ids), 1, 1), dtype=np.float32) for ids in tokenized.input_ids]
    n_tokens = sum(map(len, tokenized.input_ids))
    shares = share_out(vectors, encoding, "a film a film a", tokenizer, combine, np.ones((1, 1)))
    times = np.bincount(np.concatenate(tokenizer.windows(len(encoding.ids))))
    assert np.allclose(shares[0].to_numpy()[1:-1], times / n_tokens)
    assert np.allclose(shares[0].iloc[[0, -1]], len(vectors) / n_tokens)


def test_pieces_without_a_word_are_never_joined(tiny_bert):
    tokenizer = TextTokenizer(resolve(tiny_bert).tokenizer_json, 64, "head")
    (encoding,), tokenized = tokenizer.with_pieces(["film"])
    vectors = [np.ones((len(ids), 1, 1), dtype=np.float32) for ids in tokenized.input_ids]
    frame = share_out(vectors, encoding, "film", tokenizer, combine, np.ones((1, 1)))
    frame["word"] = None
    assert len(join_words(frame, "film")) == len(frame)


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        (" film ", (0, 6), (1, 5)),
        ("film", (0, 4), (0, 4)),
        ("a  b", (1, 3), (1, 3)),
        ("x", (1, 1), (1, 1)),
    ],
)
def test_blanks_around_a_word_are_left_out_and_a_blank_alone_is_kept(text, span, expected):
    assert trimmed(text, *span) == expected
