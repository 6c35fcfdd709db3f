"""BertModel's forward over packed texts: no padding, no work that nobody asked for. Used by encoder."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pipeline.bert.attention import Workspace, attend_first, attend_runs, attend_varlen, has_varlen
from pipeline.bert.batching import TokenBatch
from pipeline.bert.config import read_plain_config, read_shape
from pipeline.bert.pooling import Pooling, pool_packed
from pipeline.bert.short import LazyShortForward, can_run_short, is_short
from pipeline.bert.weights import Layer, expected_tensors, read_layer, read_norm, read_tensors
from pipeline.checkpoints.checkpoint import Checkpoint

# rows of the feed-forward layer at a time: its inner activations (1,024 x 1,536 floats for MiniLM, 6 MiB) stay in the cache
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
    """A frozen BertModel that ends at layer ``depth`` and takes texts of any lengths, one after the other in one matrix.

    The matrix products see (n_tokens, hidden_size), whatever the texts are; only attention looks at one text at a time. Query,
    key and value are one product. Equal to HF's forward up to rounding, see tests/test_packed.py.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of the family BERT, with a config that `BertConfig.read` knows.
    depth : int
        How many layers it runs.
    device : torch.device
        CPU, or CUDA with half precision.
    dtype : torch.dtype
        float32 on the CPU. There, all weights but the fused ones are views of ``checkpoint.weights``.
    varlen : bool
        Attend by `attend_varlen` instead of `attend_runs`.
    """

    packs = True

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
        expected = expected_tensors(config, depth, with_pooler=read_shape(checkpoint).has_pooler)
        tensors = {
            k: v.to(device=device, dtype=dtype)
            for k, v in read_tensors(checkpoint, "bert", expected).items()
        }
        self._words = tensors["embeddings.word_embeddings.weight"]
        self._positions = tensors["embeddings.position_embeddings.weight"]
        self._token_type = tensors["embeddings.token_type_embeddings.weight"][0]
        self._embedding_norm = read_norm(tensors, "embeddings", config)
        self._layers = [read_layer(tensors, k, config) for k in range(depth)]
        self._pooler = (
            (tensors["pooler.dense.weight"], tensors["pooler.dense.bias"])
            if "pooler.dense.weight" in tensors
            else None
        )
        self._short = (
            LazyShortForward(self._layers, self._n_heads, config.hidden_act)
            if can_run_short(device)
            else None
        )

    def workspace(self) -> Workspace:
        """Return buffers for one series of batches; one thread at a time may use them."""
        return Workspace(self.device, self._dtype)

    def pooled(
        self,
        batch: TokenBatch,
        poolings: Sequence[Pooling],
        layers: Sequence[int],
        workspace: Workspace | None = None,
    ) -> torch.Tensor:
        """Encode a batch and pool the wanted layers.

        Parameters
        ----------
        batch : TokenBatch
            Texts of any lengths; few runs of equal length are faster than many.
        poolings : sequence of {"cls", "mean", "max", "pooler"}
            ``pooler`` stands in the place of the last layer.
        layers : sequence of int
            Indices 0 ... ``depth``. Where only [CLS] is asked for, the deepest of them is computed for [CLS] alone.
        workspace : Workspace, optional
            To be used again for the next batch.

        Returns
        -------
        Tensor of shape (n_texts, n_poolings, n_layers, hidden_size), float32
            On the encoder's device.
        """
        with torch.inference_mode():  # grad mode is per thread: set it here, never globally
            shape = (len(batch.lengths), len(poolings), len(layers), self._hidden_size)
            vectors = torch.empty(shape, device=self.device)
            tokens = self._to_device(batch)
            at_once = None if self.device.type == "cpu" else tokens.starts
            short = self._short is not None and is_short(batch)
            last, cls_only = max(layers), set(poolings) <= {"cls", "pooler"} and not short
            states = (
                self._short_states(batch, tokens, last)
                if short
                else self._states(
                    batch, tokens, workspace or self.workspace(), last, cls_only=cls_only
                )
            )
            for depth, state in enumerate(states):
                if depth not in layers:
                    continue
                where = list(layers).index(depth)
                for j, pooling in enumerate(poolings):
                    if depth == last > 0 and cls_only:  # (n_texts, hidden_size) already
                        vectors[:, j, where] = (
                            self._pool_output(state) if pooling == "pooler" else state
                        )
                    elif pooling == "pooler":
                        vectors[:, j, where] = self._pool_output(
                            pool_packed(state, batch, "cls", at_once).to(self._dtype)
                        )
                    else:
                        vectors[:, j, where] = pool_packed(state, batch, pooling, at_once)
            return vectors

    def token_states(
        self, batch: TokenBatch, layers: Sequence[int], workspace: Workspace | None = None
    ) -> torch.Tensor:
        """Encode a batch and keep every token of the wanted layers.

        Returns
        -------
        Tensor of shape (n_tokens, n_layers, hidden_size), float32
            On the encoder's device.
        """
        with torch.inference_mode():
            states = torch.empty(
                len(batch.input_ids), len(layers), self._hidden_size, device=self.device
            )
            tokens, space = self._to_device(batch), workspace or self.workspace()
            for depth, state in enumerate(
                self._states(batch, tokens, space, max(layers), cls_only=False)
            ):
                if depth in layers:
                    states[:, list(layers).index(depth)] = state
            return states

    def hidden_states(self, input_ids: np.ndarray) -> list[torch.Tensor]:
        """Run texts of one length, shape (n_texts, n_tokens), and return all layers as HF does.

        Returns
        -------
        list of Tensor of shape (n_texts, n_tokens, hidden_size), float32, length depth + 1
        """
        n_texts, n_tokens = input_ids.shape
        batch = TokenBatch(
            np.ascontiguousarray(input_ids, dtype=np.int64).reshape(-1), np.full(n_texts, n_tokens)
        )
        states = self.token_states(
            batch, range(self.depth + 1)
        )  # (n_texts * n_tokens, depth + 1, hidden_size)
        return list(states.view(n_texts, n_tokens, self.depth + 1, -1).permute(2, 0, 1, 3))

    def pooler_output(self, last_hidden_state: torch.Tensor) -> torch.Tensor:
        """Apply the checkpoint's own pooler, tanh(W h_[CLS] + b), to the last layer.

        Parameters
        ----------
        last_hidden_state : Tensor of shape (n_texts, n_tokens, hidden_size)
            Of the last layer of the whole model.

        Returns
        -------
        Tensor of shape (n_texts, hidden_size), float32
        """
        with torch.inference_mode():
            return self._pool_output(last_hidden_state[:, 0].to(self._dtype)).float()

    def _pool_output(self, cls: torch.Tensor) -> torch.Tensor:
        assert self._pooler is not None  # FrozenBert.choose refuses pooling="pooler" without one
        return functional.linear(cls, *self._pooler).tanh_()

    def _states(
        self, batch: TokenBatch, tokens: _Tokens, workspace: Workspace, last: int, *, cls_only: bool
    ) -> Iterator[torch.Tensor]:
        """Yield layers 0 to ``last``, each (n_tokens, hidden_size); the last one is (n_texts, hidden_size) if ``cls_only``.

        A state is valid until the next one is asked for.
        """
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
                inner = torch.mm(
                    rows, layer.up, out=workspace.take("inner", len(rows), layer.up.shape[1])
                )
                inner += layer.up_bias
                self._activate(inner)
                rows += layer.down_bias  # a view of x, changed in place
                rows.addmm_(inner, layer.down)
            x = layer.norm(x)
            yield x

    def _short_states(
        self, batch: TokenBatch, tokens: _Tokens, last: int
    ) -> Iterator[torch.Tensor]:
        """Yield layers 0 to ``last`` of a batch that `is_short`, each (n_tokens, hidden_size)."""
        assert self._short is not None
        x = self._embed(tokens, torch.empty(len(tokens.ids), self._hidden_size))
        yield x
        if last:
            yield from self._short.get().states(x, len(batch.lengths), last)

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
        n, d, heads, size = (
            len(x),
            self._hidden_size,
            self._n_heads,
            self._hidden_size // self._n_heads,
        )
        longest = int(batch.lengths.max())
        if not cls_only:
            qkv = torch.mm(x, layer.qkv, out=workspace.take("qkv", n, 3 * d)).view(
                n, 3, heads, size
            )
            if not self._varlen:
                return attend_runs(qkv, layer.qkv_bias, batch.runs, workspace)
            qkv += layer.qkv_bias[:, :, 0]
            return attend_varlen(qkv[:, 0], qkv[:, 1:], starts, starts, longest, longest)
        query = (x[starts[:-1].long()] @ layer.qkv[:, :d]).view(
            -1, heads, size
        )  # (n_texts, n_heads, head_size)
        key_value = torch.mm(x, layer.qkv[:, d:], out=workspace.take("qkv", n, 2 * d)).view(
            n, 2, heads, size
        )
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
    """Tell whether `PackedEncoder` runs a checkpoint there; HF's own forward runs what it does not."""
    config = read_plain_config(checkpoint.config_json)
    if config is None:
        return False
    if device.type == "cpu":
        return dtype == torch.float32
    return has_varlen(device, dtype, config.hidden_size // config.num_attention_heads)
