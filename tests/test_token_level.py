"""What BertVectorizer says about tokens and words, beside their vectors."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from pipeline import BertVectorizer, TruncationWarning
from tests.conftest import TEXTS


def test_shares_add_up_to_a_linear_function_of_the_features(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert, layers=(1, 3), cache=None).fit(TEXTS)
    weights = np.random.default_rng(0).normal(size=(64, 5))
    expected = vectorizer.transform(TEXTS) @ weights
    for frame, row in zip(vectorizer.token_shares(TEXTS, weights), expected, strict=True):
        assert np.allclose(frame[list(range(5))].sum(), row, atol=1e-5)


@pytest.mark.parametrize(
    "asked", [{"pooling": "cls"}, {"pooling": ("mean", "max")}, {"normalize": True}]
)
def test_shares_are_refused_where_features_are_no_sum_over_tokens(asked, tiny_bert):
    vectorizer = BertVectorizer(tiny_bert, **asked).fit(TEXTS)
    with pytest.raises(ValueError, match="only the plain mean is a sum over tokens"):
        vectorizer.token_shares(TEXTS, np.ones((32, 1)))


@pytest.mark.parametrize("weights", [np.ones(32), np.ones((31, 1)), np.ones((1, 32))])
def test_weights_of_another_shape_are_refused(weights, tiny_bert):
    with pytest.raises(ValueError, match=r"weights has shape .*; allowed is \(32, n_outputs\)"):
        BertVectorizer(tiny_bert).fit(TEXTS).token_shares(TEXTS, weights)


def test_what_was_cut_is_warned_of_once(tiny_bert):
    vectorizer = BertVectorizer(tiny_bert, max_length=8)
    with pytest.warns(TruncationWarning):
        vectorizer.fit(TEXTS)
    with pytest.warns(
        TruncationWarning, match="texts are longer than max_length=8 tokens"
    ) as caught:
        vectorizer.token_shares(TEXTS, np.ones((32, 1)))
    assert len(caught) == 1


def test_the_words_of_a_text_are_found_without_encoding_anything(tiny_bert, encoded):
    vectorizer = BertVectorizer(tiny_bert).fit(TEXTS)
    text = "Unbelievably  good, no?"
    spans = vectorizer.word_spans([text, "", "a " * 100])
    assert [text[start:end] for start, end in spans[0]] == ["Unbelievably", "good", ",", "no", "?"]
    assert [len(of_text) for of_text in spans] == [5, 0, 100]
    assert encoded == []


def test_both_need_a_fitted_vectorizer(tiny_bert):
    for use in (lambda v: v.word_spans(TEXTS), lambda v: v.token_shares(TEXTS, np.ones((32, 1)))):
        with pytest.raises(NotFittedError):
            use(BertVectorizer(tiny_bert))
