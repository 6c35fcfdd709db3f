"""A frozen BERT: texts to tokens, batches, hidden states and pooled vectors."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from tokenizers import Encoding

from pipeline.bert.batching import TokenBatch, batch_by_length, pack_by_length
from pipeline.bert.config import read_shape
from pipeline.bert.encoder import BATCH_TOKENS, DType, Encoder, choose_device, load_encoder
from pipeline.bert.packed import can_pack
from pipeline.bert.pooling import Pooling, resolve_layers
from pipeline.bert.tokenizing import TextTokenizer, TokenizedTexts, Truncation, text_tokenizer
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.exceptions import CheckpointError, TextTooLongError

_IN_FLIGHT = 4  # results on their way from an accelerator while it computes the next ones

Compute = Callable[[TokenBatch, Any], torch.Tensor]


def run_batches(
    encoder: Encoder,
    input_ids: Sequence[np.ndarray],
    batches: Sequence[np.ndarray],
    compute: Compute,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run batches and bring the results back.

    Parameters
    ----------
    encoder : Encoder
        Whose workspace and device are used.
    input_ids : sequence of ndarray of shape (n_tokens,), int64
        All sequences.
    batches : sequence of ndarray of int
        Positions in ``input_ids``.
    compute : callable
        ``compute(batch, workspace)`` gives a tensor whose first axis goes over texts or tokens.

    Yields
    ------
    positions : ndarray of shape (n_in_batch,), int64
        A batch, or a part of one where the whole did not fit into the accelerator's memory.
    values : ndarray, float32
        What ``compute`` gave for it.

    Raises
    ------
    MemoryError
        Where a single text does not fit.
    """
    workspace = encoder.workspace()
    waiting = deque(batches)
    in_flight: deque[tuple[np.ndarray, _Copy]] = deque()
    budget: int | None = None
    while waiting:
        positions = waiting.popleft()
        n_tokens = sum(len(input_ids[i]) for i in positions)
        if budget is not None and n_tokens > budget and len(positions) > 1:
            waiting.extendleft(reversed(_halve(positions)))
            continue
        try:
            values = compute(TokenBatch.of([input_ids[i] for i in positions]), workspace)
        except torch.OutOfMemoryError as error:
            if len(positions) == 1:
                raise MemoryError(
                    f"A single text of {n_tokens} tokens does not fit into the memory of {encoder.device}. Use device='cpu', or "
                    "a smaller max_length with truncation='window'."
                ) from error
            budget = n_tokens // 2
            workspace = encoder.workspace()  # the old buffers may be what is too large
            torch.cuda.empty_cache()
            waiting.appendleft(positions)
            continue
        in_flight.append((positions, _Copy(values)))
        if len(in_flight) > (_IN_FLIGHT if encoder.device.type == "cuda" else 0):
            done, copy = in_flight.popleft()
            yield done, copy.wait()
    for done, copy in in_flight:
        yield done, copy.wait()


def _halve(positions: np.ndarray) -> list[np.ndarray]:
    return [positions[: len(positions) // 2], positions[len(positions) // 2 :]]


class _Copy:
    """A result on its way to the host; from CUDA it goes into pinned memory while the next batch is computed."""

    def __init__(self, values: torch.Tensor) -> None:
        self._event = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(
                torch.cuda.current_stream(values.device)
            )  # by itself it would ask the first GPU
        else:
            self._values = values.cpu()

    def wait(self) -> np.ndarray:
        if self._event is not None:
            self._event.synchronize()
        array: np.ndarray = self._values.numpy()
        return array


Group = Callable[
    [Sequence[int]], list[np.ndarray]
]  # lengths of sequences -> batches, as `batch_by_length` with its budget


def truncation_report(
    n_tokens: np.ndarray, n_lost: np.ndarray, n_windows: np.ndarray
) -> dict[str, Any]:
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
        input_ids = [
            ids
            for start, stop in zip(starts, stops, strict=True)
            for ids in self.tokenized.input_ids[start:stop]
        ]
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
        return truncation_report(
            self.tokenized.n_tokens[rows], self.tokenized.n_lost[rows], self.n_windows[rows]
        )


def plan(
    texts: Sequence[str] | Sequence[tuple[str, ...]],
    tokenizer: TextTokenizer,
    group: Group,
    *,
    pieces: bool = False,
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
    share = (
        weight
        / np.bincount(tokenized.owner, weights=weight, minlength=plan.n_distinct)[tokenized.owner]
    )
    alone = plan.n_windows[tokenized.owner] == 1
    vectors = np.zeros((plan.n_distinct, len(poolings), len(layers), hidden_size), dtype=np.float32)

    def compute(batch: TokenBatch, workspace: Any) -> Any:
        return encoder.pooled(batch, poolings, layers, workspace)

    for batch, values in run_batches(encoder, tokenized.input_ids, plan.batches, compute):
        single = alone[batch]
        vectors[tokenized.owner[batch[single]]] = values[
            single
        ]  # (n_in_batch, n_poolings, n_layers, hidden_size)
        for j in np.flatnonzero(
            ~single
        ):  # several windows of one text may sit in one batch: add them one by one
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


@dataclass(frozen=True)
class FrozenBert:
    """A checkpoint and the choice of layers, poolings and length. Holds no torch object: encoders live in `load_encoder`.

    Attributes
    ----------
    checkpoint : Checkpoint
        The model.
    n_layers, hidden_size : int
        Of the whole model.
    layers : tuple of int
        Indices 0 ... n_layers of the hidden states to take.
    poolings : tuple of {"cls", "mean", "max", "pooler"}
        Sentence vectors to take from each.
    max_length : int
        Most tokens per sequence, [CLS] and [SEP] included.
    truncation : {"head", "tail", "head_tail", "window", "error"}
        What to do with longer texts.
    batch_tokens : int or None
        Token budget of one batch. None is what suits the device, `BATCH_TOKENS`.
    device, dtype : str
        As for `choose_device`.
    """

    checkpoint: Checkpoint
    n_layers: int
    hidden_size: int
    layers: tuple[int, ...]
    poolings: tuple[Pooling, ...]
    max_length: int
    truncation: Truncation
    batch_tokens: int | None
    device: str
    dtype: DType

    @classmethod
    def choose(
        cls,
        checkpoint: Checkpoint,
        *,
        layers: int | Sequence[int] | str,
        poolings: tuple[Pooling, ...],
        max_length: int | None,
        truncation: Truncation,
        batch_tokens: int | None,
        device: str,
        dtype: DType,
    ) -> Self:
        """Check a choice against what the model has.

        Parameters
        ----------
        checkpoint, poolings, truncation, batch_tokens, device, dtype
            As for the class.
        layers : int, sequence of int, or "all"
            See `pipeline.bert.pooling.resolve_layers`.
        max_length : int or None
            None is the model's own limit.

        Returns
        -------
        FrozenBert
            Ready to plan and embed; nothing is loaded yet.

        Raises
        ------
        ValueError
            For layers, lengths or devices that are not there, and for a pooler that is not trained.
        CheckpointError
            Where tokenizer and weights belong to different models.
        """
        name = checkpoint.source["model"]
        choose_device(device, dtype)
        shape = read_shape(checkpoint)
        chosen = resolve_layers(layers, shape.n_layers)
        length = shape.max_positions if max_length is None else int(max_length)
        if length > shape.max_positions:
            raise ValueError(
                f"max_length={length}, but {name!r} has positions for {shape.max_positions} tokens. For longer texts use "
                "truncation='window', 'head_tail' or 'tail'."
            )
        if "pooler" in poolings and not shape.has_pooler:
            raise ValueError(
                f"pooling='pooler' needs a trained pooler, and {name!r} has none: its pooler_output would be random and differ "
                "at every load. Use 'cls' or 'mean'."
            )
        if "pooler" in poolings and chosen != (shape.n_layers,):
            raise ValueError(
                f"pooling='pooler' is made for the last layer only; layers={layers!r}. Use layers=-1, or another pooling."
            )
        largest_id = text_tokenizer(checkpoint.tokenizer_json, length, truncation).largest_id
        if largest_id >= shape.n_vocabulary:
            raise CheckpointError(
                f"The tokenizer of {name!r} knows ids up to {largest_id}, the model's vocabulary has {shape.n_vocabulary} rows: "
                "they belong to different models. Save both again from one model."
            )
        return cls(
            checkpoint,
            shape.n_layers,
            shape.hidden_size,
            chosen,
            poolings,
            length,
            truncation,
            batch_tokens,
            device,
            dtype,
        )

    @property
    def deepest_layer(self) -> int:
        """The deepest layer whose weights are here: an artifact may carry fewer than the model has."""
        return self.n_layers if self.checkpoint.depth is None else self.checkpoint.depth

    @property
    def tokenizer(self) -> TextTokenizer:
        """Texts -> token ids, cut to length."""
        return text_tokenizer(self.checkpoint.tokenizer_json, self.max_length, self.truncation)

    def plan(
        self, texts: Sequence[str] | Sequence[tuple[str, ...]], *, pieces: bool = False
    ) -> Plan:
        """Tokenise and batch texts, see `pipeline.bert.embedding.plan`."""
        return plan(texts, self.tokenizer, self.group, pieces=pieces)

    def group(self, lengths: Sequence[int]) -> list[np.ndarray]:
        """Group sequences into batches: packed to the budget, or of equal length where the encoder does not pack."""
        device, dtype = choose_device(self.device, self.dtype)
        budget = self.batch_tokens or BATCH_TOKENS[device.type]
        return (pack_by_length if can_pack(self.checkpoint, device, dtype) else batch_by_length)(
            lengths, budget
        )

    def embed(self, made: Plan, on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Return the vectors of a plan, shape (n_texts, n_poolings, n_layers, hidden_size), float32."""
        if not made.batches:
            return np.zeros(
                (0, len(self.poolings), len(self.layers), self.hidden_size), dtype=np.float32
            )
        depth = self.n_layers if "pooler" in self.poolings else max(self.layers)
        return embed(
            made,
            self._load(depth),
            poolings=self.poolings,
            layers=self.layers,
            hidden_size=self.hidden_size,
            on_batch=on_batch,
        )

    def embed_tokens(self, made: Plan) -> list[np.ndarray]:
        """Return one array of shape (n_tokens, n_layers, hidden_size), float32, per sequence of a plan."""
        return (
            embed_tokens(made, self._load(max(self.layers)), layers=self.layers)
            if made.batches
            else []
        )

    def _load(self, depth: int) -> Any:
        return load_encoder(self.checkpoint, depth, device=self.device, dtype=self.dtype)
