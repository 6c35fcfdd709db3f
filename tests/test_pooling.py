"""Pooling and layers, against loops in numpy."""

import numpy as np
import pytest
import torch

from pipeline.bert.pooling import TokenBatch, pool, pool_packed, resolve_layers

SHAPES = [(1, 1, 1), (3, 5, 4), (2, 9, 7)]


def states(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slow_pool(state, pooling, mask=None):
    rows = []
    for i in range(len(state)):
        real = [token for j, token in enumerate(state[i]) if mask is None or mask[i, j]]
        rows.append(
            {
                "cls": lambda r: r[0],
                "mean": lambda r: np.mean(r, axis=0),
                "max": lambda r: np.max(r, axis=0),
            }[pooling](real)
        )
    return np.array(rows)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("shape", SHAPES)
def test_padding_counts_for_nothing(shape, pooling, dtype):
    state = states(shape)
    mask = np.ones(shape[:2], dtype=np.int64)
    for i in range(shape[0]):
        mask[i, 1 + i :] = 0
    expected = slow_pool(state, pooling, mask)
    for filler in (1e30, -1e30, np.nan, np.inf):
        padded = np.where(mask[..., None] == 1, state, np.float32(filler))
        found = pool(torch.from_numpy(padded), pooling, torch.from_numpy(mask).to(dtype)).numpy()
        assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [7, 4, 4, 1], [1, 9, 1]])
def test_packed_texts_are_pooled_one_by_one_by_either_way(lengths, pooling):
    state = states((1, sum(lengths), 6))[0]
    batch = TokenBatch([np.zeros(n, dtype=np.int64) for n in lengths])
    expected = [
        slow_pool(part[None], pooling)[0] for part in np.split(state, np.cumsum(lengths)[:-1])
    ]
    for starts in (
        None,
        torch.from_numpy(batch.starts).int(),
    ):  # the CPU's way and the accelerators'
        found = pool_packed(torch.from_numpy(state), batch, pooling, starts)
        assert found.dtype == torch.float32
        assert np.allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("n_layers", [1, 2, 6, 12])
def test_layers_index_as_a_list_of_hidden_states_does(n_layers):
    hidden_states = list(range(n_layers + 1))
    assert resolve_layers("all", n_layers) == tuple(hidden_states)
    for layer in range(-n_layers - 1, n_layers + 1):
        assert resolve_layers(layer, n_layers) == (hidden_states[layer],)
        assert resolve_layers(np.int64(layer), n_layers) == (hidden_states[layer],)
        assert type(resolve_layers(np.int64(layer), n_layers)[0]) is int
    assert resolve_layers([n_layers, 0], n_layers) == (n_layers, 0)
    assert resolve_layers(np.array([0, -1]), n_layers) == (0, n_layers)
    for wrong in (n_layers + 1, -n_layers - 2):
        with pytest.raises(
            ValueError,
            match=rf"asks for layer {wrong}, and this model has {n_layers} layers.* "
            rf"to {n_layers}, or -{n_layers + 1}",
        ):
            resolve_layers((0, wrong), n_layers)
