"""transformers' own forward over texts of equal length: the families that `packed` does not run. Used by encoder."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.bert.batching import TokenBatch
from pipeline.bert.config import OFFSET_POSITIONS, hf_config, read_shape
from pipeline.bert.pooling import Pooling, pool
from pipeline.bert.weights import read_tensors
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.exceptions import CheckpointError


class HuggingFaceEncoder:
    """A frozen encoder that ends at layer ``depth``, run by transformers' own forward, unmodified.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of any supported family.
    depth : int
        How many layers it runs.
    device : torch.device
        Where.
    dtype : torch.dtype
        Precision of the forward pass. On the CPU in float32 all tensors are views of ``checkpoint.weights``.

    Raises
    ------
    CheckpointError
        When config and weights disagree: a tensor missing, of the wrong shape or type.
    """

    packs = False

    def __init__(
        self, checkpoint: Checkpoint, depth: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._model = build_model(checkpoint, depth, device, dtype)
        self.depth, self.device = depth, device

    def workspace(self) -> None:
        """Return nothing: HF's forward takes its own memory."""

    def pooled(
        self,
        batch: TokenBatch,
        poolings: Sequence[Pooling],
        layers: Sequence[int],
        workspace: None = None,
    ) -> torch.Tensor:
        """Encode a batch and pool the wanted layers.

        Parameters
        ----------
        batch : TokenBatch
            Each run of equal length is a forward pass of its own.
        poolings : sequence of {"cls", "mean", "max", "pooler"}
            ``pooler`` stands in the place of the last layer.
        layers : sequence of int
            Indices 0 ... ``depth``.
        workspace : None
            For the likeness to `PackedEncoder`.

        Returns
        -------
        Tensor of shape (n_texts, n_poolings, n_layers, hidden_size), float32
            On the encoder's device.
        """
        vectors = []
        for states in self._runs(batch):
            of_poolings = [
                torch.stack(
                    [
                        self.pooler_output(states[-1]) if p == "pooler" else pool(states[k], p)
                        for k in layers
                    ],
                    1,
                )
                for p in poolings
            ]
            vectors.append(
                torch.stack(of_poolings, 1)
            )  # (n_texts of the run, n_poolings, n_layers, hidden_size)
        return torch.cat(vectors)

    def token_states(
        self, batch: TokenBatch, layers: Sequence[int], workspace: None = None
    ) -> torch.Tensor:
        """Encode a batch and keep every token of the wanted layers.

        Returns
        -------
        Tensor of shape (n_tokens, n_layers, hidden_size), float32
            On the encoder's device.
        """
        return torch.cat(
            [
                torch.stack([states[k] for k in layers], 2).flatten(0, 1)
                for states in self._runs(batch)
            ]
        )

    def _runs(self, batch: TokenBatch) -> Iterator[list[torch.Tensor]]:
        for run in batch.runs:
            ids = batch.input_ids[run.first_token : run.first_token + run.n_texts * run.length]
            yield self.hidden_states(ids.reshape(run.n_texts, run.length))

    def hidden_states(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None
    ) -> list[torch.Tensor]:
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
        mask = (
            None
            if attention_mask is None
            else torch.from_numpy(np.ascontiguousarray(attention_mask)).to(self.device)
        )
        with torch.inference_mode():  # grad mode is per thread: set it here, never globally
            output = self._model(
                input_ids=ids, attention_mask=mask, output_hidden_states=True, return_dict=True
            )
            states = output.hidden_states or (
                output.last_hidden_state,
            )  # no layer at all: only the embedding output
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
            output: torch.Tensor = self._model.pooler(
                last_hidden_state.to(self._model.dtype)
            ).float()
            return output


def build_model(
    checkpoint: Checkpoint, depth: int, device: torch.device, dtype: torch.dtype
) -> Any:
    """Build transformers' own model of a checkpoint, frozen and in eval mode; nothing in it is drawn at random.

    Parameters
    ----------
    checkpoint, depth, device, dtype
        As for `HuggingFaceEncoder`.

    Returns
    -------
    transformers.PreTrainedModel
        Without a head. On the CPU in the precision of the file its tensors are views of ``checkpoint.weights``.

    Raises
    ------
    CheckpointError
        When config and weights disagree.
    """
    from transformers import MODEL_MAPPING

    config = hf_config(checkpoint)
    config.num_hidden_layers = depth
    can_omit_pooler = config.model_type in ("bert", *OFFSET_POSITIONS)
    kwargs = (
        {"add_pooling_layer": False}
        if can_omit_pooler and not read_shape(checkpoint).has_pooler
        else {}
    )
    with torch.device(
        "meta"
    ):  # the shapes alone: nothing is allocated, nothing initialised at random
        try:
            model = MODEL_MAPPING[type(config)](config, **kwargs)
        except Exception as error:
            raise CheckpointError(
                f"config.json of {checkpoint.source['model']!r} describes no model that can be built: {error}"
            ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = read_tensors(checkpoint, config.model_type, expected)
    model.load_state_dict({k: v.to(dtype) for k, v in tensors.items()}, assign=True)
    _fill_buffers(model)
    model.requires_grad_(False)
    return model.to(device).eval()


def _fill_buffers(model: Any) -> None:
    """Create the buffers that checkpoints do not store: positions 0, 1, 2, ... and token types 0."""
    for path, buffer in list(model.named_buffers()):
        parent, _, name = path.rpartition(".")
        if name == "position_ids":
            value = torch.arange(buffer.shape[-1]).expand(1, -1)
        elif name == "token_type_ids":
            value = torch.zeros(buffer.shape, dtype=torch.int64)
        else:
            raise CheckpointError(
                f"The model class has a buffer {path!r} that is not known here; this transformers is too new."
            )
        setattr(model.get_submodule(parent), name, value)
