"""Learn one weight per layer, and a scale, together with a linear head on frozen vectors (a scalar mix). Used by vectorizer."""

from dataclasses import dataclass
from numbers import Number
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.utils.multiclass import type_of_target

# Chosen on 1,500 texts of SST-2 train, scored on its dev split and by folds over both; from 0.3 to 3 the scores are ties.
DEFAULT_C = 1.0
_MAX_ITER = 500
_CHUNK = 512
_TINY = 1e-6


@dataclass(frozen=True, eq=False)
class LayerMix:
    """What was learnt: ``scale * sum_k weights[k] * layer_k`` (Peters et al. 2018, equation 1).

    Attributes
    ----------
    weights : ndarray of shape (n_layers,), float64
        Positive, with sum 1, in the order of the layers.
    scale : float
        Positive.
    """

    weights: np.ndarray
    scale: float


def learn_layer_mix(vectors: np.ndarray, y: Any, *, C: float = DEFAULT_C) -> LayerMix:
    """Learn the layer weights and the scale that suit a linear classifier of the labels.

    Parameters
    ----------
    vectors : ndarray of shape (n_texts, n_poolings, n_layers, hidden_size), float32
        Of the training texts only, as from `pipeline.bert.embedding.embed`. Not changed, and not copied where it is contiguous.
    y : array-like of shape (n_texts,)
        One label per text, of two or more classes: str, int, bool or categories.
    C : float, default=1.0
        How far the labels may move weights and head from equal weights and no head: larger moves further.

    Returns
    -------
    LayerMix
        One mix for all poolings.

    Raises
    ------
    ValueError
        For labels that are missing, continuous, of several outputs, of one class or of another number than the texts, and for
        vectors that are not finite.

    See Also
    --------
    apply_layer_mix : Makes the features.

    Notes
    -----
    Minimised over the layer logits s, the scale g, the head W and its bias b, by L-BFGS with the exact gradient::

        mean_i CE(y_i, W'x_i + b)  +  (|W|^2 + |s|^2) / (2 C n)  +  (log l)^2 / 2

        x_i = g * sum_k softmax(s)_k * (h_ik - m_k) / r        l^2 = mean_i |x_i|^2

    h_ik is layer k of text i, its poolings side by side, and m_k its mean over the n texts; r is the root mean square length of
    all h_ik - m_k, a constant, so that C means the same for every model; l is the length of the features in that unit. CE is
    softmax cross-entropy; two classes have one logit, as in LogisticRegression. Head, bias, means and r are thrown away.

    - The mix is that of Peters et al. 2018 (ELMo, equation 1); the weighted sum of layers as features of a frozen BERT is in
      Devlin et al. 2019, Table 7. Both learn it with the task's own network; here that is a linear head.
    - The last term keeps the features about as long as the layers. Without it the scale would grow without end, and the penalty
      on the head would mean nothing. It is on the length, not on the scale: layers that differ shorten each other when they are
      averaged, so with a penalty on the scale the longest layer would win. It counts per text, so it does not fade with n.
    - Subtracting the means changes no classifier, since the bias takes them up; it makes the best one quicker to find.
    - Nothing is drawn at random: the start is equal weights, scale 1 and no head. So no seed is needed; the same vectors and
      labels give the same mix. The order and the names of the classes do not matter.
    - The objective is not convex; this is the minimum that the start leads to, or the best point after 500 steps.

    References
    ----------
    .. [1] Peters, Neumann, Iyyer, Gardner, Clark, Lee and Zettlemoyer, "Deep Contextualized Word Representations", 2018,
       section 3.2.
    .. [2] Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
       2019, section 5.3 and Table 7.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(200, 1, 3, 5)).astype(np.float32)
    >>> y = np.where(vectors[:, 0, 1, 0] > 0, "positive", "negative")  # layer 1 tells, layers 0 and 2 are noise
    >>> int(learn_layer_mix(vectors, y).weights.argmax())
    1
    """
    if not C > 0:
        raise ValueError(f"C={C!r}; allowed are numbers above 0, and the default is {DEFAULT_C}.")
    objective = MixObjective.of(vectors, class_codes(y, len(vectors)), C)
    found = minimize(
        objective,
        np.zeros(objective.n_parameters),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": _MAX_ITER,
            "maxfun": 2 * _MAX_ITER,
            "gtol": 1e-5,
            "ftol": 1e-10,
            "maxcor": 20,
        },
    )
    n_layers = vectors.shape[2]
    return LayerMix(softmax(found.x[:n_layers]), float(np.exp(found.x[n_layers])))


def apply_layer_mix(vectors: np.ndarray, mix: LayerMix) -> np.ndarray:
    """Make one feature row per text of its poolings and layers.

    Parameters
    ----------
    vectors : ndarray of shape (n_texts, n_poolings, n_layers, hidden_size)
        As for `learn_layer_mix`; zero texts are allowed.
    mix : LayerMix
        What was learnt, with as many weights as there are layers.

    Returns
    -------
    ndarray of shape (n_texts, n_poolings * hidden_size), float32
        Poolings side by side, as from `pipeline.bert.pooling.combine_layers`. A text's row does not depend on the other texts.
    """
    n_texts, n_poolings, _, hidden_size = vectors.shape
    factors = (mix.scale * mix.weights).astype(np.float32)  # (n_layers,)
    mixed = np.matmul(factors, vectors)  # (n_texts, n_poolings, hidden_size)
    return np.asarray(mixed.reshape(n_texts, n_poolings * hidden_size), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class MixObjective:
    """What `learn_layer_mix` minimises, and its gradient.

    Mix and head together are a linear classifier on all layers side by side, whose coefficients are layer weight times head; so
    the value takes one matrix product with the vectors, and the gradient one more. These are computed in the vectors' own
    precision, everything that is small in float64.

    Attributes
    ----------
    rows : ndarray of shape (n_texts, n_poolings * n_layers * hidden_size)
        The vectors, not copied.
    means : ndarray of shape (n_poolings * n_layers * hidden_size,), float64
        Their means over the texts.
    unit : float
        Root mean square length of a layer's vector (poolings side by side) around its mean.
    products : ndarray of shape (n_layers, n_layers)
        Mean inner products of the layers around their means, in squared units: they give the length of any mix.
    shape : tuple of int
        ``(n_poolings, n_layers, hidden_size)``.
    codes : ndarray of shape (n_texts,), int
        Class of each text.
    contrast : ndarray of shape (n_logits, n_classes)
        What a logit adds to each class: the identity, or minus and plus a half for the one logit of two classes.
    C : float
        Inverse strength of the penalty on head and layer logits.
    """

    rows: np.ndarray
    means: np.ndarray
    unit: float
    products: np.ndarray
    shape: tuple[int, int, int]
    codes: np.ndarray
    contrast: np.ndarray
    C: float

    @classmethod
    def of(cls, vectors: np.ndarray, codes: np.ndarray, C: float) -> Self:
        """Make the objective of vectors as for `learn_layer_mix` and of class codes 0, 1, ... of shape (n_texts,)."""
        n_texts, n_poolings, n_layers, hidden_size = vectors.shape
        rows = vectors.reshape(n_texts, n_poolings * n_layers * hidden_size)
        means = rows.mean(axis=0, dtype=np.float64)
        if not np.isfinite(means).all():
            row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise ValueError(
                f"The vectors of text {row} are not finite, so no layer weights can be learnt from them. Half precision "
                "overflows on some models: use dtype='float32'; if it is, the weights are damaged."
            )
        products = np.zeros((n_layers, n_layers))
        for start in range(0, n_texts, _CHUNK):  # in float64, but never all at once
            centred = (rows[start : start + _CHUNK] - means).reshape(
                -1, n_poolings, n_layers, hidden_size
            )
            by_layer = centred.transpose(2, 0, 1, 3).reshape(n_layers, -1)
            products += by_layer @ by_layer.T / n_texts
        unit = float(np.sqrt(products.trace() / n_layers))
        if unit <= _TINY * np.sqrt(
            means @ means / n_layers
        ):  # the texts do not differ: features of zero, nothing to learn
            unit, products = np.inf, np.ones((n_layers, n_layers))
        else:  # a little on the diagonal, for layers that cancel each other
            products = products / unit**2 + _TINY * np.eye(n_layers)
        n_classes = int(codes.max()) + 1
        contrast = np.array([[-0.5, 0.5]]) if n_classes == 2 else np.eye(n_classes)
        return cls(
            rows, means, unit, products, (n_poolings, n_layers, hidden_size), codes, contrast, C
        )

    @property
    def n_parameters(self) -> int:
        """Layer logits, log scale, and for each logit a bias and a head."""
        n_poolings, n_layers, hidden_size = self.shape
        return n_layers + 1 + len(self.contrast) * (1 + n_poolings * hidden_size)

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return value and gradient.

        Parameters
        ----------
        parameters : ndarray of shape (n_parameters,), float64
            Layer logits, log scale, biases, and the head of shape (n_poolings, hidden_size, n_logits).

        Returns
        -------
        tuple of float and ndarray of shape (n_parameters,)
        """
        (n_poolings, n_layers, hidden_size), n_logits, n_texts = (
            self.shape,
            len(self.contrast),
            len(self.rows),
        )
        layer_logits, log_scale, bias, head = np.split(
            parameters, np.cumsum([n_layers, 1, n_logits])
        )
        head = head.reshape(n_poolings, hidden_size, n_logits)
        weights = softmax(layer_logits)
        factors = weights * np.exp(log_scale) / self.unit  # (n_layers,)
        penalty = 1 / (self.C * n_texts)
        shares = weights * (
            self.products @ weights
        )  # of the layers in the squared length, before the scale
        log_length = log_scale[0] + np.log(shares.sum()) / 2

        coefficients = np.einsum("l,phc->plhc", factors, head).reshape(-1, n_logits)
        logits = self.rows @ coefficients.astype(self.rows.dtype) + (
            bias - self.means @ coefficients
        )  # (n_texts, n_logits)
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
    """Turn labels into class codes 0, 1, ... of shape (n_texts,), or say why no layer weights can be learnt from them."""
    if y is None:
        raise ValueError(
            "combine='learned' needs labels y to learn the layer weights from, and got none. Pass them, as in fit(X, y), or use "
            "combine='mean' or 'concat', which need none."
        )
    labels = _plain_labels(np.asarray(y, dtype=object), n_texts)
    kind = type_of_target(labels)
    if kind not in ("binary", "multiclass"):
        raise ValueError(
            f"combine='learned' needs class labels, and y is {kind} (y[0] is {labels.tolist()[0]!r}). Allowed are text, integers "
            "and booleans, two classes or more; regression is not supported. For other targets use combine='mean' or 'concat'."
        )
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"combine='learned' needs labels of at least two classes, and y holds {classes.tolist()} only. Check the label "
            "column, or use combine='mean' or 'concat', which need no labels."
        )
    return codes


def _plain_labels(cells: np.ndarray, n_texts: int) -> np.ndarray:
    """Turn an object array into one of plain str, int, bool or float; check shape, and that none is missing."""
    one_each = cells.ndim == 1 and not any(
        isinstance(cell, list | tuple | set | np.ndarray) for cell in cells
    )
    if not one_each:
        raise ValueError(
            f"combine='learned' needs one label per text, and y is of shape {cells.shape} or has several labels in a cell. "
            "Of a single column take y.ravel(); for several outputs use combine='mean' or 'concat'."
        )
    if len(cells) != n_texts:
        raise ValueError(
            f"There are {n_texts} texts and {len(cells)} labels. Each text needs exactly one label."
        )
    kinds = [
        "text" if isinstance(cell, str) else "number" if isinstance(cell, Number) else "other"
        for cell in cells
    ]
    labels = np.asarray(cells.tolist())
    odd = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), None)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        odd = int(np.flatnonzero(~np.isfinite(labels))[0])
    if odd is not None:
        raise ValueError(
            f"Label {odd} of y is {cells[odd]!r}, and label 0 is {cells[0]!r}. Labels are of one type, and none is missing: drop "
            "the rows without a label, or use y.astype(str)."
        )
    return labels
