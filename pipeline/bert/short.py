"""The forward of one short text on the CPU: few calls, matrices laid out for few rows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional

from pipeline.bert.batching import TokenBatch
from pipeline.bert.weights import Layer
from pipeline.forks import ForkSafeLock

# With few rows a matrix product mostly reads its matrix, and a general one rearranges it first,
# each time anew. This saves half the time at 12 rows, a quarter at 64 and an eighth at 256. Each
# length costs a few milliseconds once, for its kernels.
SHORT_TOKENS = 64
# HF's names of activations -> oneDNN's, and how it computes them
_ACTIVATIONS = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}

_one_at_a_time = ForkSafeLock()


class ShortForward:
    """Encoder layers over texts of one length, `SHORT_TOKENS` tokens at most."""

    # Biases, activation and residuals are part of the products. Costs a second copy of the
    # matrices, made when it is first used: encoding many texts never pays for it.

    def __init__(self, layers: Sequence[Layer], n_heads: int, activation: str) -> None:
        self._plain_layers, self._n_heads = layers, n_heads
        self._activation = _ACTIVATIONS[activation]
        self._layers: list[Layer] | None = None

    def states(self, x: torch.Tensor, n_texts: int, last: int) -> Iterator[torch.Tensor]:
        """Yield layers 1 to ``last`` of layer 0, each (n_tokens, hidden_size)."""
        linear: Any = torch.ops.mkldnn._linear_pointwise
        name, algorithm = self._activation
        n_tokens, hidden_size = x.shape
        for layer in self._rearranged()[:last]:
            # (n_tokens, 3 * hidden_size), then (3, n_texts, n_heads, length, head_size)
            qkv = linear(x, layer.qkv, layer.qkv_bias, "none", [], "")
            by_text = qkv.view(n_texts, n_tokens // n_texts, 3, self._n_heads, -1)
            q, k, v = by_text.permute(2, 0, 3, 1, 4).unbind()
            mixed = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
            context = mixed.transpose(1, 2).reshape(n_tokens, hidden_size)
            x = layer.attention_norm(
                linear.binary(context, x, layer.output, layer.output_bias, "add")
            )
            inner = linear(x, layer.up, layer.up_bias, name, [], algorithm)
            x = layer.norm(linear.binary(inner, x, layer.down, layer.down_bias, "add"))
            yield x

    def _rearranged(self) -> list[Layer]:
        """Return the layers with matrices in oneDNN's blocks."""
        if self._layers is None:
            with _one_at_a_time, torch.inference_mode():
                self._layers = self._layers or [_rearrange(layer) for layer in self._plain_layers]
        return self._layers


def is_short(batch: TokenBatch) -> bool:
    """Tell whether `ShortForward` runs a batch."""
    return len(batch.runs) == 1 and len(batch.input_ids) <= SHORT_TOKENS


def can_run_short(device: torch.device) -> bool:
    """Tell whether `ShortForward` runs on a device, with this build of torch."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _rearrange(layer: Layer) -> Layer:
    def blocks(matrix: torch.Tensor) -> Any:
        return torch.ops.mkldnn._reorder_linear_weight(matrix.t().contiguous(), None)

    return replace(
        layer,
        qkv=blocks(layer.qkv),
        qkv_bias=layer.qkv_bias.flatten(),
        output=blocks(layer.output),
        up=blocks(layer.up),
        down=blocks(layer.down),
    )
