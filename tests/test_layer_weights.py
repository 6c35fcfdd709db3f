"""The weights of a layer: query, key and value are one matrix, scaled; the rest are the checkpoint's own tensors."""

import numpy as np
import torch
from transformers import AutoModel

from pipeline.bert.config import read_plain_config
from pipeline.bert.weights import LayerNorm, expected_tensors, read_layer, read_norm, read_tensors
from pipeline.checkpoints.checkpoint import resolve


def tensors_of(folder, depth=3):
    checkpoint = resolve(folder)
    config = read_plain_config(checkpoint.config_json)
    return read_tensors(
        checkpoint, "bert", expected_tensors(config, depth, with_pooler=True)
    ), config


def test_query_key_and_value_are_one_product_and_the_query_is_scaled(tiny_bert):
    tensors, config = tensors_of(tiny_bert)
    layer = read_layer(tensors, 1, config)
    own = (
        AutoModel.from_pretrained(tiny_bert, dtype=torch.float32)
        .eval()
        .encoder.layer[1]
        .attention.self
    )
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    found = (x @ layer.qkv).view(5, 3, 4, 8) + layer.qkv_bias[:, :, 0]
    with torch.inference_mode():
        expected = torch.stack([own.query(x) / np.sqrt(8), own.key(x), own.value(x)], dim=1).view(
            5, 3, 4, 8
        )
    assert (found - expected).abs().max() <= 1e-6


def test_all_other_matrices_are_the_tensors_themselves(tiny_bert):
    tensors, config = tensors_of(tiny_bert)
    layer = read_layer(tensors, 0, config)
    for found, name in (
        (layer.output, "attention.output"),
        (layer.up, "intermediate"),
        (layer.down, "output"),
    ):
        assert found.data_ptr() == tensors[f"encoder.layer.0.{name}.dense.weight"].data_ptr()
    assert layer.norm.weight is tensors["encoder.layer.0.output.LayerNorm.weight"]


def test_a_norm_is_torchs(tiny_bert):
    tensors, config = tensors_of(tiny_bert)
    norm = read_norm(tensors, "embeddings", config)
    assert isinstance(norm, LayerNorm)
    own = AutoModel.from_pretrained(tiny_bert, dtype=torch.float32).eval().embeddings.LayerNorm
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(norm(x), own(x))


def test_the_expected_tensors_are_those_of_transformers(tiny_bert):
    config = tensors_of(tiny_bert)[1]
    own = {
        name: tuple(t.shape)
        for name, t in AutoModel.from_pretrained(tiny_bert).state_dict().items()
        if "_ids" not in name
    }
    assert expected_tensors(config, 3, with_pooler=True) == own
    shallow = expected_tensors(config, 1, with_pooler=False)
    assert set(shallow) < set(own)
    assert not any(name.startswith(("encoder.layer.1.", "pooler.")) for name in shallow)
