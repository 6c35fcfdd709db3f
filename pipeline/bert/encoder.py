"""Load the encoder of a checkpoint on a device, once per process."""

import os
from collections import OrderedDict
from functools import cache
from typing import Literal, TypeAlias, overload

import torch

from pipeline.bert.config import PACKED, read_shape
from pipeline.bert.hugging_face import HuggingFaceEncoder
from pipeline.bert.linear import computes_bfloat16
from pipeline.bert.packed import PackedEncoder, can_pack
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.forks import ForkSafeLock

DType = Literal["auto", "float32", "float16", "bfloat16"]
Encoder: TypeAlias = PackedEncoder | HuggingFaceEncoder

# Tokens in one batch. On the CPU the activations of a batch should fit its caches (see
# benchmarks/results/batch_tokens.json); an accelerator needs larger batches.
BATCH_TOKENS = {"cpu": 2048, "cuda": 65536, "mps": 8192}
_MAX_LOADED = 4

_loaded: OrderedDict[tuple[str, int, torch.device, torch.dtype, bool], Encoder] = OrderedDict()
_loaded_lock = ForkSafeLock()
_n_loads = 0


def n_loads() -> int:
    """Return how many encoders this process has built."""
    return _n_loads


@overload
def load_encoder(
    checkpoint: Checkpoint,
    depth: int,
    *,
    device: str = "auto",
    dtype: DType = "auto",
    packed: Literal[False],
) -> HuggingFaceEncoder: ...
@overload
def load_encoder(
    checkpoint: Checkpoint,
    depth: int,
    *,
    device: str = "auto",
    dtype: DType = "auto",
    packed: bool = True,
) -> Encoder: ...
def load_encoder(
    checkpoint: Checkpoint,
    depth: int,
    *,
    device: str = "auto",
    dtype: DType = "auto",
    packed: bool = True,
) -> Encoder:
    """Return the encoder of layers 0 to ``depth``, built once per process."""
    where, precision = choose_device(device, dtype)
    packs = packed and can_pack(checkpoint, where, precision)
    if checkpoint.config["model_type"] not in PACKED:
        depth = read_shape(checkpoint).n_layers
    key = (checkpoint.fingerprint, depth, where, precision, packs)
    global _n_loads
    with _loaded_lock:  # held while loading, so that two threads load a model once
        if key not in _loaded:
            _cure_fork()
            checkpoint.verify()  # encoders are shared by content hash, which must be true
            _n_loads += 1
            _loaded[key] = (
                PackedEncoder(checkpoint, depth, where, precision, varlen=where.type != "cpu")
                if packs
                else HuggingFaceEncoder(checkpoint, depth, where, precision)
            )
            while len(_loaded) > _MAX_LOADED:
                _loaded.popitem(last=False)
        _loaded.move_to_end(key)
        return _loaded[key]


@cache
def _cure_fork() -> None:
    """Keep forked children from waiting for libgomp threads that the fork lost."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def device_here(device: str, dtype: DType) -> tuple[str, DType]:
    """Return device and dtype, replaced by ``"auto"`` if this machine lacks them."""
    wanted: list[tuple[str, DType]] = [(device, dtype), (device, "auto")]
    for choice in wanted:
        try:
            choose_device(*choice)
        except ValueError:
            continue
        return choice
    return "auto", "auto"


def choose_device(device: str, dtype: DType = "auto") -> tuple[torch.device, torch.dtype]:
    """Return the device and precision to use, or raise naming those available."""
    forked = torch.cuda._is_in_bad_fork()  # then is_available() is False
    has_cuda = forked or torch.cuda.is_available()
    available = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if has_cuda else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    available += ["cpu"]
    where = available[0] if device == "auto" else {"cuda": "cuda:0"}.get(device, device)
    if where not in available:
        raise ValueError(
            f"device={device!r} is not available on this machine. Available: "
            f"{', '.join(available)}. Use 'auto' to choose automatically."
        )
    kind = where.partition(":")[0]
    if kind == "cuda" and forked:
        raise RuntimeError(
            f"{where} cannot be used in this process, which was forked after CUDA was initialised. "
            "Start workers with multiprocessing.get_context('spawn'), or with joblib's loky as "
            "n_jobs does, or use device='cpu'."
        )
    if kind == "cpu" and dtype == "float16":
        raise ValueError(
            "dtype='float16' needs an accelerator; it does not run on a CPU. Use dtype='auto', "
            "which is float32 on the CPU."
        )
    if kind == "cpu" and dtype == "bfloat16" and not computes_bfloat16():
        raise ValueError(
            "dtype='bfloat16' needs an accelerator or a CPU with bfloat16 products (AVX512-BF16, "
            "AMX, Arm's bf16). This CPU only emulates them, slower than float32. Use dtype='auto', "
            "which is float32 on the CPU."
        )
    precision = ("float16" if kind == "cuda" else "float32") if dtype == "auto" else dtype
    return torch.device(where), getattr(torch, precision)
