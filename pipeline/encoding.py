"""All texts of a call -> vectors, in the order of the rows: tokenised ahead, looked up or encoded. Used by vectorizer."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.bert.embedding import Plan, truncation_report
from pipeline.bert.frozen import FrozenBert
from pipeline.bert.tokenizing import TextTooLongError
from pipeline.embedding_cache import complete, look_up
from pipeline.vector_store import Store

PLAN_TEXTS = 4096  # distinct texts tokenised at a time, while those before them are encoded: bounds the memory of a long run


@dataclass(frozen=True)
class Encoded:
    """Vectors of texts, and what truncation did to them.

    Attributes
    ----------
    vectors : ndarray of shape (n_texts, n_poolings, n_layers, hidden_size), float32
        In the order of the texts.
    truncation_report : dict
        See `pipeline.bert.embedding.truncation_report`.
    """

    vectors: np.ndarray
    truncation_report: dict[str, Any]


def encode(
    bert: FrozenBert,
    texts: Sequence[str],
    store: Store | None,
    on_plan: Callable[[int], None] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Encoded:
    """Encode the texts that the store does not have, and return the vectors of all; tokenising runs ahead in a thread.

    Parameters
    ----------
    bert : FrozenBert
        What is asked for.
    texts : sequence of str, length n_texts
        Checked texts.
    store : Store or None
        From `open_store`.
    on_plan, on_batch : callable, optional
        Called with the number of sequences that wait to be encoded, for each group of texts that was tokenised and looked up;
        and with the number of sequences done, after each batch.

    Returns
    -------
    Encoded
        Vectors and truncation report.

    Raises
    ------
    TextTooLongError
        Under ``truncation="error"``, naming the first row that is too long.
    """
    position: dict[str, int] = {}
    row_of = np.array([position.setdefault(text, len(position)) for text in texts], dtype=np.int64)
    distinct = list(position)
    groups = [distinct[start : start + PLAN_TEXTS] for start in range(0, len(distinct), PLAN_TEXTS)] or [[]]
    parts: list[np.ndarray] = []
    counts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # tokens, tokens lost and windows of each distinct text
    try:
        for made in _planned_ahead(bert, groups):
            lookup = look_up(bert, made, store, len(distinct))
            if on_plan is not None:
                on_plan(lookup.n_sequences)
            parts.append(complete(bert, made, lookup, on_batch))
            counts.append((made.tokenized.n_tokens, made.tokenized.n_lost, made.n_windows))
    except TextTooLongError as error:  # it counts the distinct texts of one group; the user counts rows
        row = int(np.flatnonzero(row_of == PLAN_TEXTS * len(parts) + error.text)[0])
        raise TextTooLongError(row, error.n_tokens, error.max_length) from None
    report = truncation_report(*(np.concatenate(of_all)[row_of] for of_all in zip(*counts, strict=True)))
    vectors = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Encoded(vectors if len(distinct) == len(texts) else vectors[row_of], report)


def _planned_ahead(bert: FrozenBert, groups: list[list[str]]) -> Iterator[Plan]:
    if len(groups) == 1:
        yield bert.plan(groups[0])
        return
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as ahead:  # tokenizers let go of the GIL
        pending = ahead.submit(bert.plan, groups[0])
        for group in groups[1:]:
            made, pending = pending.result(), ahead.submit(bert.plan, group)
            yield made
        yield pending.result()
