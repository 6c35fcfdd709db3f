"""Explain a prediction by its words, exactly if possible."""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from pipeline.answers import ask_each, gives_several, is_yes_or_no, outputs_of
from pipeline.columns import as_fitted, first_step, fitted_columns
from pipeline.csv_table import check_names
from pipeline.decision import DecisionSum
from pipeline.exceptions import ExplanationError
from pipeline.notebook import (
    Html,
    block,
    coloured_pieces,
    escaped,
    folded,
    paragraph,
    signed,
    table_html,
    words_html,
)
from pipeline.tables import Table, shortened, strongest
from pipeline.texts import check_texts, take_columns
from pipeline.vectorizer import BertVectorizer
from pipeline.word_rows import Level, WordRows, word_spans

Method = Literal["auto", "exact", "occlusion"]
_FEW_WORDS, _MOST_ROWS = 15, 200  # whose numbers stay unfolded; that are shown
Baseline = Literal["mean", "zero"]
_OWN_COLUMNS = ("word", "token", "start", "end", "contribution")


def explain(
    model: Any,
    X: Any,
    *,
    level: Level = "word",
    method: Method = "auto",
    text: str | None = None,
    baseline: Baseline = "mean",
    against: Literal["runner-up"] | None = None,
) -> "Explanations":
    """Explain a classifier's decisions by words or tokens.

    With ``pooling="mean"``, any layers, any ``combine`` and affine steps (scalers, PCA, feature
    selection) before a linear classifier, the decision is a sum over the tokens. The contributions
    are then exact: with the intercept they add up to ``decision_function``. Neighbours also shape a
    token's vector, so they say how the decision was made, not what it would be without the word.

    The same holds for n-grams (CountVectorizer, TfidfVectorizer, HashingVectorizer), and for
    several parts in a FeatureUnion, a ColumnTransformer, or a StackingClassifier with
    ``stack_method="decision_function"``. Each n-gram is split equally among its words or, for
    character n-grams, its characters. Idf and the norm of a text are constants. Other columns than
    the text are in the intercept. For a CalibratedClassifierCV, the mean decision of its members
    before calibration is explained.

    Other models are explained by occlusion: each word is left out in turn, and its contribution is
    how much the decision, or the probability if there is no ``decision_function``, falls. Such
    contributions do not add up.

    Parameters
    ----------
    model : estimator
        A fitted text classifier, usually a Pipeline with a `BertVectorizer`, or a search, for its
        best estimator. Samplers are skipped, as in prediction. Earlier steps may clean the texts;
        positions refer to the text as given.
    X : iterable of str, length n_texts, or DataFrame
        Texts, or the columns that the model was fitted on. The other columns stay fixed.
    level : {"word", "token"}, default="word"
        A row per word or token (word piece); tokens need the exact method.
    method : {"auto", "exact", "occlusion"}, default="auto"
        ``"auto"`` is ``"exact"`` if possible, else ``"occlusion"``, which encodes a text per word.
    text : str, optional
        The column to explain, if the model reads several of text.
    baseline : {"mean", "zero"}, default="mean"
        What a token is compared with under the exact method. ``"mean"`` is an equal part of the
        average training text (``mean_`` of a BertVectorizer), whose decision is in the intercept,
        so that neutral words are near 0. ``"zero"``, also for vectorizers of older files without
        ``mean_``, leaves what all texts have in common in the contributions.
    against : {"runner-up"}, optional
        With more than two classes, explain the difference between the decisions for the first and
        the second, in one column ``contribution``. None explains each class.

    Returns
    -------
    Explanations
        A list of DataFrames, length n_texts, shown in a notebook as texts with coloured words. Each
        has a row per word or token, in the order of the text: ``word`` (or ``token``), ``start``,
        ``end`` (characters of the text) and ``contribution``, or ``contribution_<class>`` for each
        of more than two classes. With two classes, positive values speak for ``classes_[1]``. If
        the decision has several parts, their columns follow and sum to the contribution: named by
        the parts of the stack or union, or ``<part>_<class>``. Under the exact method [CLS] and
        [SEP] have rows, and so has, named by the part in brackets, what belongs to no word.

        ``frame.attrs`` holds ``text``, ``method``, ``decision``, ``intercept`` (under occlusion the
        decision on the empty text) and ``classes``; the last three are lists for more than two
        classes. ``classes`` are the label names for several labels per text, and the second and
        first class with ``against``. The exact method adds ``baseline`` (as used), ``parts``
        (names, if several), ``ngrams`` (dicts of ``ngram``, ``start``, ``end``, ``contribution``,
        ``part``) and ``uncalibrated`` (True if so). ``probability`` is True if the decision is one.
        ``reason`` says why ``"auto"`` used occlusion.

    Raises
    ------
    ExplanationError
        If the model is not a text classifier; with ``method="exact"`` also if it is not affine.

    Examples
    --------
    >>> from pipeline import make_sentiment_pipeline
    >>> texts = ["A lovely film.", "A dull film.", "Great fun.", "A bore."]
    >>> model = make_sentiment_pipeline().fit(texts, [1, 0, 1, 0])
    >>> frame = explain(model, ["What a lovely evening."])[0]
    >>> frame["word"].tolist()
    ['[CLS]', 'What', 'a', 'lovely', 'evening', '.', '[SEP]']
    >>> total = frame["contribution"].sum() + frame.attrs["intercept"]
    >>> bool(abs(total - model.decision_function(["What a lovely evening."])[0]) < 1e-5)
    True
    """
    for name, value, allowed in (
        ("level", level, ("word", "token")),
        ("method", method, ("auto", "exact", "occlusion")),
        ("baseline", baseline, ("mean", "zero")),
        ("against", against, (None, "runner-up")),
    ):
        if value not in allowed:
            *others, last = map(repr, allowed)
            raise ValueError(f"{name}={value!r}; allowed are {', '.join(others)} and {last}.")
    model = _best(model)
    vectorizer = _vectorizer_of(model)
    texts, with_texts, column = _rows_of(model, vectorizer, X, text)
    if not texts and (method, level) != ("occlusion", "token"):
        return Explanations()
    attrs, reason = {"method": "occlusion"}, "method='occlusion' leaves out whole words."
    if method != "occlusion":
        try:
            rows = with_texts(np.arange(len(texts)), texts)
            return _exact(model, rows, texts, column, level, baseline, against)
        except ExplanationError as error:
            if method == "exact":
                raise
            attrs["reason"] = reason = str(error)
    if level == "token":
        raise ExplanationError(f"level='token' needs the exact method. {reason}")
    return _occlusion(model, vectorizer, texts, with_texts, against, attrs)


class Explanation(pd.DataFrame):
    """The words of a text with their contributions.

    A copy stays an Explanation; a selection is a plain DataFrame.
    """

    def copy(self, deep: bool = True) -> Any:  # type: ignore[misc]  # final in the stubs only
        """Return a copy, like any DataFrame."""
        copied: Any = type(self)(super().copy(deep=deep))
        return copied.__finalize__(self)

    def said(self) -> tuple[str, str, str]:
        """Return the likely class, its margin, and the column that explains it."""
        decision, classes = self.attrs["decision"], self.attrs["classes"]
        is_probability, column = self.attrs.get("probability"), "contribution"
        form = "{:.3f}".format if is_probability else signed
        if isinstance(decision, list):
            first = int(np.argmax(decision))
            return str(classes[first]), form(decision[first]), f"{column}_{classes[first]}"
        leans = decision > (0.5 if is_probability else 0.0)
        value = 1 - decision if is_probability and not leans else decision
        return str(classes[-1] if leans else classes[0]), form(value), column

    def words(self) -> list[dict[Hashable, Any]]:
        """Return the words with their contributions to the likely class."""
        names = {"token": "word", self.said()[2]: "contribution"}
        frame = pd.DataFrame(self)[[self.columns[0], "start", "end", self.said()[2]]]
        return frame.rename(columns=names).to_dict("records")

    def is_whole(self) -> bool:
        """Whether all columns needed for display are present."""
        needed = {"text", "decision", "classes"} <= set(self.attrs)
        return (
            needed
            and {"start", "end", self.said()[2]} <= set(self.columns)
            and self.columns[0] in ("word", "token")
        )

    def _repr_html_(self) -> str | None:
        plain: str | None = super()._repr_html_()  # type: ignore[misc]
        if plain is None or not self.is_whole():
            return plain
        rows = [
            [signed(cell, ".4f") if isinstance(cell, float) else str(cell) for cell in row]
            for row in self[:_MOST_ROWS].itertuples(index=False)
        ]
        table = Table("", list(map(str, self.columns)), rows)
        some = f", {_MOST_ROWS} of {len(self):,} rows" if len(self) > _MOST_ROWS else ""
        numbers = folded(f"The numbers{some}", table_html(table), is_open=len(self) <= _FEW_WORDS)
        return block(_coloured([self]), numbers)


class Explanations(list[Explanation]):
    """The explanations of several texts, shown in a notebook one per line."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return Explanations(found) if isinstance(place, slice) else found

    def _are_whole(self) -> bool:
        return all(isinstance(own, Explanation) and own.is_whole() for own in self)

    def __repr__(self) -> str:
        if not self or not self._are_whole():
            return super().__repr__()
        lines = []
        for own in self:
            label, value, _ = own.said()
            words = strongest(own.words(), 3)
            most = ", ".join(f"{row['word']} {row['contribution']:+.3f}" for row in words)
            said = f"{shortened(label, 20)} {value} ({most}): {own.attrs['text']}"
            lines.append(shortened(said, 150))
        return "\n".join(lines)

    def _repr_html_(self) -> str | None:
        return block(_coloured(self)) if self and self._are_whole() else None


def _coloured(frames: Sequence[Explanation]) -> str:
    texts = [(own.attrs["text"], own.words(), own.said()) for own in frames]
    largest = max((abs(row["contribution"]) for _, words, _ in texts for row in words
                   if row["start"] < row["end"]), default=0.0)  # fmt: skip
    rows = [
        [label, value, Html(f'<span class="text" dir="auto">{shown}</span>')]
        for text, words, (label, value, _) in texts
        for shown in [words_html(coloured_pieces(text, words, largest=largest))]
    ]
    attrs = frames[0].attrs
    pairs = {tuple(map(str, own.attrs["classes"])) for own in frames}
    of_two = len(pairs) == 1 and not isinstance(attrs["decision"], list)
    blue, orange = (
        (f"for {cell}" for cell in map(escaped, reversed(next(iter(pairs)))))
        if of_two
        else ("for the class that is named", "against it")
    )
    said = (
        f'Words <span class="for strong" style="--w:.7">{blue}</span> and words '
        f'<span class="against strong" style="--w:.7">{orange}</span>. '
    )
    if attrs["method"] == "exact":
        said += "With the intercept they add up to the decision."
    else:
        said += "The weight of a word is how much leaving it out changes the decision."
    header = ("Class", "Probability" if attrs.get("probability") else "Decision", "Text")
    return table_html(Table("", header, rows, (2,))) + paragraph(Html(said), "muted")


def _best(model: Any) -> Any:
    """Return the pipeline inside a search or a pipeline."""
    if hasattr(model, "best_estimator_"):
        return _best(model.best_estimator_)
    inner = model[0] if isinstance(model, Pipeline) and len(model.steps) == 1 else None
    is_whole = isinstance(inner, Pipeline) or hasattr(inner, "best_estimator_")
    return _best(inner) if is_whole else model


def _vectorizer_of(model: Any) -> BertVectorizer | None:
    if not hasattr(model, "classes_"):
        check_is_fitted(model)
        raise ExplanationError(
            f"The last step, {type(_last(model)).__name__}, is not a classifier; only decisions "
            "for classes can be explained."
        )
    waiting, seen = deque([model]), set()
    while waiting:
        part = waiting.popleft()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, BertVectorizer):
            if part.__sklearn_is_fitted__():
                return part
        elif isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
        elif isinstance(part, BaseEstimator) or type(part).__module__.startswith("sklearn."):
            waiting.extend(getattr(part, "__dict__", {}).values())
    return None


def _last(model: Any) -> Any:
    return model[-1] if isinstance(model, Pipeline) else model


def _rows_of(
    model: Any, vectorizer: BertVectorizer | None, X: Any, text: str | None
) -> tuple[list[str], Callable[[np.ndarray, list[str]], Any], str | None]:
    """Return the texts, a function to replace them, and their column."""
    options: Any = {name: getattr(vectorizer, name, "error") for name in ("missing", "on_invalid")}
    columns = None
    if first_step(model) is not vectorizer:
        try:
            columns = fitted_columns(model)
        except ValueError as error:
            raise ExplanationError(str(error)) from None
    if columns is None:
        # list() of a DataFrame would give the column names
        table = take_columns(X, on_invalid=options["on_invalid"])
        if len(table.columns) > 1:
            raise ExplanationError(
                f"X has {len(table.columns)} columns; expected one column of texts to explain."
            )
        if vectorizer is None and not all(isinstance(cell, str) for cell in table.columns[0]):
            raise ExplanationError(
                f"model is a {type(model).__name__}, and X holds no texts; only words can be "
                "explained."
            )
        return check_texts(table, **options), lambda _, texts: _as_given(X, texts), None
    if not isinstance(X, pd.DataFrame):
        if len(columns) > 1:
            raise ExplanationError(
                f"X is a {type(X).__name__}, but the model was fitted on the columns "
                f"{', '.join(map(repr, columns))}: give a DataFrame of them."
            )
        X = pd.DataFrame({next(iter(columns)): list(X)})
    check_names(list(X.columns), list(columns), "X")
    names = [name for name, kind in columns.items() if kind == "text"] or [
        name for name in columns if all(isinstance(cell, str) for cell in X[name])
    ]
    column = names[0] if text is None and len(names) == 1 else text
    if column is None or column not in names:
        raise ExplanationError(
            f"text={text!r}: the model reads texts from the columns "
            f"{', '.join(map(repr, names))}; name the one to explain."
        )
    frame = as_fitted(columns, X, column)
    texts = check_texts(frame[column], **options)

    def with_texts(rows: np.ndarray, texts: list[str]) -> Any:
        return frame.iloc[rows].assign(**{str(column): texts})

    return texts, with_texts, column


def _as_given(X: Any, texts: list[str]) -> Any:
    """Return texts in a container like X."""
    if isinstance(X, pd.Series):
        return pd.Series(texts, name=X.name, dtype=X.dtype)
    if isinstance(X, np.ndarray):
        dtype = object if X.dtype == object else str
        return np.array(texts, dtype=dtype).reshape(-1, *X.shape[1:])
    return texts


def _exact(
    model: Any,
    X: Any,
    texts: list[str],
    column: str | None,
    level: Level,
    baseline: Baseline,
    against: str | None,
) -> Explanations:
    if isinstance(model.classes_, list):
        raise ExplanationError("A text has several labels here, so there is no single decision.")
    classes = np.asarray(model.classes_).tolist()
    # two labels per text, as with RidgeClassifier, are not two classes
    shape: tuple[int, ...] = getattr(getattr(_last(model), "coef_", None), "shape", ())
    n_outputs = 1 if len(classes) == 2 and not (len(shape) == 2 and shape[0] == 2) else len(classes)
    whole = DecisionSum(len(texts), n_outputs, column)
    whole.add(model, X, np.eye(n_outputs))
    if not whole.tokens and not whole.ngrams:
        raise ExplanationError("No part of the model is known to read texts.")
    if level == "token" and not whole.tokens:
        raise ExplanationError("The model has no BertVectorizer, so there are no tokens.")
    if any(part.mean is None for part in whole.tokens):
        baseline = "zero"
    attrs: dict[str, Any] = {"method": "exact", "baseline": baseline}
    if whole.is_uncalibrated:
        attrs["uncalibrated"] = True
    texts_rows = _rows_of_texts(whole, texts, level, baseline, n_outputs)
    totals = whole.constant + [rows.values.sum(axis=(0, 1)) for rows in texts_rows]
    decisions = totals
    if hasattr(model, "decision_function"):
        decisions = np.asarray(model.decision_function(X), dtype=np.float64)
        decisions = decisions.reshape(len(texts), -1)
        # a subclass may compute its decision differently
        if decisions.shape != totals.shape or not np.allclose(decisions, totals, 1e-2, 1e-2):
            raise ExplanationError(
                f"The decision of the {type(_last(model)).__name__} is not the sum of its parts."
            )
    return Explanations(
        _finish(rows, level, classes, decision, intercept, against, attrs)
        for rows, decision, intercept in zip(texts_rows, decisions, whole.constant, strict=True)
    )


def _rows_of_texts(
    whole: DecisionSum, texts: list[str], level: Level, baseline: Baseline, n_outputs: int
) -> list[WordRows]:
    """Return the rows of each text, with the mean text as constant."""
    names = list(dict.fromkeys(part.name for part in [*whole.tokens, *whole.ngrams]))
    of_texts = [WordRows(text, names, n_outputs) for text in texts]
    for part in whole.tokens:
        base = part.mean if baseline == "mean" else None
        whole.constant += 0.0 if base is None else base
        shares = part.vectorizer.token_shares(part.X, part.weights, base)
        for rows, own, text in zip(of_texts, shares, part.texts, strict=True):
            rows.add_tokens(part.name, own, text, level)
    for i, rows in enumerate(of_texts):
        for ngrams in whole.ngrams:
            own, text = ngrams.features[[i]], ngrams.texts[i]
            rows.add_ngrams(ngrams.name, ngrams.vectorizer, text, own, ngrams.weights)
        rows.finish()
    return of_texts


def _occlusion(
    model: Any,
    vectorizer: BertVectorizer | None,
    texts: list[str],
    with_texts: Callable[[np.ndarray, list[str]], Any],
    against: str | None,
    attrs: dict[str, Any],
) -> Explanations:
    spans = (
        [word_spans(text) for text in texts] if vectorizer is None else vectorizer.word_spans(texts)
    )
    variants = [
        [text, "", *(text[:start] + text[end:] for start, end in of_text)]
        for text, of_text in zip(texts, spans, strict=True)
    ]
    sizes = [len(of_text) for of_text in variants]
    rows = np.repeat(np.arange(len(texts)), sizes)
    variants_of_texts = with_texts(rows, [text for of_text in variants for text in of_text])
    try:
        decisions, classes, are_probabilities = _decide(model, variants_of_texts)
    except ExplanationError:
        raise
    except Exception as error:
        raise ExplanationError(
            f"The model fails on texts without one of their words: {error}"
        ) from error
    if are_probabilities:
        attrs = {**attrs, "probability": True}
    frames = Explanations()
    for text, of_text, own in zip(
        texts, spans, np.split(decisions, np.cumsum(sizes)[:-1]), strict=True
    ):
        words = WordRows(text, [""], decisions.shape[1])
        words.rows = [(text[start:end], start, end) for start, end in of_text]
        words.values = (own[0] - own[2:])[:, None]
        frames.append(_finish(words, "word", classes, own[0], own[1], against, attrs))
    return frames


def _decide(model: Any, X: Any) -> tuple[np.ndarray, list[Any], bool]:
    """Return decisions, (n_rows, n_outputs), the classes, and whether they are probabilities."""
    listed = isinstance(model.classes_, list)
    classes = [] if listed else np.asarray(model.classes_).tolist()
    if hasattr(model, "decision_function") and not listed:
        decisions = np.asarray(model.decision_function(X), dtype=np.float64)
        decisions = decisions.reshape(len(decisions), -1)
        if decisions.shape[1] in (1, len(classes)):  # not one against one
            return decisions, classes, False
    if listed or gives_several(model, X[:1]):
        names = [
            name if is_yes_or_no(own) else f"{name}_{label}"
            for name, own in outputs_of(model)
            for label in ([1] if is_yes_or_no(own) else own)
        ]
        answers = ask_each(model, X, need_probability=False)
        ranking = np.asarray(answers.ranking, dtype=np.float64)
        if ranking.shape[1] == len(names) and not np.isnan(ranking).all():
            return ranking, names, answers.decision is None
    if not hasattr(model, "predict_proba"):
        raise ExplanationError(
            f"The last step, {type(_last(model)).__name__}, has neither a decision_function with "
            "one value per class nor predict_proba. Use LogisticRegression, for example, or wrap "
            "it in CalibratedClassifierCV."
        )
    probability = np.asarray(model.predict_proba(X), dtype=np.float64)
    return probability[:, 1:] if len(classes) == 2 else probability, classes, True


def _finish(
    rows: WordRows,
    level: Level,
    classes: list[Any],
    decision: np.ndarray,
    intercept: np.ndarray,
    against: str | None,
    attrs: dict[str, Any],
) -> Explanation:
    said = np.eye(len(decision))
    if against is not None and len(decision) > 1:
        *_, second, first = np.argsort(decision, kind="stable").tolist()
        said, classes = said[:, [first]] - said[:, [second]], [classes[second], classes[first]]
    one = said.shape[1] == 1

    def plain(numbers: np.ndarray) -> Any:
        numbers = numbers @ said
        return float(numbers[0]) if one else numbers.tolist()

    values = rows.values @ said  # (n_rows, n_parts, n_outputs)
    columns = {"contribution": values.sum(axis=1)}
    if len(rows.names) > 1:
        parts = [f"part_{name}" if name in _OWN_COLUMNS else name for name in rows.names]
        columns.update(zip(parts, values.swapaxes(0, 1), strict=True))
        attrs = {**attrs, "parts": parts}
    named = {
        name if one else f"{name}_{label}": own[:, i]
        for name, own in columns.items()
        for i, label in enumerate(classes[-1:] if one else classes)
    }
    frame = pd.DataFrame(rows.rows, columns=[level, "start", "end"])
    frame = Explanation(pd.concat([frame, pd.DataFrame(named, index=frame.index)], axis=1))
    frame.attrs.update(
        attrs, text=rows.text, decision=plain(decision), intercept=plain(intercept), classes=classes
    )
    if rows.ngrams:
        frame.attrs["ngrams"] = [
            {
                "part": part,
                "ngram": ngram,
                "start": min(start for start, _ in spans),
                "end": max(end for _, end in spans),
                "contribution": plain(share),
            }
            for (part, ngram, spans), share in rows.ngrams.items()
        ]
    return frame
