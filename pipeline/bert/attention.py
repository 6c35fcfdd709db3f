"""Self-attention over packed texts, each attending to itself alone. Knows torch only; used by packed."""

from collections.abc import Sequence
from inspect import signature
from math import prod
from typing import Any

import torch

from pipeline.bert.batching import Run

# exp() of scores within these bounds neither overflows nor vanishes in float32, so no maximum has to be subtracted first
_SAFE_SCORE = 60.0
# attention scores held at a time, 8 MiB in float32: what bounds the memory of long texts and keeps it in the cache
_MAX_SCORES = 2**21
# One split: the order of summation then does not depend on the other texts of the batch. Before 2.13 torch's own kernel never
# splits packed texts, and refuses to be told; ROCm's refuses too.
_ONE_SPLIT: dict[str, Any] = (
    {"num_splits": 1} if torch.__version__ >= "2.13" and torch.version.hip is None else {}
)


class Workspace:
    """Buffers that are used again from layer to layer and batch to batch; fresh memory costs more than the sums written to it.

    Parameters
    ----------
    device : torch.device
        Where they lie.
    dtype : torch.dtype
        Of all of them.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """Return the buffer of a name in a shape; what it held is gone."""
        size = prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size, device=self._device, dtype=self._dtype)
        return self._buffers[name][:size].view(shape)


def attend_runs(
    qkv: torch.Tensor, bias: torch.Tensor, runs: Sequence[Run], workspace: Workspace
) -> torch.Tensor:
    """Attend within each text, run by run of equal length, by plain batched products.

    softmax(q k^T) v of Vaswani et al. 2017, equation 1, the factor 1/sqrt(d) being in q already.

    Parameters
    ----------
    qkv : Tensor of shape (n_tokens, 3, n_heads, head_size)
        Query (scaled), key and value, without bias.
    bias : Tensor of shape (3, n_heads, 1, head_size)
        Theirs; added where the heads are copied apart.
    runs : sequence of Run
        The texts.
    workspace : Workspace
        For everything in between.

    Returns
    -------
    Tensor of shape (n_tokens, n_heads * head_size)
        In the workspace; valid until the next call.
    """
    n_tokens, _, n_heads, size = qkv.shape
    out = workspace.take("context", n_tokens, n_heads, size)
    for run in runs:
        for first, _, n in _portions(run, n_heads * run.length * run.length):
            rows = slice(first, first + n * run.length)
            apart = workspace.take("heads", 3, n, n_heads, run.length, size)
            torch.add(
                qkv[rows].view(n, run.length, 3, n_heads, size).permute(2, 0, 3, 1, 4),
                bias[:, None],
                out=apart,
            )
            _attend(apart[0], apart[1:], out[rows].view(n, run.length, n_heads, size), workspace)
    return out.view(n_tokens, n_heads * size)


def attend_first(
    query: torch.Tensor,
    key_value: torch.Tensor,
    bias: torch.Tensor,
    runs: Sequence[Run],
    workspace: Workspace,
) -> torch.Tensor:
    """Attend from the first token of each text alone, [CLS], to all tokens of its text.

    Parameters
    ----------
    query : Tensor of shape (n_texts, n_heads, head_size)
        Scaled, without bias.
    key_value : Tensor of shape (n_tokens, 2, n_heads, head_size)
        Without bias.
    bias, runs, workspace
        As for `attend_runs`.

    Returns
    -------
    Tensor of shape (n_texts, n_heads * head_size)
        In the workspace; valid until the next call.
    """
    n_texts, n_heads, size = query.shape
    out = workspace.take("context", n_texts, n_heads, size)
    for run in runs:
        for first, text, n in _portions(run, n_heads * run.length):
            rows = slice(first, first + n * run.length)
            q = torch.add(
                query[text : text + n], bias[0, :, 0], out=workspace.take("query", n, n_heads, size)
            )
            apart = workspace.take("heads", 2, n, n_heads, run.length, size)
            torch.add(
                key_value[rows].view(n, run.length, 2, n_heads, size).permute(2, 0, 3, 1, 4),
                bias[1:, None],
                out=apart,
            )
            _attend(q[:, :, None], apart, out[text : text + n, None], workspace)
    return out.view(n_texts, n_heads * size)


def _portions(run: Run, scores_per_text: int) -> list[tuple[int, int, int]]:
    """Cut a run into parts of bounded memory: first token, first text and number of texts of each."""
    step = max(1, _MAX_SCORES // scores_per_text)
    return [
        (run.first_token + i * run.length, run.first_text + i, min(step, run.n_texts - i))
        for i in range(0, run.n_texts, step)
    ]


def _attend(
    query: torch.Tensor, key_value: torch.Tensor, out: torch.Tensor, workspace: Workspace
) -> None:
    """Attend within texts of one length.

    ``query`` is (n_texts, n_heads, n_queries, head_size), ``key_value`` (2, n_texts, n_heads, n_tokens, head_size), ``out``
    (n_texts, n_queries, n_heads, head_size).
    """
    n, n_heads, n_queries, size = query.shape
    length = key_value.shape[3]
    k, v = key_value.view(2, n * n_heads, length, size)
    scores = workspace.take("scores", n * n_heads, n_queries, length)
    torch.bmm(query.reshape(n * n_heads, n_queries, size), k.transpose(1, 2), out=scores)
    sums = _exponentiate(scores).view(n, n_heads, n_queries, 1)
    mixed = torch.bmm(scores, v, out=workspace.take("mixed", n * n_heads, n_queries, size))
    torch.div(
        mixed.view(n, n_heads, n_queries, size).transpose(1, 2), sums.transpose(1, 2), out=out
    )


def _exponentiate(scores: torch.Tensor) -> torch.Tensor:
    """Turn scores into softmax numerators in place, and return what to divide by, with a last axis of 1.

    torch's softmax goes row by row, slow for the short rows of short texts; exp over everything at once and a sum are several
    times as fast, and safe where no score is large.
    """
    low, high = torch.aminmax(scores)
    if low.item() > -_SAFE_SCORE and high.item() < _SAFE_SCORE:
        return scores.exp_().sum(-1, keepdim=True)
    torch.softmax(scores, -1, out=scores)  # NaN comes here too, and stays
    return scores.new_ones((*scores.shape[:2], 1))


def attend_varlen(
    query: torch.Tensor,
    key_value: torch.Tensor,
    query_starts: torch.Tensor,
    starts: torch.Tensor,
    max_query: int,
    max_length: int,
) -> torch.Tensor:
    """Attend within each text by torch's variable-length flash attention; CUDA, half precision.

    Parameters
    ----------
    query : Tensor of shape (n_tokens or n_texts, n_heads, head_size)
        Scaled, with bias.
    key_value : Tensor of shape (n_tokens, 2, n_heads, head_size)
        With bias.
    query_starts, starts : Tensor of shape (n_texts + 1,), int32
        First row of each text in ``query`` and in ``key_value``.
    max_query, max_length : int
        Longest text in each.

    Returns
    -------
    Tensor of shape (n_tokens or n_texts, n_heads * head_size)
    """
    from torch.nn.attention.varlen import varlen_attn

    key, value = key_value.unbind(1)
    mixed = varlen_attn(
        query, key, value, query_starts, starts, max_query, max_length, scale=1.0, **_ONE_SPLIT
    )
    assert isinstance(mixed, torch.Tensor)
    return mixed.flatten(1)


def has_varlen(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Tell whether `attend_varlen` runs there: CUDA of Ampere or later, half precision, heads it takes, a torch that has it."""
    if (
        device.type != "cuda"
        or dtype not in (torch.float16, torch.bfloat16)
        or head_size % 8
        or head_size > 256
    ):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    if "scale" not in signature(varlen_attn).parameters:  # torch 2.10
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
