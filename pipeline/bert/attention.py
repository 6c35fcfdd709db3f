"""Self-attention over packed texts, each attending to itself alone. Knows torch only; used by packed."""

from collections.abc import Sequence
from math import prod

import torch

from pipeline.bert.batching import Run

# exp() of scores within these bounds neither overflows nor vanishes in float32, so no maximum has to be subtracted first
_SAFE_SCORE = 60.0
# attention scores held at a time, 8 MiB in float32: what bounds the memory of long texts and keeps it in the cache
_MAX_SCORES = 2**21


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
    query: torch.Tensor, key_value: torch.Tensor, bias: torch.Tensor, runs: Sequence[Run], workspace: Workspace
) -> torch.Tensor:
    """Attend within each text, run by run of equal length, by plain batched products.

    softmax(q k^T) v of Vaswani et al. 2017, eq. 1, the factor 1/sqrt(d) being in q already.

    Parameters
    ----------
    query : Tensor of shape (n_tokens, n_heads, head_size), or (n_texts, n_heads, head_size)
        Scaled, without bias. One row per text: only its [CLS] attends.
    key_value : Tensor of shape (n_tokens, 2, n_heads, head_size)
        Without bias.
    bias : Tensor of shape (3, n_heads, 1, head_size)
        Of query (scaled), key and value; added where the heads are copied apart.
    runs : sequence of Run
        The texts.
    workspace : Workspace
        For everything in between.

    Returns
    -------
    Tensor of shape (n_tokens or n_texts, n_heads * head_size)
        In the workspace; valid until the next call.
    """
    n_rows, n_heads, size = query.shape
    out = workspace.take("context", n_rows, n_heads, size)
    whole = n_rows == len(key_value)
    for run in runs:
        step = max(1, _MAX_SCORES // (n_heads * run.length * (run.length if whole else 1)))
        for i in range(0, run.n_texts, step):
            n = min(step, run.n_texts - i)
            first = run.first_token + i * run.length
            length = run.length if whole else 1
            rows = slice(first, first + n * length) if whole else slice(run.first_text + i, run.first_text + i + n)
            # (n, n_heads, length, head_size)
            q = torch.add(
                query[rows].view(n, length, n_heads, size).transpose(1, 2),
                bias[0],
                out=workspace.take("query", n, n_heads, length, size),
            )
            # (2, n, n_heads, run.length, head_size)
            kv = torch.add(
                key_value[first : first + n * run.length].view(n, run.length, 2, n_heads, size).permute(2, 0, 3, 1, 4),
                bias[1:, None],
                out=workspace.take("key and value", 2, n, n_heads, run.length, size),
            )
            k, v = kv.view(2, n * n_heads, run.length, size)
            scores = workspace.take("scores", n * n_heads, length, run.length)
            torch.bmm(q.view(n * n_heads, length, size), k.transpose(1, 2), out=scores)
            sums = _exponentiate(scores)  # (n * n_heads, length, 1)
            mixed = torch.bmm(scores, v, out=workspace.take("mixed", n * n_heads, length, size))
            torch.div(
                mixed.view(n, n_heads, length, size).transpose(1, 2),
                sums.view(n, n_heads, length, 1).transpose(1, 2),
                out=out[rows].view(n, length, n_heads, size),
            )
    return out.view(n_rows, n_heads * size)


def _exponentiate(scores: torch.Tensor) -> torch.Tensor:
    """Turn scores into softmax numerators in place, and return what to divide by.

    torch's softmax goes row by row, slow for the short rows of short texts; exp over everything at once and a sum are several
    times as fast, and safe where no score is large.
    """
    low, high = torch.aminmax(scores)
    if low > -_SAFE_SCORE and high < _SAFE_SCORE:
        return scores.exp_().sum(-1, keepdim=True)
    torch.softmax(scores, -1, out=scores)  # NaN comes here too, and stays
    return scores.new_ones(()).expand(*scores.shape[:2], 1)


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
    # one split: the order of summation then does not depend on the other texts of the batch
    mixed = varlen_attn(query, key, value, query_starts, starts, max_query, max_length, scale=1.0, num_splits=1)
    assert isinstance(mixed, torch.Tensor)
    return mixed.flatten(1)


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether `attend_varlen` runs there: CUDA of Ampere or later, half precision, a torch that has it."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
