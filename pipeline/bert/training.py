"""Fine-tuning: a trainable BERT with a head, and transformers' Trainer."""

import hashlib
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pipeline.bert.config import read_shape
from pipeline.bert.encoder import build_model
from pipeline.bert.pooling import Pooling, pool
from pipeline.bert.weights import HEAD_BIAS, HEAD_WEIGHT, layer_number
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.exceptions import TrainingDivergedError
from pipeline.forks import ForkSafeLock
from pipeline.progress import Part, progress

# Seeds are global.
_one_at_a_time = ForkSafeLock()


@dataclass(frozen=True)
class Examples:
    """Texts as token ids, and their classes."""

    input_ids: Sequence[np.ndarray]  # of each text, (n_tokens,), int64, with [CLS] and [SEP]
    labels: np.ndarray  # class numbers, (n_texts,), int64

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per text, as the Trainer needs it."""
        return [
            {"input_ids": ids, "labels": int(label)}
            for ids, label in zip(self.input_ids, self.labels, strict=True)
        ]


@dataclass(frozen=True)
class Recipe:
    """Training settings of `pipeline.finetuning.FineTunedBertClassifier`."""

    epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    warmup_ratio: float  # share of steps in which the rate rises; then it falls
    dropout: float
    patience: int  # epochs to wait for a better validation accuracy
    n_trained: int | None
    pooling: Pooling
    seed: int  # of the head, dropout and the order of texts
    progress: bool


class TrainableBert(nn.Module):
    """An encoder with pooling, dropout and a linear head."""

    # Trains copies, not the mapped file or a shared encoder. Frozen parts have no dropout.

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        pooling: Pooling,
        n_trained: int | None,  # layers from the top; None trains all and the embeddings
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
        self.head = nn.Linear(shape.hidden_size, len(class_weight))
        nn.init.normal_(self.head.weight, std=0.02)  # like BERT's own heads
        nn.init.zeros_(self.head.bias)
        self.class_weight: Tensor
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
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Return ``logits``, (n_texts, n_classes), and the mean ``loss``."""
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True
        ).last_hidden_state
        logits = self.head(self.dropout(pool(states, self.pooling, attention_mask)))
        # cross_entropy's own weights cancel out in a batch of one class
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        return {"loss": (losses * self.class_weight[labels]).mean(), "logits": logits}

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
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
        """Group parameters, with weight decay only for matrices."""
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

    def trained_tensors(self) -> dict[str, Tensor]:
        """Return copies of the trained tensors, on the CPU."""
        return {
            name: p.detach().cpu().clone() for name, p in self.named_parameters() if p.requires_grad
        }

    def to_checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with these weights, without a pooler."""
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


def _is_trained(name: str, n_layers: int, n_trained: int | None) -> bool:
    if name.startswith("pooler."):
        return False
    layer = layer_number(name)
    return n_trained is None or (layer is not None and layer >= n_layers - n_trained)


@dataclass(frozen=True)
class Trained:
    """A fine-tuned checkpoint and its history."""

    checkpoint: Checkpoint
    history: list[dict[str, float]]  # epoch, loss, and with validation val_loss, val_accuracy
    best_epoch: int  # the epoch of these weights


def train(
    checkpoint: Checkpoint,
    examples: Examples,
    validation: Examples | None,
    *,
    class_weight: np.ndarray,
    recipe: Recipe,
    device: torch.device,
) -> Trained:
    """Fine-tune a copy of a checkpoint, leaving global state unchanged."""
    # on the CPU, equal arguments and thread counts give equal bits; with validation texts the best
    # epoch's weights are kept
    if device.type == "cuda" and device.index != 0:
        raise ValueError(
            f"device='{device}' is not supported: training runs on the first visible GPU. Use "
            f"device='cuda' and set the environment variable CUDA_VISIBLE_DEVICES={device.index}."
        )
    checkpoint.verify()
    with (
        _one_at_a_time,
        _global_state_kept(device),
        tempfile.TemporaryDirectory(prefix="fine-tuning-") as folder,
    ):
        torch.manual_seed(recipe.seed)
        module = TrainableBert(
            checkpoint,
            pooling=recipe.pooling,
            n_trained=recipe.n_trained,
            dropout=recipe.dropout,
            class_weight=class_weight,
        )
        with progress("fine-tuning", "step", shown=recipe.progress) as part:
            watch = _Watch(module, recipe.patience, part)
            trainer = _make_trainer(module, examples, validation, recipe, device, folder, watch)
            trainer.train()
        if watch.best is not None:
            module.load_state_dict(watch.best, strict=False)
        history = _history(trainer.state.log_history)
        losses = [epoch["loss"] for epoch in history]
        if not np.isfinite(losses).all() or not all(
            torch.isfinite(parameter).all() for parameter in module.parameters()
        ):
            raise TrainingDivergedError(
                f"The training diverged: the losses per epoch are {losses}. Use a smaller "
                f"learning_rate than {recipe.learning_rate:g}, or a larger warmup_ratio than "
                f"{recipe.warmup_ratio:g}."
            )
        return Trained(module.to_checkpoint(checkpoint), history, watch.best_epoch or len(history))


def _make_trainer(
    module: TrainableBert,
    examples: Examples,
    validation: Examples | None,
    recipe: Recipe,
    device: torch.device,
    folder: str,
    watch: "_Watch",
) -> Any:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=2 * recipe.batch_size,
        warmup_steps=recipe.warmup_ratio,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        train_sampling_strategy="group_by_length",  # less padding
        eval_strategy="no" if validation is None else "epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # show losses that are NaN
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        seed=recipe.seed,
    )
    # no DataParallel: results would depend on the number of GPUs
    arguments._n_gpu = min(arguments.n_gpu, 1)
    groups = module.parameter_groups(
        recipe.learning_rate, recipe.head_learning_rate, recipe.weight_decay
    )
    module.to(device)
    optimizer = torch.optim.AdamW(groups, fused=True)
    trainer = Trainer(
        model=module,
        args=arguments,
        data_collator=module.collate,
        train_dataset=examples.rows(),
        eval_dataset=None if validation is None else validation.rows(),
        compute_metrics=lambda result: {
            "accuracy": float((result.predictions.argmax(axis=1) == result.label_ids).mean())
        },
        optimizers=(optimizer, None),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Keeps the best epoch's weights, stops when none improves, and shows progress."""

    def __init__(self, module: TrainableBert, patience: int, part: Part) -> None:
        self._module, self._patience, self._part = module, patience, part
        self._best_score = (-np.inf, -np.inf)
        self.best: dict[str, Tensor] | None = None
        self.best_epoch: int | None = None

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        epoch, score = round(state.epoch), (metrics["eval_accuracy"], -metrics["eval_loss"])
        if score > self._best_score:
            self._best_score, self.best_epoch = score, epoch
            self.best = self._module.trained_tensors()
        elif epoch - (self.best_epoch or 0) >= self._patience:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._part.show(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        told = [f"{name} {logs[name]:.3f}" for name in ("loss", "eval_accuracy") if name in logs]
        self._part.note = ", ".join(told) or self._part.note


def _history(logs: list[dict[str, float]]) -> list[dict[str, float]]:
    names = {"loss": "loss", "eval_loss": "val_loss", "eval_accuracy": "val_accuracy"}
    rows: dict[int, dict[str, float]] = {}
    for log in logs:
        if "loss" in log or "eval_loss" in log:
            row = rows.setdefault(round(log["epoch"]), {"epoch": round(log["epoch"])})
            row.update({new: float(log[old]) for old, new in names.items() if old in log})
    return list(rows.values())


@contextmanager
def _global_state_kept(device: torch.device) -> Iterator[None]:
    """Restore seeds, gradient mode, device and accelerate's state afterwards."""
    seeded = device.type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = range(torch.cuda.device_count()) if seeded else []
    with ExitStack() as stack:
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        stack.callback(random.setstate, random.getstate())
        for state in (AcceleratorState, GradientState, PartialState):
            # or a caller's own Accelerator would lose its state
            stack.callback(state._shared_state.update, dict(state._shared_state))
            stack.callback(state._shared_state.clear)
        stack.enter_context(torch.random.fork_rng(gpus, device_type="cuda"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield
