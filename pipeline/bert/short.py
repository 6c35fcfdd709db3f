"""The forward of one short text: few calls, and matrices laid out for few rows. CPU, float32. Used by packed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from pipeline.bert.batching import TokenBatch
from pipeline.bert.weights import Layer, LayerNorm
from pipeline.forks import ForkSafeLock

# With few rows a matrix product mostly reads its matrix, and a general one rearranges it first, each time anew. What is saved
# was half the time at 12 rows, a quarter at 64 and an eighth at 256. Each length costs a few milliseconds once, for its kernels.
SHORT_TOKENS = 64
# HF's names of activations -> oneDNN's, and how it computes them
_ACTIVATIONS = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}

_one_at_a_time = ForkSafeLock()


@dataclass(frozen=True)
class _ShortLayer:
    """One layer; the matrices are oneDNN's own copies, in blocks."""

    qkv: torch.Tensor
    qkv_bias: torch.Tensor  # (3 * hidden,)
    output: torch.Tensor
    output_bias: torch.Tensor
    attention_norm: LayerNorm
    up: torch.Tensor
    up_bias: torch.Tensor
    down: torch.Tensor
    down_bias: torch.Tensor
    norm: LayerNorm


class ShortForward:
    """Encoder layers over one text, or several of one length, of `SHORT_TOKENS` tokens at most.

    The same sums as in `pipeline.bert.packed.PackedEncoder`, in another order. Biases, activation and residuals are part of the
    products. Costs a second copy of the layers' matrices in memory, and their rearrangement once.

    Parameters
    ----------
    layers : sequence of Layer
        On the CPU, float32.
    n_heads : int
        Attention heads.
    activation : str
        HF's name, one of `pipeline.bert.config.ACTIVATIONS`.
    """

    def __init__(self, layers: Sequence[Layer], n_heads: int, activation: str) -> None:
        self._n_heads, self._activation = n_heads, _ACTIVATIONS[activation]
        with torch.inference_mode():
            self._layers = [_rearranged(layer) for layer in layers]

    def states(self, x: torch.Tensor, n_texts: int, last: int) -> Iterator[torch.Tensor]:
        """Yield the states of layers 1 to ``last``.

        Parameters
        ----------
        x : Tensor of shape (n_texts * length, hidden_size)
            Layer 0.
        n_texts : int
            Texts of equal length.
        last : int
            Layers to run.

        Yields
        ------
        Tensor of shape (n_texts * length, hidden_size)
        """
        linear: Any = torch.ops.mkldnn._linear_pointwise
        name, algorithm = self._activation
        n_tokens, hidden_size = x.shape
        for layer in self._layers[:last]:
            qkv = linear(
                x, layer.qkv, layer.qkv_bias, "none", [], ""
            )  # (n_tokens, 3 * hidden_size)
            # (3, n_texts, n_heads, length, head_size)
            q, k, v = (
                qkv.view(n_texts, n_tokens // n_texts, 3, self._n_heads, -1)
                .permute(2, 0, 3, 1, 4)
                .unbind()
            )
            mixed = functional.scaled_dot_product_attention(
                q, k, v, scale=1.0
            )  # (n_texts, n_heads, length, head_size)
            context = mixed.transpose(1, 2).reshape(n_tokens, hidden_size)
            x = layer.attention_norm(
                linear.binary(context, x, layer.output, layer.output_bias, "add")
            )
            inner = linear(
                x, layer.up, layer.up_bias, name, [], algorithm
            )  # (n_tokens, intermediate_size)
            x = layer.norm(linear.binary(inner, x, layer.down, layer.down_bias, "add"))
            yield x


class LazyShortForward:
    """A `ShortForward` that is made when it is first asked for: who encodes many texts at a time never pays for it.

    Parameters
    ----------
    layers, n_heads, activation
        As for `ShortForward`.
    """

    def __init__(self, layers: Sequence[Layer], n_heads: int, activation: str) -> None:
        self._arguments = layers, n_heads, activation
        self._made: ShortForward | None = None

    def get(self) -> ShortForward:
        """Return it; threads that come at the same time make one."""
        if self._made is None:
            with _one_at_a_time:
                self._made = self._made or ShortForward(*self._arguments)
        return self._made


def is_short(batch: TokenBatch) -> bool:
    """Tell whether `ShortForward` runs a batch."""
    return len(batch.runs) == 1 and len(batch.input_ids) <= SHORT_TOKENS


def can_run_short(device: torch.device) -> bool:
    """Tell whether `ShortForward` runs on a device, with this build of torch."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and all(
            hasattr(torch.ops.mkldnn, name)
            for name in ("_linear_pointwise", "_reorder_linear_weight")
        )
    )


def _rearranged(layer: Layer) -> _ShortLayer:
    def blocks(matrix: torch.Tensor) -> torch.Tensor:
        rearranged: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(
            matrix.t().contiguous(), None
        )
        return rearranged

    return _ShortLayer(
        qkv=blocks(layer.qkv),
        qkv_bias=layer.qkv_bias.flatten(),
        output=blocks(layer.output),
        output_bias=layer.output_bias,
        attention_norm=layer.attention_norm,
        up=blocks(layer.up),
        up_bias=layer.up_bias,
        down=blocks(layer.down),
        down_bias=layer.down_bias,
        norm=layer.norm,
    )
