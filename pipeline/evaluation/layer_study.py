"""Score every layer and combination of layers by a LogisticRegression."""

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import check_scoring
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.preprocessing import normalize
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits

from pipeline.bert.pooling import combine_layers
from pipeline.layer_mix import apply_layer_mix, learn_layer_mix
from pipeline.texts import check_labels, check_texts, take_columns
from pipeline.vectorizer import BertVectorizer

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
    if (
        n_features > n_rows
    ):  # the penalty sees lengths only, so the space that the rows span is enough: n_rows coordinates
        basis, coordinates = np.linalg.qr(centred.T)  # (n_features, n_rows), (n_rows, n_rows)
        centred = coordinates.T
    A = np.column_stack([centred, np.ones(n_rows, dtype=X.dtype)])  # (n_rows, n_columns)
    target = (codes[:, None] == (np.array([1]) if n_logits == 1 else np.arange(n_classes))).astype(
        X.dtype
    )  # (n_rows, n_logits)
    problems = [(part, c) for part in range(len(parts)) for c in range(len(Cs))]
    found = _descend(A, target, parts, Cs, problems, tol)  # (n_problems, n_columns, n_logits)
    found = found.transpose(0, 2, 1).reshape(len(parts), len(Cs), n_logits, -1)
    weights = found[..., :-1] if basis is None else found[..., :-1] @ basis.T
    return weights, found[..., -1] - weights @ centre


def _descend(
    A: np.ndarray,
    target: np.ndarray,
    parts: np.ndarray,
    Cs: Sequence[float],
    problems: list[tuple[int, int]],
    tol: float,
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


def _loss_gradient(
    A: np.ndarray, weights: np.ndarray, target: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the gradient of the summed losses by the weights of shape (n_problems, n_columns, n_logits), in that shape."""
    n_problems, n_columns, n_logits = weights.shape
    flat = weights.transpose(1, 0, 2).reshape(n_columns, -1).astype(A.dtype)
    logits = (A @ flat).reshape(len(A), n_problems, n_logits)
    probability = expit(logits) if n_logits == 1 else softmax(logits, axis=2)
    residual = (probability - target[:, None, :]) * rows[
        :, :, None
    ]  # (n_rows, n_problems, n_logits)
    by_weight: np.ndarray = A.T @ residual.reshape(len(A), -1)
    by_problem: np.ndarray = (
        by_weight.reshape(n_columns, n_problems, n_logits).transpose(1, 0, 2).astype(np.float64)
    )
    return by_problem


INNER_FOLDS = 3


class FoldResult(NamedTuple):
    """What one fold says of one row: mean inner score of every C, position of the chosen C, score on the fold's test texts."""

    inner: np.ndarray
    chosen: int
    score: float


def score_fold(
    vectors: np.ndarray,
    combine: str,
    unit_length: bool,
    codes: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    Cs: list[float],
    scorer: Callable[..., float],
    random_state: int,
) -> FoldResult:
    """Choose C within the training rows, fit to all of them, and score on the test rows.

    Parameters
    ----------
    vectors : ndarray of shape (n_texts, 1, n_layers, hidden_size)
        Of all texts.
    combine : {"concat", "mean", "sum", "learned"}
        How the layers become one vector.
    unit_length : bool
        Whether it is then divided by its length.
    codes : ndarray of shape (n_texts,), int
        The class of each text, 0, 1, ...
    train, test : ndarray of int
        The rows of the fold.
    Cs : list of float
        Ascending.
    scorer : callable
        As of scikit-learn.
    random_state : int
        Of the inner folds.

    Returns
    -------
    FoldResult
    """
    inside, y = vectors[train], codes[train]
    inner_folds = StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=random_state).split(y, y)
    parts = np.zeros((INNER_FOLDS, len(train)), dtype=bool)
    for part, (rows, _) in zip(parts, inner_folds, strict=True):
        part[rows] = True
    inner = np.empty((INNER_FOLDS, len(Cs)))
    if combine == "learned":  # each part learns its own mix, and so has its own features
        for i, part in enumerate(parts):
            (X,) = _make_features(combine, unit_length, inside[part], y[part], inside)
            inner[i] = _path_scores(X, y, part[None], Cs, scorer)[0]
    else:
        (X,) = _make_features(combine, unit_length, inside, y, inside)
        inner[:] = _path_scores(X, y, parts, Cs, scorer)
    mean = inner.mean(axis=0)
    chosen = int(mean.argmax())
    X, X_test = _make_features(combine, unit_length, inside, y, inside, vectors[test])
    weights, intercepts = fit_logistic_path(X, y, np.ones((1, len(y)), dtype=bool), [Cs[chosen]])
    head = _head(weights[0, 0], intercepts[0, 0], Cs[chosen], X.dtype)
    return FoldResult(mean, chosen, float(scorer(head, X_test, codes[test])))


def _make_features(
    combine: Any, unit_length: bool, fit_to: np.ndarray, y: np.ndarray, *vectors: np.ndarray
) -> list[np.ndarray]:
    """Make features as `BertVectorizer` does; what is learnt is learnt from ``fit_to`` and ``y`` alone."""
    if combine == "learned":
        mix = learn_layer_mix(np.ascontiguousarray(fit_to), y)
        features = [apply_layer_mix(some, mix) for some in vectors]
    else:
        features = [combine_layers(some, combine) for some in vectors]
    return [normalize(some) for some in features] if unit_length else features


def _path_scores(
    X: np.ndarray, y: np.ndarray, parts: np.ndarray, Cs: list[float], scorer: Callable[..., float]
) -> np.ndarray:
    """Fit to each part with each C, and score on the other rows: shape (n_parts, n_C)."""
    weights, intercepts = fit_logistic_path(X, y, parts, Cs)
    scores = np.empty(weights.shape[:2])
    for i, part in enumerate(parts):
        held_out, labels = X[~part], y[~part]
        for j, C in enumerate(Cs):
            scores[i, j] = scorer(
                _head(weights[i, j], intercepts[i, j], C, X.dtype), held_out, labels
            )
    return scores


def _head(weights: np.ndarray, intercepts: np.ndarray, C: float, dtype: Any) -> LogisticRegression:
    """Make a fitted classifier of coefficients, for scikit-learn's scorers."""
    head = LogisticRegression(C=C)
    head.coef_, head.intercept_ = weights.astype(dtype), intercepts.astype(dtype)
    head.classes_ = np.arange(max(2, len(weights)))
    head.n_features_in_ = weights.shape[1]
    return head


POOLINGS = ("cls", "mean", "max")
# Of Devlin et al. 2019, Table 7: name -> how many of the last layers, or which ones, and how they become one vector.
COMBINATIONS: dict[str, tuple[tuple[int, ...] | str, str]] = {
    "embeddings": ((0,), "concat"),
    "second-to-last": ((-2,), "concat"),
    "last": ((-1,), "concat"),
    "sum of last four": ((-4, -3, -2, -1), "sum"),
    "mean of last four": ((-4, -3, -2, -1), "mean"),
    "concat of last four": ((-4, -3, -2, -1), "concat"),
    "sum of all": ("all", "sum"),
    "learned mix of all": ("all", "learned"),
    "concat of all": ("all", "concat"),
}
DEFAULT_CS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)


class Features(NamedTuple):
    """One row of the study: a name, and the parameters of `BertVectorizer` that make its features."""

    kind: str
    name: str
    pooling: str
    layers: tuple[int, ...]
    combine: str


def layer_study(
    X: Any,
    y: Any,
    *,
    vectorizer: BertVectorizer | None = None,
    cv: Any = 5,
    poolings: Sequence[str] = POOLINGS,
    combinations: Sequence[str] | None = None,
    combination_pooling: str = "mean",
    scoring: Any = "accuracy",
    Cs: Sequence[float] = DEFAULT_CS,
    nested: bool = False,
    random_state: int = 0,
    n_jobs: int | None = None,
) -> pd.DataFrame:
    """Score a LogisticRegression on every layer by every pooling, and on combinations of layers; each text is encoded once.

    Parameters
    ----------
    X : iterable of str, length n_texts
        As for ``BertVectorizer.fit``.
    y : array-like of shape (n_texts,)
        One class label per text.
    vectorizer : BertVectorizer, optional
        Whose model, truncation, cache and so on are used; its ``layers``, ``pooling`` and ``combine`` are not. It is neither
        fitted nor changed. ``BertVectorizer()`` by default.
    cv : int, splitter or iterable of (train, test), default=5
        The folds, the same ones for every row. A number means stratified and shuffled.
    poolings : sequence of {"cls", "mean", "max"}, default=("cls", "mean", "max")
        Each is scored with each layer. ``"pooler"`` knows no layers, so it is not among them.
    combinations : sequence of str, optional
        Of ``"embeddings"``, ``"second-to-last"``, ``"last"``, ``"sum of last four"``, ``"mean of last four"``,
        ``"concat of last four"``, ``"sum of all"``, ``"learned mix of all"`` and ``"concat of all"``, where all means the
        embedding output too. All of them by default, without those of the last four where the model has fewer than four layers.
    combination_pooling : {"cls", "mean", "max"}, default="mean"
        Pooling of the combinations.
    scoring : str or callable, default="accuracy"
        As in scikit-learn; higher is better. Classes are known to it as 0, 1, ... in sorted order.
    Cs : sequence of float, default=(0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
        Among which C is chosen for every row and fold, by 3-fold cross-validation inside the training texts of the fold.
    nested : bool, default=False
        Whether ``attrs["nested"]`` tells the honest score of "take the best row". It costs nothing more.
    random_state : int, default=0
        Of the folds, outer and inner.
    n_jobs : int, optional
        Threads; the numbers do not depend on it. None is one, -1 all processors.

    Returns
    -------
    DataFrame
        One row per layer and pooling, then one per combination: ``kind`` (``layer`` or ``combination``), ``features`` (name),
        ``pooling``, ``layers``, ``combine`` (what to give to `BertVectorizer`), ``dimension``, ``score`` and ``score_sd`` (mean
        and standard deviation over the folds), ``C`` (lower median of those chosen), ``fold_scores`` and ``fold_C``.
        ``attrs``: ``model``, ``n_layers``, ``n_texts``, ``n_folds``, ``scoring``, ``majority`` (accuracy of always saying the
        most frequent class; None under another scoring), ``left_out`` (combinations), ``seconds`` (of encoding and of the
        rest), and ``nested``: None, or a dict of ``score``, ``score_sd``, ``fold_scores``, ``chosen`` (features, pooling and C
        of each fold), ``best`` (the highest ``score`` in the table) and ``optimism`` (``best`` minus ``score``).

    Raises
    ------
    TypeError, ValueError
        For wrong parameters, texts or labels, before anything is encoded wherever that can be known.

    Notes
    -----
    The rows are those of Devlin et al. 2019 [1]_, Table 7, for classes of texts instead of tags of words, and with a linear
    classifier on top. Raw features go into it, as in `make_sentiment_pipeline`. C is chosen anew for every row and fold, for
    one layer wants another C than all of them side by side, and the sum of four layers another than their mean.

    The highest of thirty scores is too good: it was chosen by the texts that it is told of. ``nested`` repeats the choice, of row
    and C together, inside the training texts of every fold, by the inner scores that have chosen C there, and scores what was
    chosen on the fold's own test texts [2]_. That is the score to expect of the whole procedure. Ties go to the row that stands
    first and to the smaller C.

    The learned mix is fitted to the training texts of each part, also of the inner folds.

    References
    ----------
    .. [1] Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
       2019, section 5.3 and Table 7.
    .. [2] Cawley and Talbot, "On Over-fitting in Model Selection and Subsequent Selection Bias in Performance Evaluation", 2010.

    Examples
    --------
    >>> from pipeline import load_reviews
    >>> train, _ = load_reviews()
    >>> study = layer_study(train["text"][:60], train["label"][:60], cv=2, poolings=("mean",), combinations=("last",))
    >>> study[["kind", "features", "pooling", "dimension"]].tail(2)
              kind features pooling  dimension
    6        layer  layer 6    mean        384
    7  combination     last    mean        384
    """
    vectorizer = BertVectorizer() if vectorizer is None else vectorizer
    names = _check_choices(vectorizer, poolings, combinations, combination_pooling)
    strengths = _check_strengths(Cs)
    table = take_columns(X, on_invalid=vectorizer.on_invalid)
    texts = check_texts(table, missing=vectorizer.missing, on_invalid=vectorizer.on_invalid)
    classes, codes = _class_codes(y, len(texts))
    folds = _folds(cv, classes, codes, random_state)
    scorer = check_scoring(LogisticRegression(), scoring=scoring)

    encoder = clone(vectorizer).set_output(transform="default")
    encoded = tuple(dict.fromkeys((*poolings, combination_pooling) if names else poolings))
    encoder.set_params(pooling=encoded, layers="all", combine="concat", normalize=False)
    n_layers = encoder.fit(
        ["film"]
    ).n_layers_  # encodes nothing: what the model has too few layers for is refused before
    rows, left_out = _rows(
        n_layers, poolings, names, combination_pooling, strict=combinations is not None
    )

    began = time.perf_counter()
    vectors = encoder.fit_transform(texts, codes).reshape(
        len(texts), len(encoded), n_layers + 1, encoder.hidden_size_
    )
    between = time.perf_counter()

    def score(row: Features, train: np.ndarray, test: np.ndarray) -> FoldResult:
        of_row = vectors[:, [encoded.index(row.pooling)]][:, :, list(row.layers)]
        return score_fold(
            of_row,
            row.combine,
            vectorizer.normalize,
            codes,
            train,
            test,
            strengths,
            scorer,
            random_state,
        )

    results = _run(score, rows, folds, n_jobs)
    study = _table(rows, results, strengths, encoder.hidden_size_)
    study.attrs = {
        "model": str(vectorizer.model),
        "n_layers": n_layers,
        "n_texts": len(texts),
        "n_folds": len(folds),
        "scoring": scoring if isinstance(scoring, str) else repr(scoring),
        "majority": float(np.bincount(codes).max() / len(codes)) if scoring == "accuracy" else None,
        "left_out": left_out,
        "seconds": {"encode": between - began, "fit": time.perf_counter() - between},
        "nested": _nested(study, rows, results, strengths) if nested else None,
    }
    return study


# ---- what is asked for


def _check_choices(
    vectorizer: Any,
    poolings: Sequence[str],
    combinations: Sequence[str] | None,
    combination_pooling: str,
) -> tuple[str, ...]:
    """Return the names of the combinations, all of them for None; refuse what is not allowed."""
    if not isinstance(vectorizer, BertVectorizer):
        raise TypeError(
            f"vectorizer is a {type(vectorizer).__name__}; allowed is a BertVectorizer, or None for the default one."
        )
    names = tuple(COMBINATIONS) if combinations is None else combinations
    for parameter, given, allowed in (
        ("poolings", poolings, POOLINGS),
        ("combinations", names, tuple(COMBINATIONS)),
    ):
        wrong = (
            isinstance(given, str) or len(set(given)) < len(given) or not set(given) <= set(allowed)
        )
        if wrong or (parameter == "poolings" and not given):
            raise ValueError(
                f"{parameter}={given!r}; allowed is a tuple of different ones of {allowed}."
            )
    if combination_pooling not in POOLINGS:
        raise ValueError(
            f"combination_pooling={combination_pooling!r}; allowed is one of {POOLINGS}."
        )
    return tuple(names)


def _check_strengths(Cs: Sequence[float]) -> list[float]:
    strengths = sorted({float(C) for C in Cs})
    if not strengths or not 0 < strengths[0] <= strengths[-1] < np.inf:
        raise ValueError(
            f"Cs={Cs!r}; allowed are one or more finite numbers above 0, such as {DEFAULT_CS}."
        )
    return strengths


def _class_codes(y: Any, n_texts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes and, for each text, the position of its class among them."""
    if y is None:
        raise ValueError(
            "layer_study needs labels y, one per text, and got none: it scores how well they can be told."
        )
    check_labels(y, n_texts)
    labels = np.asarray(y)
    kind = type_of_target(labels.tolist())
    if kind not in ("binary", "multiclass") or labels.ndim != 1:
        raise ValueError(
            f"y is {kind}, of shape {labels.shape}; layer_study needs one class label per text (text, integers or booleans) "
            "of two classes or more. Of a single column take y.ravel(); regression and several outputs are not supported."
        )
    classes, codes = np.unique(labels, return_inverse=True)
    return classes, codes


def _folds(
    cv: Any, classes: np.ndarray, codes: np.ndarray, random_state: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and test rows of every fold; refuse where C cannot be chosen within the training rows."""
    if isinstance(cv, int | np.integer):
        cv = StratifiedKFold(int(cv), shuffle=True, random_state=random_state)
    splitter = check_cv(cv, codes, classifier=True)
    folds = [
        (np.asarray(train), np.asarray(test))
        for train, test in splitter.split(np.zeros(len(codes)), codes)
    ]
    for i, (train, test) in enumerate(folds):
        if not len(test) or np.isin(test, train).any():
            raise ValueError(
                f"Fold {i} of cv has {len(test)} test rows, or some that it trains on too. Split rows into disjoint sets."
            )
        counts = np.bincount(codes[train], minlength=len(classes))
        if counts.min() < INNER_FOLDS:
            rare = classes.tolist()[counts.argmin()]
            raise ValueError(
                f"Class {rare!r} has {counts.min()} texts in the training part of fold {i}, and C is chosen there by "
                f"{INNER_FOLDS}-fold cross-validation, which needs {INNER_FOLDS} or more of each. Merge or drop rare classes."
            )
    return folds


def _rows(
    n_layers: int,
    poolings: Sequence[str],
    names: Sequence[str],
    combination_pooling: str,
    *,
    strict: bool,
) -> tuple[list[Features], list[str]]:
    """Return the rows of the table, and the names of the combinations that this model is too shallow for."""
    rows = [
        Features("layer", f"layer {i}", p, (i,), "concat")
        for p in poolings
        for i in range(n_layers + 1)
    ]
    left_out = []
    for name in names:
        layers, combine = COMBINATIONS[name]
        chosen = (
            tuple(range(n_layers + 1))
            if isinstance(layers, str)
            else tuple(i % (n_layers + 1) for i in layers)
        )
        if not isinstance(layers, str) and len(layers) > n_layers:
            left_out.append(name)
        else:
            rows.append(Features("combination", name, combination_pooling, chosen, combine))
    if left_out and strict:
        raise ValueError(
            f"combinations={tuple(left_out)!r} need four layers, and this model has {n_layers}. Leave them out."
        )
    return rows, left_out


# ---- scores


def _run(
    score: Callable[[Features, np.ndarray, np.ndarray], FoldResult],
    rows: list[Features],
    folds: list[tuple[np.ndarray, np.ndarray]],
    n_jobs: int | None,
) -> dict[Features, list[FoldResult]]:
    """Score every row on every fold; rows that mean the same features are scored once."""
    same = {row[2:]: row for row in reversed(rows)}
    # the last rows take longest: begun first, they leave no thread to finish alone
    tasks = [(row, fold) for row in same.values() for fold in range(len(folds))]
    with threadpool_limits(
        limits=1, user_api="blas"
    ):  # small products gain nothing by threads, and change in their last digits
        done = Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(score)(row, *folds[fold]) for row, fold in tasks
        )
    by_row: dict[tuple[Any, ...], list[FoldResult]] = {key: [] for key in same}
    for (row, _), result in zip(tasks, done, strict=True):
        by_row[row[2:]].append(result)
    return {row: by_row[row[2:]] for row in rows}


def _table(
    rows: list[Features],
    results: dict[Features, list[FoldResult]],
    Cs: list[float],
    hidden_size: int,
) -> pd.DataFrame:
    records = []
    for row in rows:
        scores = [result.score for result in results[row]]
        chosen = [Cs[result.chosen] for result in results[row]]
        records.append(
            {
                "kind": row.kind,
                "features": row.name,
                "pooling": row.pooling,
                "layers": row.layers,
                "combine": row.combine,
                "dimension": hidden_size * (len(row.layers) if row.combine == "concat" else 1),
                "score": float(np.mean(scores)),
                "score_sd": _spread(scores),
                "C": sorted(chosen)[(len(chosen) - 1) // 2],
                "fold_scores": tuple(scores),
                "fold_C": tuple(chosen),
            }
        )
    return pd.DataFrame(records)


def _spread(scores: list[float]) -> float:
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0


def _nested(
    study: pd.DataFrame,
    rows: list[Features],
    results: dict[Features, list[FoldResult]],
    Cs: list[float],
) -> dict[str, Any]:
    """Choose row and C within each fold's training part, by the inner scores, and take the score of that choice on the fold."""
    chosen, scores = [], []
    for fold in range(len(results[rows[0]])):
        inner = np.array([results[row][fold].inner.max() for row in rows])
        best = rows[int(inner.argmax())]
        result = results[best][fold]
        scores.append(result.score)
        chosen.append({"features": best.name, "pooling": best.pooling, "C": Cs[result.chosen]})
    score, highest = float(np.mean(scores)), float(study["score"].max())
    return {
        "score": score,
        "score_sd": _spread(scores),
        "fold_scores": scores,
        "chosen": chosen,
        "best": highest,
        "optimism": highest - score,
    }
