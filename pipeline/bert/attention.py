"""Self-attention over packed texts, each attending to itself alone."""

from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from math import prod
from typing import Any

import torch

from pipeline.bert.batching import Run

# exp() of scores within these bounds neither overflows nor vanishes in float32
_SAFE_SCORE = 60.0
# attention scores held at a time, 8 MiB in float32: bounds memory and stays in the cache
_MAX_SCORES = 2**21
# One split: the order of summation then does not depend on the other texts of the batch.
# Before torch 2.13 its own kernel never splits packed texts; there, and on ROCm, the option fails.
_ONE_SPLIT: dict[str, Any] = (
    {"num_splits": 1} if torch.__version__ >= "2.13" and torch.version.hip is None else {}
)


class Workspace:
    """Buffers reused from batch to batch: fresh memory costs more than filling it."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """Return the named buffer in a shape; its old contents are lost."""
        size = prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size, device=self._device, dtype=self._dtype)
        return self._buffers[name][:size].view(shape)


# Both functions below compute softmax(q k^T) v of Vaswani et al. 2017, equation 1; the factor
# 1/sqrt(d) is in q already. Biases are added where the heads are copied apart. Results lie in
# the workspace, valid until the next call.


def attend_runs(
    qkv: torch.Tensor,  # (n_tokens, 3, n_heads, head_size), without bias
    bias: torch.Tensor,  # (3, n_heads, 1, head_size)
    runs: Sequence[Run],
    workspace: Workspace,
) -> torch.Tensor:
    """Attend within each text, run by run, (n_tokens, n_heads * head_size)."""
    n_tokens, _, n_heads, size = qkv.shape
    out = workspace.take("context", n_tokens, n_heads, size)
    for part in _parts(runs, lambda length: n_heads * length * length):
        heads = _split_heads(qkv, bias, part, workspace)
        context = out[part.tokens].view(part.n_texts, part.length, n_heads, size)
        _attend(heads[0], heads[1:], context, workspace)
    return out.view(n_tokens, n_heads * size)


def attend_first(
    query: torch.Tensor,  # (n_texts, n_heads, head_size), without bias
    key_value: torch.Tensor,  # (n_tokens, 2, n_heads, head_size), without bias
    bias: torch.Tensor,  # (3, n_heads, 1, head_size)
    runs: Sequence[Run],
    workspace: Workspace,
) -> torch.Tensor:
    """Attend from [CLS] alone to its whole text, (n_texts, n_heads * head_size)."""
    n_texts, n_heads, size = query.shape
    out = workspace.take("context", n_texts, n_heads, size)
    for part in _parts(runs, lambda length: n_heads * length):
        texts = slice(part.first_text, part.first_text + part.n_texts)
        q = workspace.take("query", part.n_texts, n_heads, size)
        torch.add(query[texts], bias[0, :, 0], out=q)
        heads = _split_heads(key_value, bias[1:], part, workspace)
        _attend(q[:, :, None], heads, out[texts, None], workspace)
    return out.view(n_texts, n_heads * size)


def _split_heads(
    packed: torch.Tensor, bias: torch.Tensor, part: Run, workspace: Workspace
) -> torch.Tensor:
    """Copy heads apart and add bias, (2 or 3, n_texts, n_heads, length, head_size)."""
    n, n_heads, size = packed.shape[1:]
    by_text = packed[part.tokens].view(part.n_texts, part.length, n, n_heads, size)
    heads = workspace.take("heads", n, part.n_texts, n_heads, part.length, size)
    return torch.add(by_text.permute(2, 0, 3, 1, 4), bias[:, None], out=heads)


def _parts(runs: Sequence[Run], scores_per_text: Callable[[int], int]) -> Iterator[Run]:
    """Cut runs into parts whose attention scores fit the memory bound."""
    for text, token, n_texts, length in runs:
        step = max(1, _MAX_SCORES // scores_per_text(length))
        for i in range(0, n_texts, step):
            yield Run(text + i, token + i * length, min(step, n_texts - i), length)


def _attend(
    query: torch.Tensor,  # (n_texts, n_heads, n_queries, head_size)
    key_value: torch.Tensor,  # (2, n_texts, n_heads, n_tokens, head_size)
    out: torch.Tensor,  # (n_texts, n_queries, n_heads, head_size)
    workspace: Workspace,
) -> None:
    """Attend within texts of one length."""
    n, n_heads, n_queries, size = query.shape
    length = key_value.shape[3]
    k, v = key_value.view(2, n * n_heads, length, size)
    scores = workspace.take("scores", n * n_heads, n_queries, length)
    torch.bmm(query.reshape(n * n_heads, n_queries, size), k.transpose(1, 2), out=scores)
    sums = _exponentiate(scores).view(n, n_heads, n_queries, 1)
    mixed = torch.bmm(scores, v, out=workspace.take("mixed", n * n_heads, n_queries, size))
    by_head = mixed.view(n, n_heads, n_queries, size)
    torch.div(by_head.transpose(1, 2), sums.transpose(1, 2), out=out)


def _exponentiate(scores: torch.Tensor) -> torch.Tensor:
    """Turn scores into softmax numerators in place; return the denominators."""
    # torch's softmax goes row by row, slow for short rows; exp over everything at once and a sum
    # are several times as fast, and safe where no score is large
    low, high = torch.aminmax(scores)
    if low.item() > -_SAFE_SCORE and high.item() < _SAFE_SCORE:
        return scores.exp_().sum(-1, keepdim=True)
    torch.softmax(scores, -1, out=scores)  # NaN comes here too, and stays
    return scores.new_ones((*scores.shape[:2], 1))


def attend_varlen(
    query: torch.Tensor,  # (n_queries, n_heads, head_size), scaled, with bias
    key_value: torch.Tensor,  # (n_tokens, 2, n_heads, head_size), with bias
    query_starts: torch.Tensor,  # (n_texts + 1,), int32: first row of each text in query
    starts: torch.Tensor,  # (n_texts + 1,), int32: first row of each text in key_value
    max_query: int,
    max_length: int,
) -> torch.Tensor:
    """Attend by torch's flash attention on CUDA, (n_queries, n_heads * head_size)."""
    from torch.nn.attention.varlen import varlen_attn

    key, value = key_value.unbind(1)
    mixed = varlen_attn(
        query, key, value, query_starts, starts, max_query, max_length, scale=1.0, **_ONE_SPLIT
    )
    assert isinstance(mixed, torch.Tensor)
    return mixed.flatten(1)


def has_varlen(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Tell whether `attend_varlen` runs there: CUDA since Ampere, half precision."""
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
