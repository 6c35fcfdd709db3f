"""Weights: views of a checkpoint's bytes, checked, renamed, and cut to what runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from pipeline import BertVectorizer
from pipeline.bert.config import read_plain_config
from pipeline.bert.encoder import load_encoder
from pipeline.bert.weights import (
    LayerNorm,
    cut,
    read_encoder,
    read_norm,
    read_tensors,
)
from pipeline.checkpoints.checkpoint import CheckpointError, resolve
from pipeline.vectorizer import DEFAULT_MODEL
from tests.conftest import FAMILIES, TEXTS, build_model


def test_tensors_are_those_that_safetensors_reads_without_a_copy(tiny_bert):
    checkpoint = resolve(tiny_bert)
    expected = load_file(Path(tiny_bert, "model.safetensors"))
    found = read_tensors(
        checkpoint, "bert", {name: tuple(tensor.shape) for name, tensor in expected.items()}
    )
    assert set(found) == set(expected)
    begin = checkpoint.weights.ctypes.data
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
        assert begin <= found[name].data_ptr() < begin + checkpoint.weights.nbytes


def test_only_what_is_expected_is_read(tiny_bert):
    name = "embeddings.LayerNorm.bias"
    assert set(read_tensors(resolve(tiny_bert), "bert", {name: (32,)})) == {name}


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (
            {"no.such": (1,), "nor.this": (1,)},
            r"asks for 2 tensors that the weights do not hold, first 'no\.such'",
        ),
        (
            {"embeddings.LayerNorm.bias": (31,)},
            r"'embeddings\.LayerNorm\.bias' is \(31,\) by the config and \(32,\) in",
        ),
    ],
)
def test_what_disagrees_is_named(expected, message, tiny_bert):
    with pytest.raises(CheckpointError, match=message):
        read_tensors(resolve(tiny_bert), "bert", expected)


# ---- layers


def tensors_of(folder, depth=3, *, with_pooler=True):
    checkpoint = resolve(folder)
    config = read_plain_config(checkpoint.config_json)
    return read_encoder(checkpoint, config, depth, with_pooler=with_pooler), config


def test_a_norm_is_torchs(tiny_bert):
    tensors, config = tensors_of(tiny_bert)
    norm = read_norm(tensors, "embeddings", config)
    assert isinstance(norm, LayerNorm)
    own = AutoModel.from_pretrained(tiny_bert, dtype=torch.float32).eval().embeddings.LayerNorm
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(norm(x), own(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tensors_read_are_those_of_transformers(family, model_folder):
    own = AutoModel.from_pretrained(model_folder(family)).state_dict()
    has_pooler = any(name.startswith("pooler.") for name in own)
    tensors, _ = tensors_of(model_folder(family), with_pooler=has_pooler)
    expected = {tuple(t.flatten().tolist()) for name, t in own.items() if "_ids" not in name}
    assert {tuple(t.flatten().tolist()) for t in tensors.values()} == expected
    if family == "bert":
        assert tensors.keys() == {name for name in own if "_ids" not in name}
    shallow, _ = tensors_of(model_folder(family), 1, with_pooler=False)
    assert shallow.keys() < tensors.keys()
    assert not any(name.startswith(("encoder.layer.1.", "pooler.")) for name in shallow)


# ---- cut


def tensors(checkpoint):
    return safetensors.numpy.load(checkpoint.weights.tobytes())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_checkpoint_holds_the_same_bytes_of_what_is_left(family, model_folder):
    whole = resolve(model_folder(family))
    short = cut(whole, 1, with_pooler=False)
    left, before = tensors(short), tensors(whole)
    assert left.keys() < before.keys()
    assert all(np.array_equal(left[name], before[name]) for name in left)
    assert not any("layer.1." in name or "layer.2." in name or "pooler" in name for name in left)
    assert any("layer.0." in name for name in left)
    assert (short.config_json, short.tokenizer_json, short.source) == (
        whole.config_json,
        whole.tokenizer_json,
        whole.source,
    )
    assert short.depth == 1


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_its_vectors_are_those_of_the_whole_model_bit_for_bit(
    family, depth, model_folder, tmp_path
):
    vectorizer = BertVectorizer(
        model_folder(family), layers=tuple(range(depth + 1)), cache=None
    ).fit(TEXTS)
    expected = vectorizer.transform(TEXTS)
    vectorizer._checkpoint = cut(resolve(model_folder(family)), depth, with_pooler=False)
    assert np.array_equal(vectorizer.transform(TEXTS), expected)


def test_the_heads_of_pre_training_are_left_out(tmp_path):
    folder = build_model(tmp_path / "m", "bert")
    heads = {
        "cls.predictions.decoder.weight": np.ones((160, 32), np.float32),
        "cls.seq_relationship.weight": np.ones((2, 32)),
    }
    path = folder / "model.safetensors"
    own = {f"bert.{name}": value for name, value in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file({**own, **heads}, path)
    short = cut(resolve(str(folder)), 3, with_pooler=True)
    assert tensors(short).keys() == own.keys()


def test_where_little_would_be_saved_it_stays_the_mapped_file(tiny_bert):
    whole = resolve(tiny_bert)
    assert cut(whole, 3, with_pooler=True) is whole
    default = resolve(DEFAULT_MODEL)
    assert (
        cut(default, 6, with_pooler=False) is default
    )  # its pooler is less than a hundredth of it


def test_asked_twice_it_is_the_same_object(tiny_bert):
    short = cut(resolve(tiny_bert), 1, with_pooler=False)
    assert cut(resolve(tiny_bert), 1, with_pooler=False) is short
    assert cut(resolve(tiny_bert), 2, with_pooler=False) is not short


def test_an_encoder_of_another_content_is_another_encoder(tiny_bert):
    whole = resolve(tiny_bert)
    short = cut(whole, 1, with_pooler=False)
    assert short.fingerprint != whole.fingerprint
    assert load_encoder(short, 1) is not load_encoder(whole, 1)


def test_a_layer_that_was_left_out_is_missed_by_name(tiny_bert):
    with pytest.raises(CheckpointError, match=r"do not hold, first 'encoder\.layer\.1\."):
        load_encoder(cut(resolve(tiny_bert), 1, with_pooler=False), 2)


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_tensors_of_any_type_at_any_place_are_kept(padding, tmp_path):
    """Half precision, integers, and a header whose length is no multiple of eight."""
    folder = build_model(tmp_path / "m", "bert")
    path = folder / "model.safetensors"
    tensors_now = {
        name: value.astype(np.float16) for name, value in safetensors.numpy.load_file(path).items()
    }
    tensors_now["embeddings.position_ids"] = np.arange(64)
    safetensors.numpy.save_file(tensors_now, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length])).encode() + b" " * padding
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    left = tensors(cut(resolve(str(folder)), 1, with_pooler=False))
    assert all(np.array_equal(left[name], tensors_now[name]) for name in left)
    assert left["embeddings.position_ids"].dtype == np.int64
