"""Learned layer weights, fitted with a linear head."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from pipeline.texts import class_numbers, labels_of_texts

# Chosen on 1,500 texts of SST-2; scores from 0.3 to 3 are ties.
DEFAULT_C = 1.0
_OPTIONS = {"maxiter": 500, "maxfun": 1000, "gtol": 1e-5, "ftol": 1e-10, "maxcor": 20}
_CHUNK = 512
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class LayerMix:
    """Learned mix, ``scale * sum_k weights[k] * layer_k`` (Peters et al. 2018)."""

    weights: np.ndarray
    scale: float


def learn_layer_mix(vectors: np.ndarray, y: Any, *, C: float = DEFAULT_C) -> LayerMix:
    """Learn from (n_texts, n_poolings, n_layers, hidden_size)."""
    objective = MixObjective(vectors, class_codes(y, len(vectors)), C)
    found = minimize(
        objective,
        np.zeros(objective.n_parameters),
        jac=True,
        method="L-BFGS-B",
        options=_OPTIONS,
    )
    n_layers = vectors.shape[2]
    return LayerMix(softmax(found.x[:n_layers]), float(np.exp(found.x[n_layers])))


def apply_layer_mix(vectors: np.ndarray, mix: LayerMix) -> np.ndarray:
    """Mix layers into features, (n_texts, n_poolings * hidden_size), float32."""
    n_texts, n_poolings, _, hidden_size = vectors.shape
    factors = (mix.scale * mix.weights).astype(np.float32)  # (n_layers,)
    mixed = np.matmul(factors, vectors)  # (n_texts, n_poolings, hidden_size)
    return np.asarray(mixed.reshape(n_texts, n_poolings * hidden_size), dtype=np.float32)


class MixObjective:
    """The function that `learn_layer_mix` minimises, with its gradient."""

    def __init__(self, vectors: np.ndarray, codes: np.ndarray, C: float) -> None:
        self.n_texts = len(vectors)
        self.shape: tuple[int, int, int] = vectors.shape[1:]
        n_poolings, n_layers, hidden_size = self.shape
        self.codes, self.C = codes, C
        self.rows = vectors.reshape(self.n_texts, n_poolings * n_layers * hidden_size)
        self.means = self.rows.mean(axis=0, dtype=np.float64)
        products = np.zeros((n_layers, n_layers))
        for start in range(0, self.n_texts, _CHUNK):  # float64, but never all at once
            centred = (self.rows[start : start + _CHUNK] - self.means).reshape(
                -1, n_poolings, n_layers, hidden_size
            )
            by_layer = centred.transpose(2, 0, 1, 3).reshape(n_layers, -1)
            products += by_layer @ by_layer.T / self.n_texts
        self.unit = float(np.sqrt(products.trace() / n_layers))
        # all texts are equal: features of zero, nothing to learn
        if self.unit <= _TINY * np.sqrt(self.means @ self.means / n_layers):
            self.unit, self.products = np.inf, np.ones((n_layers, n_layers))
        else:  # a small diagonal, for layers that cancel each other
            self.products = products / self.unit**2 + _TINY * np.eye(n_layers)
        n_classes = int(codes.max()) + 1
        self.contrast = np.array([[-0.5, 0.5]]) if n_classes == 2 else np.eye(n_classes)

    @property
    def n_parameters(self) -> int:
        """Layer logits, log scale, biases and head weights."""
        n_poolings, n_layers, hidden_size = self.shape
        return n_layers + 1 + len(self.contrast) * (1 + n_poolings * hidden_size)

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return value and gradient, (n_parameters,), float64."""
        n_poolings, n_layers, hidden_size = self.shape
        n_texts, n_logits = self.n_texts, len(self.contrast)
        layer_logits, log_scale, bias, head = np.split(
            parameters, np.cumsum([n_layers, 1, n_logits])
        )
        head = head.reshape(n_poolings, hidden_size, n_logits)
        weights = softmax(layer_logits)
        factors = weights * np.exp(log_scale) / self.unit  # (n_layers,)
        penalty = 1 / (self.C * n_texts)
        shares = weights * (self.products @ weights)
        log_length = log_scale[0] + np.log(shares.sum()) / 2

        coefficients = np.einsum("l,phc->plhc", factors, head).reshape(-1, n_logits)
        logits = self.rows @ coefficients.astype(self.rows.dtype) + (
            bias - self.means @ coefficients
        )
        log_likelihood = log_softmax(logits @ self.contrast, axis=1)  # (n_texts, n_classes)
        value = (
            -log_likelihood[np.arange(n_texts), self.codes].mean()
            + penalty * (np.vdot(head, head) + np.vdot(layer_logits, layer_logits)) / 2
            + log_length**2 / 2
        )

        residual = np.exp(log_likelihood)
        residual[np.arange(n_texts), self.codes] -= 1
        residual = residual @ self.contrast.T / n_texts  # (n_texts, n_logits)
        by_coefficient = self.rows.T @ residual.astype(self.rows.dtype) - np.outer(
            self.means, residual.sum(axis=0)
        )
        by_coefficient = by_coefficient.reshape(n_poolings, n_layers, hidden_size, n_logits)
        by_log_factor = (
            factors * np.einsum("plhc,phc->l", by_coefficient, head)
            + log_length * shares / shares.sum()
        )
        gradient = [
            by_log_factor - weights * by_log_factor.sum() + penalty * layer_logits,
            [by_log_factor.sum()],
            residual.sum(axis=0),
            (np.einsum("l,plhc->phc", factors, by_coefficient) + penalty * head).ravel(),
        ]
        return float(value), np.concatenate(gradient)


def class_codes(y: Any, n_texts: int) -> np.ndarray:
    """Return class codes 0, 1, ..., (n_texts,)."""
    if y is None:
        raise ValueError(
            "combine='learned' needs labels y to learn the layer weights from. Pass them, as in "
            "fit(X, y), or use combine='mean' or 'concat'."
        )
    try:
        return class_numbers(labels_of_texts(y, n_texts), n_texts, warn=False)[1]
    except ValueError as error:
        raise ValueError(
            f"{error} combine='learned' needs class labels; for other targets use combine='mean' "
            "or 'concat'."
        ) from None
