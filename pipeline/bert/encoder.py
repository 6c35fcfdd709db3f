"""Encoders, packed or by transformers, loaded once per process."""

import inspect
import os
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import TqdmWarning

from pipeline.bert.config import PACKED, hf_config, read_shape
from pipeline.bert.linear import computes_bfloat16
from pipeline.bert.packed import PackedEncoder, can_pack
from pipeline.bert.pooling import Pooling, TokenBatch, pool_packed
from pipeline.bert.weights import read_tensors
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.exceptions import CheckpointError
from pipeline.forks import ForkSafeLock

DType = Literal["auto", "float32", "float16", "bfloat16"]

# Tokens in one batch. On the CPU its activations should fit the caches: see
# benchmarks/results/batch_tokens.json.
BATCH_TOKENS = {"cpu": 2048, "cuda": 65536, "mps": 8192}
_MAX_LOADED = 4


class HuggingFaceEncoder:
    """A frozen encoder in transformers, over texts of equal length."""

    def __init__(
        self, checkpoint: Checkpoint, depth: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._model = build_model(checkpoint, depth, device, dtype)
        self.depth, self.device = depth, device

    def workspace(self) -> None:
        """Return None: transformers allocates its own memory."""

    def pooled(
        self,
        batch: TokenBatch,
        poolings: Sequence[Pooling],
        layers: Sequence[int],
        workspace: None = None,
    ) -> Tensor:
        """Return vectors (n_texts, n_poolings, n_layers, hidden_size), float32."""
        with torch.inference_mode():
            states = self.token_states(batch, layers).unbind(1)
            vectors = [self._pool(state, batch, kind) for kind in poolings for state in states]
            stacked = torch.stack(vectors, 1)
            return stacked.view(len(stacked), len(poolings), len(layers), -1)

    def _pool(self, state: Tensor, batch: TokenBatch, pooling: Pooling) -> Tensor:
        if pooling != "pooler":
            return pool_packed(state, batch, pooling)
        first = state[torch.from_numpy(batch.starts[:-1]), None]
        vector: Tensor = self._model.pooler(first.to(self._model.dtype)).float()
        return vector

    def token_states(
        self, batch: TokenBatch, layers: Sequence[int], workspace: None = None
    ) -> Tensor:
        """Return the states of every token, (n_tokens, n_layers, hidden_size), float32."""
        runs = (
            self.hidden_states(batch.input_ids[run.tokens].reshape(run.n_texts, run.length))
            for run in batch.runs
        )
        return torch.cat(
            [torch.stack([states[k] for k in layers], 2).flatten(0, 1) for states in runs]
        )

    def hidden_states(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None
    ) -> list[Tensor]:
        """Return layers 0 to ``depth``, each (n_texts, n_tokens, hidden_size), float32."""
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask}
        given = {
            name: torch.as_tensor(values, device=self.device)
            for name, values in arrays.items()
            if values is not None
        }
        with torch.inference_mode():  # grad mode is per thread: never set it globally
            output = self._model(**given, output_hidden_states=True, return_dict=True)
            # None if the model has no layers
            states = output.hidden_states or (output.last_hidden_state,)
            return [state.float() for state in states]


Encoder: TypeAlias = PackedEncoder | HuggingFaceEncoder

_loaded: OrderedDict[tuple[str, int, torch.device, torch.dtype, bool], Encoder] = OrderedDict()
_loaded_lock = ForkSafeLock()
_n_loads = 0


def n_loads() -> int:
    """Return the number of encoders built so far."""
    return _n_loads


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
    if not packs and checkpoint.config["model_type"] not in PACKED:
        depth = read_shape(checkpoint).n_layers
    key = (checkpoint.fingerprint, depth, where, precision, packs)
    global _n_loads
    with _loaded_lock:  # two threads load a model once
        if key not in _loaded:
            _cure_fork()
            checkpoint.verify()  # encoders are shared by content hash
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
    """Keep forked children from waiting for lost libgomp threads."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def device_here(device: str, dtype: DType) -> tuple[str, DType]:
    """Return device and dtype, or ``"auto"`` if not available."""
    choices: list[tuple[str, DType]] = [(device, dtype), (device, "auto")]
    for choice in choices:
        with suppress(ValueError):
            choose_device(*choice)
            return choice
    return "auto", "auto"


def choose_device(device: str, dtype: DType = "auto") -> tuple[torch.device, torch.dtype]:
    """Return device and precision, or raise with those available."""
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


def build_model(
    checkpoint: Checkpoint, depth: int, device: torch.device, dtype: torch.dtype
) -> Any:
    """Build transformers' frozen model, without head and random weights."""
    with warnings.catch_warnings():  # about missing ipywidgets
        warnings.simplefilter("ignore", TqdmWarning)
        from transformers import MODEL_MAPPING

    config = hf_config(checkpoint)
    packed = config.model_type in PACKED
    if packed:  # other families normalise the last layer's output
        config.num_hidden_layers = depth
    model_class = MODEL_MAPPING[type(config)]
    settings = {}
    if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
        settings["add_pooling_layer"] = read_shape(checkpoint).has_pooler
    # buffers of other families hold values (rotations), which meta tensors lack
    with torch.device("meta" if packed else "cpu"), torch.random.fork_rng(devices=[]):
        try:
            model = model_class(config, **settings)
        except Exception as error:
            raise CheckpointError(
                f"config.json of {checkpoint.source['model']!r} describes a model that cannot be "
                f"built: {error}"
            ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = read_tensors(checkpoint, config.model_type, expected)
    model.load_state_dict({k: v.to(dtype) for k, v in tensors.items()}, assign=True)
    if packed:
        _fill_buffers(model)
    model.requires_grad_(False)
    return model.to(device).eval()


def _fill_buffers(model: Any) -> None:
    """Create the buffers that checkpoints do not store."""
    for path, buffer in list(model.named_buffers()):
        parent, _, name = path.rpartition(".")
        if name == "position_ids":
            value = torch.arange(buffer.shape[-1]).expand(1, -1)
        elif name == "token_type_ids":
            value = torch.zeros(buffer.shape, dtype=torch.int64)
        else:
            raise CheckpointError(
                f"The model class has an unknown buffer {path!r}; the installed transformers is "
                "too new."
            )
        setattr(model.get_submodule(parent), name, value)
