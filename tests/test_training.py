"""train: one row of history per epoch, and the same bits for a seed."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from pipeline.bert.training import Examples, Recipe, train
from pipeline.checkpoints.checkpoint import resolve
from pipeline.exceptions import TrainingDivergedError

CPU = torch.device("cpu")
RECIPE = {
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "head_learning_rate": 1e-2,
    "weight_decay": 0.01,
    "warmup_ratio": 0.1,
    "dropout": 0.1,
    "patience": 1,
    "n_trained": 1,
    "pooling": "cls",
    "seed": 3,
    "progress": False,
}
EXAMPLES = Examples(
    [np.array([2, 10 + i % 2, 20, 3][: 3 + i % 2]) for i in range(12)], np.arange(12) % 2
)


def run(folder, validation=None, **parameters):
    return train(
        resolve(folder),
        EXAMPLES,
        validation,
        class_weight=np.ones(2),
        recipe=Recipe(**{**RECIPE, **parameters}),
        device=CPU,
    )


def test_history_has_a_row_per_epoch(tiny_bert):
    trained = run(tiny_bert)
    assert [sorted(row) for row in trained.history] == [["epoch", "loss"]] * 2
    assert trained.best_epoch == 2
    watched = run(tiny_bert, EXAMPLES, patience=5)
    assert [sorted(row) for row in watched.history] == [
        ["epoch", "loss", "val_accuracy", "val_loss"]
    ] * 2
    assert (
        watched.history[0]["loss"] == trained.history[0]["loss"]
    )  # later ones differ: evaluation draws numbers too


def test_the_same_bits_for_a_seed_whatever_the_caller_drew(tiny_bert):
    first = run(tiny_bert).checkpoint.verify()
    torch.manual_seed(5)
    assert run(tiny_bert).checkpoint.verify() == first
    assert run(tiny_bert, seed=4).checkpoint.verify() != first


def test_the_learning_rate_rises_and_falls(tiny_bert, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def watched(self, *arguments, **keywords):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run(tiny_bert, epochs=4, warmup_ratio=0.5)  # 12 steps, 6 of them rising from 0
    encoder, head = np.array(rates)[:, 0], np.array(rates)[:, -1]
    expected = np.array([*np.arange(6) / 6, *(1 - np.arange(6) / 6)])
    assert np.allclose(encoder, 1e-3 * expected)
    assert np.allclose(head, 1e-2 * expected)


def test_a_training_that_diverges_is_told(tiny_bert):
    with pytest.raises(
        TrainingDivergedError,
        match=r"losses per epoch.*Use a smaller learning_rate than 1e\+30",
    ):
        run(tiny_bert, learning_rate=1e30)


def test_an_accelerator_of_the_callers_own_keeps_its_state(tiny_bert):
    own = Accelerator(cpu=True, gradient_accumulation_steps=7)
    before = repr(own.state), own.device
    run(tiny_bert)
    assert (repr(own.state), own.device) == before
    assert own.gradient_accumulation_steps == 7


def test_another_gpu_than_the_first_is_refused_before_anything_is_built(tiny_bert):
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=1"):
        train(
            resolve(tiny_bert),
            EXAMPLES,
            None,
            class_weight=np.ones(2),
            recipe=Recipe(**RECIPE),
            device=torch.device("cuda:1"),
        )
