"""LogisticRegressions that choose C, or that weight whole classifiers."""

import warnings
from numbers import Integral
from typing import Any, Self, TypeVar

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn import config_context
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, check_cv
from sklearn.utils import check_X_y, compute_class_weight
from sklearn.utils.validation import validate_data

from pipeline.texts import check_target

# Chosen by cross-validation on the shipped reviews and on SST-2 train; the table is in
# docs/defaults.md.
DEFAULT_C = 0.1
Model = TypeVar("Model", bound=LogisticRegression)
CS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# In float32, L-BFGS stops so early that rounding the features by 2e-6 moves probabilities by up to
# 0.01. Newton's method ends 100 times closer to the optimum in about the same time.
SOLVER = {"solver": "newton-cg", "tol": 1e-5}
_DIRECTIONS = 256  # enough to find nearly the best C of all features, in a tenth of the time
_GAIN = 0.05  # of the log loss; smaller differences on few directions are noise


def _neg_log_loss(model: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    # before scikit-learn 1.9 its own one fails where a fold lacks a class
    probability = model.predict_proba(X)
    return -float(log_loss(y, probability, labels=model.classes_, sample_weight=sample_weight))


_SEARCH = {"l1_ratios": (0.0,), "use_legacy_attributes": False, "scoring": _neg_log_loss}


class TunedLogisticRegression(LogisticRegression):
    """LogisticRegression with a C chosen by cross-validation.

    C is 0.1 unless another candidate lowers the log loss by 5 % or more. Unlike in
    ``LogisticRegressionCV``, candidates are scored on the leading 256 directions of the features
    (`TruncatedSVD`), equal rows stay in one fold, a class is not scored in folds whose training
    part lacks it, and the log loss is weighted like the fit.

    Parameters
    ----------
    Cs : sequence of float, default=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
        The candidates. One alone is taken without a search.
    cv : int, splitter or iterable of (train, test), default=3
        The folds. A number means stratified and shuffled.
    class_weight : "balanced" or dict, optional
        As in LogisticRegression.
    max_iter : int, default=2000
        As in LogisticRegression.
    random_state : int, default=0
        Seed of the folds and directions.

    Attributes
    ----------
    C_ : float
        The chosen C.
    scores_ : ndarray of shape (n_folds, n_Cs)
        Negative log loss per fold and candidate, in the order of ``Cs``; None without a search.
    classes_, coef_, intercept_, n_iter_, n_features_in_, feature_names_in_
        As in LogisticRegression.

    Warns
    -----
    UserWarning
        If fewer than two classes have two texts; C is then 0.1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> TunedLogisticRegression().fit(X, y).C_
    10.0
    """

    solver = SOLVER["solver"]  # read by LogisticRegression

    def __init__(
        self,
        *,
        Cs: Any = CS,
        cv: Any = 3,
        class_weight: Any = None,
        max_iter: int = 2000,
        random_state: int | None = 0,
    ) -> None:
        self.Cs = Cs
        self.cv = cv
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose C and fit.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_rows, n_features)
            Features.
        y : array-like of shape (n_rows,)
            Labels.
        sample_weight : array-like of shape (n_rows,), optional
            Weights of the rows.

        Returns
        -------
        TunedLogisticRegression
            The fitted classifier.
        """
        head = LogisticRegression(
            class_weight=self.class_weight, max_iter=self.max_iter, warm_start=True, **SOLVER
        )
        self.scores_, head.C = None, DEFAULT_C if len(self.Cs) > 1 else float(self.Cs[0])
        rows, labels = check_X_y(X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_target(labels)
        classes, codes, weights = _weighed(labels, self.class_weight, sample_weight)
        several = min(len(classes), len(self.Cs)) > 1
        folds = self._folds(rows, codes, weights) if several else []
        if several and not folds:
            warnings.warn(
                "Choosing C by cross-validation needs at least two classes of two texts each; "
                f"using C={DEFAULT_C}. Give more texts, or a number for C.",
                UserWarning,
                stacklevel=2,
            )
        if folds:
            search, head.coef_ = self._search(rows, labels, weights, folds)
            self.scores_, head.intercept_ = search.scores_[:, 0], search.intercept_
            losses = dict(zip(search.Cs_.tolist(), -self.scores_.mean(axis=0), strict=True))
            clearly = losses[search.C_] <= (1 - _GAIN) * losses.get(DEFAULT_C, np.inf)
            head.C = float(search.C_) if clearly else DEFAULT_C
        head.fit(X, y, sample_weight)
        self.C_ = head.C
        return _take_over(self, head)

    def _folds(
        self, X: Any, codes: np.ndarray, weights: np.ndarray
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return training and scored rows of each fold, if any."""
        cv, groups = self.cv, None
        if isinstance(cv, Integral):
            groups = _equal_rows(X)
            kind = StratifiedKFold if groups is None else StratifiedGroupKFold
            most = np.bincount(codes).max()
            if most < 2:
                return []
            cv = kind(min(int(cv), most), shuffle=True, random_state=self.random_state)
        with warnings.catch_warnings():  # rare classes are scored only where they are known
            warnings.filterwarnings("ignore", "The least populated class")
            splits = list(check_cv(cv, codes, classifier=True).split(codes, codes, groups))
        heavy = weights > 0
        folds = []
        for train, test in splits:
            train, test = (np.asarray(rows)[heavy[rows]] for rows in (train, test))
            test = test[np.isin(codes[test], codes[train])]
            if len(test) and len(np.unique(codes[train])) > 1:
                folds.append((train, test))
        tested = np.concatenate([codes[test] for _, test in folds]) if folds else codes[:0]
        return folds if len(np.unique(tested)) > 1 else []

    def _search(
        self, X: Any, y: np.ndarray, weights: np.ndarray, folds: list[Any]
    ) -> tuple[LogisticRegressionCV, np.ndarray]:
        """Return the search, and its coef_ for all features."""
        search = LogisticRegressionCV(Cs=self.Cs, cv=folds, max_iter=self.max_iter, **_SEARCH)
        svd = TruncatedSVD(_DIRECTIONS, random_state=self.random_state)
        few = min(X.shape) <= _DIRECTIONS
        with config_context(enable_metadata_routing=False):  # so that weights reach the score
            search.fit(X if few else svd.fit_transform(X), y, weights)
        return search, search.coef_ if few else search.coef_ @ svd.components_


class TiedLogisticRegression(LogisticRegression):
    """LogisticRegression on decisions of several classifiers, with one weight for each.

    With k classes, a plain LogisticRegression has k times k weights per classifier and learns noise
    from a few texts per class. Here the decision for a class is the weighted sum of the
    classifiers' decisions for that class. For two classes both are the same.

    Parameters
    ----------
    C : float, default=1.0
        Inverse regularisation, as in LogisticRegression.
    class_weight : "balanced" or dict, optional
        As in LogisticRegression.
    max_iter : int, default=2000
        As in LogisticRegression.

    Attributes
    ----------
    weights_ : ndarray of shape (n_classifiers,)
        One per classifier; for two classes they are in ``coef_`` instead.
    classes_, coef_, intercept_, n_iter_, n_features_in_, feature_names_in_
        As in LogisticRegression.

    Examples
    --------
    >>> import numpy as np
    >>> decisions = np.tile(np.eye(3), (4, 2))  # of two classifiers that are always right
    >>> TiedLogisticRegression().fit(decisions, [0, 1, 2] * 4).coef_.shape
    (3, 6)
    """

    solver = SOLVER["solver"]  # read by LogisticRegression

    def __init__(self, *, C: float = 1.0, class_weight: Any = None, max_iter: int = 2000) -> None:
        self.C = C
        self.class_weight = class_weight
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the weights.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_classifiers * n_classes)
            Decisions, classifier by classifier, with one column each for two classes.
        y : array-like of shape (n_rows,)
            Labels.
        sample_weight : array-like of shape (n_rows,), optional
            Weights of the rows.

        Returns
        -------
        TiedLogisticRegression
            The fitted classifier.
        """
        decisions, labels = check_X_y(X, y, dtype=np.float64)
        check_target(labels)
        classes, codes, rows = _weighed(labels, self.class_weight, sample_weight)
        n_rows, n_classes = len(labels), len(classes)
        if n_classes < 3 or decisions.shape[1] % n_classes:
            head = LogisticRegression(
                C=self.C, class_weight=self.class_weight, max_iter=self.max_iter, **SOLVER
            )
            return _take_over(self, head.fit(X, y, sample_weight))
        parts = decisions.reshape(n_rows, -1, n_classes)  # (n_rows, n_classifiers, n_classes)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            logits = np.einsum("rpc,p->rc", parts, weights)
            log_p = log_softmax(logits, axis=1)
            error = np.exp(log_p)
            error[np.arange(n_rows), codes] -= 1
            slope = np.einsum("rpc,rc,r->p", parts, error, rows)
            value = -(rows * log_p[np.arange(n_rows), codes]).sum()
            return value + weights @ weights / (2 * self.C), slope + weights / self.C

        start = np.full(parts.shape[1], 1 / parts.shape[1])
        found = minimize(loss, start, jac=True, method="BFGS", options={"maxiter": self.max_iter})
        self.weights_ = found.x
        self.coef_ = np.hstack([weight * np.eye(n_classes) for weight in found.x])
        self.intercept_ = np.zeros(n_classes)
        self.classes_, self.n_iter_ = classes, np.array([found.nit], dtype=np.int32)
        validate_data(self, X, skip_check_array=True)  # names and number of columns
        return self


def _weighed(
    labels: np.ndarray, class_weight: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return classes, the class of each row, and each row's total weight."""
    classes, codes = np.unique(labels, return_inverse=True)
    weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight)
    of_classes = compute_class_weight(
        class_weight, classes=classes, y=labels, sample_weight=weights
    )
    return classes, codes, weights * of_classes[codes]


def _take_over(model: Model, fitted: LogisticRegression) -> Model:
    vars(model).update((name, own) for name, own in vars(fitted).items() if name.endswith("_"))
    return model


def _equal_rows(X: Any) -> np.ndarray | None:
    """Give equal rows the same number, or return None if all differ."""
    known: dict[Any, int] = {}
    rows = (row.tobytes() for row in X) if isinstance(X, np.ndarray) else range(X.shape[0])
    numbers = np.array([known.setdefault(row, len(known)) for row in rows])
    return numbers if len(known) < len(numbers) else None
