"""The forward of one short text gives transformers' numbers, and is paid for when used."""

import threading

import numpy as np
import pytest
import torch
from transformers import AutoModel

from pipeline import BertVectorizer
from pipeline.bert import short
from pipeline.bert.batching import TokenBatch
from pipeline.bert.config import ACTIVATIONS
from pipeline.bert.packed import PackedEncoder
from pipeline.bert.short import SHORT_TOKENS, ShortForward, can_run_short, is_short
from pipeline.checkpoints.checkpoint import resolve
from pipeline.vectorizer import DEFAULT_MODEL
from tests.conftest import TEXTS, build_model

CPU = torch.device("cpu")
POOLINGS = ("cls", "mean", "max")

pytestmark = pytest.mark.skipif(not can_run_short(CPU), reason="this build of torch has no oneDNN")


@pytest.fixture
def short_batches(monkeypatch):
    """List the numbers of tokens of all batches that take the short way."""
    seen = []
    run = ShortForward.states
    monkeypatch.setattr(
        ShortForward, "states", lambda self, x, *rest: seen.append(len(x)) or run(self, x, *rest)
    )
    return seen


def batch(*lengths):
    return TokenBatch([np.arange(5, 5 + n) for n in lengths])


def test_short_are_texts_of_one_length_and_few_tokens():
    assert is_short(batch(SHORT_TOKENS))
    assert is_short(batch(SHORT_TOKENS // 2, SHORT_TOKENS // 2))
    assert not is_short(batch(SHORT_TOKENS + 1))
    assert not is_short(batch(7, 6))
    assert not can_run_short(torch.device("cuda"))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_layer_and_pooling_is_transformers(activation, tmp_path, short_batches):
    folder = build_model(tmp_path / "model", "bert", hidden_act=activation)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    encoder = PackedEncoder(resolve(str(folder)), 3, CPU, torch.float32)
    for ids in ([[2, 3]], [[2, 7, 9, 11, 3], [2, 30, 31, 7, 3]], [list(range(2, 66))]):
        with torch.inference_mode():
            states = model(torch.tensor(ids), output_hidden_states=True).hidden_states
        right = np.stack(
            [[s[:, 0], s.mean(dim=1), s.amax(dim=1)] for s in states]
        )  # (layer, pooling, text, hidden_size)
        found = encoder.pooled(
            TokenBatch([np.array(one) for one in ids]), POOLINGS, range(4)
        ).numpy()
        assert np.abs(found - right.transpose(2, 1, 0, 3)).max() <= 1e-5
    assert short_batches == [2, 10, 64]


@pytest.mark.parametrize("layers", [(0,), (2,), (3, 1)])
@pytest.mark.parametrize("poolings", [("cls",), ("pooler",), ("mean", "cls")])
def test_a_text_alone_has_the_vectors_it_has_among_others(
    layers, poolings, tiny_bert, short_batches
):
    if "pooler" in poolings:
        layers = (3,)
    encoder = PackedEncoder(resolve(tiny_bert), 3, CPU, torch.float32)
    texts = [np.array([2, 7, 9, 3]), np.array([2, 8, 3])]
    together = encoder.pooled(TokenBatch(texts), poolings, layers)
    assert short_batches == []
    alone = torch.cat([encoder.pooled(TokenBatch([text]), poolings, layers) for text in texts])
    assert (together - alone).abs().max() <= 1e-5
    assert short_batches == ([] if max(layers) == 0 else [4, 3])


def test_the_default_model_says_of_single_sentences_what_transformers_says(
    hugging_face, short_batches
):
    from pipeline.checkpoints.checkpoint import installed_folder

    folder = installed_folder(DEFAULT_MODEL)
    if folder is None:
        pytest.skip("the default model is not installed")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    vectorizer = BertVectorizer(pooling=POOLINGS, layers="all", cache=None, device="cpu").fit(TEXTS)
    tokenizer = vectorizer._bert().tokenizer
    for text in TEXTS:
        ids = tokenizer([text]).input_ids[0]
        with torch.inference_mode():
            states = torch.stack(
                model(torch.from_numpy(ids)[None], output_hidden_states=True).hidden_states
            )[:, 0]
        right = torch.stack(
            [states[:, 0], states.mean(dim=1), states.amax(dim=1)]
        )  # (pooling, layer, hidden_size)
        assert np.abs(vectorizer.transform([text])[0] - right.flatten().numpy()).max() <= 1e-5
    assert len(short_batches) == len(TEXTS)


def test_the_same_text_gives_the_same_bits_each_time(tiny_bert, short_batches):
    vectorizer = BertVectorizer(tiny_bert, cache=None).fit(TEXTS)
    first = vectorizer.transform(["I love Paris"])
    assert np.array_equal(vectorizer.transform(["I love Paris"]), first)
    assert np.array_equal(
        vectorizer.transform(["I love Paris", "I love Paris"])[1:], first
    )  # one distinct text
    cached = BertVectorizer(tiny_bert).fit(TEXTS)
    assert np.array_equal(cached.transform(["I love Paris"]), first)
    assert len(short_batches) == 4


def test_many_texts_and_tokens_one_by_one_do_without_it(tiny_bert, monkeypatch):
    monkeypatch.setattr(short, "_rearrange", None)
    vectorizer = BertVectorizer(tiny_bert, cache=None).fit(TEXTS)
    assert vectorizer.transform(TEXTS).shape == (len(TEXTS), 32)
    assert len(vectorizer.transform_tokens(["I love Paris"])) > 3


def test_threads_that_come_first_together_make_one(tmp_path, monkeypatch):
    folder = build_model(tmp_path / "model", "bert", seed=5)
    rearranged = []
    rearrange = short._rearrange
    monkeypatch.setattr(
        short, "_rearrange", lambda layer: rearranged.append(layer) or rearrange(layer)
    )
    vectorizer = BertVectorizer(str(folder), cache=None).fit(TEXTS)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(vectorizer.transform(["I love Paris"])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rearranged) == 3
    assert all(np.array_equal(one, found[0]) for one in found)
    assert len(found) == 8


def test_without_onednn_a_single_text_has_the_same_vector(tiny_bert, monkeypatch):
    expected = BertVectorizer(tiny_bert, cache=None).fit(TEXTS).transform(["I love Paris"])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    encoder = PackedEncoder(resolve(tiny_bert), 3, CPU, torch.float32)
    ids = BertVectorizer(tiny_bert).fit(TEXTS)._bert().tokenizer(["I love Paris"]).input_ids
    found = encoder.pooled(TokenBatch(ids), ("mean",), (3,)).numpy()[:, 0, 0]
    assert np.abs(found - expected).max() <= 1e-5
