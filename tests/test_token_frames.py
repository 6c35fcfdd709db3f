"""Token and word tables: windows merged, duplicates repeated, words averaged."""

import numpy as np
import pandas as pd
import pytest

from pipeline import BertVectorizer, TruncationWarning
from tests.conftest import TEXTS
from tests.test_vectorizer import LONG, TOLERANCE

NAMES = [f"layer2_{i:02d}" for i in range(32)]


def both_tables(folder, text, **parameters):
    """Give the tokens and the words of one text."""
    vectorizer = BertVectorizer(folder, layers=2, **parameters).fit(["film"])
    return [vectorizer.transform_tokens([text], level=level) for level in ("token", "word")]


def test_the_tables_are_lossless_about_columns_and_kinds(tiny_bert):
    tokens, words = both_tables(tiny_bert, "A quiet film")
    assert list(tokens.columns) == ["text", "position", "token", "token_id", *NAMES]
    assert {tokens[name].dtype for name in NAMES} == {np.dtype("float32")}
    assert list(words.columns) == ["text", "position", "word", "n_tokens", *NAMES]
    assert words["n_tokens"].sum() + 2 == len(tokens)


@pytest.mark.filterwarnings("ignore::pipeline.TruncationWarning")
@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail", "window"])
def test_word_rows_of_a_cut_text_are_those_of_the_tokens_that_are_left(truncation, tiny_bert):
    text = "film soup paris dull days hours life spring"
    tokens, words = both_tables(tiny_bert, text, max_length=7, truncation=truncation)
    tokens = tokens.iloc[1:-1]
    assert words["n_tokens"].sum() == len(tokens)
    start = 0
    for row in range(len(words)):
        stop = start + words["n_tokens"][row]
        expected = tokens[NAMES].iloc[start:stop].to_numpy().mean(axis=0)
        assert np.allclose(words[NAMES].iloc[row].to_numpy(dtype=float), expected, atol=1e-6)
        start = stop
    assert set(words["word"]) <= set(text.split())


# ---- token and word vectors


def test_token_vectors_are_hugging_faces_hidden_states(tiny_bert, hugging_face):
    oracle = hugging_face(tiny_bert)
    frame = BertVectorizer(tiny_bert, layers=(1, 3)).fit(TEXTS).transform_tokens(TEXTS)
    assert list(frame.columns[:4]) == ["text", "position", "token", "token_id"]
    assert list(frame.columns[[4, -1]]) == ["layer1_00", "layer3_31"]
    for i, text in enumerate(TEXTS):
        rows = frame[frame["text"] == i]
        assert rows["token_id"].tolist() == oracle.ids(text)
        assert rows["token"].tolist() == oracle.tokenizer.convert_ids_to_tokens(oracle.ids(text))
        assert rows["position"].tolist() == list(range(len(rows)))
        states = oracle.hidden_states(text)
        expected = np.concatenate([states[1], states[3]], axis=1)
        assert np.abs(rows.iloc[:, 4:].to_numpy() - expected).max() <= TOLERANCE


def test_word_vectors_are_the_means_of_their_word_pieces(tiny_bert, hugging_face):
    oracle = hugging_face(tiny_bert)
    text = "Unbelievably embeddable soup, don't"
    frame = BertVectorizer(tiny_bert).fit([text]).transform_tokens([text], level="word")
    assert frame["word"].tolist() == ["Unbelievably", "embeddable", "soup", ",", "don", "'", "t"]
    encoding = oracle.tokenizer(text)
    state = oracle.hidden_states(text)[3]
    for number in range(len(frame)):
        pieces = [i for i, word in enumerate(encoding.word_ids()) if word == number]
        assert frame["n_tokens"][number] == len(pieces)
        assert (
            np.abs(frame.iloc[number, 4:].to_numpy(dtype=float) - state[pieces].mean(axis=0)).max()
            <= TOLERANCE
        )


def test_words_that_are_split_already_keep_their_number(tiny_bert, hugging_face):
    words = ["Unbelievably", "don't", "\u200b", "film"]  # the third is nothing to BERT
    frame = (
        BertVectorizer(tiny_bert).fit(["film"]).transform_tokens([words, ["soup"]], level="word")
    )
    assert frame["word"].tolist() == ["Unbelievably", "don't", "film", "soup"]
    assert frame["position"].tolist() == [0, 1, 3, 0]
    assert frame["text"].tolist() == [0, 0, 0, 1]
    oracle = hugging_face(tiny_bert)
    encoding = oracle.tokenizer(words, is_split_into_words=True)
    state = oracle.hidden_states_of_ids(encoding["input_ids"])[3]
    pieces = [i for i, word in enumerate(encoding.word_ids()) if word == 1]
    assert (
        np.abs(frame.iloc[1, 4:].to_numpy(dtype=float) - state[pieces].mean(axis=0)).max()
        <= TOLERANCE
    )


def test_a_token_in_two_windows_gets_the_mean_of_its_vectors(tiny_bert, hugging_face):
    oracle = hugging_face(tiny_bert)
    vectorizer = BertVectorizer(tiny_bert, max_length=10, truncation="window").fit([LONG])
    frame = vectorizer.transform_tokens([LONG])
    windows = oracle.tokenizer(
        LONG, truncation=True, max_length=10, stride=2, return_overflowing_tokens=True
    )["input_ids"]
    states = [oracle.hidden_states_of_ids(ids)[3] for ids in windows]
    assert frame["token_id"].tolist() == oracle.ids(LONG)
    shared = (
        states[0][7] + states[1][1]
    ) / 2  # own token 6: last but one of the first window, first of the second
    assert np.abs(frame.iloc[7, 4:].to_numpy(dtype=float) - shared).max() <= TOLERANCE
    assert (
        np.abs(
            frame.iloc[0, 4:].to_numpy(dtype=float) - np.mean([s[0] for s in states], axis=0)
        ).max()
        <= TOLERANCE
    )


def test_positions_count_in_the_whole_text_where_it_was_cut(tiny_bert, hugging_face):
    vectorizer = BertVectorizer(tiny_bert, max_length=6, truncation="tail").fit(["film"])
    with pytest.warns(TruncationWarning):
        frame = vectorizer.transform_tokens([LONG])
    n_tokens = len(hugging_face(tiny_bert).ids(LONG))
    assert frame["position"].tolist() == [0, *range(n_tokens - 5, n_tokens)]


def test_token_frames_use_the_index_of_a_series_and_repeat_for_duplicates(tiny_bert):
    frame = (
        BertVectorizer(tiny_bert)
        .fit(["film"])
        .transform_tokens(pd.Series(["film", "film"], index=["x", "y"]))
    )
    assert set(frame["text"]) == {"x", "y"}
    assert np.array_equal(
        frame[frame["text"] == "x"].iloc[:, 4:], frame[frame["text"] == "y"].iloc[:, 4:]
    )


def test_no_texts_give_an_empty_frame_with_all_columns(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert).fit(["film"])
    assert vectorizer.transform_tokens([]).shape == (0, 36)
    assert vectorizer.transform_tokens([], level="word").shape == (0, 36)
    assert vectorizer.transform_tokens([""], level="word").shape == (0, 36)


def test_an_unknown_level_is_refused(tiny_bert):
    with pytest.raises(ValueError, match="level='sentence'; allowed are 'token' and 'word'"):
        BertVectorizer(tiny_bert).fit(["film"]).transform_tokens(["film"], level="sentence")
