"""transformers' own forward, one pass per run. More of it in test_encoder."""

import numpy as np
import pytest
import torch

from pipeline.bert.encoder import HuggingFaceEncoder
from pipeline.bert.pooling import TokenBatch
from pipeline.checkpoints.checkpoint import resolve
from tests.conftest import FAMILIES, TEXTS

TOLERANCE = 1e-5
POOLINGS = ("cls", "mean", "max")


def encoder(folder, depth=3):
    return HuggingFaceEncoder(resolve(folder), depth, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pooling_of_every_layer_is_hugging_faces_one_text_at_a_time(
    family, model_folder, hugging_face
):
    oracle = hugging_face(model_folder(family))
    batch = TokenBatch([np.array(oracle.ids(text)) for text in TEXTS])
    found = encoder(model_folder(family)).pooled(batch, POOLINGS, (3, 0, 1)).numpy()
    expected = [
        [[oracle.sentence_vector(t, k, p) for k in (3, 0, 1)] for p in POOLINGS] for t in TEXTS
    ]
    assert np.abs(found - expected).max() <= TOLERANCE


def test_a_run_of_equal_length_is_one_forward_pass(model_folder, monkeypatch):
    shapes = []
    run = HuggingFaceEncoder.hidden_states
    monkeypatch.setattr(
        HuggingFaceEncoder,
        "hidden_states",
        lambda self, ids, *a: shapes.append(ids.shape) or run(self, ids, *a),
    )
    batch = TokenBatch([np.full(n, 7) for n in (5, 5, 5, 3, 3, 2)])
    encoder(model_folder("electra")).pooled(batch, ("cls",), (3,))
    assert shapes == [(3, 5), (2, 3), (1, 2)]
