"""Self-attention over packed texts."""

from collections.abc import Sequence
from inspect import signature
from math import prod
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from pipeline.bert.pooling import Run

# exp() of scores within these bounds neither overflows nor vanishes in float32
_SAFE_SCORE = 60.0
# From this length on, and for single texts, torch's own attention is faster: it copies no heads and
# holds no scores, but runs once per text.
_LONG = 48
# With one split, the order of summation does not depend on the other texts of the batch.
# Before torch 2.13, and on ROCm, the option fails; torch's own kernel never splits there.
_ONE_SPLIT: dict[str, Any] = (
    {"num_splits": 1} if torch.__version__ >= "2.13" and torch.version.hip is None else {}
)


class Workspace:
    """Buffers reused across batches, cheaper than fresh memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def take(self, name: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """Return the named buffer in a shape. Its old contents are lost."""
        size, key = prod(shape), (name, dtype)
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.empty(size, device=self._device, dtype=dtype)
        return self._buffers[key][:size].view(shape)


# Both functions below compute softmax(q k^T) v (Vaswani et al. 2017, equation 1); q already holds
# the factor 1/sqrt(d). The CPU computes in float32 whatever the type of q: scores need it.


def attend_runs(
    qkv: torch.Tensor,  # (n_tokens, 3, n_heads, head_size)
    runs: Sequence[Run],
    workspace: Workspace,
    *,
    cls_only: bool = False,
) -> torch.Tensor:
    """Attend within each text, from all tokens or [CLS] only."""
    # (n_tokens or n_texts, n_heads * head_size), valid until the next call
    n_tokens, _, n_heads, size = qkv.shape
    n_queries = sum(run.n_texts for run in runs) if cls_only else n_tokens
    if len(runs) == 1 and (cls_only or _is_long(runs[0])):
        return _torchs(_heads(qkv, runs[0]), cls_only).reshape(n_queries, -1).to(qkv.dtype)
    out = workspace.take("context", qkv.dtype, n_queries, n_heads, size)
    for run in runs:
        first_text, n_texts = run.first_text, run.n_texts
        rows = slice(first_text, first_text + n_texts) if cls_only else run.tokens
        context, heads = out[rows].view(n_texts, -1, n_heads, size), _heads(qkv[run.tokens], run)
        if cls_only or _is_long(run):
            context.copy_(_torchs(heads, cls_only))
        else:
            _attend(heads, context, workspace)
    return out.view(n_queries, -1)


def _is_long(run: Run) -> bool:
    return run.n_texts == 1 or run.length >= _LONG


def _heads(qkv: torch.Tensor, run: Run) -> torch.Tensor:
    """View the rows of a run as (3, n_texts, n_heads, length, head_size)."""
    return qkv.view(run.n_texts, run.length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)


def _torchs(heads: torch.Tensor, cls_only: bool) -> torch.Tensor:
    """Attend with torch's own function: (n_texts, length or 1, n_heads, head_size), float32."""
    query, key, value = heads.float().unbind()  # much faster than iterating
    if cls_only:
        query = query[:, :, :1]
    return scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2)


def _attend(heads: torch.Tensor, out: torch.Tensor, workspace: Workspace) -> None:
    _, n, n_heads, length, size = heads.shape
    copied = workspace.take("heads", torch.float32, *heads.shape)
    q, k, v = copied.copy_(heads).view(3, n * n_heads, length, size)
    scores = workspace.take("scores", torch.float32, n * n_heads, length, length)
    torch.bmm(q, k.transpose(1, 2), out=scores)
    sums = _exponentiate(scores).view(n, n_heads, length, 1)
    mixed = workspace.take("mixed", torch.float32, n * n_heads, length, size)
    by_head = torch.bmm(scores, v, out=mixed).view(n, n_heads, length, size)
    torch.div(by_head.transpose(1, 2), sums.transpose(1, 2), out=out)


def _exponentiate(scores: torch.Tensor) -> torch.Tensor:
    """Turn scores into softmax numerators in place, and return the denominators."""
    # torch's softmax goes row by row, which is slow for short rows. exp over everything and a sum
    # are several times as fast, and safe unless a score is large.
    low, high = torch.aminmax(scores)
    if low.item() > -_SAFE_SCORE and high.item() < _SAFE_SCORE:
        return scores.exp_().sum(-1, keepdim=True)
    torch.softmax(scores, -1, out=scores)  # also for NaN, which stays NaN
    return scores.new_ones((*scores.shape[:2], 1))


def attend_varlen(
    query: torch.Tensor,  # (n_queries, n_heads, head_size), scaled, with bias
    key_value: torch.Tensor,  # (n_tokens, 2, n_heads, head_size), with bias
    query_starts: torch.Tensor,  # (n_texts + 1,), int32: first row of each text in query
    starts: torch.Tensor,  # (n_texts + 1,), int32: first row of each text in key_value
    max_query: int,
    max_length: int,
) -> torch.Tensor:
    """Attend with torch's flash attention on CUDA: (n_queries, n_heads * head_size)."""
    from torch.nn.attention.varlen import varlen_attn

    key, value = key_value.unbind(1)
    mixed = varlen_attn(
        query, key, value, query_starts, starts, max_query, max_length, scale=1.0, **_ONE_SPLIT
    )
    assert isinstance(mixed, torch.Tensor)
    return mixed.flatten(1)


def has_varlen(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Tell whether `attend_varlen` runs here: CUDA since Ampere, half precision."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    if head_size % 8 or head_size > 256:
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    if "scale" not in signature(varlen_attn).parameters:  # torch 2.10
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
