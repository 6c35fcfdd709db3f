"""Many logistic regressions on the same rows at once: every part of the rows by every value of C. Used by fold_scores."""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning

_MAX_ITER = 2000


def fit_logistic_path(
    X: np.ndarray, codes: np.ndarray, parts: np.ndarray, Cs: Sequence[float], *, tol: float = 1e-9
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression to each part of the rows with each C; the same minima as scikit-learn's LogisticRegression.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features), float32 or float64
        Features. Not changed.
    codes : ndarray of shape (n_rows,), int
        Class of each row, 0, 1, ...; two classes have one logit, more have one each, as in LogisticRegression.
    parts : ndarray of shape (n_parts, n_rows), bool
        Which rows belong to which part. Each part holds every class, or its coefficients are those of the classes it holds.
    Cs : sequence of float, length n_C
        Inverse strengths of the penalty ``|w|^2 / (2 C)`` beside the sum of the losses; the intercept is not penalised.
    tol : float, default=1e-9
        A regression is done when a step would lower its mean loss by less than about this.

    Returns
    -------
    coefficients : ndarray of shape (n_parts, n_C, n_logits, n_features), float64
    intercepts : ndarray of shape (n_parts, n_C, n_logits), float64

    Notes
    -----
    A study fits thousands of regressions to few sets of rows. One by one, each reads all rows in every step; here they take
    their steps together, so that a step is two matrix products for all of them. The curvature of the loss is nowhere above
    ``A'A / 4``, with A the centred features and a one (``A'A / 2`` for several logits; Böhning and Lindsay 1988 [1]_, Böhning
    1992 [2]_), so steps scaled by that plus the penalty need no search of their length; momentum (Nesterov 1983), set back where
    it points uphill (O'Donoghue and Candès 2015 [3]_), makes them few. The products are computed in the precision of X, the rest
    in float64.

    References
    ----------
    .. [1] Böhning and Lindsay, "Monotonicity of quadratic-approximation algorithms", 1988.
    .. [2] Böhning, "Multinomial logistic regression algorithm", 1992.
    .. [3] O'Donoghue and Candès, "Adaptive restart for accelerated gradient schemes", 2015.

    Examples
    --------
    >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> w, b = fit_logistic_path(X, np.array([0, 0, 1, 1]), np.ones((1, 4), dtype=bool), [0.1, 1.0])
    >>> w.round(2).tolist(), b.shape
    ([[[[0.24]], [[1.01]]]], (1, 2, 1))
    """
    n_rows, n_features = X.shape
    n_classes = int(codes.max()) + 1
    n_logits = 1 if n_classes == 2 else n_classes
    centre = X.mean(axis=0, dtype=np.float64)
    centred, basis = X - centre.astype(X.dtype), None
    if n_features > n_rows:  # the penalty sees lengths only, so the space that the rows span is enough: n_rows coordinates
        basis, coordinates = np.linalg.qr(centred.T)  # (n_features, n_rows), (n_rows, n_rows)
        centred = coordinates.T
    A = np.column_stack([centred, np.ones(n_rows, dtype=X.dtype)])  # (n_rows, n_columns)
    target = (codes[:, None] == (np.array([1]) if n_logits == 1 else np.arange(n_classes))).astype(X.dtype)  # (n_rows, n_logits)
    problems = [(part, c) for part in range(len(parts)) for c in range(len(Cs))]
    found = _descend(A, target, parts, Cs, problems, tol)  # (n_problems, n_columns, n_logits)
    found = found.transpose(0, 2, 1).reshape(len(parts), len(Cs), n_logits, -1)
    weights = found[..., :-1] if basis is None else found[..., :-1] @ basis.T
    return weights, found[..., -1] - weights @ centre


def _descend(
    A: np.ndarray, target: np.ndarray, parts: np.ndarray, Cs: Sequence[float], problems: list[tuple[int, int]], tol: float
) -> np.ndarray:
    n_columns, n_logits = A.shape[1], target.shape[1]
    curvature = (A.T @ A).astype(np.float64) * (0.25 if n_logits == 1 else 0.5)
    penalised = np.append(np.ones(n_columns - 1), 0.0)
    bounds = [cho_factor(curvature + np.diag(penalised / C), lower=True) for C in Cs]
    part_of, c_of = (np.array(of_all) for of_all in zip(*problems, strict=True))
    sizes = parts.sum(axis=1)
    rows = parts.T.astype(A.dtype)  # (n_rows, n_parts)
    found = np.zeros((len(problems), n_columns, n_logits))
    active = np.arange(len(problems))
    here = ahead = found.copy()
    pace = np.ones(len(problems))
    for _ in range(_MAX_ITER):
        part, c = part_of[active], c_of[active]
        gradient = _loss_gradient(A, ahead, target, rows[:, part])
        gradient += ahead * (penalised / np.take(Cs, c)[:, None])[:, :, None]
        step = np.empty_like(gradient)
        for i in np.unique(c):
            of_c = c == i
            flat = gradient[of_c].transpose(1, 0, 2)  # (n_columns, n_of_c, n_logits)
            solved = cho_solve(bounds[i], flat.reshape(n_columns, -1), check_finite=False)
            step[of_c] = solved.reshape(flat.shape).transpose(1, 0, 2)
        there = ahead - step
        done = np.einsum("pil,pil->p", gradient, step) <= 2 * tol * sizes[part]
        found[active[done]] = there[done]
        uphill = np.einsum("pil,pil->p", gradient, there - here) > 0
        pace = np.where(uphill, 1.0, pace)
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead = there + ((pace - 1) / faster)[:, None, None] * (there - here)
        here, pace = there, faster
        active, here, ahead, pace = active[~done], here[~done], ahead[~done], pace[~done]
        if not len(active):
            return found
    found[active] = here
    warnings.warn(
        f"{len(active)} of {len(problems)} logistic regressions were not done after {_MAX_ITER} steps (C of "
        f"{sorted({float(Cs[i]) for i in c_of[active]})}). Leave the largest C out, or scale the features.",
        ConvergenceWarning,
        stacklevel=3,
    )
    return found


def _loss_gradient(A: np.ndarray, weights: np.ndarray, target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the gradient of the summed losses by the weights of shape (n_problems, n_columns, n_logits), in that shape."""
    n_problems, n_columns, n_logits = weights.shape
    flat = weights.transpose(1, 0, 2).reshape(n_columns, -1).astype(A.dtype)
    logits = (A @ flat).reshape(len(A), n_problems, n_logits)
    probability = expit(logits) if n_logits == 1 else softmax(logits, axis=2)
    residual = (probability - target[:, None, :]) * rows[:, :, None]  # (n_rows, n_problems, n_logits)
    by_weight: np.ndarray = A.T @ residual.reshape(len(A), -1)
    by_problem: np.ndarray = by_weight.reshape(n_columns, n_problems, n_logits).transpose(1, 0, 2).astype(np.float64)
    return by_problem
