"""Products with frozen matrices, by oneDNN or BLAS, and norms."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import inf, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.forks import ForkSafeLock

# "onednn" or "blas" forces the products of the CPU. By default its model decides, not a timing: all
# processes of a machine give the same bits.
PRODUCTS = "PIPELINE_PRODUCTS"
# "1" allows emulated bfloat16, for tests
EMULATE_BFLOAT16 = "PIPELINE_EMULATE_BFLOAT16"
# BLAS rearranges the matrix at every call: with 12 rows oneDNN takes half the time, with 64 three
# quarters, on every processor.
FEW_ROWS = 64

_AMD = {"AuthenticAMD", "HygonGenuine"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's

# HF's name of an activation -> its in-place function, and oneDNN's names
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Any], tuple[str, str]]] = {
    "gelu": (torch.ops.aten.gelu_, ("gelu", "none")),
    "gelu_new": (lambda x: torch.ops.aten.gelu_(x, approximate="tanh"), ("gelu", "tanh")),
    "relu": (torch.relu_, ("relu", "")),
}
_ACTIVATIONS["gelu_pytorch_tanh"] = _ACTIVATIONS["gelu_new"]

_one_at_a_time = ForkSafeLock()


class Workspace:
    """Buffers reused across batches, cheaper than fresh memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """Return the named buffer; its contents are lost."""
        size, key = prod(shape), (name, dtype)
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = torch.empty(size, device=self._device, dtype=dtype)
        return self._buffers[key][:size].view(shape)


@dataclass(frozen=True)
class LayerNorm:
    """A LayerNorm over the last axis."""

    weight: Tensor  # (hidden,)
    bias: Tensor  # (hidden,)
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Linear:
    """Frozen x W + b, with an activation or a residual."""

    # oneDNN's copy is made at first use, or at once if it does all the work: then nothing else is
    # kept. Each new number of rows costs milliseconds once.

    def __init__(
        self,
        weight: Tensor,  # (n_out, n_in)
        bias: Tensor,  # (n_out,), or of the first columns alone
        activation: str | None = None,
    ) -> None:
        self._bias, self._n_out = bias, len(weight)
        self.packed_rows = packed_rows(weight.device, weight.dtype)
        self._activate = self._activate_apart = None
        self._fused = ("none", "")
        if activation is not None:
            self._activate, self._fused = _ACTIVATIONS[activation]
            if _capability() != "AVX512":  # the fused ones cost more than they save
                self._activate_apart, self._fused = self._activate, ("none", "")
        self._weight, self._packed = weight, _pack(weight) if self.packed_rows == inf else None
        self._whole_bias = functional.pad(bias, (0, len(weight) - len(bias)))  # oneDNN's
        if self._packed is not None:
            del self._weight

    def __call__(self, x: Tensor, workspace: Workspace) -> Tensor:
        """Return (n_rows, n_out), with BLAS valid until the next call."""
        n_rows = x.shape[0]  # len(x) is slow
        if n_rows <= self.packed_rows:
            name, algorithm = self._fused
            product = torch.ops.mkldnn._linear_pointwise.default
            y: Tensor = product(x, self._blocks(), self._whole_bias, name, [], algorithm)
            activate = self._activate_apart
        else:
            y = workspace.take("product", x.dtype, n_rows, self._n_out)
            torch.mm(x, self._weight.t(), out=y)
            y[:, : len(self._bias)] += self._bias
            activate = self._activate
        if activate is not None:
            activate(y)
        return y

    def plus(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return residual + x W + b. BLAS overwrites the residual."""
        if x.shape[0] <= self.packed_rows:
            product = torch.ops.mkldnn._linear_pointwise.binary
            y: Tensor = product(x, residual, self._blocks(), self._whole_bias, "add")
            return y
        residual += self._bias
        return residual.addmm_(x, self._weight.t())

    def _blocks(self) -> Tensor:
        if self._packed is None:
            with _one_at_a_time, torch.inference_mode():
                if self._packed is None:
                    self._packed = _pack(self._weight)
        return self._packed


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def packed_rows(device: torch.device, dtype: torch.dtype) -> float:
    """Return up to how many rows oneDNN multiplies."""
    ops = torch.ops.mkldnn
    has_ops = (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(ops, "_linear_pointwise")
        and hasattr(ops, "_reorder_linear_weight")
    )
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16) or not has_ops:
        return 0
    forced = os.environ.get(PRODUCTS)
    if forced:
        if forced not in ("onednn", "blas"):
            raise ValueError(f"{PRODUCTS}={forced!r}; allowed are 'onednn' and 'blas'.")
        return inf if forced == "onednn" else 0
    # on Intel's processors MKL is at least as fast
    is_faster = _capability().startswith("AVX") and (
        dtype == torch.bfloat16 or not _AMD.isdisjoint(_processor())
    )
    return inf if is_faster else FEW_ROWS


def computes_bfloat16() -> bool:
    """Tell whether the processor multiplies in bfloat16."""
    ops = torch.ops.mkldnn
    if not (hasattr(ops, "_is_mkldnn_bf16_supported") and ops._is_mkldnn_bf16_supported()):
        return False
    return os.environ.get(EMULATE_BFLOAT16) == "1" or not _BFLOAT16.isdisjoint(_processor())


def _capability() -> str:
    """Return torch's instruction set, such as ``"AVX512"``."""
    return torch.backends.cpu.get_cpu_capability()


@cache
def _processor() -> set[str]:
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")
    except OSError:  # Windows, macOS
        first = platform.processor().replace(",", " ")
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {*first.split(), *(name for name, has in known.items() if has is True)}
