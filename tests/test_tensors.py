"""Tensors are views of a checkpoint's bytes, equal to what safetensors reads, and checked against what is expected."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.bert.weights import read_tensors
from pipeline.checkpoints.checkpoint import CheckpointError, resolve


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
