"""Hidden states -> one vector per text and layer (cls, mean, max); layers -> features. Used by the encoders and vectorizer."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from pipeline.bert.batching import TokenBatch

Pooling = Literal["cls", "mean", "max", "pooler"]
Combine = Literal["concat", "mean", "sum"]


def pool(
    hidden_state: torch.Tensor, pooling: Pooling, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Make one vector per text of one layer.

    Parameters
    ----------
    hidden_state : Tensor of shape (n_texts, n_tokens, hidden_size)
        One layer.
    pooling : {"cls", "mean", "max"}
        ``cls`` is the hidden state of [CLS] (Devlin et al. 2019, section 3), ``mean`` and ``max`` go over the real tokens,
        [CLS] and [SEP] included (Reimers and Gurevych 2019, section 3).
    attention_mask : Tensor of shape (n_texts, n_tokens), optional
        1 for real tokens. None means that every token is real.

    Returns
    -------
    Tensor of shape (n_texts, hidden_size)
    """
    if pooling == "cls":
        return hidden_state[:, 0]
    if attention_mask is None:
        return hidden_state.mean(dim=1) if pooling == "mean" else hidden_state.amax(dim=1)
    real = attention_mask.bool().unsqueeze(-1)  # (n_texts, n_tokens, 1)
    if pooling == "mean":
        return hidden_state.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)
    return hidden_state.masked_fill(~real, -torch.inf).amax(dim=1)


def pool_packed(
    hidden_state: torch.Tensor,
    batch: TokenBatch,
    pooling: Pooling,
    starts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Make one vector per text of one layer of packed texts.

    Parameters
    ----------
    hidden_state : Tensor of shape (n_tokens, hidden_size)
        One layer of a batch.
    batch : TokenBatch
        Which token is whose.
    pooling : {"cls", "mean", "max"}
        As for `pool`.
    starts : Tensor of shape (n_texts + 1,), int32, optional
        ``batch.starts`` on the device of ``hidden_state``: all texts are then pooled by one kernel, which is what an accelerator
        needs. None goes run by run of equal length, which is faster on the CPU.

    Returns
    -------
    Tensor of shape (n_texts, hidden_size), float32
    """
    if starts is not None:
        if pooling == "cls":
            return hidden_state[starts[:-1].long()].float()
        lengths = starts.diff().long()
        return torch.segment_reduce(
            hidden_state.float(), pooling, lengths=lengths, axis=0, unsafe=True
        )
    pooled = []
    for run in batch.runs:
        tokens = hidden_state[run.first_token : run.first_token + run.n_texts * run.length]
        pooled.append(
            pool(tokens.view(run.n_texts, run.length, -1), pooling)
        )  # (n_texts of the run, hidden_size)
    return torch.cat(pooled).float()


def resolve_layers(layers: int | Sequence[int] | str, n_layers: int) -> tuple[int, ...]:
    """Turn ``layers`` into indices 0 ... n_layers of HF's ``hidden_states``.

    Parameters
    ----------
    layers : int, sequence of int, or "all"
        0 is the embedding output, 1 ... n_layers the encoder layers, -1 the last.
    n_layers : int
        Encoder layers of the model.

    Returns
    -------
    tuple of int
        In the order given, without negative numbers.

    Raises
    ------
    ValueError
        For an index out of range, a layer named twice, or no layer at all.

    Examples
    --------
    >>> resolve_layers((-4, -3, -2, -1), 12)
    (9, 10, 11, 12)
    """
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(f"layers={layers!r}; allowed are an int, a tuple of ints, or 'all'.")
        return tuple(range(n_layers + 1))
    asked = (layers,) if isinstance(layers, int | np.integer) else tuple(layers)
    if not asked:
        raise ValueError(
            "layers is empty; name at least one layer, such as layers=-1 for the last."
        )
    resolved = []
    for layer in asked:
        if not -n_layers - 1 <= layer <= n_layers:
            raise ValueError(
                f"layers={layers!r} asks for layer {layer}; this model has {n_layers} layers, so allowed are 0 (embedding "
                f"output) to {n_layers}, or -{n_layers + 1} to -1 counted from the end."
            )
        resolved.append(int(layer) % (n_layers + 1))
    if len(set(resolved)) < len(resolved):
        raise ValueError(
            f"layers={layers!r} names a layer twice: they stand for {tuple(resolved)} of {n_layers}."
        )
    return tuple(resolved)


def combine_layers(vectors: np.ndarray, combine: Combine) -> np.ndarray:
    """Make one feature row per text of its poolings and layers.

    Parameters
    ----------
    vectors : ndarray of shape (n_texts, n_poolings, n_layers, hidden_size)
        As from `pipeline.bert.embedding.embed`.
    combine : {"concat", "mean", "sum"}
        What to do over the layers (Devlin et al. 2019, Table 7); poolings are always concatenated.

    Returns
    -------
    ndarray of shape (n_texts, n_features), same dtype
        ``n_features`` is ``n_poolings * hidden_size``, times ``n_layers`` for ``concat``; a pooling's layers are adjacent.
    """
    n_texts, n_poolings, n_layers, hidden_size = vectors.shape
    if combine == "concat":
        return vectors.reshape(n_texts, n_poolings * n_layers * hidden_size)
    reduced: np.ndarray = (
        vectors.mean(axis=2) if combine == "mean" else vectors.sum(axis=2)
    )  # (n_texts, n_poolings, hidden_size)
    return reduced.reshape(n_texts, n_poolings * hidden_size)
