"""Whoever multiplies, the numbers are transformers'; bfloat16 runs where the processor has it."""

import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from transformers import AutoModel

from pipeline import BertVectorizer, cache_info, load_pipeline, save_pipeline
from pipeline.bert import linear
from pipeline.bert.config import ACTIVATIONS
from pipeline.bert.linear import EMULATE_BFLOAT16, PRODUCTS, packed_rows
from pipeline.bert.packed import PackedEncoder
from pipeline.bert.pooling import TokenBatch
from pipeline.checkpoints.checkpoint import resolve
from tests.conftest import FAMILIES, FRESH_SEEDS, TEXTS, build_model

CPU = torch.device("cpu")
POOLINGS = ("cls", "mean", "max")
# few rows, many of one length, and mixed ones: short, single, and longer than torch's attention is
# left to itself for
LENGTHS = ([2], [5, 5], [64], [9] * 40, [64, 64, 50, 50, 9, 9, 9, 3], [7] * 200)

needs_onednn = pytest.mark.skipif(
    packed_rows(CPU, torch.float32) == 0, reason="this build of torch has no oneDNN"
)


@pytest.fixture
def bfloat16(monkeypatch):
    """Allow bfloat16 where the processor only emulates it."""
    monkeypatch.setenv(EMULATE_BFLOAT16, "1")
    if not linear.computes_bfloat16():
        pytest.skip("this processor cannot even emulate bfloat16")


# One process per instruction set; in each both products, over every family.
EVERYTHING = """
import json, os, sys
import numpy as np
import torch
from transformers import AutoModel
from pipeline.bert.pooling import TokenBatch
from pipeline.bert.encoder import choose_device
from pipeline.bert.packed import PackedEncoder
from pipeline.checkpoints.checkpoint import resolve

folders, lengths = json.loads(sys.argv[1]), json.loads(sys.argv[2])
random, worst = np.random.default_rng(0), 0.0
for folder in folders:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    for products in ("onednn", "blas", ""):
        os.environ["PIPELINE_PRODUCTS"] = products
        depth = model.config.num_hidden_layers
        encoder = PackedEncoder(resolve(folder), depth, torch.device("cpu"), torch.float32)
        for of_batch in lengths:
            texts = [random.integers(5, 60, n) for n in of_batch]
            with torch.inference_mode():
                right = [
                    torch.stack(model(torch.tensor(ids)[None], output_hidden_states=True)
                                .hidden_states)[:, 0] for ids in texts[:12]
                ]
            states = encoder.token_states(TokenBatch(texts), range(depth + 1)).transpose(0, 1)
            found = states[:, : sum(of_batch[:12])]
            worst = max(worst, float((found - torch.cat(right, 1)).abs().max()))
            first = encoder.pooled(TokenBatch(texts), ("cls",), (depth,))[:12, 0, 0]
            worst = max(worst, float((first - torch.stack([s[-1, 0] for s in right])).abs().max()))
print(worst)
try:
    choose_device("cpu", "bfloat16")
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "instructions",
    ["AVX2", pytest.param("AVX512_CORE", marks=pytest.mark.thorough), "AVX512_CORE_BF16"],
)
def test_every_family_is_transformers_by_both_products_on_every_processor(
    instructions, model_folder
):
    folders = [model_folder(family) for family in FAMILIES]
    run = subprocess.run(
        [sys.executable, "-c", EVERYTHING, repr(folders).replace("'", '"'), str(list(LENGTHS))],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions},
    )
    difference, *refusal = run.stdout.splitlines()
    assert float(difference) <= 1e-5
    if instructions == "AVX2":
        assert "a CPU with bfloat16 products" in refusal[0]
        assert "Use dtype='auto'" in refusal[0]


@pytest.mark.parametrize("products", ["onednn", "blas"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_transformers(activation, products, tmp_path, monkeypatch):
    monkeypatch.setenv(PRODUCTS, products)
    folder = build_model(tmp_path / "model", "bert", hidden_act=activation)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    encoder = PackedEncoder(resolve(str(folder)), 3, CPU, torch.float32)
    for ids in ([[2, 3]], [[2, 7, 9, 11, 3], [2, 30, 31, 7, 3]], [list(range(2, 66))] * 2):
        with torch.inference_mode():
            states = model(torch.tensor(ids), output_hidden_states=True).hidden_states
        right = np.stack(
            [[s[:, 0], s.mean(dim=1), s.amax(dim=1)] for s in states]
        )  # (layer, pooling, text, hidden_size)
        found = encoder.pooled(TokenBatch([np.array(one) for one in ids]), POOLINGS, range(4))
        assert np.abs(found.numpy() - right.transpose(2, 1, 0, 3)).max() <= 1e-5


def test_products_of_another_name_are_refused(tiny_bert, monkeypatch):
    monkeypatch.setenv(PRODUCTS, "fast")
    with pytest.raises(ValueError, match="'fast'; allowed are 'onednn' and 'blas'"):
        PackedEncoder(resolve(tiny_bert), 3, CPU, torch.float32)


@needs_onednn
def test_the_processor_decides_who_multiplies_many_rows(monkeypatch):
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("measured on x86 alone")
    monkeypatch.delenv(PRODUCTS, raising=False)
    for maker, many in (("AuthenticAMD", True), ("GenuineIntel", False)):
        monkeypatch.setattr(linear, "_processor", lambda maker=maker: {maker})
        assert (packed_rows(CPU, torch.float32) > 10**9) is many
        assert packed_rows(CPU, torch.bfloat16) > 10**9


def test_without_onednn_the_vectors_are_the_same(tiny_bert, monkeypatch):
    batch = TokenBatch([np.array([2, 7, 9, 3])])
    expected = PackedEncoder(resolve(tiny_bert), 3, CPU, torch.float32).pooled(batch, POOLINGS, [3])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert packed_rows(CPU, torch.float32) == 0
    found = PackedEncoder(resolve(tiny_bert), 3, CPU, torch.float32).pooled(batch, POOLINGS, [3])
    assert (found - expected).abs().max() <= 1e-5


@needs_onednn
def test_threads_that_come_first_together_lay_out_the_weights_once(tmp_path, monkeypatch):
    folder = build_model(tmp_path / "model", "bert", seed=next(FRESH_SEEDS))
    packed = []
    pack = linear._pack
    monkeypatch.setattr(linear, "_pack", lambda weight: packed.append(weight) or pack(weight))
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
    assert len(packed) == 3 * 4  # layers, products of each
    assert all(np.array_equal(one, found[0]) for one in found)
    assert len(found) == 8


# ---- bfloat16


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_keeps_the_bound_that_the_docs_state():
    """docs/performance.md: the default model, every layer and pooling."""
    texts = [*TEXTS, "word " * 300, "A quiet film " * 9, "one", "two of a length"]
    full, half = (
        BertVectorizer(pooling=POOLINGS, layers="all", cache=None, device="cpu", dtype=dtype)
        .fit_transform(texts)
        .reshape(len(texts), 3, 7, 384)
        for dtype in ("float32", "bfloat16")
    )
    assert half.dtype == np.float32
    assert not np.array_equal(half, full)
    norms = np.linalg.norm(full, axis=-1) * np.linalg.norm(half, axis=-1)
    assert ((full * half).sum(-1) / norms).min() >= 0.9999


@pytest.mark.usefixtures("bfloat16")
def test_every_family_runs_in_bfloat16(model_folder):
    for family in FAMILIES:
        full, half = (
            BertVectorizer(model_folder(family), device="cpu", dtype=dtype).fit_transform(TEXTS)
            for dtype in ("float32", "bfloat16")
        )
        cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
        assert cosine.min() >= 0.999  # random weights, ten times as large as trained ones


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("folder", [False, True])
def test_a_cache_mixes_no_precisions(folder, tiny_bert, tmp_path):
    cache = tmp_path / "cache" if folder else "memory"
    for i, dtype in enumerate(("float32", "bfloat16", "auto", "bfloat16")):
        vectorizer = BertVectorizer(tiny_bert, cache=cache, device="cpu", dtype=dtype)
        vectorizer.fit_transform(["A quiet film.", "Two hours."])
        assert cache_info().texts_encoded == (2, 4, 4, 4)[i]


def test_a_pipeline_fitted_in_bfloat16_opens_in_float32_where_there_is_none(
    tiny_bert, tmp_path, monkeypatch, bfloat16
):
    texts, labels = ["good", "bad", "fine", "poor"], [1, 0, 1, 0]
    model = make_pipeline(
        BertVectorizer(tiny_bert, device="cpu", dtype="bfloat16"), LogisticRegression()
    ).fit(texts, labels)
    expected = model.predict_proba(texts)
    save_pipeline(model, tmp_path / "half.joblib")
    assert load_pipeline(tmp_path / "half.joblib")[0].runs_on() == ("cpu", "bfloat16")
    monkeypatch.setattr(linear, "_BFLOAT16", frozenset())
    monkeypatch.delenv(EMULATE_BFLOAT16)
    with pytest.warns(UserWarning, match="dtype='bfloat16', which this machine cannot do"):
        found = load_pipeline(tmp_path / "half.joblib").predict_proba(texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_pipeline(tmp_path / "half.joblib")
    assert loaded[0].runs_on() == ("cpu", "float32")
    assert np.abs(found - expected).max() <= 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.set_params(bertvectorizer__dtype="auto").predict_proba(texts)
