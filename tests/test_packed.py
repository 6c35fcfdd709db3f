"""Both forwards equal transformers' for every batch, pooling and layer."""

from math import inf

import numpy as np
import pytest
import torch
from transformers import AutoModel

from pipeline.bert import linear
from pipeline.bert.encoder import HuggingFaceEncoder
from pipeline.bert.linear import Linear, Workspace, packed_rows
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


@pytest.fixture
def rows(monkeypatch):
    """List the rows of each product: those for query, key and value, then up, layer by layer."""
    counts, call = [], Linear.__call__
    monkeypatch.setattr(
        Linear, "__call__", lambda self, x, space: counts.append(len(x)) or call(self, x, space)
    )
    return counts


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("poolings", [("cls",), ("pooler",), ("pooler", "cls"), ("pooler", "mean")])
def test_for_cls_and_pooler_alone_the_last_layer_feeds_one_row_per_text_forward(
    poolings, layer, tiny_bert, hugging_face, rows
):
    oracle = hugging_face(tiny_bert)
    batch = batch_of(oracle, TEXTS)
    found = encoder(tiny_bert).pooled(batch, poolings, (layer,))
    first, mean = torch.from_numpy(slow(oracle, TEXTS, ("cls", "mean"), (layer,)))[:, :, 0].unbind(
        1
    )
    with torch.inference_mode():
        right = {"cls": first, "pooler": oracle.model.pooler(first[:, None]), "mean": mean}
    for j, pooling in enumerate(poolings):
        assert (found[:, j, 0] - right[pooling]).abs().max() <= TOLERANCE
    n_tokens = len(batch.input_ids)
    last = n_tokens if "mean" in poolings else len(TEXTS)
    assert rows == [*[n_tokens] * (2 * layer - 1), last]


@pytest.mark.parametrize(
    ("few", "fed"), [(0, [1024, 1024, 10]), (64, [1024, 1024, 10]), (inf, [2058])]
)
def test_blas_feeds_at_most_1024_tokens_forward_at_once(
    few, fed, tiny_bert, hugging_face, rows, monkeypatch
):
    """And oneDNN all of them, or where the processor says so the few of the last step."""
    if few > packed_rows(CPU, torch.float32) == 0:
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(linear, "packed_rows", lambda device, dtype: few)
    random, oracle = np.random.default_rng(0), hugging_face(tiny_bert)
    some = [random.integers(5, 100, n) for n in (64, 60, 60, 30, 30, 5, 5, 2)]  # 256 tokens
    texts = [*some * 8, random.integers(5, 100, 10)]
    found = encoder(tiny_bert).token_states(TokenBatch(texts), (3,))[:, 0].numpy()
    right = [oracle.hidden_states_of_ids(ids.tolist())[3] for ids in (*some, texts[-1])]
    assert np.abs(found - np.concatenate([*right[:-1] * 8, right[-1]])).max() <= TOLERANCE
    assert rows == [2058, *fed] * 3


class WatchedWorkspace(Workspace):
    """Counts what is asked of it."""

    n_taken = 0

    def take(self, *wanted):
        self.n_taken += 1
        return super().take(*wanted)


def test_a_workspace_is_used_and_one_used_before_changes_nothing(tiny_bert, hugging_face):
    oracle, packed = hugging_face(tiny_bert), encoder(tiny_bert)
    space = WatchedWorkspace(CPU)
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:], TEXTS * 2):
        batch = batch_of(oracle, texts)
        before = space.n_taken
        assert torch.equal(
            packed.pooled(batch, POOLINGS, (3, 1), space), packed.pooled(batch, POOLINGS, (3, 1))
        )
        assert space.n_taken > before
        before = space.n_taken
        assert torch.equal(
            packed.token_states(batch, (3, 1), space), packed.token_states(batch, (3, 1))
        )
        assert space.n_taken > before


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


def test_padding_inside_a_text_counts_as_no_position_where_transformers_says_so(
    model_folder, hugging_face
):
    """RoBERTa's positions skip the padding token, which a text may spell out."""
    for family in ("roberta", "xlm-roberta", "bert"):
        oracle = hugging_face(model_folder(family))
        padding = oracle.model.config.pad_token_id
        ids = [[2, 9, padding, 8, padding, 3], [padding, 2, 3]]
        found = encoder(model_folder(family)).token_states(
            TokenBatch(list(map(np.array, ids))), (3,)
        )
        right = np.concatenate([oracle.hidden_states_of_ids(one)[3] for one in ids])
        assert np.abs(found[:, 0].numpy() - right).max() <= TOLERANCE


@pytest.mark.parametrize("family", ["bert", "electra"])
def test_on_the_cpu_nothing_but_products_of_layers_is_in_half_precision(
    family, model_folder, hugging_face
):
    batch = batch_of(hugging_face(model_folder(family)), TEXTS)
    checkpoint = resolve(model_folder(family))
    full, half = (
        PackedEncoder(checkpoint, 0, CPU, dtype).token_states(batch, (0,))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(half, full.bfloat16().float())


# ---- CUDA's way, as far as it goes without CUDA


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


class Pinned:
    """Memory that CUDA would copy from while the processor goes on."""

    def __init__(self, tensor):
        self.tensor = tensor

    def to(self, device, *, non_blocking):
        assert device.type == "meta"
        assert non_blocking
        return self.tensor.to(device)


def test_on_an_accelerator_all_lies_there_and_one_kernel_pools_all_texts(
    tiny_bert, hugging_face, monkeypatch
):
    """On torch's device without data."""
    kernel, pooled = torch.segment_reduce, []

    def watched(states, pooling, **options):
        pooled.append(pooling)
        return kernel(states, pooling, **options)

    monkeypatch.setattr(torch, "segment_reduce", watched)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: Pinned(self))
    meta, batch = torch.device("meta"), batch_of(hugging_face(tiny_bert), TEXTS)
    for device, dtype, kernels in (
        (CPU, torch.float32, []),
        (meta, torch.float16, ["mean", "max"]),
    ):
        packed = PackedEncoder(resolve(tiny_bert), 0, device, dtype, varlen=True)
        vectors = packed.pooled(batch, (*POOLINGS, "pooler"), (0,))
        assert pooled == kernels
        for found in (vectors, packed.token_states(batch, (0,))):
            assert (found.device, found.dtype) == (device, torch.float32)


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


@pytest.mark.usefixtures("slow_varlen")
def test_the_pooler_of_states_in_half_precision_is_that_of_whole_ones(tiny_bert, hugging_face):
    batch = batch_of(hugging_face(tiny_bert), TEXTS)
    full, half = (
        PackedEncoder(resolve(tiny_bert), 3, CPU, dtype, varlen=True).pooled(
            batch, ("pooler",), (3,)
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert (half - full).abs().max() <= 0.15
    assert torch.cosine_similarity(half, full, dim=-1).min() >= 0.999


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
