"""The learnt mix of layers, against loops, finite differences and torch's autograd."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from pipeline.bert.pooling import combine_layers
from pipeline.layer_mix import LayerMix, MixObjective, apply_layer_mix, learn_layer_mix

N_LAYERS = 4


def noise_but_for(
    layer, *, seed=0, n_texts=400, n_poolings=1, n_classes=2, hidden_size=8, strength=1.0
):
    """Make vectors of noise, in which one layer alone has another mean for every class."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_texts, n_poolings, N_LAYERS, hidden_size))
    codes = np.arange(n_texts) % n_classes
    directions = rng.normal(size=(n_classes, n_poolings, hidden_size))
    directions *= strength / np.sqrt((directions**2).mean(axis=(1, 2), keepdims=True))
    vectors[:, :, layer] += directions[codes]
    return vectors.astype(np.float32), codes


def two_halves(seed, n_texts=600):
    """Make vectors whose layers 1 and 3 carry one half of the label each, and the class codes."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_texts, 1, N_LAYERS, 8))
    halves = rng.normal(size=(2, n_texts))
    vectors[:, 0, 1, 0], vectors[:, 0, 3, 1] = 2 * halves
    return vectors.astype(np.float32), (halves.sum(axis=0) > 0).astype(int)


def torch_objective(parameters, vectors, codes, C):
    """Compute the formula in torch, whose autograd knows nothing of our gradient."""
    n_texts, n_poolings, n_layers, hidden_size = vectors.shape
    n_logits = 1 if codes.max() == 1 else int(codes.max()) + 1
    s, log_scale, bias, head = parameters.split(
        [n_layers, 1, n_logits, n_poolings * hidden_size * n_logits]
    )
    layers = torch.from_numpy(vectors.astype(np.float64))
    layers = layers - layers.mean(dim=0)
    r = (layers**2).sum(dim=(1, 3)).mean().sqrt()
    x = (
        log_scale.exp()
        * torch.einsum("l,nplh->nph", s.softmax(dim=0), layers).reshape(n_texts, -1)
        / r
    )
    logits = x @ head.reshape(-1, n_logits) + bias
    targets = torch.from_numpy(codes)
    if n_logits == 1:
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], targets.double())
    else:
        loss = torch.nn.functional.cross_entropy(logits, targets)
    length = (x**2).sum(dim=1).mean().sqrt()
    return loss + ((head**2).sum() + (s**2).sum()) / (2 * C * n_texts) + length.log() ** 2 / 2


def small_problem(n_classes, n_poolings):
    rng = np.random.default_rng(n_classes)
    vectors = (
        rng.normal(size=(12, n_poolings, 3, 4)) + rng.normal(size=(3, 1)) * 5
    )  # layers with means of their own
    codes = np.arange(12) % n_classes
    objective = MixObjective(vectors, codes, 0.7)
    return vectors, codes, objective, rng.normal(size=objective.n_parameters)


@pytest.mark.parametrize("n_poolings", [1, 2])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_value_and_gradient_are_those_of_autograd(n_classes, n_poolings):
    vectors, codes, objective, parameters = small_problem(n_classes, n_poolings)
    leaf = torch.tensor(parameters, requires_grad=True)
    value = torch_objective(leaf, vectors, codes, 0.7)
    value.backward()
    found, gradient = objective(parameters)
    assert found == pytest.approx(value.item(), rel=1e-5)
    assert np.allclose(gradient, leaf.grad.numpy(), atol=1e-5)
    in_float32 = MixObjective(vectors.astype(np.float32), codes, 0.7)
    assert in_float32(parameters)[0] == pytest.approx(found, rel=1e-5)


def test_all_texts_count_for_the_lengths_of_the_layers():
    vectors = (
        np.random.default_rng(0).normal(size=(1100, 2, 3, 4))
        * np.linspace(1, 3, 1100)[:, None, None, None]
    )
    objective = MixObjective(vectors, np.arange(1100) % 2, 1.0)
    layers = (vectors - vectors.mean(axis=0)).transpose(2, 0, 1, 3).reshape(3, -1)
    assert objective.unit == pytest.approx(np.sqrt(np.trace(layers @ layers.T) / 1100 / 3))
    assert np.allclose(objective.products, layers @ layers.T / 1100 / objective.unit**2, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_mix_is_the_optimum_that_torch_finds(n_classes):
    vectors, codes = noise_but_for(1, n_texts=90, n_classes=n_classes)

    def value_and_gradient(parameters):
        leaf = torch.tensor(parameters, requires_grad=True)
        value = torch_objective(leaf, vectors, codes, 1.0)
        value.backward()
        return value.item(), leaf.grad.numpy()

    start = np.zeros(MixObjective(vectors, codes, 1.0).n_parameters)
    theirs = minimize(value_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-6}).x
    mix = learn_layer_mix(vectors, codes)
    assert np.allclose(
        mix.weights, np.exp(theirs[:N_LAYERS]) / np.exp(theirs[:N_LAYERS]).sum(), atol=2e-3
    )
    assert mix.scale == pytest.approx(np.exp(theirs[N_LAYERS]), rel=5e-3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("n_classes", "n_poolings", "n_texts"), [(2, 1, 400), (3, 1, 400), (2, 2, 400), (2, 1, 200)]
)
def test_the_layer_that_carries_the_label_gets_the_weight(n_classes, n_poolings, n_texts, seed):
    layer = seed % N_LAYERS
    vectors, codes = noise_but_for(
        layer, seed=seed, n_classes=n_classes, n_poolings=n_poolings, n_texts=n_texts
    )
    weights = learn_layer_mix(vectors, codes).weights
    assert weights[layer] > 0.6  # the least of 20 seeds was 0.69
    assert np.delete(weights, layer).max() < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_two_layers_with_half_of_the_label_each_share_the_weight(seed):
    weights = learn_layer_mix(*two_halves(seed)).weights
    assert weights[[1, 3]].min() > 0.35
    assert weights[[0, 2]].max() < 0.1
    assert abs(weights[1] - weights[3]) < 0.1


def test_labels_that_no_layer_knows_leave_the_layers_about_equal():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 1, N_LAYERS, 8)).astype(np.float32)
    weights = learn_layer_mix(vectors, rng.integers(0, 2, size=400), C=0.1).weights
    assert np.abs(weights - 1 / N_LAYERS).max() < 0.1


def test_a_longer_layer_gets_no_weight_for_its_length():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(500, 1, 1, 8))
    vectors = (signal + rng.normal(size=(500, 1, N_LAYERS, 8))).astype(
        np.float32
    )  # each layer knows the same, with other noise
    vectors[:, :, 2] *= 1.5
    weights = learn_layer_mix(vectors, (signal[:, 0, 0, 0] > 0).astype(int)).weights
    assert weights.max() < 0.4


@pytest.mark.parametrize("seed", range(3))
def test_the_mix_beats_the_mean_of_the_layers_on_held_out_texts(seed):
    vectors, codes = noise_but_for(2, seed=seed, n_texts=800, hidden_size=16, strength=0.5)
    mix = learn_layer_mix(vectors[:400], codes[:400])
    scores = []
    for features in (apply_layer_mix(vectors, mix), combine_layers(vectors, "mean")):
        model = LogisticRegression(max_iter=2000).fit(features[:400], codes[:400])
        scores.append(model.score(features[400:], codes[400:]))
    assert scores[0] > scores[1] + 0.08  # the least of 20 seeds was 0.11


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_same_vectors_and_labels_give_the_same_mix_to_the_bit(n_classes):
    vectors, codes = noise_but_for(1, n_classes=n_classes)
    before = vectors.copy()
    first, second = learn_layer_mix(vectors, codes), learn_layer_mix(vectors, codes)
    assert first.weights.tobytes() == second.weights.tobytes()
    assert first.scale == second.scale
    assert vectors.tobytes() == before.tobytes()


def test_permuted_layers_have_permuted_weights():
    vectors, codes = two_halves(0)
    mix = learn_layer_mix(vectors, codes)
    order = [2, 0, 3, 1]
    permuted = learn_layer_mix(np.ascontiguousarray(vectors[:, :, order]), codes)
    assert np.allclose(permuted.weights, mix.weights[order], atol=2e-3)
    assert permuted.scale == pytest.approx(mix.scale, rel=5e-3)


@pytest.mark.parametrize("factor", [1e-3, 40.0])
def test_the_unit_of_the_vectors_does_not_matter(factor):
    vectors, codes = two_halves(1)
    mix, other = (
        learn_layer_mix(vectors, codes),
        learn_layer_mix(vectors * np.float32(factor), codes),
    )
    assert np.allclose(other.weights, mix.weights, atol=2e-3)
    assert other.scale == pytest.approx(mix.scale, rel=5e-3)


def test_a_large_common_vector_and_one_outlying_dimension_change_nothing():
    vectors, codes = two_halves(2)
    mix = learn_layer_mix(vectors, codes)
    shifted = vectors + np.float32(3.0)
    shifted[..., 7] += np.float32(60.0)
    assert np.allclose(learn_layer_mix(shifted, codes).weights, mix.weights, atol=2e-3)


def test_float32_and_float64_find_the_same_mix():
    vectors, codes = two_halves(3)
    single, double = (
        learn_layer_mix(vectors, codes),
        learn_layer_mix(vectors.astype(np.float64), codes),
    )
    assert np.allclose(single.weights, double.weights, atol=2e-3)
    assert single.weights.dtype == double.weights.dtype == np.float64


def test_the_features_are_about_as_long_as_the_layers():
    vectors, codes = noise_but_for(0)
    features = apply_layer_mix(vectors, learn_layer_mix(vectors, codes))
    of_layers = np.sqrt(vectors.var(axis=0).sum(axis=(0, 2)).mean())
    assert 0.8 < np.sqrt(features.var(axis=0).sum()) / of_layers < 1.5


def test_the_scale_stays_bounded_however_weak_the_penalty_on_the_head():
    vectors, codes = noise_but_for(0, n_texts=60)
    for C in (1e-3, 1.0, 1e3):
        mix = learn_layer_mix(vectors, codes, C=C)
        assert 0.3 < mix.scale < 10
        assert mix.weights.sum() == pytest.approx(1)
        assert (mix.weights > 0).all()


def test_a_smaller_C_keeps_the_weights_closer_together():
    vectors, codes = noise_but_for(0)
    ranges = [np.ptp(learn_layer_mix(vectors, codes, C=C).weights) for C in (0.001, 0.1, 10.0)]
    assert ranges == sorted(ranges)
    assert ranges[0] < 0.1


def labels_of(codes):
    names = np.array(["mad", "bad"])[codes]
    return {
        "int": codes,
        "swapped": 1 - codes,
        "far": codes * 7 - 3,
        "bool": codes.astype(bool),
        "float": codes.astype(float),
        "str": names,
        "list": names.tolist(),
        "object": names.astype(object),
        "object-int": codes.astype(object),
        "numpy-string": names.astype(np.dtypes.StringDType()),
        "series": pd.Series(names, index=range(5, 5 + len(names))),
        "categorical": pd.Categorical(names, categories=["mad", "bad", "never"]),
        "nullable": pd.Series(codes, dtype="Int64"),
        "nullable-bool": pd.Series(codes == 1, dtype="boolean"),
        "polars": pl.Series(names),
    }


@pytest.mark.parametrize("name", labels_of(np.array([0, 1])))
def test_what_two_classes_are_called_changes_no_bit(name):
    vectors, codes = noise_but_for(3, n_texts=60)
    expected, found = (
        learn_layer_mix(vectors, codes),
        learn_layer_mix(vectors, labels_of(codes)[name]),
    )
    assert found.weights.tobytes() == expected.weights.tobytes()
    assert found.scale == expected.scale


def test_the_order_of_three_classes_does_not_matter():
    vectors, codes = noise_but_for(3, n_classes=3)
    mix = learn_layer_mix(vectors, codes)
    assert np.allclose(
        learn_layer_mix(vectors, np.array(["z", "a", "k"])[codes]).weights, mix.weights, atol=2e-3
    )


def test_one_layer_has_weight_one():
    vectors, codes = noise_but_for(0)
    mix = learn_layer_mix(vectors[:, :, :1], codes)
    assert mix.weights.tolist() == [1.0]
    assert mix.scale > 0


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_texts_that_do_not_differ_leave_the_start_as_it_is(value):
    vectors = np.full((6, 1, N_LAYERS, 3), value, dtype=np.float32)
    mix = learn_layer_mix(vectors, ["a", "b"] * 3)
    assert np.allclose(mix.weights, 1 / N_LAYERS)
    assert mix.scale == pytest.approx(1)


def test_layers_that_cancel_each_other_break_nothing():
    vectors, codes = noise_but_for(0)
    opposites = np.concatenate([vectors[:, :, :1], -vectors[:, :, :1]], axis=2)
    mix = learn_layer_mix(opposites, codes)
    assert np.isfinite(mix.weights).all()
    assert np.isfinite(mix.scale)


def test_two_texts_and_a_class_for_each_text_are_enough():
    vectors, _ = noise_but_for(0, n_texts=4)
    for y in (["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]):
        assert learn_layer_mix(vectors[: len(y)], y).weights.shape == (N_LAYERS,)


@pytest.mark.parametrize("n_poolings", [1, 2])
def test_applying_is_the_explicit_sum(n_poolings):
    vectors, _ = noise_but_for(0, n_poolings=n_poolings, n_texts=9)
    mix = LayerMix(np.array([0.1, 0.2, 0.3, 0.4]), 2.5)
    expected = [
        np.concatenate(
            [
                2.5 * sum(mix.weights[k] * vectors[i, p, k] for k in range(N_LAYERS))
                for p in range(n_poolings)
            ]
        )
        for i in range(9)
    ]
    found = apply_layer_mix(vectors, mix)
    assert found.dtype == np.float32
    assert found.shape == (9, n_poolings * 8)
    assert np.allclose(found, expected, atol=1e-6)


def test_a_text_has_the_same_features_alone_as_among_others():
    vectors, _ = noise_but_for(0, n_poolings=2)
    mix = LayerMix(np.array([0.1, 0.2, 0.3, 0.4]), 2.5)
    together = apply_layer_mix(vectors, mix)
    alone = np.concatenate([apply_layer_mix(vectors[i : i + 1], mix) for i in range(len(vectors))])
    assert together.tobytes() == alone.tobytes()


def test_no_texts_have_no_rows_but_all_columns():
    found = apply_layer_mix(
        np.empty((0, 2, N_LAYERS, 8), dtype=np.float32), LayerMix(np.full(N_LAYERS, 0.25), 1.0)
    )
    assert found.shape == (0, 16)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, r"combine='learned' needs labels y .*fit\(X, y\).*combine='mean' or 'concat'"),
        (["a"] * 6, r"only one class, 'a'.*combine='mean' or 'concat'"),
        ([1.0] * 6, "only one class, 1.0"),
        ([0.5, 1.5, 2.5, 3.5, 4.5, 5.5], r"continuous.*regression.*needs class labels.*'mean'"),
        (["a", "b"], r"6 texts and 2 labels\. Each text needs exactly one"),
        ([], r"6 texts and 0 labels"),
        (np.eye(6, dtype=int), r"several labels per text.*needs class labels"),
        ([["a"], ["a", "b"]] * 3, r"needs class labels"),
        (["a", None] * 3, r"label 1 is None"),
        (["a", float("nan")] * 3, r"label 1 is nan"),
        (["a", 1] * 3, r"label 0 is 'a' \(str\), label 1 is 1 .*y\.astype\(str\)"),
        ([0.0, 1.0, float("nan")] * 2, r"label 2 is nan"),
        (pd.Series([True, False, None] * 2, dtype="boolean"), r"label 2 is <NA>"),
        ([None] * 6, r"label 0 is None"),
    ],
)
def test_labels_of_no_use_are_refused_with_the_cure(y, message):
    vectors, _ = noise_but_for(0, n_texts=6)
    with pytest.raises(ValueError, match=message):
        learn_layer_mix(vectors, y)


def test_no_texts_are_refused():
    with pytest.raises(ValueError, match="only one class"):
        learn_layer_mix(np.empty((0, 1, N_LAYERS, 8), dtype=np.float32), [])
