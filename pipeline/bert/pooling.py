"""Batches without padding, and the pooling of texts and layers."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor


class Run(NamedTuple):
    """Adjacent texts of equal length in a batch."""

    texts: slice  # their places in the batch
    tokens: slice  # and those of their tokens
    n_texts: int
    length: int


class TokenBatch:
    """The tokens of several texts, concatenated without padding."""

    def __init__(self, sequences: Sequence[np.ndarray], skip: int = 0) -> None:
        self.skip = skip  # first tokens that no pooling includes
        # no cached properties: their lock may stay locked in a forked child
        self.input_ids = np.concatenate(sequences)  # (n_tokens,), int64
        self.lengths = np.array([len(ids) for ids in sequences], dtype=np.int64)  # (n_texts,)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])  # (n_texts + 1,)
        first_tokens = np.repeat(self.starts[:-1], self.lengths)
        self.position_ids = np.arange(len(self.input_ids)) - first_tokens  # (n_tokens,)
        edges = [0, *(np.flatnonzero(np.diff(self.lengths)) + 1).tolist(), len(self.lengths)]
        starts = self.starts.tolist()
        self.runs = [
            Run(slice(i, j), slice(starts[i], starts[j]), j - i, starts[i + 1] - starts[i])
            for i, j in pairwise(edges)
        ]


# Both functions return positions, longest first, so that memory runs out early if at all. A
# sequence longer than the budget is a batch of its own.


def batch_by_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Group sequences of equal length."""
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches: list[np.ndarray] = []
    for run in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        if len(run):
            size = max(1, int(batch_tokens // max(1, lengths[run[0]])))
            batches.extend(run[start : start + size] for start in range(0, len(run), size))
    return batches


def pack_by_length(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Group sequences of similar length into batches as full as possible."""
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches: list[np.ndarray] = []
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + batch_tokens, side="right")))
        batches.append(order[start:stop])
        start = stop
    return batches


Pooling = Literal[
    "cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "pooler"
]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
Combine = Literal["concat", "mean", "sum"]


# cls is the state of [CLS] (Devlin et al. 2019, section 3); mean and max cover the real tokens with
# [CLS] and [SEP] (Reimers and Gurevych 2019, section 3); the others follow sentence-transformers,
# with positions from 1 in weightedmean (Muennighoff 2022)


def pool(hidden_state: Tensor, pooling: Pooling, attention_mask: Tensor) -> Tensor:
    """Pool padded (n_texts, n_tokens, hidden_size) to (n_texts, hidden_size)."""
    if pooling == "cls":
        return hidden_state[:, 0]
    real = attention_mask.bool().unsqueeze(-1)  # (n_texts, n_tokens, 1)
    if pooling == "mean":
        return hidden_state.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)
    return hidden_state.masked_fill(~real, -torch.inf).amax(dim=1)


def _pool_from(states: Tensor, pooling: Pooling, skip: int) -> Tensor:
    """Pool (n_texts, n_tokens, hidden_size) from token ``skip`` on."""
    own = states[:, skip:]
    if pooling == "mean":
        return own.mean(dim=1)
    if pooling == "max":
        return own.amax(dim=1)
    if pooling == "cls":
        return own[:, 0]
    if pooling == "lasttoken":
        return own[:, -1]
    if pooling == "mean_sqrt_len_tokens":
        return own.sum(dim=1) / math.sqrt(own.shape[1])
    weight = torch.arange(skip + 1, states.shape[1] + 1, device=own.device, dtype=own.dtype)
    return (own * (weight / weight.sum())[:, None]).sum(dim=1)


def pool_packed(
    hidden_state: Tensor,
    batch: TokenBatch,
    pooling: Pooling,
    starts: Tensor | None = None,
) -> Tensor:
    """Pool (n_tokens, hidden_size) of one layer to (n_texts, hidden_size), float32."""
    if pooling == "cls" and not batch.skip:
        first = torch.from_numpy(batch.starts[:-1]) if starts is None else starts[:-1].long()
        return hidden_state[first].float()
    # one kernel for all texts, as accelerators need it
    if starts is not None and pooling in ("mean", "max") and not batch.skip:
        lengths = starts.diff().long()
        return torch.segment_reduce(
            hidden_state.float(), pooling, lengths=lengths, axis=0, unsafe=True
        )
    # run by run, faster on the CPU
    pooled = [
        _pool_from(
            hidden_state[run.tokens].float().view(run.n_texts, run.length, -1),
            pooling,
            batch.skip,
        )
        for run in batch.runs
    ]
    return torch.cat(pooled) if len(pooled) > 1 else pooled[0]


def resolve_layers(layers: int | Sequence[int] | str, n_layers: int) -> tuple[int, ...]:
    """Turn ``layers`` into indices 0 ... n_layers of HF's ``hidden_states``."""
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(f"layers={layers!r} is not an int, a tuple of ints, or 'all'.")
        return tuple(range(n_layers + 1))
    asked = (layers,) if isinstance(layers, int | np.integer) else tuple(layers)
    if not asked:
        raise ValueError(
            "layers is empty; name at least one layer, for example layers=-1 for the last."
        )
    for layer in asked:
        if not -n_layers - 1 <= layer <= n_layers:
            raise ValueError(
                f"layers={layers!r} asks for layer {layer}, and this model has {n_layers} layers. "
                f"Allowed are 0 (embedding output) to {n_layers}, or -{n_layers + 1} to -1 counted "
                "from the end."
            )
    resolved = tuple(int(layer) % (n_layers + 1) for layer in asked)
    if len(set(resolved)) < len(resolved):
        raise ValueError(
            f"layers={layers!r} names a layer twice: these are {resolved} of {n_layers}."
        )
    return resolved


def combine_layers(vectors: np.ndarray, combine: Combine) -> np.ndarray:
    """Turn (n_texts, n_poolings, n_layers, hidden_size) into (n_texts, n_features)."""
    # layers of each pooling (Devlin et al. 2019, Table 7), then poolings
    if combine != "concat":
        vectors = vectors.mean(axis=2) if combine == "mean" else vectors.sum(axis=2)
    return vectors.reshape(len(vectors), int(np.prod(vectors.shape[1:])))


def feature_names(
    poolings: Sequence[str], layers: Sequence[int], combine: str, n_layers: int, hidden_size: int
) -> list[str]:
    """Name the features of `combine_layers`, such as ``mean_layer6_017``."""
    digits, width = len(str(n_layers)), len(str(hidden_size - 1))
    of_layers = [f"layer{layer:0{digits}d}" for layer in layers]
    if combine != "concat" and len(layers) > 1:
        of_layers = [f"layer{combine}"]
    return [
        f"{pooling}_{layer}_{i:0{width}d}"
        for pooling in poolings
        for layer in of_layers
        for i in range(hidden_size)
    ]
