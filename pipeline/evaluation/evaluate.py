"""Evaluate a fitted classifier on held-out texts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import Pipeline

from pipeline._compat import rows_of
from pipeline.answers import (
    Answers,
    Judged,
    answer_features,
    ask_each,
    check_classifier,
    features_before_last_step,
    gives_several,
    is_most_probable,
    is_yes_or_no,
    label_probability,
    most_confused,
    outputs_of,
    positions,
    warn_of_other_labels,
)
from pipeline.evaluation.failures import (
    count_tokens,
    count_unknown,
    dense,
    doubted_labels,
    features_of,
    find_duplicates,
    find_examples,
    find_in_label_sets,
    find_mistakes,
    slice_by,
    slices_by_length,
    texts_of,
)
from pipeline.evaluation.folds import warn_of_leaks
from pipeline.evaluation.metrics import (
    calibration_table,
    class_table,
    classification_scores,
    intervals_of,
    label_set_scores,
    resampled_scores,
    score_curves,
    two_columns,
)
from pipeline.evaluation.shown import Scores
from pipeline.texts import has_label_sets, label_sets, labels_of_texts, of_regression

_MOST_ON_MAP = 6
MOST_CHARACTERS = 200  # of a point's text, to keep the map small


def map_embeddings(
    features: Any,
    texts: Sequence[str],
    judged: Judged,
    *,
    n_points: int,
    random_state: int,
) -> dict[str, Any] | None:
    """Return texts of the most confused classes on a plane.

    A string as features is the reason why there are none.
    """
    if not n_points:
        return None
    if isinstance(features, str):
        return {"refused": features}
    matrix = confusion_matrix(judged.true, judged.predicted, labels=range(len(judged.labels)))
    shown = most_confused(matrix.tolist(), _MOST_ON_MAP)
    rows = np.flatnonzero(np.isin(judged.true, shown) & np.isin(judged.predicted, shown))
    if len(rows) > n_points:
        random = np.random.default_rng(random_state)
        rows = np.sort(random.choice(rows, size=n_points, replace=False))
    chosen = dense(rows_of(features, rows))
    if min(chosen.shape) < 2:
        return {
            "refused": "a map needs at least two texts and two features, but there are "
            f"{chosen.shape[0]} and {chosen.shape[1]}."
        }
    places, shares = _flat(chosen, judged.predicted[rows])
    points = [
        {
            "row": row,
            "x": float(x),
            "y": float(y),
            "text": texts[row][:MOST_CHARACTERS],
            **judged.said(row),
        }
        for row, (x, y) in zip(rows.tolist(), places, strict=True)
    ]
    return {
        "method": "class means",
        "classes": [judged.labels[place] for place in shown],
        "explained_variance": shares,
        "points": points,
    }


def _flat(features: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Return places, (n_texts, 2), and each axis's share of variance."""
    # The axes go through the means of the predicted classes, as in linear discriminant analysis
    # (Fisher 1936) with equal variances; of two classes, the second is a principal component.
    centred = features - features.mean(axis=0)
    # all texts equal: PCA would divide by 0
    if not np.abs(centred).max() > 1e-9 * max(np.abs(features).max(), 1e-300):
        return np.zeros((len(features), 2)), [0.0, 0.0]
    means = np.stack([centred[predicted == place].mean(axis=0) for place in np.unique(predicted)])
    _, sizes, axes = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    axes = axes[:2][sizes[:2] > 1e-9 * np.abs(centred).max()]  # (n_axes, n_features)
    places = centred @ axes.T
    if len(axes) < 2:
        # a full decomposition would cost as much as encoding the texts
        solver = "arpack" if min(features.shape) > 2 else "full"
        rest = PCA(n_components=2 - len(axes), svd_solver=solver, random_state=0)
        places = np.hstack([places, rest.fit_transform(centred - places @ axes)])
    return places, (places.var(axis=0) / centred.var(axis=0).sum()).tolist()


def evaluate(
    model: BaseEstimator,
    X: Any,
    y: Any,
    *,
    by: "pd.DataFrame | Mapping[str, Sequence[Any]] | None" = None,
    train: tuple[Any, Any] | None = None,
    n_mistakes: int = 10,
    n_examples: int = 4,
    n_map: int = 500,
    n_bootstrap: int = 1000,
    random_state: int = 0,
) -> Scores:
    """Score a fitted classifier on held-out texts, and list its failures.

    Parameters
    ----------
    model : estimator
        A fitted classifier. Its ``predict`` is scored, with ``predict_proba`` or
        ``decision_function`` if it has one.
    X : iterable of str, length n_texts
        Texts.
    y : array-like of shape (n_texts,) or (n_texts, n_labels)
        Labels, or 1 and 0 for each of several labels per text, named by the columns of a DataFrame.
        0, 0.0, False and the "0" of a CSV file count as equal.
    by : DataFrame or mapping of str to sequence, optional
        Columns of length n_texts to score by, such as the domain of each text.
    train : (X_train, y_train), optional
        The training texts and labels, to find those nearest to each mistake, and texts in both
        sets.
    n_mistakes : int, default=10
        The most confident mistakes to list.
    n_examples : int, default=4
        Correct predictions to explain, the surest of each class in turn.
    n_map : int, default=500
        Most points on the map of the texts; 0 omits the map.
    n_bootstrap : int, default=1000
        Resampled sets for the intervals; 0 omits the intervals.
    random_state : int, default=0
        Seed of the resampling, and of the texts on the map.

    Returns
    -------
    Scores
        A dict of plain values, the input of `pipeline.write_report`. A notebook shows score cards,
        the weakest groups and the surest mistakes, a terminal the scores, and of ``dict(scores)``
        all.

        - ``n_texts``; ``classes``: those of the model, then other labels that it predicts;
          ``n_not_most_probable``: how many labels are not the most probable class;
          ``never_predicted``: classes of ``y`` that ``predict`` never gives;
        - the scores of `pipeline.evaluation.metrics.classification_scores` (``accuracy``,
          ``balanced_accuracy``, ``f1``, ``macro_f1``, ``roc_auc``, ``average_precision``,
          ``log_loss``, ``brier``, ``calibration_error``), their 95 % ``intervals``, and
          ``not_scored``, the reason for each that is None;
        - ``confusion_matrix`` (rows are true), ``by_class``, ``curves`` (ROC and precision-recall,
          see `pipeline.evaluation.metrics.score_curves`), ``calibration``;
        - ``slices``: name -> scores by length, by truncation and unknown characters if the model
          starts with a BertVectorizer or stacks one, and by each column of ``by``;
        - ``unknown``: counts as in `BertVectorizer.unknown_report_`, which it holds as
          ``training``; None without a BertVectorizer;
        - ``mistakes``: ``row``, ``text``, ``true``, ``predicted``, ``probability`` (of the
          predicted label, or None), ``explanation`` (``method``, ``words`` and, for more than two
          classes, the class ``against`` which they speak; or ``refused``) and
          ``nearest`` (three training texts with ``label`` and ``similarity``); ``examples``: the
          same for correct predictions, without ``nearest``;
        - ``label_issues``: labels that `pipeline.label_issues` would doubt: ``n_texts``, and
          ``rows``, at most ``n_mistakes``: ``row``, ``text``, ``label``, ``suggested`` and
          ``probability`` (of the label); None without probabilities;
        - ``map``: ``method``, ``classes``, ``explained_variance`` and ``points``, or
          ``refused``; None for ``n_map=0``;
        - ``duplicates``: ``n_texts``, ``share``, ``other_label`` (how many have another label in
          the training set), ``rows`` and ``examples``; None without ``train``.

        For several labels per text, ``multilabel`` is True, ``classes`` are the labels,
        ``accuracy`` is the share of texts with all labels right, ``micro_f1`` and ``hamming_loss``
        are over all labels of all texts, and other scores are means over the labels. ``by_class``
        and ``curves`` have each label, ``confusion_matrix`` 2 x 2 for each. ``true`` and
        ``predicted`` of a mistake are lists, ``probability`` and ``explanation`` those of the
        surest wrong ``label``.

    Raises
    ------
    ValueError
        For labels unknown to the model, different lengths, no texts, models that are not
        classifiers, and several labels per text that are not 1 and 0.

    Warns
    -----
    LabelWarning
        If ``predict`` gives labels other than the most probable classes.
    LeakWarning
        If texts are in ``train`` too.
    """
    X = X if hasattr(X, "__len__") else list(X)
    texts = texts_of(X)
    columns = {} if by is None else {str(name): list(values) for name, values in by.items()}
    for name, values in columns.items():
        if len(values) != len(texts):
            raise ValueError(
                f"by[{name!r}] has {len(values)} values for {len(texts)} texts; give one for each."
            )
    options: dict[str, Any] = {
        "train": train,
        "n_mistakes": n_mistakes,
        "n_examples": n_examples,
        "n_bootstrap": n_bootstrap,
        "random_state": random_state,
    }
    if has_label_sets(y) or isinstance(getattr(model, "classes_", None), list):
        return Scores(_evaluate_label_sets(model, X, texts, y, columns, **options))
    return Scores(_evaluate_classes(model, X, texts, y, columns, n_map=n_map, **options))


def _evaluate_classes(
    model: Any,
    X: Any,
    texts: list[str],
    y: Any,
    columns: Mapping[str, Sequence[Any]],
    *,
    train: tuple[Any, Any] | None,
    n_mistakes: int,
    n_examples: int,
    n_map: int,
    n_bootstrap: int,
    random_state: int,
) -> dict[str, Any]:
    check_classifier(model, need_probability=False)
    classes = np.asarray(model.classes_).tolist()
    true = class_positions(len(texts), y, classes)
    features = features_before_last_step(model, X)
    answers = answer_features(model, features, need_probability=False)
    predicted, others = positions(answers.labels, classes)
    probability, ranking, labels = answers.probability, answers.ranking, classes + others
    most_probable = is_most_probable(predicted, probability)
    warn_of_other_labels(most_probable, f"the {type(model).__name__}", stacklevel=4)
    if n_map and (type(model) is not Pipeline or len(model.steps) < 2):
        features = features_of(model, X)
        if features is None:
            features = f"a {type(model).__name__} has no features before its last step."
    scored = true, predicted, probability, ranking
    counted = count_tokens(model, X, texts)
    sure = label_probability(predicted, ranking)
    judged = Judged(true, predicted, sure, labels, answers.decision is None)
    scores = classification_scores(*scored)
    absent = [classes[i] for i in np.setdiff1d(np.arange(len(classes)), true).tolist()]
    return {
        "n_texts": len(texts),
        "classes": labels,
        "n_not_most_probable": int((~most_probable).sum()),
        "never_predicted": [labels[i] for i in np.setdiff1d(true, predicted).tolist()],
        **scores,
        "not_scored": _not_scored(model, scores, ranking, absent),
        "intervals": intervals_of(
            resampled_scores(*scored, n_samples=n_bootstrap, random_state=random_state)
        ),
        "confusion_matrix": confusion_matrix(true, predicted, labels=range(len(labels))).tolist(),
        "by_class": class_table(true, predicted, labels),
        "curves": score_curves(true, ranking, classes),
        "calibration": calibration_table(true, probability),
        "slices": _slices(counted, texts, predicted == true, columns),
        "unknown": count_unknown(model, counted),
        "mistakes": find_mistakes(model, X, judged, n=n_mistakes, train=train),
        "examples": find_examples(model, X, judged, n=n_examples),
        "label_issues": _label_issues(texts, true, classes, probability, n_mistakes),
        "map": map_embeddings(features, texts, judged, n_points=n_map, random_state=random_state),
        "duplicates": _duplicates(texts, labels_of_texts(y, len(texts)), train),
    }


def _evaluate_label_sets(
    model: Any,
    X: Any,
    texts: list[str],
    y: Any,
    columns: Mapping[str, Sequence[Any]],
    *,
    train: tuple[Any, Any] | None,
    n_mistakes: int,
    n_examples: int,
    n_bootstrap: int,
    random_state: int,
) -> dict[str, Any]:
    outputs = _yes_or_no(model)
    true, names = label_sets(y, len(texts))
    answers = ask_label_sets(model, X, true.shape[1])
    names = names or [name for name, _ in outputs]
    predicted, ranking = answers.labels, answers.ranking
    scores, drawn = label_set_scores(
        true, answers, n_samples=n_bootstrap, random_state=random_state
    )
    each = list(zip(names, true.T, predicted.T, two_columns(ranking), strict=True))
    sets = [_joined(row, names) for row in true]
    if train is not None:
        known, _ = label_sets(train[1], len(texts_of(train[0])))
        train = train[0], [_joined(row, names) for row in known]
    counted = count_tokens(model, X, texts)
    found = partial(find_in_label_sets, model, X, true, answers, names)
    return {
        "n_texts": len(texts),
        "multilabel": True,
        "classes": names,
        "never_predicted": [name for name, own, given, _ in each if own.any() > given.any()],
        **scores,
        "not_scored": _not_scored(model, scores, ranking, []),
        "intervals": intervals_of(drawn),
        "confusion_matrix": [
            confusion_matrix(own, given, labels=[0, 1]).tolist() for _, own, given, _ in each
        ],
        "by_class": [class_table(own, given, [0, name])[1] for name, own, given, _ in each],
        "curves": [
            curve for name, own, _, ranks in each for curve in score_curves(own, ranks, [0, name])
        ],
        "calibration": calibration_table(
            true.T.ravel(), two_columns(answers.probability).reshape(-1, 2)
        ),
        "slices": _slices(counted, texts, (predicted == true).all(axis=1), columns),
        "mistakes": found(n=n_mistakes, wrong=True, train=train),
        "examples": found(n=n_examples, wrong=False),
        "label_issues": None,
        "map": None,
        "duplicates": _duplicates(texts, sets, train),
    }


def ask_label_sets(model: Any, X: Any, n_labels: int) -> Answers:
    """Return 0 or 1 for each text and label, with scores."""
    outputs = _yes_or_no(model)
    several = isinstance(model.classes_, list) or gives_several(model, rows_of(X, np.arange(1)))
    if not several or len(outputs) != n_labels:
        raise ValueError(
            f"y holds {n_labels} label{'s' * (n_labels > 1)} per text, but the model gives "
            f"{len(outputs) if several else 'one'}."
        )
    answers = ask_each(model, X, need_probability=False)
    decision = answers.decision
    if decision is not None and decision.shape != answers.labels.shape:
        decision = None
    return answers._replace(labels=answers.labels.astype(np.int64), decision=decision)


def _yes_or_no(model: Any) -> list[tuple[str, list[Any]]]:
    """Return the outputs, or raise unless all are 0 and 1."""
    if not hasattr(model, "classes_"):
        check_classifier(model, need_probability=False)
    outputs = outputs_of(model)
    for name, classes in outputs:
        if not is_yes_or_no(classes):
            raise ValueError(
                f"Output {name!r} of the model has the classes {', '.join(map(repr, classes))}; "
                "with several labels per text, only outputs of 1 and 0 can be scored. Fit a model "
                "to each column, and score it with that column of y."
            )
    return outputs


def _joined(row: np.ndarray, names: Sequence[str]) -> str:
    return ", ".join(names[i] for i in np.flatnonzero(row).tolist()) or "no label"


def _not_scored(
    model: Any, scores: Mapping[str, float | None], ranking: np.ndarray, absent: Sequence[Any]
) -> dict[str, str]:
    while isinstance(model, Pipeline) or hasattr(model, "best_estimator_"):
        model = model[-1] if isinstance(model, Pipeline) else model.best_estimator_
    name = type(model).__name__
    reasons = {}
    for score in [score for score, value in scores.items() if value is None]:
        if score in ("log_loss", "brier", "calibration_error"):
            reasons[score] = f"{name} has no predict_proba; CalibratedClassifierCV adds it"
        elif np.isnan(ranking).all():
            reasons[score] = f"{name} has neither predict_proba nor a decision for each class"
        else:
            labels = ", ".join(map(repr, absent[:3]))
            which = f"text of {labels}" if absent else "label of both kinds"
            reasons[score] = f"no {which} among the scored texts"
    return reasons


def _slices(
    counted: pd.DataFrame | None,
    texts: list[str],
    right: np.ndarray,
    columns: Mapping[str, Sequence[Any]],
) -> dict[str, list[dict[str, Any]]]:
    by_column = {f"by {name}": slice_by(values, right) for name, values in columns.items()}
    return {**slices_by_length(counted, texts, right), **by_column}


def _duplicates(
    texts: list[str], labels: Sequence[Any], train: tuple[Any, Any] | None
) -> dict[str, Any] | None:
    if train is None:
        return None
    duplicates = find_duplicates(texts, labels, *train)
    warn_of_leaks(duplicates["n_texts"], len(texts), stacklevel=5)
    return duplicates


def _label_issues(
    texts: list[str], true: np.ndarray, classes: list[Any], probability: np.ndarray, n: int
) -> dict[str, Any] | None:
    if np.isnan(probability).any() or len(classes) < 2:
        return None
    table = doubted_labels(texts, true, classes, probability)
    table = table[table["issue"]].reset_index(names="row")
    shown = table[["row", "text", "label", "suggested", "probability"]][: max(n, 0)]
    return {"n_texts": len(table), "rows": shown.to_dict(orient="records")}


def class_positions(n_texts: int, y: Any, classes: list[Any]) -> np.ndarray:
    """Return the position of each true class, (n_texts,)."""
    true, unknown = positions(labels_of_texts(y, n_texts), classes)
    odd = [label for label in unknown if isinstance(label, float) and label % 1 > 0]
    if odd and len(unknown) > len(classes):
        raise ValueError(of_regression(odd[0]))
    if unknown:
        names = sorted(repr(str(label)) for label in unknown)
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise ValueError(
            f"y holds labels that the model does not know: {', '.join(names[:10])}{more}; it knows "
            f"{', '.join(map(repr, classes))}."
        )
    if not n_texts:
        raise ValueError("Found array with 0 sample(s): there is no text to score.")
    return true
