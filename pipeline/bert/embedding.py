"""The spine: texts -> tokens -> batches -> hidden states -> vectors, each distinct text once. Used by vectorizer and walk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding

from pipeline.bert.batching import batch_by_length
from pipeline.bert.encoder import Encoder
from pipeline.bert.pooling import Pooling, pool
from pipeline.bert.tokenizing import TextTokenizer, TextTooLongError, TokenizedTexts


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
        Positions in ``tokenized.input_ids``, equal length within a batch.
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

    def subset(self, distinct: np.ndarray, batch_tokens: int) -> "Plan":
        """Return the plan of some of the distinct texts, in that order, without tokenising them again.

        Parameters
        ----------
        distinct : ndarray of shape (n_chosen,), int64
            Which of the distinct texts, each at most once.
        batch_tokens : int
            Token budget of one batch.

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
        batches = batch_by_length([len(ids) for ids in input_ids], batch_tokens)
        return Plan(np.arange(len(distinct)), tokenized, batches, [self.texts[i] for i in distinct])

    def truncation_report(self) -> dict[str, Any]:
        """Count what truncation cut, over all rows.

        Returns
        -------
        dict
            ``n_texts``, ``texts_cut``, ``n_tokens`` (of the whole texts, [CLS] and [SEP] included), ``tokens_lost``,
            ``share_lost`` (of ``n_tokens``), and ``texts_in_windows`` (longer than one window, nothing lost).
        """
        n_tokens, n_lost = self.tokenized.n_tokens[self.row_of], self.tokenized.n_lost[self.row_of]
        n_windows = np.bincount(self.tokenized.owner, minlength=self.n_distinct)[self.row_of]
        total = int(n_tokens.sum())
        return {
            "n_texts": len(self.row_of),
            "texts_cut": int((n_lost > 0).sum()),
            "n_tokens": total,
            "tokens_lost": int(n_lost.sum()),
            "share_lost": float(n_lost.sum() / total) if total else 0.0,
            "texts_in_windows": int((n_windows > 1).sum()),
        }


def plan(
    texts: Sequence[str] | Sequence[tuple[str, ...]], tokenizer: TextTokenizer, batch_tokens: int, *, pieces: bool = False
) -> Plan:
    """Tokenise each distinct text once and group the sequences into batches.

    Parameters
    ----------
    texts : sequence of str, or of tuples of str, length n_texts
        Checked texts; tuples are texts that are split into words already (with ``pieces=True`` only).
    tokenizer : TextTokenizer
        With its length and truncation set.
    batch_tokens : int
        Token budget of one batch.
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
    batches = batch_by_length([len(ids) for ids in tokenized.input_ids], batch_tokens)
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
    n_windows = np.bincount(tokenized.owner, minlength=plan.n_distinct)
    share = weight / np.bincount(tokenized.owner, weights=weight, minlength=plan.n_distinct)[tokenized.owner]
    vectors = np.zeros((plan.n_distinct, len(poolings), len(layers), hidden_size), dtype=np.float32)
    for batch in plan.batches:
        input_ids = np.stack([tokenized.input_ids[i] for i in batch])  # (n_in_batch, n_tokens)
        states = encoder.hidden_states(input_ids)
        pooled = torch.stack(
            [torch.stack([_pool_layer(encoder, states, layer, pooling) for layer in layers], 1) for pooling in poolings], 1
        )
        values = pooled.cpu().numpy()  # (n_in_batch, n_poolings, n_layers, hidden_size)
        owner = tokenized.owner[batch]
        alone = n_windows[owner] == 1
        vectors[owner[alone]] = values[alone]
        for j in np.flatnonzero(~alone):  # several windows of one text may sit in one batch: add them one by one
            vectors[owner[j]] += (share[batch[j]] * values[j]).astype(np.float32)
        if on_batch is not None:
            on_batch(len(batch))
    return np.asarray(vectors[plan.row_of])


def _pool_layer(encoder: Encoder, states: list[torch.Tensor], layer: int, pooling: Pooling) -> torch.Tensor:
    if pooling == "pooler":
        return encoder.pooler_output(states[-1])
    return pool(states[layer], pooling)


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
    for batch in plan.batches:
        states = encoder.hidden_states(np.stack([plan.tokenized.input_ids[i] for i in batch]))
        # (n_in_batch, n_tokens, n_layers, hidden_size)
        stacked = torch.stack([states[layer] for layer in layers], dim=2).cpu().numpy()
        for i, of_one in zip(batch, stacked, strict=True):
            vectors[i] = of_one
    return vectors
