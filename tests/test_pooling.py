"""Pooling and layers, against loops in numpy."""

import numpy as np
import pytest
import torch

from pipeline.bert.batching import TokenBatch
from pipeline.bert.pooling import combine_layers, pool, pool_packed, resolve_layers

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


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pooling_of_real_tokens_is_the_slow_one(shape, pooling):
    state = states(shape)
    found = pool(torch.from_numpy(state), pooling).numpy()
    assert found.shape == (shape[0], shape[2])
    assert np.allclose(found, slow_pool(state, pooling), atol=1e-6)


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
def test_a_mask_of_ones_changes_nothing(pooling):
    state = torch.from_numpy(states((3, 5, 4)))
    assert torch.allclose(pool(state, pooling, torch.ones(3, 5)), pool(state, pooling), atol=1e-6)


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


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_the_maximum_of_negative_numbers_and_their_mean_are_negative(pooling):
    state = -1 - torch.rand(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    assert (pool(state, pooling, mask) <= -1).all()


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
            match=rf"asks for layer {wrong}; this model has {n_layers} layers.* "
            rf"to {n_layers}, or -{n_layers + 1}",
        ):
            resolve_layers((0, wrong), n_layers)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("last", r"layers='last'; allowed are an int, a tuple of ints, or 'all'"),
        ((), r"layers is empty; name at least one layer, such as layers=-1"),
        ((1, 1), r"layers=\(1, 1\) names a layer twice: they stand for \(1, 1\) of 4"),
        ((4, 0, -1), r"names a layer twice: they stand for \(4, 0, 4\) of 4"),
    ],
)
def test_layers_that_make_no_sense_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        resolve_layers(layers, 4)


@pytest.mark.parametrize("combine", ["concat", "mean", "sum"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (4, 3, 2, 5), (2, 1, 6, 3), (0, 2, 3, 4)])
def test_combined_layers_are_those_of_the_slow_loops(shape, combine):
    vectors = states(shape, seed=1)
    found = combine_layers(vectors, combine)
    n_texts, n_poolings, n_layers, width = shape
    expected = np.zeros((n_texts, n_poolings * width * (n_layers if combine == "concat" else 1)))
    for text in range(n_texts):
        row = []
        for pooling in range(n_poolings):
            layers = [vectors[text, pooling, layer].tolist() for layer in range(n_layers)]
            if combine == "concat":
                row += [number for layer in layers for number in layer]
            else:
                sums = [sum(numbers) for numbers in zip(*layers, strict=True)]
                row += [number / n_layers for number in sums] if combine == "mean" else sums
        expected[text] = row
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.allclose(found, expected, atol=1e-5)
