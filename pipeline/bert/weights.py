"""The weights of a checkpoint: read, renamed, cut to the needed layers."""

import hashlib
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from pipeline.bert.config import PACKED, BertConfig, bare_name, read_shape
from pipeline.bert.linear import LayerNorm, Linear
from pipeline.checkpoints.checkpoint import Checkpoint, read_tensor_table, safetensors_bytes
from pipeline.exceptions import CheckpointError
from pipeline.forks import ForkSafeLock

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_LAYER = re.compile(r"(?:(?:encoder|transformer)\.)?layers?\.(\d+)\.")
_PARTS = ("embeddings.", "embeddings_project.", "encoder.", "transformer.", "pooler.")
# BERT's names -> DistilBERT's, applied in order
_DISTILBERT = (
    ("encoder.layer", "transformer.layer"),
    ("attention.self.query", "attention.q_lin"),
    ("attention.self.key", "attention.k_lin"),
    ("attention.self.value", "attention.v_lin"),
    ("attention.output.dense", "attention.out_lin"),
    ("attention.output.LayerNorm", "sa_layer_norm"),
    ("intermediate.dense", "ffn.lin1"),
    ("output.dense", "ffn.lin2"),
    ("output.LayerNorm", "output_layer_norm"),
)
HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"  # of a fine-tuned model
# A smaller share of the file is not worth a copy.
SMALLEST_SAVING = 0.05

_cut_checkpoints: "weakref.WeakValueDictionary[tuple[str, int, bool], Checkpoint]" = (
    weakref.WeakValueDictionary()
)
_cut_lock = ForkSafeLock()


def read_tensors(
    checkpoint: Checkpoint, family: str, expected: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """View the expected tensors in the weights, or raise if they differ."""
    name = checkpoint.source["model"]
    table, start = read_tensor_table(checkpoint.weights, name)
    buffer = memoryview(checkpoint.weights)  # type: ignore[arg-type]
    tensors: dict[str, Tensor] = {}
    for stored, entry in table.items():
        bare = bare_name(stored, family)
        if bare not in expected:
            continue
        if entry["dtype"] not in TORCH_DTYPES:
            raise CheckpointError(
                f"{name!r} stores {bare!r} as {entry['dtype']}, which is not supported. Supported "
                f"are {', '.join(TORCH_DTYPES)}. Use a checkpoint that is not quantized."
            )
        dtype, shape = TORCH_DTYPES[entry["dtype"]], entry["shape"]
        begin, end = entry["data_offsets"]
        if end - begin != prod(shape) * dtype.itemsize:  # would read its neighbours' bytes
            raise CheckpointError(
                f"model.safetensors of {name!r} is damaged: {bare!r} of shape {tuple(shape)} has "
                f"{end - begin} bytes. Fetch the model again."
            )
        if begin == end:  # of which torch reads none
            tensors[bare] = torch.empty(shape, dtype=dtype)
            continue
        flat = torch.frombuffer(buffer, dtype=dtype, count=prod(shape), offset=start + begin)
        tensors[bare] = flat.reshape(shape)
    disagree = f"config.json and model.safetensors of {name!r} disagree"
    missing = sorted(set(expected) - set(tensors))
    if missing:
        raise CheckpointError(
            f"{disagree}: the config needs {len(missing)} tensors that the weights do not have, "
            f"first {missing[0]!r}. Take both from the same model; missing weights are never "
            "filled in at random."
        )
    for key, wanted in expected.items():
        if tuple(tensors[key].shape) != tuple(wanted):
            raise CheckpointError(
                f"{disagree}: {key!r} has the shape {tuple(wanted)} in the config and "
                f"{tuple(tensors[key].shape)} in the weights. Take both from the same model."
            )
    return tensors


def read_head(
    checkpoint: Checkpoint, n_classes: int, hidden_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a head's weight (n_classes, hidden_size) and bias, float64."""
    expected = {HEAD_WEIGHT: (n_classes, hidden_size), HEAD_BIAS: (n_classes,)}
    tensors = read_tensors(checkpoint, read_shape(checkpoint).family, expected)
    return tensors[HEAD_WEIGHT].double().numpy(), tensors[HEAD_BIAS].double().numpy()


@dataclass(frozen=True)
class Layer:
    """One encoder layer."""

    qkv: Linear  # the query's part divided by sqrt(head_size)
    output: Linear
    attention_norm: LayerNorm
    up: Linear
    down: Linear
    norm: LayerNorm


def read_norm(tensors: Mapping[str, Tensor], name: str, config: BertConfig) -> LayerNorm:
    """Return the LayerNorm of ``name``, such as ``"embeddings"``."""
    norm = f"{name}.LayerNorm"
    return LayerNorm(tensors[f"{norm}.weight"], tensors[f"{norm}.bias"], config.layer_norm_eps)


def read_layer(
    tensors: Mapping[str, Tensor], k: int, config: BertConfig, dtype: torch.dtype
) -> Layer:
    """Return layer ``k``, from 0, with its products in ``dtype``."""
    name = f"encoder.layer.{k}"

    def dense(part: str) -> tuple[Tensor, Tensor]:
        return tensors[f"{name}.{part}.weight"], tensors[f"{name}.{part}.bias"]

    def linear(weight: Tensor, bias: Tensor, activation: str | None = None) -> Linear:
        return Linear(weight.to(dtype), bias.to(dtype), activation)

    (query, query_bias), (key, _), (value, value_bias) = (
        dense(f"attention.self.{part}") for part in ("query", "key", "value")
    )
    output, output_bias = dense("attention.output.dense")
    scale = (config.hidden_size // config.num_attention_heads) ** -0.5
    # softmax cancels the key's bias, and the value's passes through the average unchanged
    qkv = torch.cat([query * scale, key, value])
    total = qkv.sum(dtype=torch.float32) + query_bias.sum(dtype=torch.float32)
    if not total.isfinite():  # torch's attention may turn NaN into 0
        raise CheckpointError(f"The weights of {name}.attention are damaged: some are not finite.")
    return Layer(
        linear(qkv, query_bias * scale),
        linear(output, (output_bias + output.float() @ value_bias.float())),
        read_norm(tensors, f"{name}.attention.output", config),
        linear(*dense("intermediate.dense"), config.hidden_act),
        linear(*dense("output.dense")),
        read_norm(tensors, f"{name}.output", config),
    )


def read_encoder(
    checkpoint: Checkpoint, config: BertConfig, depth: int, *, with_pooler: bool
) -> dict[str, Tensor]:
    """View the tensors of an encoder up to layer ``depth``."""
    family, stored = config.model_type, {}
    for name, shape in _expected_tensors(config, depth, with_pooler).items():
        own = name
        for bert, distilbert in _DISTILBERT if family == "distilbert" else ():
            own = own.replace(bert, distilbert)
        stored[name] = (own, shape)
    tensors = read_tensors(checkpoint, family, dict(stored.values()))
    return {name: tensors[own] for name, (own, _) in stored.items()}


def _expected_tensors(
    config: BertConfig, depth: int, with_pooler: bool
) -> dict[str, tuple[int, ...]]:
    d, f = config.hidden_size, config.intermediate_size
    width = config.embedding_size or d
    expected: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
    }
    if config.type_vocab_size:
        expected["embeddings.token_type_embeddings.weight"] = (config.type_vocab_size, width)
    norms = {"embeddings": width}
    dense: dict[str, tuple[int, ...]] = {}  # (n_out, n_in)
    if width != d:
        dense["embeddings_project"] = (d, width)
    for layer in (f"encoder.layer.{k}" for k in range(depth)):
        dense |= {f"{layer}.attention.self.{part}": (d, d) for part in ("query", "key", "value")}
        dense[f"{layer}.attention.output.dense"] = (d, d)
        dense[f"{layer}.intermediate.dense"] = (f, d)
        dense[f"{layer}.output.dense"] = (d, f)
        norms |= {f"{layer}.attention.output": d, f"{layer}.output": d}
    if with_pooler:
        dense["pooler.dense"] = (d, d)
    for name, shape in dense.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name, size in norms.items():
        expected |= {f"{name}.LayerNorm.{part}": (size,) for part in ("weight", "bias")}
    return expected


def layer_number(name: str) -> int | None:
    """Return the encoder layer, from 0, that a tensor belongs to."""
    match = _LAYER.match(name)
    return None if match is None else int(match[1])


def cut(checkpoint: Checkpoint, depth: int, *, with_pooler: bool) -> Checkpoint:
    """Remove what never runs: deeper layers, pooler, pre-training heads."""
    key = (checkpoint.fingerprint, depth, with_pooler)
    with _cut_lock:  # equal requests get the same object
        if (known := _cut_checkpoints.get(key)) is not None:
            return known
        shorter = _cut_checkpoints[key] = _cut(checkpoint, depth, with_pooler)
        return shorter


def _cut(checkpoint: Checkpoint, depth: int, with_pooler: bool) -> Checkpoint:
    table, start = read_tensor_table(checkpoint.weights, checkpoint.source["model"])
    family = checkpoint.config["model_type"]
    if family not in PACKED:
        return checkpoint

    def runs(stored: str) -> bool:
        name = bare_name(stored, family)
        if (k := layer_number(name)) is not None:
            return k < depth
        return name.startswith(_PARTS) and (with_pooler or not name.startswith("pooler."))

    # `read_tensor_table` explains the format
    kept = []
    for name, entry in table.items():
        if runs(name):
            begin, end = entry["data_offsets"]
            kept.append((name, entry, checkpoint.weights[start + begin : start + end]))
    if sum(len(data) for *_, data in kept) > (1 - SMALLEST_SAVING) * len(checkpoint.weights):
        return checkpoint
    checkpoint.verify()
    weights = safetensors_bytes(kept)
    sha256 = hashlib.sha256(weights.data).hexdigest()
    return replace(checkpoint, weights=weights, depth=depth, weights_sha256=sha256)
