"""Which encoder runs a checkpoint, and on what device; loaded encoders live here, once per process. Used by frozen and walk."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, Protocol, overload

import torch

from pipeline.bert.batching import TokenBatch
from pipeline.bert.hugging_face import HuggingFaceEncoder
from pipeline.bert.packed import PackedEncoder, can_pack
from pipeline.bert.pooling import Pooling
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.forks import ForkSafeLock

DType = Literal["auto", "float32", "float16", "bfloat16"]

# Tokens in one batch. On the CPU the activations of a batch stay near the cores, see benchmarks/results/batch_tokens.json; an
# accelerator needs more to be busy.
BATCH_TOKENS = {"cpu": 2048, "cuda": 65536, "mps": 8192}
_MAX_LOADED = 4


class Encoder(Protocol):
    """What both kinds of encoder can do; see `PackedEncoder` and `HuggingFaceEncoder`. None changes in a forward pass."""

    packs: bool  # whether texts of different lengths may share a batch
    depth: int
    device: torch.device

    def workspace(self) -> Any:
        """Return buffers for one series of batches."""

    def pooled(
        self,
        batch: TokenBatch,
        poolings: Sequence[Pooling],
        layers: Sequence[int],
        workspace: Any = None,
    ) -> torch.Tensor:
        """Return vectors of shape (n_texts, n_poolings, n_layers, hidden_size), float32."""

    def token_states(
        self, batch: TokenBatch, layers: Sequence[int], workspace: Any = None
    ) -> torch.Tensor:
        """Return vectors of shape (n_tokens, n_layers, hidden_size), float32."""


_loaded: OrderedDict[
    tuple[str, int, torch.device, torch.dtype, bool], PackedEncoder | HuggingFaceEncoder
] = OrderedDict()
_loaded_lock = ForkSafeLock()
_n_loads = 0


def n_loads() -> int:
    """Return how many encoders were built in this process so far."""
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
) -> PackedEncoder | HuggingFaceEncoder: ...
def load_encoder(
    checkpoint: Checkpoint,
    depth: int,
    *,
    device: str = "auto",
    dtype: DType = "auto",
    packed: bool = True,
) -> PackedEncoder | HuggingFaceEncoder:
    """Return the encoder of a checkpoint, cut after ``depth`` layers; built at most once per process.

    On CPU in float32 the tensors are views of ``checkpoint.weights``; only query, key and value are copied, to be one product.

    Parameters
    ----------
    checkpoint : Checkpoint
        From `pipeline.checkpoints.checkpoint.resolve` or from an artifact.
    depth : int
        Layers to run, 0 to the model's own number.
    device, dtype : str
        As for `choose_device`.
    packed : bool, default=True
        Use the packed forward where it runs this checkpoint on this device; else, and otherwise, HF's own.

    Returns
    -------
    PackedEncoder or HuggingFaceEncoder
        Shared by everyone in this process who asks for the same.

    Raises
    ------
    CheckpointError
        When config and weights disagree: a tensor missing, of the wrong shape or type.
    ValueError
        For a device that is not there.
    """
    where, precision = choose_device(device, dtype)
    packs = packed and can_pack(checkpoint, where, precision)
    key = (checkpoint.fingerprint, depth, where, precision, packs)
    global _n_loads
    with _loaded_lock:  # held while loading: two threads that want the same model load it once
        if key not in _loaded:
            _cure_fork()
            checkpoint.verify()  # encoders are shared by content: no other bytes may come under this name
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
    """Keep forked children from hanging: libgomp's thread pool dies in a fork, and a forward pass would wait for it."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def device_here(device: str, dtype: DType) -> tuple[str, DType]:
    """Return device and dtype for a vectorizer that was fitted on another machine: as asked for, or else what suits this one.

    Parameters
    ----------
    device, dtype : str
        As for `choose_device`.

    Returns
    -------
    device, dtype : str
        Both ``"auto"`` where this machine has no such device.
    """
    try:
        choose_device(device, dtype)
    except ValueError:
        return "auto", "auto"
    return device, dtype


def choose_device(device: str, dtype: DType = "auto") -> tuple[torch.device, torch.dtype]:
    """Return the device and the precision to use, or say which ones there are.

    Parameters
    ----------
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``"auto"`` takes CUDA where there is one, else MPS, else the CPU.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        ``"auto"`` is float16 on CUDA and float32 elsewhere.

    Raises
    ------
    ValueError
        For unknown or absent devices, and for half precision on the CPU, where it is emulated and very slow.
    RuntimeError
        For CUDA in a process that was forked from one that had used it.
    """
    forked = torch.cuda._is_in_bad_fork()  # is_available() then says no
    there = (
        [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        if forked or torch.cuda.is_available()
        else []
    )
    there += ["mps"] if torch.backends.mps.is_available() else []
    there += ["cpu"]
    where = there[0] if device == "auto" else {"cuda": "cuda:0"}.get(device, device)
    if where not in there:
        raise ValueError(
            f"device={device!r} is not on this machine; there is {', '.join(there)}. 'auto' chooses by itself."
        )
    kind = where.partition(":")[0]
    if kind == "cuda" and forked:
        raise RuntimeError(
            f"{where} cannot be used in this process: it was forked from one that had used CUDA already, and CUDA does not "
            "survive a fork. Start workers by 'spawn' (multiprocessing.get_context('spawn')) or with joblib's loky, as n_jobs "
            "does; or use device='cpu'."
        )
    if kind == "cpu" and dtype not in ("auto", "float32"):
        raise ValueError(
            f"dtype={dtype!r} needs an accelerator; on the CPU it is emulated and very slow. Use dtype='auto'."
        )
    precision = ("float16" if kind == "cuda" else "float32") if dtype == "auto" else dtype
    return torch.device(where), getattr(torch, precision)
