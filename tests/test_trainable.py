"""TrainableBert: the forward of transformers with a head, on tensors of its own."""

import numpy as np
import pytest
import torch

from pipeline.bert.training import TrainableBert
from pipeline.bert.weights import read_head
from pipeline.checkpoints.checkpoint import resolve
from pipeline.exceptions import CheckpointError
from tests.conftest import FAMILIES, TEXTS


def build(folder, **parameters):
    torch.manual_seed(0)
    defaults = {
        "pooling": "mean",
        "n_trained": None,
        "dropout": 0.5,
        "class_weight": np.ones(3),
    }
    return TrainableBert(resolve(folder), **{**defaults, **parameters})


def rows(oracle, texts):
    return [
        {"input_ids": np.array(oracle.ids(text)), "labels": i % 3} for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_padding_changes_no_logit(family, pooling, model_folder, hugging_face):
    folder = model_folder(family)
    oracle, module = hugging_face(folder), build(folder, pooling=pooling).eval()
    with torch.inference_mode():
        logits = module(**module.collate(rows(oracle, TEXTS)))["logits"].numpy()
        for i, text in enumerate(TEXTS):
            vector = torch.tensor(oracle.sentence_vector(text, -1, pooling))
            assert np.abs(logits[i] - module.head(vector).numpy()).max() < 1e-4


def test_the_loss_of_a_text_is_multiplied_by_the_weight_of_its_class(tiny_bert, hugging_face):
    weight = np.array([1.0, 2.0, 5.0])
    module = build(tiny_bert, class_weight=weight).eval()
    made = rows(hugging_face(tiny_bert), TEXTS)
    batch = module.collate(made)
    with torch.inference_mode():
        found = module(**batch)
    losses = -torch.log_softmax(found["logits"], dim=1).numpy()[
        np.arange(len(made)), batch["labels"]
    ]
    assert found["loss"].item() == pytest.approx(
        float((losses * weight[batch["labels"]]).mean()), rel=1e-5
    )


def test_what_is_not_trained_has_no_dropout_and_no_gradient(tiny_bert):
    module = build(tiny_bert, n_trained=1).train()
    layers = module.encoder.encoder.layer
    assert [layer.training for layer in layers] == [False, False, True]
    assert not module.encoder.embeddings.dropout.training
    assert module.dropout.training
    assert not any(p.requires_grad for p in module.encoder.embeddings.parameters())
    assert {name for name in module.trained_tensors() if name.startswith("head.")} == {
        "head.weight",
        "head.bias",
    }
    n_trained = sum(len(group["params"]) for group in module.parameter_groups(1e-4, 1e-3, 0.01))
    assert n_trained == len(module.trained_tensors())
    assert len(build(tiny_bert, n_trained=0).parameter_groups(1e-4, 1e-3, 0.01)) == 2


def test_a_checkpoint_made_of_it_holds_the_encoder_and_the_head(tiny_bert):
    checkpoint, module = resolve(tiny_bert), build(tiny_bert)
    made = module.to_checkpoint(checkpoint)
    assert made.verify() != checkpoint.verify()
    assert (made.config_json, made.source) == (checkpoint.config_json, checkpoint.source)
    assert not any(name.startswith("pooler.") for name in made.tensor_table())
    weight, bias = read_head(made, 3, 32)
    assert np.array_equal(weight, module.head.weight.detach().double().numpy())
    assert np.array_equal(bias, np.zeros(3))
    assert np.array_equal(made.weights, module.to_checkpoint(checkpoint).weights)
    with pytest.raises(CheckpointError, match="disagree"):
        read_head(made, 2, 32)
    with pytest.raises(CheckpointError, match="do not have"):
        read_head(checkpoint, 3, 32)
