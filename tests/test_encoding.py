"""Texts tokenised ahead, in groups."""

import numpy as np
import pytest

from pipeline import BertVectorizer, TruncationWarning, embedding_cache
from pipeline.exceptions import TextTooLongError
from tests.conftest import TEXTS

FORTY = [f"{'lovely' if i % 2 else 'dull'} film number {i} " + "word " * (i % 7) for i in range(40)]


@pytest.mark.parametrize("chunk_texts", [1, 7, 40, 1000])
def test_tokenising_ahead_changes_no_vector_and_no_count(chunk_texts, tiny_bert, monkeypatch):
    texts = [*FORTY, *TEXTS, *FORTY[:5]]
    whole = BertVectorizer(tiny_bert, max_length=9, cache=None)
    chunked = BertVectorizer(tiny_bert, max_length=9, cache=None)
    with pytest.warns(TruncationWarning):
        expected = whole.fit_transform(texts)
    monkeypatch.setattr(embedding_cache, "CHUNK_TEXTS", chunk_texts)
    with pytest.warns(TruncationWarning) as caught:
        found = chunked.fit_transform(texts)
    assert len(caught) == 1
    assert np.abs(found - expected).max() <= 1e-5
    assert chunked.truncation_report_ == whole.truncation_report_
    assert np.array_equal(found[:5], found[-5:])


@pytest.mark.parametrize("chunk_texts", [2, 1000])
def test_a_text_that_is_too_long_is_named_by_its_row_in_whatever_group_it_is(
    chunk_texts, tiny_bert, monkeypatch
):
    monkeypatch.setattr(embedding_cache, "CHUNK_TEXTS", chunk_texts)
    texts = ["film", "film", "soup", "a", "a film", "film", "film " * 20, "soup", "film " * 30]
    with pytest.raises(TextTooLongError, match="text 6 has 42 tokens"):
        BertVectorizer(tiny_bert, max_length=10, truncation="error").fit_transform(texts)


def test_the_progress_bar_counts_all_texts_and_is_not_there_where_all_are_known(
    tiny_bert, monkeypatch, capsys
):
    monkeypatch.setattr(embedding_cache, "CHUNK_TEXTS", 7)
    model = BertVectorizer(tiny_bert, progress=True)
    model.fit_transform(FORTY)
    assert "40/40" in capsys.readouterr().err
    model.transform(FORTY)
    assert capsys.readouterr().err == ""
    BertVectorizer(tiny_bert, progress=True).fit_transform([*FORTY, "one more"])
    assert "41/41" in capsys.readouterr().err
