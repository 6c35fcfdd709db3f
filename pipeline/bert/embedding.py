"""The spine: texts -> tokens -> batches -> hidden states -> vectors, each distinct text once. Used by vectorizer and walk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Encoding

from pipeline.bert.batching import TokenBatch
from pipeline.bert.encoder import Encoder
from pipeline.bert.inference import run_batches
from pipeline.bert.pooling import Pooling
from pipeline.bert.tokenizing import TextTokenizer, TextTooLongError, TokenizedTexts

Group = Callable[[Sequence[int]], list[np.ndarray]]  # lengths of sequences -> batches, as `batch_by_length` with its budget


def truncation_report(n_tokens: np.ndarray, n_lost: np.ndarray, n_windows: np.ndarray) -> dict[str, Any]:
    """Count what truncation cut.

    Parameters
    ----------
    n_tokens, n_lost, n_windows : ndarray of shape (n_texts,), int64
        Tokens of each whole text with [CLS] and [SEP], how many of them were cut, and how many sequences it became.

    Returns
    -------
    dict
        ``n_texts``, ``texts_cut``, ``n_tokens`` (of the whole texts, [CLS] and [SEP] included), ``tokens_lost``,
        ``share_lost`` (of ``n_tokens``), and ``texts_in_windows`` (longer than one window, nothing lost).
    """
    total = int(n_tokens.sum())
    return {
        "n_texts": len(n_tokens),
        "texts_cut": int((n_lost > 0).sum()),
        "n_tokens": total,
        "tokens_lost": int(n_lost.sum()),
        "share_lost": float(n_lost.sum() / total) if total else 0.0,
        "texts_in_windows": int((n_windows > 1).sum()),
    }


@dataclass(frozen=True)
class Plan:
    """Texts made ready for the encoder: distinct, tokenised, cut to length and grouped into batches.

    Attributes
    ----------
    row_of : ndarray of shape (n_texts,), int64
        Which distinct text each row is.
    tokenized : TokenizedTexts
        Of the distinct texts.
    batches : list of ndarray of shape (n_in_batch,), int64
        Positions in ``tokenized.input_ids``, longest first.
    texts : list of str or of tuples of str
        The distinct texts.
    encodings : list of tokenizers.Encoding or None
        Pieces, offsets and word numbers of the whole distinct texts, where they were asked for.
    """

    row_of: np.ndarray
    tokenized: TokenizedTexts
    batches: list[np.ndarray]
    texts: list[Any]
    encodings: list[Encoding] | None = None

    @property
    def n_distinct(self) -> int:
        """Number of distinct texts."""
        return len(self.tokenized.n_tokens)

    @property
    def n_windows(self) -> np.ndarray:
        """Number of sequences of each distinct text, shape (n_distinct,), int64."""
        return np.bincount(self.tokenized.owner, minlength=self.n_distinct)

    def subset(self, distinct: np.ndarray, group: Group) -> "Plan":
        """Return the plan of some of the distinct texts, in that order, without tokenising them again.

        Parameters
        ----------
        distinct : ndarray of shape (n_chosen,), int64
            Which of the distinct texts, each at most once.
        group : callable
            Lengths of sequences -> batches.

        Returns
        -------
        Plan
            Whose rows are the chosen texts.
        """
        starts = np.searchsorted(self.tokenized.owner, distinct)
        stops = np.searchsorted(self.tokenized.owner, distinct, side="right")
        input_ids = [ids for start, stop in zip(starts, stops, strict=True) for ids in self.tokenized.input_ids[start:stop]]
        tokenized = TokenizedTexts(
            input_ids,
            np.repeat(np.arange(len(distinct)), stops - starts),
            self.tokenized.n_tokens[distinct],
            self.tokenized.n_lost[distinct],
        )
        batches = group([len(ids) for ids in input_ids])
        return Plan(np.arange(len(distinct)), tokenized, batches, [self.texts[i] for i in distinct])

    def truncation_report(self) -> dict[str, Any]:
        """Count what truncation cut, over all rows; see `truncation_report`."""
        rows = self.row_of
        return truncation_report(self.tokenized.n_tokens[rows], self.tokenized.n_lost[rows], self.n_windows[rows])


def plan(
    texts: Sequence[str] | Sequence[tuple[str, ...]], tokenizer: TextTokenizer, group: Group, *, pieces: bool = False
) -> Plan:
    """Tokenise each distinct text once and group the sequences into batches.

    Parameters
    ----------
    texts : sequence of str, or of tuples of str, length n_texts
        Checked texts; tuples are texts that are split into words already (with ``pieces=True`` only).
    tokenizer : TextTokenizer
        With its length and truncation set.
    group : callable
        Lengths of sequences -> batches.
    pieces : bool, default=False
        Keep the pieces, offsets and word numbers too.

    Returns
    -------
    Plan
        For `embed` and `embed_tokens`.

    Raises
    ------
    TextTooLongError
        Under ``truncation="error"``, naming the first row that is too long.
    """
    position: dict[str | tuple[str, ...], int] = {}
    row_of = np.array([position.setdefault(text, len(position)) for text in texts], dtype=np.int64)
    encodings = None
    try:
        if pieces:
            encodings, tokenized = tokenizer.with_pieces(list(position))  # type: ignore[arg-type]
        else:
            tokenized = tokenizer(list(position))  # type: ignore[arg-type]
    except TextTooLongError as error:  # it counts the distinct texts; the user counts rows
        row = int(np.flatnonzero(row_of == error.text)[0])
        raise TextTooLongError(row, error.n_tokens, error.max_length) from None
    batches = group([len(ids) for ids in tokenized.input_ids])
    return Plan(row_of, tokenized, batches, list(position), encodings)


def embed(
    plan: Plan,
    encoder: Encoder,
    *,
    poolings: Sequence[Pooling],
    layers: Sequence[int],
    hidden_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Encode a plan and pool every wanted layer.

    Parameters
    ----------
    plan : Plan
        From `plan`.
    encoder : Encoder
        As deep as the deepest of ``layers``.
    poolings : sequence of {"cls", "mean", "max", "pooler"}
        Sentence vectors to compute; ``pooler`` stands in the place of the last layer.
    layers : sequence of int
        Indices 0 ... ``encoder.depth``.
    hidden_size : int
        Width of the encoder.
    on_batch : callable, optional
        Called after each batch with the number of its sequences.

    Returns
    -------
    ndarray of shape (n_texts, n_poolings, n_layers, hidden_size), float32
        A text of several windows gets the mean of its windows' vectors, weighted by their numbers of tokens.
    """
    tokenized = plan.tokenized
    weight = np.array([len(ids) for ids in tokenized.input_ids], dtype=np.float64)
    share = weight / np.bincount(tokenized.owner, weights=weight, minlength=plan.n_distinct)[tokenized.owner]
    alone = plan.n_windows[tokenized.owner] == 1
    vectors = np.zeros((plan.n_distinct, len(poolings), len(layers), hidden_size), dtype=np.float32)

    def compute(batch: TokenBatch, workspace: Any) -> Any:
        return encoder.pooled(batch, poolings, layers, workspace)

    for batch, values in run_batches(encoder, tokenized.input_ids, plan.batches, compute):
        single = alone[batch]
        vectors[tokenized.owner[batch[single]]] = values[single]  # (n_in_batch, n_poolings, n_layers, hidden_size)
        for j in np.flatnonzero(~single):  # several windows of one text may sit in one batch: add them one by one
            vectors[tokenized.owner[batch[j]]] += (share[batch[j]] * values[j]).astype(np.float32)
        if on_batch is not None:
            on_batch(len(batch))
    return np.asarray(vectors[plan.row_of])


def embed_tokens(plan: Plan, encoder: Encoder, *, layers: Sequence[int]) -> list[np.ndarray]:
    """Encode a plan and keep every token.

    Parameters
    ----------
    plan : Plan
        From `plan`.
    encoder : Encoder
        As deep as the deepest of ``layers``.
    layers : sequence of int
        Indices 0 ... ``encoder.depth``.

    Returns
    -------
    list of ndarray of shape (n_tokens, n_layers, hidden_size), float32, length n_sequences
        One per sequence of ``plan.tokenized``: of the distinct texts, window by window.
    """
    vectors: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(plan.tokenized.input_ids)

    def compute(batch: TokenBatch, workspace: Any) -> Any:
        return encoder.token_states(batch, layers, workspace)

    for batch, values in run_batches(encoder, plan.tokenized.input_ids, plan.batches, compute):
        ends = np.cumsum([len(plan.tokenized.input_ids[i]) for i in batch])
        for i, of_one in zip(batch, np.split(values, ends[:-1]), strict=True):
            vectors[i] = of_one.copy()  # (n_tokens, n_layers, hidden_size)
    return vectors
