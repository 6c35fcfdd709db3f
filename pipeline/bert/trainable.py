"""A trainable BERT with a linear head, from a checkpoint and back."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
from torch import nn

from pipeline.bert.config import read_shape
from pipeline.bert.encoder import build_model
from pipeline.bert.pooling import Pooling, pool
from pipeline.bert.weights import layer_number, read_tensors
from pipeline.checkpoints.checkpoint import Checkpoint

HEAD_WEIGHT, HEAD_BIAS = "head.weight", "head.bias"


class TrainableBert(nn.Module):
    """An encoder with pooling, dropout and a linear head."""

    # The tensors are copies, so that training changes neither the mapped file nor a shared encoder.
    # Frozen parts stay in eval mode, without dropout.

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        pooling: Pooling,
        n_classes: int,
        n_trained: int | None,  # encoder layers from the top; None trains all and the embeddings
        dropout: float,  # of the pooled vector
        class_weight: np.ndarray,  # (n_classes,)
    ) -> None:
        super().__init__()
        shape = read_shape(checkpoint)
        self.encoder = build_model(checkpoint, shape.n_layers, torch.device("cpu"), torch.float32)
        copied = {name: tensor.clone() for name, tensor in self.encoder.state_dict().items()}
        self.encoder.load_state_dict(copied, assign=True)
        self.pooling, self.pad_token_id = pooling, shape.pad_token_id
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(shape.hidden_size, n_classes)
        nn.init.normal_(self.head.weight, std=0.02)  # like BERT's own heads
        nn.init.zeros_(self.head.bias)
        self.class_weight: torch.Tensor
        self.register_buffer("class_weight", torch.tensor(class_weight, dtype=torch.float32))
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(_is_trained(name, shape.n_layers, n_trained))
        if n_trained and not any(p.requires_grad for p in self.encoder.parameters()):
            raise ValueError(
                f"unfrozen_layers={n_trained} does not work for {checkpoint.source['model']!r}: "
                f"the layers of {shape.family} share their weights. Use unfrozen_layers=None."
            )

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on or off in the trained parts."""
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
        """Return ``logits``, (n_texts, n_classes), and with labels the mean ``loss``."""
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True
        ).last_hidden_state
        logits = self.head(self.dropout(pool(states, self.pooling, attention_mask)))
        if labels is None:
            return {"logits": logits}
        # cross_entropy's own weight divides by the weights of the batch, which cancels them in a
        # batch of one class
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        return {"loss": (losses * self.class_weight[labels]).mean(), "logits": logits}

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad texts to the longest one, (n_texts, n_tokens), int64."""
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()  # (n_texts, n_tokens)
        ids = torch.full(mask.shape, self.pad_token_id)
        ids[mask.bool()] = torch.from_numpy(np.concatenate([row["input_ids"] for row in rows]))
        labels = torch.tensor([row["labels"] for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def parameter_groups(
        self, learning_rate: float, head_learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Group parameters for an optimizer, with weight decay only for matrices."""
        trained = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        groups = [
            ([p for p in trained if p.ndim > 1], learning_rate, weight_decay),
            ([p for p in trained if p.ndim == 1], learning_rate, 0.0),
            ([self.head.weight], head_learning_rate, weight_decay),
            ([self.head.bias], head_learning_rate, 0.0),
        ]
        return [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for parameters, rate, decay in groups
            if parameters
        ]

    def trained_tensors(self) -> dict[str, torch.Tensor]:
        """Return copies of the trained tensors by name, on the CPU."""
        return {
            name: p.detach().cpu().clone() for name, p in self.named_parameters() if p.requires_grad
        }

    def to_checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with these weights and the head, without a pooler."""
        tensors = {
            **self.encoder.state_dict(),
            HEAD_WEIGHT: self.head.weight,
            HEAD_BIAS: self.head.bias,
        }
        saved = safetensors.torch.save(
            {
                name: tensor.detach().cpu().contiguous()
                for name, tensor in tensors.items()
                if not name.startswith("pooler.")
            }
        )
        weights = np.array(np.frombuffer(saved, dtype=np.uint8))
        sha256 = hashlib.sha256(weights.data).hexdigest()
        return replace(
            checkpoint, weights=weights, depth=None, weights_sha256=sha256, verified=True
        )


def read_head(
    checkpoint: Checkpoint, n_classes: int, hidden_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (n_classes, hidden_size) and bias (n_classes,) of a head, float64."""
    expected = {HEAD_WEIGHT: (n_classes, hidden_size), HEAD_BIAS: (n_classes,)}
    tensors = read_tensors(checkpoint, read_shape(checkpoint).family, expected)
    return tensors[HEAD_WEIGHT].double().numpy(), tensors[HEAD_BIAS].double().numpy()


def _is_trained(name: str, n_layers: int, n_trained: int | None) -> bool:
    if name.startswith("pooler."):
        return False
    layer = layer_number(name)
    return n_trained is None or (layer is not None and layer >= n_layers - n_trained)
