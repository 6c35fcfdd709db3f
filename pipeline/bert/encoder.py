"""Batches -> hidden states, running only the layers asked for; loaded encoders live here, once per process. Used by embedding."""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, Literal

import numpy as np
import torch

from pipeline.bert.checkpoint import Checkpoint, CheckpointError, read_tensor_table

DType = Literal["float32", "float16", "bfloat16"]

# model_type in config.json -> the prefixes its tensors carry when they were saved with a head on top.
FAMILIES: dict[str, tuple[str, ...]] = {
    "bert": ("bert.",),
    "distilbert": ("distilbert.",),
    "roberta": ("roberta.",),
    "xlm-roberta": ("roberta.", "xlm-roberta."),
    "camembert": ("roberta.", "camembert."),
    "electra": ("electra.", "discriminator.electra."),
}
# These count positions from padding_idx + 1, so their table holds that many rows more than there are usable positions.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")
_TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MAX_LOADED = 4


@dataclass(frozen=True)
class EncoderShape:
    """What a checkpoint's config says about its encoder, read without loading it.

    Attributes
    ----------
    family : str
        ``model_type`` of the config, one of `FAMILIES`.
    n_layers : int
        Encoder layers; there is one hidden state more, the embedding output, which is layer 0.
    hidden_size : int
        Width of every hidden state.
    max_positions : int
        Longest sequence the position table allows, [CLS] and [SEP] included.
    n_vocabulary : int
        Rows of the word embedding.
    pad_token_id : int
        What fills shorter texts of a padded batch.
    has_pooler : bool
        Whether the checkpoint holds trained weights for ``pooler_output``.
    """

    family: str
    n_layers: int
    hidden_size: int
    max_positions: int
    n_vocabulary: int
    pad_token_id: int
    has_pooler: bool


def read_shape(checkpoint: Checkpoint) -> EncoderShape:
    """Read the encoder's shape from the config and the weight table.

    Raises
    ------
    CheckpointError
        For families that are not supported.
    """
    config = _hf_config(checkpoint)
    family = config.model_type
    offset = config.pad_token_id + 1 if family in OFFSET_POSITIONS else 0
    return EncoderShape(
        family=family,
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        max_positions=config.max_position_embeddings - offset,
        n_vocabulary=config.vocab_size,
        pad_token_id=config.pad_token_id or 0,
        has_pooler=any(_bare_name(name, family) == "pooler.dense.weight" for name in checkpoint.tensor_table()),
    )


def _hf_config(checkpoint: Checkpoint) -> Any:
    from transformers import CONFIG_MAPPING

    values = checkpoint.config
    family = values.pop("model_type", None)
    if family not in FAMILIES:
        raise CheckpointError(
            f"{checkpoint.source['model']!r} is of the family {family!r}; supported are {', '.join(FAMILIES)}: encoders of "
            "the BERT kind, with a hidden state per layer."
        )
    if family in OFFSET_POSITIONS and values.get("pad_token_id", 1) is None:
        raise CheckpointError(f"config.json of {checkpoint.source['model']!r} has no pad_token_id, from which positions count.")
    try:
        return CONFIG_MAPPING[family](**values)
    except Exception as error:  # a config may be wrong in any way; transformers raises its own validation errors here
        raise CheckpointError(f"config.json of {checkpoint.source['model']!r} is not a valid {family} config: {error}") from error


def _bare_name(name: str, family: str) -> str:
    """Strip the prefix of a model with a head, and the LayerNorm names of checkpoints converted from TensorFlow."""
    for prefix in FAMILIES[family]:
        name = name.removeprefix(prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


class Encoder:
    """A frozen encoder that ends at layer ``depth``. Built by `load_encoder`; holds no state that a forward pass changes.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode, with ``depth`` layers.
    depth : int
        How many layers it runs.
    """

    def __init__(self, model: Any, depth: int) -> None:
        self._model = model
        self.depth = depth
        self.device = next(model.parameters()).device

    def hidden_states(self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None) -> list[torch.Tensor]:
        """Run one batch.

        Parameters
        ----------
        input_ids : ndarray of shape (n_texts, n_tokens), int64
            All of one length; padded only where ``attention_mask`` says so.
        attention_mask : ndarray of shape (n_texts, n_tokens), int64, optional
            1 for real tokens, 0 for padding. None means that every token is real.

        Returns
        -------
        list of Tensor of shape (n_texts, n_tokens, hidden_size), float32, length depth + 1
            Layer 0 (the embedding output) to layer ``depth``.
        """
        ids = torch.from_numpy(np.ascontiguousarray(input_ids, dtype=np.int64)).to(self.device)
        mask = None if attention_mask is None else torch.from_numpy(np.ascontiguousarray(attention_mask)).to(self.device)
        with torch.inference_mode():  # grad mode is per thread: set it here, never globally
            output = self._model(input_ids=ids, attention_mask=mask, output_hidden_states=True, return_dict=True)
            states = output.hidden_states or (output.last_hidden_state,)  # no layer at all: only the embedding output
            return [state.float() for state in states]

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
            output: torch.Tensor = self._model.pooler(last_hidden_state.to(self._model.dtype)).float()
            return output


_loaded: OrderedDict[tuple[str, int, str, str], Encoder] = OrderedDict()
_loaded_lock = threading.Lock()
_n_loads = 0


def n_loads() -> int:
    """Return how many encoders were built in this process so far."""
    return _n_loads


def load_encoder(checkpoint: Checkpoint, depth: int, *, device: str = "auto", dtype: DType = "float32") -> Encoder:
    """Return the encoder of a checkpoint, cut after ``depth`` layers; built at most once per process.

    On CPU in float32 the tensors are views of ``checkpoint.weights``: loading copies nothing, and encoders of several depths
    share their weights.

    Parameters
    ----------
    checkpoint : Checkpoint
        From `pipeline.bert.checkpoint.resolve` or from an artifact.
    depth : int
        Layers to run, 0 to the model's own number.
    device : str, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; ``"auto"`` takes CUDA where there is one, else the CPU.
    dtype : {"float32", "float16", "bfloat16"}, default="float32"
        Precision of the forward pass; half precision needs an accelerator.

    Returns
    -------
    Encoder
        Shared by everyone in this process who asks for the same.

    Raises
    ------
    CheckpointError
        When config and weights disagree: a tensor missing, of the wrong shape or type.
    ValueError
        For a device that is not there.
    """
    where = check_device(device, dtype)
    key = (checkpoint.fingerprint, depth, where, dtype)
    global _n_loads
    with _loaded_lock:  # held while loading: two threads that want the same model load it once
        if key not in _loaded:
            _cure_fork()
            _n_loads += 1
            _loaded[key] = _build(checkpoint, depth, where, dtype)
            while len(_loaded) > _MAX_LOADED:
                _loaded.popitem(last=False)
        _loaded.move_to_end(key)
        return _loaded[key]


@cache
def _cure_fork() -> None:
    """Keep forked children from hanging: libgomp's thread pool dies in a fork, and a forward pass would wait for it."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def check_device(device: str, dtype: DType = "float32") -> str:
    """Return the device to use, or say which ones there are.

    Raises
    ------
    ValueError
        For unknown or absent devices, and for half precision on the CPU, where it is emulated and very slow.
    """
    there = ["cpu"]
    there += [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    there += ["mps"] if torch.backends.mps.is_available() else []
    where = ("cuda:0" if "cuda:0" in there else "cpu") if device == "auto" else device
    where = "cuda:0" if where == "cuda" else where
    if where not in there:
        raise ValueError(f"device={device!r} is not on this machine; there is {', '.join(there)}. 'auto' chooses by itself.")
    if where == "cpu" and dtype != "float32":
        raise ValueError(f"dtype={dtype!r} needs an accelerator; on the CPU it is emulated and very slow. Use dtype='float32'.")
    return where


def _build(checkpoint: Checkpoint, depth: int, device: str, dtype: DType) -> Encoder:
    from transformers import MODEL_MAPPING

    config = _hf_config(checkpoint)
    config.num_hidden_layers = depth
    can_omit_pooler = config.model_type in ("bert", *OFFSET_POSITIONS)
    kwargs = {"add_pooling_layer": False} if can_omit_pooler and not read_shape(checkpoint).has_pooler else {}
    with torch.device("meta"):  # the shapes alone: nothing is allocated, nothing initialised at random
        try:
            model = MODEL_MAPPING[type(config)](config, **kwargs)
        except Exception as error:
            raise CheckpointError(
                f"config.json of {checkpoint.source['model']!r} describes no model that can be built: {error}"
            ) from error
    expected = model.state_dict()
    tensors = _read_tensors(checkpoint, config.model_type, set(expected))
    _refuse_disagreement(checkpoint, {k: v.shape for k, v in expected.items()}, {k: v.shape for k, v in tensors.items()})
    model.load_state_dict({k: v.to(getattr(torch, dtype)) for k, v in tensors.items()}, assign=True)
    _fill_buffers(model)
    model.requires_grad_(False)
    return Encoder(model.to(device).eval(), depth)


def _read_tensors(checkpoint: Checkpoint, family: str, wanted: set[str]) -> dict[str, torch.Tensor]:
    """View the wanted tensors inside the bytes of the weights, without copying them."""
    table, start = read_tensor_table(checkpoint.weights, checkpoint.source["model"])
    buffer = memoryview(checkpoint.weights)  # type: ignore[arg-type]
    tensors = {}
    for name, entry in table.items():
        bare = _bare_name(name, family)
        if bare not in wanted:
            continue
        if entry["dtype"] not in _TORCH_DTYPES:
            raise CheckpointError(
                f"{checkpoint.source['model']!r} holds {bare!r} as {entry['dtype']}; read are {', '.join(_TORCH_DTYPES)}. "
                "Use the checkpoint that is not quantized."
            )
        dtype, shape = _TORCH_DTYPES[entry["dtype"]], entry["shape"]
        begin, end = entry["data_offsets"]
        if end - begin != prod(shape) * dtype.itemsize:  # read all the same, it would take its neighbours' bytes
            raise CheckpointError(
                f"model.safetensors of {checkpoint.source['model']!r} is damaged: {bare!r} of shape {tuple(shape)} has "
                f"{end - begin} bytes. Fetch the model again."
            )
        tensors[bare] = torch.frombuffer(buffer, dtype=dtype, count=prod(shape), offset=start + begin).reshape(shape)
    return tensors


def _refuse_disagreement(checkpoint: Checkpoint, expected: dict[str, Any], found: dict[str, Any]) -> None:
    name = checkpoint.source["model"]
    missing = sorted(set(expected) - set(found))
    if missing:
        raise CheckpointError(
            f"config.json and model.safetensors of {name!r} disagree: the config asks for {len(missing)} tensors that the "
            f"weights do not hold, first {missing[0]!r}. They must come from the same model; nothing is filled in at random."
        )
    for key, shape in expected.items():
        if tuple(found[key]) != tuple(shape):
            raise CheckpointError(
                f"config.json and model.safetensors of {name!r} disagree: {key!r} is {tuple(shape)} by the config and "
                f"{tuple(found[key])} in the weights. They must come from the same model."
            )


def _fill_buffers(model: Any) -> None:
    """Create the buffers that checkpoints do not store: positions 0, 1, 2, ... and token types 0."""
    for path, buffer in list(model.named_buffers()):
        parent, _, name = path.rpartition(".")
        if name == "position_ids":
            value = torch.arange(buffer.shape[-1]).expand(1, -1)
        elif name == "token_type_ids":
            value = torch.zeros(buffer.shape, dtype=torch.int64)
        else:
            raise CheckpointError(f"The model class has a buffer {path!r} that is not known here; this transformers is too new.")
        setattr(model.get_submodule(parent), name, value)
