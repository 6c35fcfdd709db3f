"""The weights of a BertModel's layers, laid out as the forwards over packed texts need them. Used by packed and short."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from pipeline.bert.shape import BertConfig


@dataclass(frozen=True)
class LayerNorm:
    """A LayerNorm: weight and bias of shape (hidden_size,), and what is added to the variance."""

    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise the last axis."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class Layer:
    """One encoder layer; the matrices are (in, out), as x @ W needs them."""

    qkv: torch.Tensor  # (hidden, 3 * hidden); the query's part divided by sqrt(head_size)
    qkv_bias: torch.Tensor  # (3, n_heads, 1, head_size)
    output: torch.Tensor  # (hidden, hidden)
    output_bias: torch.Tensor
    attention_norm: LayerNorm
    up: torch.Tensor  # (hidden, intermediate)
    up_bias: torch.Tensor
    down: torch.Tensor  # (intermediate, hidden)
    down_bias: torch.Tensor
    norm: LayerNorm


def read_norm(tensors: Mapping[str, torch.Tensor], name: str, config: BertConfig) -> LayerNorm:
    """Take the LayerNorm of ``name``, such as ``"embeddings"``."""
    return LayerNorm(tensors[f"{name}.LayerNorm.weight"], tensors[f"{name}.LayerNorm.bias"], config.layer_norm_eps)


def read_layer(tensors: Mapping[str, torch.Tensor], k: int, config: BertConfig) -> Layer:
    """Take layer ``k``, counted from 0; query, key and value are copied, to be one product, the rest are the same tensors."""
    name = f"encoder.layer.{k}"
    parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    hidden_size, n_heads = config.hidden_size, config.num_attention_heads
    size = hidden_size // n_heads
    qkv = torch.cat([tensors[f"{part}.weight"] for part in parts])  # (3 * hidden, hidden)
    qkv[:hidden_size] *= size**-0.5
    bias = torch.stack([tensors[f"{part}.bias"] for part in parts])  # (3, hidden)
    bias[0] *= size**-0.5
    return Layer(
        qkv=qkv.t(),
        qkv_bias=bias.view(3, n_heads, 1, size),
        output=tensors[f"{name}.attention.output.dense.weight"].t(),
        output_bias=tensors[f"{name}.attention.output.dense.bias"],
        attention_norm=read_norm(tensors, f"{name}.attention.output", config),
        up=tensors[f"{name}.intermediate.dense.weight"].t(),
        up_bias=tensors[f"{name}.intermediate.dense.bias"],
        down=tensors[f"{name}.output.dense.weight"].t(),
        down_bias=tensors[f"{name}.output.dense.bias"],
        norm=read_norm(tensors, f"{name}.output", config),
    )


def expected_tensors(config: BertConfig, depth: int, *, with_pooler: bool) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a BertModel's tensors, up to layer ``depth``."""
    d, f = config.hidden_size, config.intermediate_size

    def dense(name: str, n_in: int, n_out: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.LayerNorm.weight": (d,), f"{name}.LayerNorm.bias": (d,)}

    expected: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, d),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, d),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, d),
        **norm("embeddings"),
    }
    for k in range(depth):
        layer = f"encoder.layer.{k}"
        for part in ("query", "key", "value"):
            expected |= dense(f"{layer}.attention.self.{part}", d, d)
        expected |= dense(f"{layer}.attention.output.dense", d, d) | norm(f"{layer}.attention.output")
        expected |= dense(f"{layer}.intermediate.dense", d, f) | dense(f"{layer}.output.dense", f, d) | norm(f"{layer}.output")
    return expected | (dense("pooler.dense", d, d) if with_pooler else {})
