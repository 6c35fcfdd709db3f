"""A BERT with a linear head that can be trained: a copy of a checkpoint's tensors, and back. Used by training and finetuning."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
from torch import nn

from pipeline.bert.config import read_shape
from pipeline.bert.hugging_face import build_model
from pipeline.bert.pooling import Pooling, pool
from pipeline.bert.weights import read_tensors
from pipeline.checkpoints.checkpoint import Checkpoint

HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"
_LAYER = re.compile(r"(?:encoder|transformer)\.layer\.(\d+)\.")


class TrainableBert(nn.Module):
    """An encoder, a pooling over the real tokens, dropout, and a linear head.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of any supported family. Its tensors are copied: neither the file they are mapped from nor an encoder that others share
        is changed by training.
    pooling : {"cls", "mean", "max"}
        What the head sees of a text: [CLS] (Devlin et al. 2019, section 3.2), or the mean or maximum of its tokens.
    n_classes : int
        Rows of the head.
    n_trained : int or None
        Encoder layers that are trained, counted from the top; 0 is the head alone. None is the whole encoder, with its
        embeddings. What is not trained stays in eval mode: without dropout.
    dropout : float
        Of the pooled vector, in training.
    class_weight : ndarray of shape (n_classes,)
        What the loss of a text is multiplied by, by its class.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        pooling: Pooling,
        n_classes: int,
        n_trained: int | None,
        dropout: float,
        class_weight: np.ndarray,
    ) -> None:
        super().__init__()
        shape = read_shape(checkpoint)
        self.encoder = build_model(checkpoint, shape.n_layers, torch.device("cpu"), torch.float32)
        self.encoder.load_state_dict(
            {k: v.clone() for k, v in self.encoder.state_dict().items()}, assign=True
        )
        self.pooling, self.pad_token_id = pooling, shape.pad_token_id
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(shape.hidden_size, n_classes)
        nn.init.normal_(self.head.weight, std=0.02)  # as BERT's own heads
        nn.init.zeros_(self.head.bias)
        self.class_weight: torch.Tensor
        self.register_buffer("class_weight", torch.tensor(class_weight, dtype=torch.float32))
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(_is_trained(name, shape.n_layers, n_trained))

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on or off, in what is trained."""
        super().train(mode)
        for module in self.encoder.modules():
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the logits of a padded batch, and with labels the loss.

        Parameters
        ----------
        input_ids, attention_mask : Tensor of shape (n_texts, n_tokens), int64
            1 in the mask for real tokens.
        labels : Tensor of shape (n_texts,), int64, optional
            Class numbers.

        Returns
        -------
        dict
            ``loss``: the cross-entropy of each text times the weight of its class, averaged over the texts; ``logits`` of
            shape (n_texts, n_classes).
        """
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True
        ).last_hidden_state
        logits = self.head(
            self.dropout(pool(states, self.pooling, attention_mask))
        )  # (n_texts, n_classes)
        if labels is None:
            return {"logits": logits}
        # not cross_entropy's own weight: that divides by the weights of the batch, and so takes them back where it has one class
        losses = (
            nn.functional.cross_entropy(logits, labels, reduction="none")
            * self.class_weight[labels]
        )
        return {"loss": losses.mean(), "logits": logits}

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad texts to the longest of them.

        Parameters
        ----------
        rows : sequence of dict
            ``input_ids``, ndarray of shape (n_tokens,), int64, and ``labels``, int.

        Returns
        -------
        dict of Tensor
            ``input_ids`` and ``attention_mask`` of shape (n_texts, n_tokens), ``labels`` of shape (n_texts,), all int64.
        """
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()  # (n_texts, n_tokens)
        ids = torch.full(mask.shape, self.pad_token_id)
        ids[mask.bool()] = torch.from_numpy(np.concatenate([row["input_ids"] for row in rows]))
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    def parameter_groups(
        self, learning_rate: float, head_learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Return what is trained for an optimizer: matrices with weight decay, biases and LayerNorms without, the head apart.

        Parameters
        ----------
        learning_rate, head_learning_rate : float
            Of the encoder and of the head.
        weight_decay : float
            Of matrices.
        """
        trained = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        groups = [
            {
                "params": [p for p in trained if p.ndim > 1],
                "lr": learning_rate,
                "weight_decay": weight_decay,
            },
            {
                "params": [p for p in trained if p.ndim == 1],
                "lr": learning_rate,
                "weight_decay": 0.0,
            },
            {"params": [self.head.weight], "lr": head_learning_rate, "weight_decay": weight_decay},
            {"params": [self.head.bias], "lr": head_learning_rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """Return a copy of what is trained, by name, on the CPU."""
        return {
            name: p.detach().cpu().clone() for name, p in self.named_parameters() if p.requires_grad
        }

    def to_checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with the weights as they are now, and the head beside them.

        Parameters
        ----------
        checkpoint : Checkpoint
            What the training began with; config, tokenizer and source stay its own.

        Returns
        -------
        Checkpoint
            In float32, without a pooler, which is not trained here.
        """
        tensors = dict(self._tensors_to_save())
        weights = np.array(
            np.frombuffer(safetensors.torch.save(tensors), dtype=np.uint8)
        )  # a copy: torch wants writable bytes
        sha256 = hashlib.sha256(weights.data).hexdigest()
        return replace(
            checkpoint, weights=weights, depth=None, weights_sha256=sha256, verified=True
        )

    def _tensors_to_save(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.encoder.state_dict().items():
            if not name.startswith("pooler."):
                yield name, tensor.detach().cpu().contiguous()
        yield HEAD_WEIGHT, self.head.weight.detach().cpu().contiguous()
        yield HEAD_BIAS, self.head.bias.detach().cpu().contiguous()


def read_head(
    checkpoint: Checkpoint, n_classes: int, hidden_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the head that `TrainableBert.to_checkpoint` put beside the weights.

    Parameters
    ----------
    checkpoint : Checkpoint
        Fine-tuned.
    n_classes, hidden_size : int
        Its shape.

    Returns
    -------
    weight : ndarray of shape (n_classes, hidden_size), float64
        The matrix.
    bias : ndarray of shape (n_classes,), float64
        The intercepts.

    Raises
    ------
    CheckpointError
        Where there is none, or one of another shape.
    """
    expected = {HEAD_WEIGHT: (n_classes, hidden_size), HEAD_BIAS: (n_classes,)}
    tensors = read_tensors(checkpoint, read_shape(checkpoint).family, expected)
    return tensors[HEAD_WEIGHT].double().numpy(), tensors[HEAD_BIAS].double().numpy()


def _is_trained(name: str, n_layers: int, n_trained: int | None) -> bool:
    if name.startswith("pooler."):
        return False
    if n_trained is None:
        return True
    layer = _LAYER.match(name)
    return layer is not None and int(layer[1]) >= n_layers - n_trained
