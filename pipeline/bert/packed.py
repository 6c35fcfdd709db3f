"""BertModel's forward and attention over packed texts, without padding."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.bert.config import OFFSET_POSITIONS, read_plain_config, read_shape
from pipeline.bert.linear import Workspace
from pipeline.bert.pooling import Pooling, Run, TokenBatch, pool_packed
from pipeline.bert.weights import Layer, read_encoder, read_layer, read_norm
from pipeline.checkpoints.checkpoint import Checkpoint

# Rows per step of the feed-forward layer, whose activations (6 MiB for MiniLM) should stay in the
# cache.
_FEED_FORWARD_TOKENS = 1024

# exp() within these bounds neither overflows nor vanishes
_SAFE_SCORE = 60.0
# From this length on, and for single texts, torch's own attention is faster.
_LONG = 48
# With one split, sums do not depend on the other texts of the batch. Before torch 2.13, and on
# ROCm, the option fails, and the kernel never splits.
_ONE_SPLIT: dict[str, Any] = (
    {"num_splits": 1} if torch.__version__ >= "2.13" and torch.version.hip is None else {}
)


class _Tokens(NamedTuple):
    """A batch on the device, int32."""

    ids: Tensor  # (n_tokens,)
    positions: Tensor  # (n_tokens,)
    starts: Tensor  # (n_texts + 1,)


class PackedEncoder:
    """A frozen BertModel over concatenated texts."""

    # Only attention looks at one text at a time. Query, key and value are one product. On the CPU,
    # the other weights are views of the checkpoint's bytes.

    def __init__(
        self,
        checkpoint: Checkpoint,
        depth: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        varlen: bool = False,
    ) -> None:
        config = read_plain_config(checkpoint.config_json)
        assert config is not None
        self.depth, self.device, self._dtype, self._varlen = depth, device, dtype, varlen
        self._n_heads, self._hidden_size = config.num_attention_heads, config.hidden_size
        self._padding = config.pad_token_id if config.model_type in OFFSET_POSITIONS else None
        has_pooler = read_shape(checkpoint).has_pooler
        stored = read_encoder(checkpoint, config, depth, with_pooler=has_pooler)
        self._on_cpu = device.type == "cpu"
        # on the CPU only products use half precision
        kept = torch.float32 if self._on_cpu else dtype
        tensors = {name: t.to(device=device, dtype=kept) for name, t in stored.items()}
        self._words = tensors["embeddings.word_embeddings.weight"]
        self._positions = tensors["embeddings.position_embeddings.weight"]
        self._token_type = tensors.get("embeddings.token_type_embeddings.weight")
        self._embedding_norm = read_norm(tensors, "embeddings", config)
        self._project, self._pooler = (
            [tensors[f"{name}.{part}"] for part in ("weight", "bias") if f"{name}.bias" in tensors]
            for name in ("embeddings_project", "pooler.dense")
        )
        self._layers = [read_layer(tensors, k, config, dtype) for k in range(depth)]

    def workspace(self) -> Workspace:
        """Return buffers for the batches of one thread."""
        return Workspace(self.device)

    def pooled(
        self,
        batch: TokenBatch,
        poolings: Sequence[Pooling],
        layers: Sequence[int],
        workspace: Workspace | None = None,
    ) -> Tensor:
        """Return vectors (n_texts, n_poolings, n_layers, hidden_size), float32."""
        with torch.inference_mode():  # grad mode is per thread: never set it globally
            shape = (len(batch.lengths), len(poolings), len(layers), self._hidden_size)
            vectors = torch.empty(shape, device=self.device)
            tokens, last = self._to_device(batch), max(layers)
            starts = None if self._on_cpu else tokens.starts
            cls_only = last > 0 and set(poolings) <= {"cls", "pooler"} and not batch.skip
            states = self._states(batch, tokens, layers, workspace, cls_only=cls_only)
            for depth, state in states:
                for j, pooling in enumerate(poolings):
                    if cls_only and depth == last:
                        vector = state  # (n_texts, hidden_size) already
                    else:
                        kind: Pooling = "cls" if pooling == "pooler" else pooling
                        vector = pool_packed(state, batch, kind, starts)
                    if pooling == "pooler":  # tanh(W h_[CLS] + b)
                        vector = functional.linear(
                            vector.to(self._words.dtype), *self._pooler
                        ).tanh_()
                    vectors[:, j, layers.index(depth)] = vector
            return vectors

    def token_states(
        self, batch: TokenBatch, layers: Sequence[int], workspace: Workspace | None = None
    ) -> Tensor:
        """Return the states of every token, (n_tokens, n_layers, hidden_size), float32."""
        with torch.inference_mode():
            shape = (len(batch.input_ids), len(layers), self._hidden_size)
            states = torch.empty(shape, device=self.device)
            for depth, state in self._states(batch, self._to_device(batch), layers, workspace):
                states[:, layers.index(depth)] = state
            return states

    def _states(
        self,
        batch: TokenBatch,
        tokens: _Tokens,
        layers: Sequence[int],
        workspace: Workspace | None,
        *,
        cls_only: bool = False,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield layers, (n_tokens, hidden_size), each valid until the next."""
        # with ``cls_only`` the last one is (n_texts, hidden_size)
        workspace, last = workspace or self.workspace(), max(layers)
        x = self._embed(tokens, workspace)
        if 0 in layers:
            yield 0, x
        for k, layer in enumerate(self._layers[:last], 1):
            only_cls = cls_only and k == last
            qkv = layer.qkv(x, workspace).view(x.shape[0], 3, self._n_heads, -1)
            if self._varlen:
                longest = int(batch.lengths.max())
                context = _attend_varlen(qkv, tokens.starts, longest, cls_only=only_cls)
            else:
                context = attend_runs(qkv, batch.runs, workspace, cls_only=only_cls)
            if only_cls:
                x = x[tokens.starts[:-1].long()]  # (n_texts, hidden_size)
            x = layer.attention_norm(layer.output.plus(x, context))
            x = layer.norm(self._feed_forward(x, layer, workspace))
            if k in layers:
                yield k, x

    def _feed_forward(self, x: Tensor, layer: Layer, workspace: Workspace) -> Tensor:
        """Return x plus its feed-forward layer, overwriting x."""
        at_once = max(layer.up.packed_rows, _FEED_FORWARD_TOKENS)
        if x.shape[0] <= at_once or not self._on_cpu:
            return layer.down.plus(x, layer.up(x, workspace))
        for rows in torch.split(x, _FEED_FORWARD_TOKENS):
            rows.copy_(layer.down.plus(rows, layer.up(rows, workspace)))  # BLAS has overwritten it
        return x

    def _embed(self, tokens: _Tokens, workspace: Workspace) -> Tensor:
        """Return layer 0, (n_tokens, hidden_size)."""
        shape = (len(tokens.ids), self._words.shape[1])
        x = workspace.take("embeddings", self._words.dtype, *shape)
        torch.index_select(self._words, 0, tokens.ids, out=x)
        if self._token_type is not None:
            x += self._token_type[0]
        x += self._positions[tokens.positions]
        x = self._embedding_norm(x)
        return (functional.linear(x, *self._project) if self._project else x).to(self._dtype)

    def _to_device(self, batch: TokenBatch) -> _Tokens:
        positions = batch.position_ids
        if self._padding is not None:  # RoBERTa numbers positions from there, padding excluded
            real = batch.input_ids != self._padding
            counts = np.cumsum(real)
            first = batch.starts[:-1]
            before = np.repeat(counts[first] - real[first], batch.lengths)
            positions = np.where(real, counts - before, 0) + self._padding
        together = torch.from_numpy(
            np.concatenate([batch.input_ids, positions, batch.starts]).astype(np.int32)
        )
        if not self._on_cpu:
            together = together.pin_memory().to(self.device, non_blocking=True)
        n = len(batch.input_ids)
        return _Tokens(*torch.split(together, [n, n, len(batch.starts)]))


def can_pack(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether `PackedEncoder` can run a checkpoint here."""
    config = read_plain_config(checkpoint.config_json)
    if config is None:
        return False
    if device.type == "cpu":
        return dtype in (torch.float32, torch.bfloat16)
    return has_varlen(device, dtype, config.hidden_size // config.num_attention_heads)


def has_varlen(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Tell whether torch's flash attention runs here."""
    return (
        device.type == "cuda"
        and dtype in (torch.float16, torch.bfloat16)
        and head_size % 8 == 0
        and head_size <= 256
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


# Below is softmax(q k^T) v (Vaswani et al. 2017, equation 1); q holds the factor 1/sqrt(d). Scores
# need float32 on the CPU.


def attend_runs(
    qkv: Tensor,  # (n_tokens, 3, n_heads, head_size)
    runs: Sequence[Run],
    workspace: Workspace,
    *,
    cls_only: bool,
) -> Tensor:
    """Attend within each text, from all tokens or [CLS] only."""
    # valid until the next call
    n_tokens, _, n_heads, size = qkv.shape
    n_queries = sum(run.n_texts for run in runs) if cls_only else n_tokens
    if len(runs) == 1 and (cls_only or _is_long(runs[0])):
        return _torchs(_heads(qkv, runs[0]), cls_only).reshape(n_queries, -1).to(qkv.dtype)
    out = workspace.take("context", qkv.dtype, n_queries, n_heads, size)
    for run in runs:
        rows = run.texts if cls_only else run.tokens
        context = out[rows].view(run.n_texts, -1, n_heads, size)
        heads = _heads(qkv[run.tokens], run)
        if cls_only or _is_long(run):
            context.copy_(_torchs(heads, cls_only))
        else:
            _attend(heads, context, workspace)
    return out.view(n_queries, -1)


def _is_long(run: Run) -> bool:
    return run.n_texts == 1 or run.length >= _LONG


def _heads(qkv: Tensor, run: Run) -> Tensor:
    """View the rows of a run as (3, n_texts, n_heads, length, head_size)."""
    return qkv.view(run.n_texts, run.length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)


def _torchs(heads: Tensor, cls_only: bool) -> Tensor:
    """Attend by torch: (n_texts, length or 1, n_heads, head_size), float32."""
    query, key, value = heads.float().unbind()  # much faster than iterating
    if cls_only:
        query = query[:, :, :1]
    return functional.scaled_dot_product_attention(query, key, value, scale=1.0).transpose(1, 2)


def _attend(heads: Tensor, out: Tensor, workspace: Workspace) -> None:
    _, n, n_heads, length, size = heads.shape
    copied = workspace.take("heads", torch.float32, *heads.shape)
    q, k, v = copied.copy_(heads).view(3, n * n_heads, length, size)
    scores = workspace.take("scores", torch.float32, n * n_heads, length, length)
    torch.bmm(q, k.transpose(1, 2), out=scores)
    sums = _exponentiate(scores).view(n, n_heads, length, 1)
    by_head = torch.bmm(scores, v, out=q).view(n, n_heads, length, size)
    torch.div(by_head.transpose(1, 2), sums.transpose(1, 2), out=out)


def _exponentiate(scores: Tensor) -> Tensor:
    """Turn scores into softmax's numerators, and return the denominators."""
    # several times as fast as torch's softmax over short rows, and safe unless a score is large
    low, high = torch.aminmax(scores)
    if max(-low.item(), high.item()) < _SAFE_SCORE:
        return scores.exp_().sum(-1)
    torch.softmax(scores, -1, out=scores)  # also for NaN, which stays NaN
    return scores.new_ones(scores.shape[:2])


def _attend_varlen(
    qkv: Tensor,  # (n_tokens, 3, n_heads, head_size)
    starts: Tensor,  # (n_texts + 1,), int32
    longest: int,
    *,
    cls_only: bool,
) -> Tensor:
    """Attend with torch's flash attention on CUDA, as `attend_runs` does."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.unbind(1)
    query_starts, max_query = starts, longest
    if cls_only:
        query = query[starts[:-1].long()]  # (n_texts, n_heads, head_size)
        query_starts = torch.arange(len(starts), dtype=torch.int32, device=starts.device)
        max_query = 1
    mixed = varlen_attn(
        query, key, value, query_starts, starts, max_query, longest, scale=1.0, **_ONE_SPLIT
    )
    assert isinstance(mixed, Tensor)
    return mixed.flatten(1)
