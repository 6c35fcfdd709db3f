"""Both forwards equal transformers' for every batch, pooling and layer."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from pipeline.bert.encoder import HuggingFaceEncoder
from pipeline.bert.linear import Linear
from pipeline.bert.packed import PackedEncoder, can_pack
from pipeline.bert.pooling import TokenBatch
from pipeline.checkpoints.checkpoint import installed_folder, resolve
from pipeline.vectorizer import DEFAULT_MODEL
from tests.conftest import FAMILIES, TEXTS, build_model, slow_varlen_attn

TOLERANCE = 1e-5
CPU = torch.device("cpu")
POOLINGS = ("cls", "mean", "max")


def encoder(folder, depth=3, **kind):
    return PackedEncoder(resolve(str(folder)), depth, CPU, torch.float32, **kind)


def batch_of(oracle, texts):
    return TokenBatch([np.array(oracle.ids(text)) for text in texts])


def slow(oracle, texts, poolings, layers):
    return np.array(
        [[[oracle.sentence_vector(t, k, p) for k in layers] for p in poolings] for t in texts]
    )


@pytest.mark.parametrize("kind", [PackedEncoder, HuggingFaceEncoder])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "texts", [TEXTS, TEXTS[::-1], TEXTS[:1], [""], ["film"] * 5 + [TEXTS[0]] * 2], ids=len
)
def test_every_pooling_of_every_layer_is_hugging_faces_whatever_the_batch(
    texts, family, kind, model_folder, hugging_face
):
    oracle = hugging_face(model_folder(family))
    encoder = kind(resolve(model_folder(family)), 3, CPU, torch.float32)
    found = encoder.pooled(batch_of(oracle, texts), POOLINGS, range(4)).numpy()
    assert found.dtype == np.float32
    assert found.shape == (len(texts), 3, 4, 32)
    assert np.abs(found - slow(oracle, texts, POOLINGS, range(4))).max() <= TOLERANCE


def test_in_transformers_a_run_of_equal_length_is_one_forward_pass(model_folder, monkeypatch):
    shapes = []
    run = HuggingFaceEncoder.hidden_states
    monkeypatch.setattr(
        HuggingFaceEncoder,
        "hidden_states",
        lambda self, ids, *a: shapes.append(ids.shape) or run(self, ids, *a),
    )
    batch = TokenBatch([np.full(n, 7) for n in (5, 5, 5, 3, 3, 2)])
    encoder = HuggingFaceEncoder(resolve(model_folder("electra")), 3, CPU, torch.float32)
    encoder.pooled(batch, ("cls",), (3,))
    assert shapes == [(3, 5), (2, 3), (1, 2)]


def test_for_cls_alone_the_last_layer_feeds_one_row_per_text_forward(
    tiny_bert, hugging_face, monkeypatch
):
    oracle, rows = hugging_face(tiny_bert), []
    call = Linear.__call__
    monkeypatch.setattr(
        Linear, "__call__", lambda self, x, space: rows.append(len(x)) or call(self, x, space)
    )
    batch = batch_of(oracle, TEXTS)
    found = encoder(tiny_bert).pooled(batch, ("cls",), (2,)).numpy()
    assert np.abs(found - slow(oracle, TEXTS, ("cls",), (2,))).max() <= TOLERANCE
    n_tokens, n_texts = len(batch.input_ids), len(TEXTS)
    # each layer: query, key and value of all tokens, then up; in the second for one row per text
    assert rows == [n_tokens, n_tokens, n_tokens, n_texts]


def test_more_tokens_than_the_feed_forward_layer_takes_at_once(tiny_bert, hugging_face):
    oracle = hugging_face(tiny_bert)
    texts = TEXTS * 10
    batch = batch_of(oracle, texts)
    assert len(batch.input_ids) > 1024
    found = encoder(tiny_bert).pooled(batch, ("mean",), (3,)).numpy()
    assert np.abs(found[: len(TEXTS)] - slow(oracle, TEXTS, ("mean",), (3,))).max() <= TOLERANCE
    assert (
        np.abs(
            found.reshape(10, len(TEXTS), -1) - found[: len(TEXTS)].reshape(len(TEXTS), -1)
        ).max()
        <= TOLERANCE
    )


def test_a_workspace_used_before_changes_nothing(tiny_bert, hugging_face):
    oracle, packed = hugging_face(tiny_bert), encoder(tiny_bert)
    space = packed.workspace()
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:], TEXTS * 2):
        batch = batch_of(oracle, texts)
        assert torch.equal(
            packed.pooled(batch, POOLINGS, (3, 1), space), packed.pooled(batch, POOLINGS, (3, 1))
        )


def test_an_encoder_of_all_layers_gives_those_below_too(tiny_bert, hugging_face):
    batch = batch_of(hugging_face(tiny_bert), TEXTS)
    for depth in range(4):
        cut = encoder(tiny_bert, depth)
        assert cut.depth == depth
        for poolings in (("cls",), POOLINGS):
            assert torch.equal(
                cut.pooled(batch, poolings, (depth,)),
                encoder(tiny_bert).pooled(batch, poolings, (depth,)),
            )


@pytest.fixture
def slow_varlen(monkeypatch):
    """Replace CUDA's kernel by a slow one, to test the way to it without CUDA."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", slow_varlen_attn)


@pytest.mark.usefixtures("slow_varlen")
@pytest.mark.parametrize(
    ("dtype", "largest", "cosine"), [(torch.float16, 0.02, 0.9999), (torch.bfloat16, 0.15, 0.999)]
)
def test_half_precision_keeps_the_tolerance_that_the_docs_state(
    dtype, largest, cosine, hugging_face
):
    """docs/performance.md: the default model, in half precision as CUDA would run it."""
    checkpoint = resolve(DEFAULT_MODEL)
    oracle = hugging_face(str(installed_folder(DEFAULT_MODEL)))
    texts = [*TEXTS, "word " * 300]
    batch = TokenBatch([np.array(oracle.ids(text, 512)) for text in texts])
    full = PackedEncoder(checkpoint, 6, CPU, torch.float32).pooled(batch, POOLINGS, range(7))
    half = PackedEncoder(checkpoint, 6, CPU, dtype, varlen=True).pooled(batch, POOLINGS, range(7))
    assert half.dtype == torch.float32
    assert (half - full).abs().max() <= largest
    assert torch.cosine_similarity(half, full, dim=-1).min() >= cosine


@pytest.mark.usefixtures("slow_varlen")
def test_varlen_attention_gives_the_same_vectors(tiny_bert, hugging_face):
    oracle = hugging_face(tiny_bert)
    for poolings in (("cls",), POOLINGS):
        found = (
            encoder(tiny_bert, varlen=True)
            .pooled(batch_of(oracle, TEXTS), poolings, (1, 3))
            .numpy()
        )
        assert np.abs(found - slow(oracle, TEXTS, poolings, (1, 3))).max() <= TOLERANCE


def test_what_can_be_packed_is_every_plain_encoder_in_what_the_cpu_multiplies(
    model_folder, tmp_path
):
    for family in FAMILIES:
        assert can_pack(resolve(model_folder(family)), CPU, torch.float32)
    assert can_pack(resolve(model_folder("bert")), CPU, torch.bfloat16)
    assert not can_pack(resolve(model_folder("bert")), CPU, torch.float16)
    assert not can_pack(resolve(model_folder("bert")), torch.device("mps"), torch.float32)
    assert not can_pack(
        resolve(str(build_model(tmp_path / "silu", "bert", hidden_act="silu"))), CPU, torch.float32
    )


def test_an_unusual_bert_is_run_by_transformers_with_the_same_result(tmp_path):
    from pipeline import BertVectorizer

    folder = build_model(tmp_path / "silu", "bert", hidden_act="silu")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    vectorizer = BertVectorizer(str(folder), pooling="cls")
    features = vectorizer.fit_transform(TEXTS[:3])
    tokenized = vectorizer._bert().plan(TEXTS[:3]).tokenized.input_ids
    for row, ids in zip(features, tokenized, strict=True):
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids)[None]).last_hidden_state[0, 0].numpy()
        assert np.abs(row - expected).max() <= TOLERANCE
