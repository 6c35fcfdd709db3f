"""The weights of a checkpoint as tensors: read, renamed, and cut to the layers that run."""

import hashlib
import json
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pipeline.bert.config import BertConfig, bare_name
from pipeline.checkpoints.checkpoint import Checkpoint, read_tensor_table
from pipeline.exceptions import CheckpointError
from pipeline.forks import ForkSafeLock

_TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


def read_tensors(
    checkpoint: Checkpoint, family: str, expected: Mapping[str, Sequence[int]]
) -> dict[str, torch.Tensor]:
    """View the tensors that a model needs inside the bytes of the weights, without copying them.

    Parameters
    ----------
    checkpoint : Checkpoint
        The weights.
    family : str
        ``model_type`` of the config.
    expected : mapping of str to shape
        What the config asks for, by the names of HF's model without a head.

    Returns
    -------
    dict of str to Tensor
        Every expected name, in the precision of the file.

    Raises
    ------
    CheckpointError
        When config and weights disagree: a tensor missing, of the wrong shape, type or size.
    """
    name = checkpoint.source["model"]
    table, start = read_tensor_table(checkpoint.weights, name)
    buffer = memoryview(checkpoint.weights)  # type: ignore[arg-type]
    tensors = {}
    for stored, entry in table.items():
        bare = bare_name(stored, family)
        if bare not in expected:
            continue
        if entry["dtype"] not in _TORCH_DTYPES:
            raise CheckpointError(
                f"{name!r} holds {bare!r} as {entry['dtype']}; read are {', '.join(_TORCH_DTYPES)}. Use the checkpoint that is "
                "not quantized."
            )
        dtype, shape = _TORCH_DTYPES[entry["dtype"]], entry["shape"]
        begin, end = entry["data_offsets"]
        if (
            end - begin != prod(shape) * dtype.itemsize
        ):  # read all the same, it would take its neighbours' bytes
            raise CheckpointError(
                f"model.safetensors of {name!r} is damaged: {bare!r} of shape {tuple(shape)} has {end - begin} bytes. Fetch "
                "the model again."
            )
        tensors[bare] = torch.frombuffer(
            buffer, dtype=dtype, count=prod(shape), offset=start + begin
        ).reshape(shape)
    _refuse_disagreement(name, expected, tensors)
    return tensors


def _refuse_disagreement(
    name: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, torch.Tensor]
) -> None:
    missing = sorted(set(expected) - set(found))
    if missing:
        raise CheckpointError(
            f"config.json and model.safetensors of {name!r} disagree: the config asks for {len(missing)} tensors that the "
            f"weights do not hold, first {missing[0]!r}. They must come from the same model; nothing is filled in at random."
        )
    for key, shape in expected.items():
        if tuple(found[key].shape) != tuple(shape):
            raise CheckpointError(
                f"config.json and model.safetensors of {name!r} disagree: {key!r} is {tuple(shape)} by the config and "
                f"{tuple(found[key].shape)} in the weights. They must come from the same model."
            )


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
    return LayerNorm(
        tensors[f"{name}.LayerNorm.weight"],
        tensors[f"{name}.LayerNorm.bias"],
        config.layer_norm_eps,
    )


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


def expected_tensors(
    config: BertConfig, depth: int, *, with_pooler: bool
) -> dict[str, tuple[int, ...]]:
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
        expected |= dense(f"{layer}.attention.output.dense", d, d) | norm(
            f"{layer}.attention.output"
        )
        expected |= (
            dense(f"{layer}.intermediate.dense", d, f)
            | dense(f"{layer}.output.dense", f, d)
            | norm(f"{layer}.output")
        )
    return expected | (dense("pooler.dense", d, d) if with_pooler else {})


# Below this share a copy in memory costs more than the file gains: the whole weights stay mapped from where they are.
SMALLEST_SAVING = 0.05
_LAYER = re.compile(r"(?:encoder|transformer)\.layer\.(\d+)\.")
_PARTS = ("embeddings.", "embeddings_project.", "encoder.", "transformer.", "pooler.")

_made: "weakref.WeakValueDictionary[tuple[str, int, bool], Checkpoint]" = (
    weakref.WeakValueDictionary()
)
_made_lock = ForkSafeLock()


def cut(checkpoint: Checkpoint, depth: int, *, with_pooler: bool) -> Checkpoint:
    """Leave out what is never run: deeper layers, a pooler not asked for, the heads of pre-training.

    Parameters
    ----------
    checkpoint : Checkpoint
        Whole.
    depth : int
        Layers to keep, 0 to the model's own number.
    with_pooler : bool
        Whether to keep the pooler.

    Returns
    -------
    Checkpoint
        The same config, tokenizer and source, fewer bytes of weights; the checkpoint itself where less than a twentieth would be
        saved. Asked twice, the same object, as long as somebody has it.
    """
    key = (checkpoint.fingerprint, depth, with_pooler)
    with _made_lock:
        found = _made.get(key)
        if found is None:
            found = _made[key] = _cut(checkpoint, depth, with_pooler)
        return found


def _cut(checkpoint: Checkpoint, depth: int, with_pooler: bool) -> Checkpoint:
    table, start = read_tensor_table(checkpoint.weights, checkpoint.source["model"])
    family = checkpoint.config["model_type"]
    kept = {
        name: entry
        for name, entry in table.items()
        if _is_run(bare_name(name, family), depth, with_pooler)
    }
    n_bytes = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in kept.values())
    if n_bytes > (1 - SMALLEST_SAVING) * len(checkpoint.weights):
        return checkpoint
    checkpoint.verify()
    weights = _write(kept, checkpoint.weights[start:])
    return replace(
        checkpoint,
        weights=weights,
        depth=depth,
        weights_sha256=hashlib.sha256(weights.data).hexdigest(),
    )


def _write(entries: dict[str, dict[str, Any]], data: np.ndarray) -> np.ndarray:
    """Write the bytes of a safetensors file of some tensors, whatever their types: see `read_tensor_table` for the format."""
    table, chunks, end = {}, [], 0
    for name, entry in entries.items():
        begin, stop = entry["data_offsets"]
        table[name] = {**entry, "data_offsets": [end, end + stop - begin]}
        chunks.append(data[begin:stop])
        end += stop - begin
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the data begin at a multiple of 8
    written = np.frombuffer(len(header).to_bytes(8, "little") + header, dtype=np.uint8)
    return np.concatenate([written, *chunks])


def _is_run(name: str, depth: int, with_pooler: bool) -> bool:
    layer = _LAYER.match(name)
    if layer is not None:
        return int(layer[1]) < depth
    return name.startswith(_PARTS) and (with_pooler or not name.startswith("pooler."))
