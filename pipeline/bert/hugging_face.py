"""transformers' own forward over texts of equal length, for models not in `packed`."""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import TqdmWarning

from pipeline.bert.config import PACKED, hf_config, read_shape
from pipeline.bert.pooling import Pooling, TokenBatch, pool_packed
from pipeline.bert.weights import read_tensors
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.exceptions import CheckpointError


class HuggingFaceEncoder:
    """A frozen encoder up to layer ``depth``, run by transformers."""

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
    ) -> torch.Tensor:
        """Return vectors (n_texts, n_poolings, n_layers, hidden_size), float32."""
        with torch.inference_mode():
            states = self.token_states(batch, layers).unbind(1)
            return torch.stack(
                [
                    torch.stack([self._pool(state, batch, pooling) for state in states], 1)
                    for pooling in poolings
                ],
                1,
            )

    def _pool(self, state: torch.Tensor, batch: TokenBatch, pooling: Pooling) -> torch.Tensor:
        if pooling != "pooler":
            return pool_packed(state, batch, pooling)
        first = state[torch.from_numpy(batch.starts[:-1]), None]
        vector: torch.Tensor = self._model.pooler(first.to(self._model.dtype)).float()
        return vector

    def token_states(
        self, batch: TokenBatch, layers: Sequence[int], workspace: None = None
    ) -> torch.Tensor:
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
    ) -> list[torch.Tensor]:
        """Return layers 0 to ``depth``, each (n_texts, n_tokens, hidden_size), float32."""

        def on_device(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(self.device)

        mask = None if attention_mask is None else on_device(attention_mask)
        with torch.inference_mode():  # grad mode is per thread: never set it globally
            output = self._model(
                input_ids=on_device(input_ids),
                attention_mask=mask,
                output_hidden_states=True,
                return_dict=True,
            )
            # a model without layers has only the embedding output
            states = output.hidden_states or (output.last_hidden_state,)
            return [state.float() for state in states]


def build_model(
    checkpoint: Checkpoint, depth: int, device: torch.device, dtype: torch.dtype
) -> Any:
    """Build transformers' model without a head, frozen, with no random weights."""
    with warnings.catch_warnings():  # about notebooks without ipywidgets, not needed here
        warnings.simplefilter("ignore", TqdmWarning)
        from transformers import MODEL_MAPPING

    config = hf_config(checkpoint)
    packed = config.model_type in PACKED
    if packed:  # other families normalise the output of whichever layer is last
        config.num_hidden_layers = depth
    model_class = MODEL_MAPPING[type(config)]
    settings = {}
    if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
        settings["add_pooling_layer"] = read_shape(checkpoint).has_pooler
    # meta tensors have only shapes, but the buffers of other families hold values (rotations)
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
    """Create the buffers that checkpoints do not store: positions and token types."""
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
