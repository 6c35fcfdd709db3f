"""The training loop: Hugging Face's Trainer around a TrainableBert, leaving nothing behind. Used by finetuning's fit alone."""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from pipeline.bert.pooling import Pooling
from pipeline.bert.trainable import TrainableBert
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.exceptions import TrainingDivergedError
from pipeline.forks import ForkSafeLock

# Seeds are global, so trainings of one process take turns.
_one_at_a_time = ForkSafeLock()


@dataclass(frozen=True)
class Examples:
    """Texts as token ids, and their classes.

    Attributes
    ----------
    input_ids : sequence of ndarray of shape (n_tokens,), int64
        One per text, [CLS] and [SEP] included, cut to length.
    labels : ndarray of shape (n_texts,), int64
        Class numbers.
    """

    input_ids: Sequence[np.ndarray]
    labels: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict per text, as the Trainer wants them."""
        return [
            {"input_ids": ids, "labels": int(label)}
            for ids, label in zip(self.input_ids, self.labels, strict=True)
        ]


@dataclass(frozen=True)
class Recipe:
    """How to train; see the parameters of `pipeline.finetuning.FineTunedBertClassifier`.

    Attributes
    ----------
    epochs, batch_size : int
        Passes over the texts; texts per step.
    learning_rate, head_learning_rate, weight_decay, warmup_ratio, dropout : float
        AdamW's, rising over the first ``warmup_ratio`` of all steps and falling linearly to 0 after it.
    patience : int
        Epochs without a better validation accuracy (of equal ones, a smaller loss) before it stops; used with validation texts.
    n_trained : int or None
        As for `TrainableBert`.
    pooling : {"cls", "mean", "max"}
        As for `TrainableBert`.
    seed : int
        Of the head's first weights, of dropout and of the order of the texts.
    progress : bool
        Show a bar of steps.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    warmup_ratio: float
    dropout: float
    patience: int
    n_trained: int | None
    pooling: Pooling
    seed: int
    progress: bool


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes
    ----------
    checkpoint : Checkpoint
        The model with its new weights and its head.
    history : list of dict
        One per epoch: ``epoch``, ``loss``, and with validation texts ``val_loss`` and ``val_accuracy``.
    best_epoch : int
        The epoch whose weights these are.
    """

    checkpoint: Checkpoint
    history: list[dict[str, float]]
    best_epoch: int


def train(
    checkpoint: Checkpoint,
    examples: Examples,
    validation: Examples | None,
    *,
    class_weight: np.ndarray,
    recipe: Recipe,
    device: torch.device,
) -> Trained:
    """Fine-tune a checkpoint; the checkpoint itself, seeds, gradient mode and working directory stay as they were.

    Parameters
    ----------
    checkpoint : Checkpoint
        Pre-trained.
    examples : Examples
        To learn from.
    validation : Examples or None
        To stop early by: the weights of the best epoch are kept, instead of those of the last.
    class_weight : ndarray of shape (n_classes,)
        Multiplies the loss of a text, by its class.
    recipe : Recipe
        How.
    device : torch.device
        Where. Of several GPUs the first.

    Returns
    -------
    Trained
        On the CPU the same, bit for bit, for the same arguments and number of threads.

    Raises
    ------
    ValueError
        For a GPU that is not the first.
    TrainingDivergedError
        Where the loss is not finite.
    """
    if device.type == "cuda" and device.index != 0:
        raise ValueError(
            f"device='{device}'; training runs on the first GPU it sees. Use device='cuda' and choose the GPU by the environment "
            f"variable CUDA_VISIBLE_DEVICES={device.index}."
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
            n_classes=len(class_weight),
            n_trained=recipe.n_trained,
            dropout=recipe.dropout,
            class_weight=class_weight,
        )
        watch = _Watch(module, recipe.patience)
        trainer = _make_trainer(module, examples, validation, recipe, device, folder, watch)
        trainer.train()
        if watch.best is not None:
            module.load_state_dict(watch.best, strict=False)
        history = _history(trainer.state.log_history)
        if not np.isfinite([epoch["loss"] for epoch in history]).all() or not _is_finite(module):
            raise TrainingDivergedError(
                f"The training diverged: the losses of its epochs are {[epoch['loss'] for epoch in history]}. Use a smaller "
                f"learning_rate than {recipe.learning_rate:g}, or a larger warmup_ratio than {recipe.warmup_ratio:g}."
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
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_ratio,  # below 1 it is a share of all steps
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        train_sampling_strategy="group_by_length",  # texts of like length together: little padding
        eval_strategy="no" if validation is None else "epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,  # a loss that is no number is to be seen
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device.type == "cuda",
        remove_unused_columns=False,
        use_cpu=device.type == "cpu",
        seed=recipe.seed,
    )
    arguments._n_gpu = min(
        arguments.n_gpu, 1
    )  # no DataParallel: its result would depend on the number of GPUs
    groups = module.parameter_groups(
        recipe.learning_rate, recipe.head_learning_rate, recipe.weight_decay
    )
    module.to(device)
    trainer = Trainer(
        model=module,
        args=arguments,
        data_collator=module.collate,
        train_dataset=examples.rows(),
        eval_dataset=None if validation is None else validation.rows(),
        compute_metrics=lambda found: {
            "accuracy": float((found.predictions.argmax(axis=1) == found.label_ids).mean())
        },
        optimizers=(
            torch.optim.AdamW(groups, fused=True),
            None,
        ),  # one pass over the weights, also on a CPU
        callbacks=[watch, *([_Bar()] if recipe.progress else [])],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Keeps the weights of the best epoch in memory, and stops when there was no better one for a while."""

    def __init__(self, module: TrainableBert, patience: int) -> None:
        self._module, self._patience = module, patience
        self._best_score = (-np.inf, -np.inf)
        self.best: dict[str, torch.Tensor] | None = None
        self.best_epoch: int | None = None

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        epoch, score = round(state.epoch), (metrics["eval_accuracy"], -metrics["eval_loss"])
        if score > self._best_score:
            self._best_score, self.best_epoch, self.best = (
                score,
                epoch,
                self._module.trained_tensors(),
            )
        elif epoch - (self.best_epoch or 0) >= self._patience:
            control.should_training_stop = True


class _Bar(TrainerCallback):  # type: ignore[misc]
    """A progress bar on stderr; the Trainer's own prints its logs between."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=state.max_steps, desc="fine-tuning", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        self._bar.set_postfix(
            {name: f"{logs[name]:.3f}" for name in ("loss", "eval_accuracy") if name in logs}
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()


def _history(logs: list[dict[str, float]]) -> list[dict[str, float]]:
    """Make one row per epoch of the Trainer's logs."""
    names = {"loss": "loss", "eval_loss": "val_loss", "eval_accuracy": "val_accuracy"}
    rows: dict[int, dict[str, float]] = {}
    for log in logs:
        if "loss" in log or "eval_loss" in log:
            row = rows.setdefault(round(log["epoch"]), {"epoch": round(log["epoch"])})
            row.update({new: float(log[old]) for old, new in names.items() if old in log})
    return list(rows.values())


def _is_finite(module: TrainableBert) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters())


@contextmanager
def _global_state_kept(device: torch.device) -> Iterator[None]:
    """Give the Trainer seeds, gradient mode, device and accelerate's state to set, and put them back as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    seeded = device.type == "cuda" or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with ExitStack() as stack:
        stack.callback(np.random.set_state, numpy)
        stack.callback(random.setstate, python)
        for shared in (
            one._shared_state for one in (AcceleratorState, GradientState, PartialState)
        ):
            stack.callback(
                shared.update, dict(shared)
            )  # an Accelerator of the caller's own would find its state gone
            stack.callback(shared.clear)
        stack.enter_context(
            torch.random.fork_rng(
                range(torch.cuda.device_count()) if seeded else [], device_type="cuda"
            )
        )
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        yield
