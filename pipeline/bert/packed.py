"""BertModel's forward over packed texts: no padding, nothing computed that is not needed."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pipeline.bert.attention import Workspace, attend_first, attend_runs, attend_varlen, has_varlen
from pipeline.bert.batching import TokenBatch
from pipeline.bert.config import read_plain_config, read_shape
from pipeline.bert.pooling import Pooling, pool_packed
from pipeline.bert.short import ShortForward, can_run_short, is_short
from pipeline.bert.weights import Layer, expected_tensors, read_layer, read_norm, read_tensors
from pipeline.checkpoints.checkpoint import Checkpoint

# Rows of the feed-forward layer at a time: its inner activations (1,024 x 1,536 floats for MiniLM,
# 6 MiB) stay in the cache.
_FEED_FORWARD_TOKENS = 1024

_ACTIVATE: dict[str, Callable[[torch.Tensor], Any]] = {
    "gelu": lambda x: torch.ops.aten.gelu_(x),
    "gelu_new": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "relu": torch.relu_,
}


class _Tokens(NamedTuple):
    """A batch on the device, int32."""

    ids: torch.Tensor  # (n_tokens,)
    positions: torch.Tensor  # (n_tokens,)
    starts: torch.Tensor  # (n_texts + 1,)


class PackedEncoder:
    """A frozen BertModel up to layer ``depth``, over texts of any lengths in one matrix."""

    # The matrix products see (n_tokens, hidden_size), whatever the texts are; only attention looks
    # at one text at a time. Query, key and value are one product. On the CPU all weights but the
    # fused ones are views of the checkpoint's bytes.

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
        assert config is not None  # can_pack was asked
        self.depth, self.device, self._dtype, self._varlen = depth, device, dtype, varlen
        self._n_heads, self._hidden_size = config.num_attention_heads, config.hidden_size
        self._activate = _ACTIVATE[config.hidden_act]
        has_pooler = read_shape(checkpoint).has_pooler
        expected = expected_tensors(config, depth, with_pooler=has_pooler)
        stored = read_tensors(checkpoint, "bert", expected)
        tensors = {name: t.to(device=device, dtype=dtype) for name, t in stored.items()}
        self._words = tensors["embeddings.word_embeddings.weight"]
        self._positions = tensors["embeddings.position_embeddings.weight"]
        self._token_type = tensors["embeddings.token_type_embeddings.weight"][0]
        self._embedding_norm = read_norm(tensors, "embeddings", config)
        self._layers = [read_layer(tensors, k, config) for k in range(depth)]
        self._pooler = [
            tensors[f"pooler.dense.{part}"] for part in ("weight", "bias") if has_pooler
        ]
        self._short = (
            ShortForward(self._layers, self._n_heads, config.hidden_act)
            if can_run_short(device)
            else None
        )

    def workspace(self) -> Workspace:
        """Return buffers for a series of batches, for one thread at a time."""
        return Workspace(self.device, self._dtype)

    def pooled(
        self,
        batch: TokenBatch,
        poolings: Sequence[Pooling],
        layers: Sequence[int],
        workspace: Workspace | None = None,
    ) -> torch.Tensor:
        """Return vectors (n_texts, n_poolings, n_layers, hidden_size), float32."""
        with torch.inference_mode():  # grad mode is per thread: set it here, never globally
            shape = (len(batch.lengths), len(poolings), len(layers), self._hidden_size)
            vectors = torch.empty(shape, device=self.device)
            tokens, last = self._to_device(batch), max(layers)
            starts = None if self.device.type == "cpu" else tokens.starts
            if self._short is not None and is_short(batch):
                cls_only = False
                states = self._short_states(self._short, batch, tokens, last)
            else:
                cls_only = last > 0 and set(poolings) <= {"cls", "pooler"}
                space = workspace or self.workspace()
                states = self._states(batch, tokens, space, last, cls_only=cls_only)
            for depth, state in enumerate(states):
                if depth not in layers:
                    continue
                for j, pooling in enumerate(poolings):
                    if cls_only and depth == last:
                        vector = state  # (n_texts, hidden_size) already
                    else:
                        kind: Pooling = "cls" if pooling == "pooler" else pooling
                        vector = pool_packed(state, batch, kind, starts)
                    if pooling == "pooler":  # tanh(W h_[CLS] + b)
                        vector = functional.linear(vector.to(self._dtype), *self._pooler).tanh_()
                    vectors[:, j, layers.index(depth)] = vector
            return vectors

    def token_states(
        self, batch: TokenBatch, layers: Sequence[int], workspace: Workspace | None = None
    ) -> torch.Tensor:
        """Return the states of every token, (n_tokens, n_layers, hidden_size), float32."""
        with torch.inference_mode():
            shape = (len(batch.input_ids), len(layers), self._hidden_size)
            states = torch.empty(shape, device=self.device)
            tokens, space = self._to_device(batch), workspace or self.workspace()
            computed = self._states(batch, tokens, space, max(layers), cls_only=False)
            for depth, state in enumerate(computed):
                if depth in layers:
                    states[:, layers.index(depth)] = state
            return states

    def _states(
        self, batch: TokenBatch, tokens: _Tokens, workspace: Workspace, last: int, *, cls_only: bool
    ) -> Iterator[torch.Tensor]:
        """Yield layers 0 to ``last``, (n_tokens, hidden_size), valid until the next."""
        # with ``cls_only`` the last one is (n_texts, hidden_size)
        starts = tokens.starts
        x = self._embed(tokens, workspace.take("embeddings", len(tokens.ids), self._hidden_size))
        yield x
        for k, layer in enumerate(self._layers[:last], 1):
            only_cls = cls_only and k == last
            context = self._attention(x, layer, batch, starts, workspace, cls_only=only_cls)
            if only_cls:
                x = x[starts[:-1].long()]  # (n_texts, hidden_size)
            x += layer.output_bias
            x.addmm_(context, layer.output)
            x = layer.attention_norm(x)
            for rows in torch.split(x, _FEED_FORWARD_TOKENS) if self.device.type == "cpu" else (x,):
                inner = workspace.take("inner", len(rows), layer.up.shape[1])
                torch.mm(rows, layer.up, out=inner)
                inner += layer.up_bias
                self._activate(inner)
                rows += layer.down_bias  # a view of x, changed in place
                rows.addmm_(inner, layer.down)
            x = layer.norm(x)
            yield x

    def _short_states(
        self, short: ShortForward, batch: TokenBatch, tokens: _Tokens, last: int
    ) -> Iterator[torch.Tensor]:
        """Yield layers 0 to ``last`` of a short batch, each (n_tokens, hidden_size)."""
        x = self._embed(tokens, torch.empty(len(tokens.ids), self._hidden_size))
        yield x
        if last:
            yield from short.states(x, len(batch.lengths), last)

    def _embed(self, tokens: _Tokens, out: torch.Tensor) -> torch.Tensor:
        torch.index_select(self._words, 0, tokens.ids, out=out)
        out += self._token_type
        out += self._positions[tokens.positions]
        return self._embedding_norm(out)

    def _attention(
        self,
        x: torch.Tensor,
        layer: Layer,
        batch: TokenBatch,
        starts: torch.Tensor,
        workspace: Workspace,
        *,
        cls_only: bool,
    ) -> torch.Tensor:
        """Return the context, (n_tokens or n_texts, hidden_size)."""
        n, d, heads = len(x), self._hidden_size, self._n_heads
        longest = int(batch.lengths.max())
        if not cls_only:
            qkv = torch.mm(x, layer.qkv, out=workspace.take("qkv", n, 3 * d)).view(n, 3, heads, -1)
            if not self._varlen:
                return attend_runs(qkv, layer.qkv_bias, batch.runs, workspace)
            qkv += layer.qkv_bias[:, :, 0]
            return attend_varlen(qkv[:, 0], qkv[:, 1:], starts, starts, longest, longest)
        query = (x[starts[:-1].long()] @ layer.qkv[:, :d]).view(-1, heads, d // heads)
        key_value = torch.mm(x, layer.qkv[:, d:], out=workspace.take("qkv", n, 2 * d))
        key_value = key_value.view(n, 2, heads, -1)
        if not self._varlen:
            return attend_first(query, key_value, layer.qkv_bias, batch.runs, workspace)
        query += layer.qkv_bias[0, :, 0]
        key_value += layer.qkv_bias[1:, :, 0]
        query_starts = torch.arange(len(starts), dtype=torch.int32, device=self.device)
        return attend_varlen(query, key_value, query_starts, starts, 1, longest)

    def _to_device(self, batch: TokenBatch) -> _Tokens:
        """Copy a batch to the device, without waiting for it where that helps."""
        together = torch.from_numpy(
            np.concatenate([batch.input_ids, batch.position_ids, batch.starts]).astype(np.int32)
        )
        if self.device.type != "cpu":
            together = together.pin_memory().to(self.device, non_blocking=True)
        n = len(batch.input_ids)
        return _Tokens(*torch.split(together, [n, n, len(batch.starts)]))


def can_pack(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether `PackedEncoder` runs a checkpoint there."""
    config = read_plain_config(checkpoint.config_json)
    if config is None:
        return False
    if device.type == "cpu":
        return dtype == torch.float32
    return has_varlen(device, dtype, config.hidden_size // config.num_attention_heads)
