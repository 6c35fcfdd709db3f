"""Score every layer and combination of layers with a LogisticRegression."""

import time
import warnings
from collections.abc import Callable, Sequence
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.linalg import LinAlgWarning
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import check_scoring
from sklearn.preprocessing import normalize
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_limits

from pipeline.bert.pooling import combine_layers
from pipeline.evaluation.folds import Fold, check_classes, split_folds, warn_of_leaking_folds
from pipeline.evaluation.shown import AttributedFrame
from pipeline.layer_mix import apply_layer_mix, learn_layer_mix
from pipeline.progress import Part, progress
from pipeline.texts import check_texts, class_numbers, group_numbers, labels_of_texts
from pipeline.vectorizer import BertVectorizer

INNER_FOLDS = 3
_FEW_WEIGHTS = 400  # up to here Newton's method is as fast as L-BFGS, and exact


class FoldResult(NamedTuple):
    """The result of one row on one fold."""

    inner: np.ndarray  # mean inner score, (n_C,)
    C: float
    score: float  # of the test rows


def score_fold(
    vectors: np.ndarray,
    combine: Any,
    unit_length: bool,
    codes: np.ndarray,
    fold: Fold,
    inner_folds: list[Fold],
    Cs: list[float],
    scorer: Callable[..., float],
) -> FoldResult:
    """Choose C inside the training rows, then score the test rows.

    ``vectors`` are those of all texts, (n_texts, 1, n_layers, hidden_size).
    """
    train, test = fold
    y = codes[train]

    def features(fit_to: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if combine == "learned":
            mix = learn_layer_mix(vectors[fit_to], codes[fit_to])
            X = apply_layer_mix(vectors[rows], mix)
        else:
            X = combine_layers(vectors[rows], combine)
        return normalize(X) if unit_length else X

    X, X_test = np.split(features(train, np.concatenate(fold)), [len(train)])
    n_classes = len(np.unique(codes))
    n_weights = X.shape[1] * (n_classes if n_classes > 2 else 1)
    solver = "newton-cholesky" if n_weights <= _FEW_WEIGHTS else "lbfgs"
    options = {"solver": solver, "max_iter": 2000, "tol": 1e-5}

    def search(X: np.ndarray, folds: list[Fold]) -> LogisticRegressionCV:
        head = LogisticRegressionCV(
            Cs=Cs,
            cv=folds,
            scoring=scorer,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
            **options,
        )
        return head.fit(X, y)

    if combine == "learned":
        parts = [search(features(train[part[0]], train), [part]) for part in inner_folds]
        inner = np.mean([part.scores_[0, 0] for part in parts], axis=0)
        head = LogisticRegression(C=Cs[inner.argmax()], **options).fit(X, y)
    else:
        head = search(X, inner_folds)
        inner = head.scores_.mean(axis=0)[0]
    return FoldResult(inner, Cs[inner.argmax()], float(scorer(head, X_test, codes[test])))


POOLINGS = ("cls", "mean", "max")
# Devlin et al. 2019, Table 7: name -> layers and how to combine them
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
    """One row: its name and the parameters of BertVectorizer."""

    kind: str
    features: str
    pooling: str
    layers: tuple[int, ...]
    combine: str


def layer_study(
    X: Any,
    y: Any,
    *,
    vectorizer: BertVectorizer | None = None,
    cv: Any = 5,
    groups: Any = None,
    poolings: Sequence[str] = POOLINGS,
    combinations: Sequence[str] | None = None,
    combination_pooling: str = "mean",
    scoring: Any = "accuracy",
    Cs: Sequence[float] = DEFAULT_CS,
    nested: bool = False,
    random_state: int = 0,
    n_jobs: int | None = None,
) -> AttributedFrame:
    """Score a LogisticRegression on every layer, pooling and combination.

    Each text is encoded once.

    Parameters
    ----------
    X : iterable of str, length n_texts
        As in ``BertVectorizer.fit``.
    y : array-like of shape (n_texts,)
        One class label per text.
    vectorizer : BertVectorizer, optional
        Sets all parameters but ``layers``, ``pooling`` and ``combine``, and stays as it is.
        Default: ``BertVectorizer()``.
    cv : int, splitter or iterable of (train, test), default=5
        The folds of every row. A number means stratified and shuffled.
    groups : array-like of shape (n_texts,), optional
        Texts of one group, such as one author's, stay on one side of every fold, inner ones too.
    poolings : sequence of {"cls", "mean", "max"}, default=("cls", "mean", "max")
        Each is scored with each layer. ``"pooler"`` exists only for the last layer.
    combinations : sequence of str, optional
        Any of ``"embeddings"``, ``"second-to-last"``, ``"last"``, ``"sum of last four"``,
        ``"mean of last four"``, ``"concat of last four"``, ``"sum of all"``,
        ``"learned mix of all"`` and ``"concat of all"``, embedding output included. Default: all
        that the model has the layers for.
    combination_pooling : {"cls", "mean", "max"}, default="mean"
        Pooling of the combinations.
    scoring : str or callable, default="accuracy"
        As in scikit-learn; higher is better. Classes are passed as 0, 1, ... in sorted order.
    Cs : sequence of float, default=(0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
        Candidates for C, chosen for every row and fold by 3-fold cross-validation of the fold's
        training texts.
    nested : bool, default=False
        Whether to add the unbiased score of picking the best row, at no extra cost.
    random_state : int, default=0
        Seed of all folds.
    n_jobs : int, optional
        Threads, without effect on the numbers. None is one, -1 all processors.

    Returns
    -------
    AttributedFrame
        A DataFrame, shown in a notebook as a grid of scores, the best framed. One row per layer and
        pooling, then per combination: ``kind`` (``layer`` or ``combination``), ``features`` (name),
        ``pooling``, ``layers``, ``combine`` (parameters of `BertVectorizer`), ``dimension``,
        ``score`` and ``score_sd`` (mean and standard deviation over the folds), ``C`` (lower
        median), ``fold_scores`` and ``fold_C``.

        Attributes, also in ``attrs``:
        ``model``, ``n_layers``, ``n_texts``, ``n_folds``, ``scoring``, ``majority``
        (accuracy of the most frequent class; None under another scoring), ``left_out``
        (combinations), ``seconds`` (``encode`` and ``fit``) and ``nested``: None, or a dict of
        ``score``, ``score_sd``, ``fold_scores``, ``chosen`` (features, pooling and C of each
        fold), ``best`` (highest ``score`` in the table) and ``optimism`` (``best`` - ``score``).

    Raises
    ------
    TypeError, ValueError
        For invalid parameters, texts or labels, and fewer than three texts of a class in the
        training part of a fold; before anything is encoded.

    Warns
    -----
    LeakWarning
        If test texts also occur in the training part of their fold.

    Notes
    -----
    The rows follow Table 7 of [1]_, for classes of texts instead of tags of words, with a linear
    classifier on raw features. One layer needs another C than all together. The learned mix is
    fitted in each part, inner folds included.

    Picking the best of thirty scores is optimistic. ``nested`` repeats the choice of row and C in
    every fold, by the inner scores, and scores it on the fold's test texts [2]_. Ties go to the
    first row and the smaller C.

    References
    ----------
    .. [1] Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
       Understanding", 2019, section 5.3 and Table 7.
    .. [2] Cawley and Talbot, "On Over-fitting in Model Selection and Subsequent Selection Bias
       in Performance Evaluation", 2010.

    Examples
    --------
    >>> from pipeline import load_reviews
    >>> train, _ = load_reviews()
    >>> few = train[:60]
    >>> study = layer_study(
    ...     few["text"], few["label"], cv=2, poolings=("mean",), combinations=("last",)
    ... )
    >>> study[["kind", "features", "pooling", "dimension"]].tail(2)
              kind features pooling  dimension
    6        layer  layer 6    mean        384
    7  combination     last    mean        384
    """
    vectorizer = BertVectorizer() if vectorizer is None else vectorizer
    names = _check_choices(vectorizer, poolings, combinations, combination_pooling)
    strengths = _check_strengths(Cs)
    texts = check_texts(X, missing=vectorizer.missing, on_invalid=vectorizer.on_invalid)
    classes, codes = class_numbers(labels_of_texts(y, len(texts)), len(texts))
    together = group_numbers(groups, len(texts))
    folds = split_folds(cv, codes, random_state, together)
    inner_folds = _check_folds(folds, classes, codes, random_state, together)
    scorer = check_scoring(LogisticRegression(), scoring=scoring)

    encoder = clone(vectorizer).set_output(transform="default")
    encoded = tuple(dict.fromkeys((*poolings, combination_pooling) if names else poolings))
    encoder.set_params(pooling=encoded, layers="all", combine="concat", normalize=False)
    n_layers = encoder.fit(["film"]).n_layers_  # encodes nothing
    rows, left_out = _rows(n_layers, poolings, names, combination_pooling)
    if left_out and combinations is not None:
        raise ValueError(
            f"combinations={tuple(left_out)!r} need four layers, and this model has {n_layers}. "
            "Leave them out."
        )

    warn_of_leaking_folds(texts, folds)

    def score(row: Features, fold: Fold, inner: list[Fold]) -> FoldResult:
        row_vectors = vectors[:, [encoded.index(row.pooling)]][:, :, list(row.layers)]
        unit_length = vectorizer.normalize
        return score_fold(
            row_vectors, row.combine, unit_length, codes, fold, inner, strengths, scorer
        )

    with progress("fitting classifiers", "fit", shown=vectorizer.progress) as part:
        began = time.perf_counter()
        vectors = encoder.fit_transform(texts, codes).reshape(
            len(texts), len(encoded), n_layers + 1, encoder.hidden_size_
        )
        between = time.perf_counter()
        results = _score_rows(score, rows, list(zip(folds, inner_folds, strict=True)), n_jobs, part)
    study = _table(rows, results, encoder.hidden_size_)
    study.attrs = {
        "model": str(vectorizer.model),
        "n_layers": n_layers,
        "n_texts": len(texts),
        "n_folds": len(folds),
        "scoring": scoring if isinstance(scoring, str) else repr(scoring),
        "majority": float(np.bincount(codes).max() / len(codes)) if scoring == "accuracy" else None,
        "left_out": left_out,
        "seconds": {"encode": between - began, "fit": time.perf_counter() - between},
        "nested": _nested(study, rows, results) if nested else None,
    }
    return study


def _check_choices(
    vectorizer: Any,
    poolings: Sequence[str],
    combinations: Sequence[str] | None,
    combination_pooling: str,
) -> tuple[str, ...]:
    if not isinstance(vectorizer, BertVectorizer):
        raise TypeError(
            f"vectorizer is a {type(vectorizer).__name__}; allowed is a BertVectorizer, or None "
            "for the default one."
        )
    names = tuple(COMBINATIONS) if combinations is None else combinations
    for parameter, given, allowed in (
        ("poolings", poolings, POOLINGS),
        ("combinations", names, tuple(COMBINATIONS)),
    ):
        wrong = isinstance(given, str) or len(set(given)) < len(given) or set(given) - set(allowed)
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


def _check_folds(
    folds: list[Fold],
    classes: np.ndarray,
    codes: np.ndarray,
    random_state: int,
    groups: np.ndarray | None,
) -> list[list[Fold]]:
    """Return the inner folds of each fold, or raise."""
    inner_folds = []
    for i, (train, test) in enumerate(folds):
        if not len(test) or np.isin(test, train).any():
            raise ValueError(
                f"Fold {i} of cv has {len(test)} test rows, or tests some that it trains on. Split "
                "the rows into disjoint sets."
            )
        counts = np.bincount(codes[train], minlength=len(classes))
        if counts.min() < INNER_FOLDS:
            rare = classes.tolist()[counts.argmin()]
            raise ValueError(
                f"Class {rare!r} has {counts.min()} texts in the training part of fold {i}, and C "
                f"is chosen there by {INNER_FOLDS}-fold cross-validation, which needs "
                f"{INNER_FOLDS} or more of each. Merge or drop rare classes."
            )
        try:
            inside = None if groups is None else groups[train]
            inner = split_folds(INNER_FOLDS, codes[train], random_state, inside)
            check_classes(inner, classes, codes[train])
        except ValueError as error:
            raise ValueError(
                f"C is chosen in the training part of fold {i} by {INNER_FOLDS}-fold "
                f"cross-validation, and there: {error}"
            ) from None
        inner_folds.append(inner)
    return inner_folds


def _rows(
    n_layers: int, poolings: Sequence[str], names: Sequence[str], combination_pooling: str
) -> tuple[list[Features], list[str]]:
    """Return the rows, and the combinations that need more layers."""
    every = tuple(range(n_layers + 1))
    rows = [Features("layer", f"layer {i}", p, (i,), "concat") for p in poolings for i in every]
    left_out = []
    for name in names:
        layers, combine = COMBINATIONS[name]
        if layers != "all" and len(layers) > n_layers:
            left_out.append(name)
            continue
        chosen = every if isinstance(layers, str) else tuple(every[i] for i in layers)
        rows.append(Features("combination", name, combination_pooling, chosen, combine))
    return rows, left_out


def _score_rows(
    score: Callable[[Features, Fold, list[Fold]], FoldResult],
    rows: list[Features],
    folds: list[tuple[Fold, list[Fold]]],
    n_jobs: int | None,
    part: Part,
) -> dict[Features, list[FoldResult]]:
    # reversed: the last rows take longest, so they start first and no thread finishes alone
    distinct = {row[2:]: row for row in reversed(rows)}
    jobs = [(key, row, *fold) for key, row in distinct.items() for fold in folds]
    results: dict[Any, list[FoldResult]] = {key: [] for key in distinct}
    # threads slow small products down, and change their last digits
    with threadpool_limits(limits=1, user_api="blas"), warnings.catch_warnings():
        # if Newton's method fails, scikit-learn continues with L-BFGS
        warnings.filterwarnings("ignore", "Line search of Newton", ConvergenceWarning)
        warnings.simplefilter("ignore", LinAlgWarning)
        part.show(0, len(jobs))
        scored = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")(
            delayed(score)(*job) for _, *job in jobs
        )
        for i, ((key, *_), result) in enumerate(zip(jobs, scored, strict=True), start=1):
            results[key].append(result)
            part.show(i, len(jobs))
    return {row: results[row[2:]] for row in rows}


def _table(
    rows: list[Features], results: dict[Features, list[FoldResult]], hidden_size: int
) -> AttributedFrame:
    records = []
    for row in rows:
        scores = [result.score for result in results[row]]
        chosen = [result.C for result in results[row]]
        records.append(
            {
                **row._asdict(),
                "dimension": hidden_size * (len(row.layers) if row.combine == "concat" else 1),
                "score": float(np.mean(scores)),
                "score_sd": _spread(scores),
                "C": median_low(chosen),
                "fold_scores": tuple(scores),
                "fold_C": tuple(chosen),
            }
        )
    return AttributedFrame(records)


def _spread(scores: list[float]) -> float:
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0


def _nested(
    study: pd.DataFrame, rows: list[Features], results: dict[Features, list[FoldResult]]
) -> dict[str, Any]:
    chosen, scores = [], []
    for fold in range(len(results[rows[0]])):
        inner = [results[row][fold].inner.max() for row in rows]
        best = rows[int(np.argmax(inner))]
        result = results[best][fold]
        scores.append(result.score)
        chosen.append({"features": best.features, "pooling": best.pooling, "C": result.C})
    score, highest = float(np.mean(scores)), float(study["score"].max())
    return {
        "score": score,
        "score_sd": _spread(scores),
        "fold_scores": scores,
        "chosen": chosen,
        "best": highest,
        "optimism": highest - score,
    }
