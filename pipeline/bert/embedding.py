"""A frozen BERT: from texts to pooled vectors, batch by batch."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from pipeline.bert.config import read_shape
from pipeline.bert.encoder import BATCH_TOKENS, DType, Encoder, choose_device, load_encoder
from pipeline.bert.packed import can_pack
from pipeline.bert.pooling import (
    Pooling,
    TokenBatch,
    batch_by_length,
    pack_by_length,
    resolve_layers,
)
from pipeline.bert.tokenizing import (
    Pieces,
    TextTokenizer,
    TokenizedTexts,
    Truncation,
    text_tokenizer,
)
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.exceptions import CheckpointError, TextTooLongError

_IN_FLIGHT = 4  # results being copied from an accelerator


class TokenCounts(NamedTuple):
    """Token counts of texts, each (n_texts,), int64."""

    n_tokens: np.ndarray
    n_lost: np.ndarray
    n_windows: np.ndarray
    n_unknown: np.ndarray

    def truncation_report(self) -> dict[str, Any]:
        """Count what was truncated."""
        total, lost = int(self.n_tokens.sum()), int(self.n_lost.sum())
        return {
            "n_texts": len(self.n_tokens),
            "texts_cut": int((self.n_lost > 0).sum()),
            "n_tokens": total,
            "tokens_lost": lost,
            "share_lost": lost / total if total else 0.0,
            "texts_in_windows": int((self.n_windows > 1).sum()),
        }


@dataclass(frozen=True)
class Plan:
    """Distinct texts, tokenised and truncated, and their rows."""

    row_of: np.ndarray  # the distinct text of each row, (n_texts,), int64
    tokenized: TokenizedTexts
    texts: list[Any]  # the distinct texts: str, or tuples of words
    encodings: list[Pieces] | None = None  # of the whole texts, on request

    @property
    def n_windows(self) -> np.ndarray:
        """Sequences per distinct text, (n_distinct,), int64."""
        return np.bincount(self.tokenized.owner, minlength=len(self.texts))

    @property
    def counts(self) -> TokenCounts:
        """Token counts of all rows."""
        texts = self.tokenized
        of_distinct = (texts.n_tokens, texts.n_lost, self.n_windows, texts.n_unknown)
        return TokenCounts(*np.stack(of_distinct)[:, self.row_of])

    def subset(self, distinct: np.ndarray) -> "Plan":
        """Return the plan of some distinct texts."""
        tokenized = self.tokenized
        starts = np.searchsorted(tokenized.owner, distinct)
        stops = np.searchsorted(tokenized.owner, distinct, side="right")
        rows = np.arange(len(distinct))
        chosen = TokenizedTexts(
            [ids for i, j in zip(starts, stops, strict=True) for ids in tokenized.input_ids[i:j]],
            np.repeat(rows, stops - starts),
            tokenized.n_tokens[distinct],
            tokenized.n_lost[distinct],
            tokenized.n_unknown[distinct],
        )
        return Plan(rows, chosen, [self.texts[i] for i in distinct])

    def truncation_report(self) -> dict[str, Any]:
        """Count what was truncated, over all rows."""
        return self.counts.truncation_report()


@dataclass(frozen=True)
class FrozenBert:
    """A checkpoint with its layers, poolings and maximum length."""

    checkpoint: Checkpoint
    n_layers: int
    hidden_size: int
    layers: tuple[int, ...]
    poolings: tuple[Pooling, ...]
    max_length: int  # tokens per sequence, with [CLS] and [SEP]
    truncation: Truncation
    batch_tokens: int | None  # None is `BATCH_TOKENS`
    device: str
    dtype: DType
    prompt: str = ""
    lower: bool = False
    pools_prompt: bool = True  # whether poolings include the prompt

    @classmethod
    def choose(
        cls,
        checkpoint: Checkpoint,
        *,
        layers: int | Sequence[int] | str,
        max_length: int | None,
        **settings: Any,
    ) -> Self:
        """Check the settings against the model, without loading it."""
        name, shape = checkpoint.source["model"], read_shape(checkpoint)
        bert = cls(
            checkpoint,
            shape.n_layers,
            shape.hidden_size,
            layers=resolve_layers(layers, shape.n_layers),
            max_length=shape.max_positions if max_length is None else int(max_length),
            **settings,
        )
        choose_device(bert.device, bert.dtype)
        if bert.max_length > shape.max_positions:
            raise ValueError(
                f"max_length={bert.max_length}, but {name!r} has positions for "
                f"{shape.max_positions} tokens. For longer texts use truncation='window', "
                "'head_tail' or 'tail'."
            )
        if "pooler" in bert.poolings and not shape.has_pooler:
            raise ValueError(
                f"pooling='pooler' needs a trained pooler, and {name!r} has none. Its "
                "pooler_output would be random at every load. Use 'cls' or 'mean'."
            )
        if "pooler" in bert.poolings and bert.layers != (shape.n_layers,):
            raise ValueError(
                f"pooling='pooler' works on the last layer only; got layers={layers!r}. Use "
                "layers=-1 or another pooling."
            )
        if (largest_id := bert.tokenizer.largest_id) >= shape.n_vocabulary:
            raise CheckpointError(
                f"The tokenizer and the weights of {name!r} come from different models: the "
                f"tokenizer has ids up to {largest_id}, and the model's vocabulary has "
                f"{shape.n_vocabulary} rows. Save both again from one model."
            )
        return bert

    @property
    def deepest_layer(self) -> int:
        """The deepest layer with weights; artifacts may lack others."""
        return self.n_layers if self.checkpoint.depth is None else self.checkpoint.depth

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer of these settings."""
        tokenizer_json = self.checkpoint.tokenizer_json
        return text_tokenizer(
            tokenizer_json, self.max_length, self.truncation, self.prompt, self.lower
        )

    @property
    def skip(self) -> int:
        """First tokens, [CLS] and prompt, that no pooling includes."""
        return 0 if self.pools_prompt or not self.prompt else self.tokenizer.n_before

    def plan(
        self, texts: Sequence[str] | Sequence[tuple[str, ...]], *, pieces: bool = False
    ) -> Plan:
        """Tokenise each distinct text once. Tuples are split words."""
        distinct, row_of = find_distinct(texts)
        encodings = None
        try:
            if pieces:
                encodings, tokenized = self.tokenizer.with_pieces(distinct)
            else:
                tokenized = self.tokenizer(distinct)
        except TextTooLongError as error:
            raise naming_row(error, row_of) from None
        return Plan(row_of, tokenized, distinct, encodings)

    def _batches(self, input_ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Group sequences, by equal length unless the encoder packs."""
        device, dtype = choose_device(self.device, self.dtype)
        group = pack_by_length if can_pack(self.checkpoint, device, dtype) else batch_by_length
        budget = self.batch_tokens or BATCH_TOKENS[device.type]
        return group([len(ids) for ids in input_ids], budget)

    def embed(self, plan: Plan, on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Return pooled vectors, (n_texts, n_poolings, n_layers, hidden_size), float32."""
        shape = (len(plan.texts), len(self.poolings), len(self.layers), self.hidden_size)
        vectors = np.zeros(shape, dtype=np.float32)
        if not len(plan.texts):
            return vectors
        encoder = self._load(max(self.layers))
        input_ids, owner = plan.tokenized.input_ids, plan.tokenized.owner
        # windows are averaged by their token counts
        weight = np.array([len(ids) for ids in input_ids], dtype=np.float64)
        share = weight / np.bincount(owner, weights=weight, minlength=len(plan.texts))[owner]
        alone = plan.n_windows[owner] == 1
        results = run_batches(
            encoder,
            input_ids,
            self._batches(input_ids),
            lambda batch, space: encoder.pooled(batch, self.poolings, self.layers, space),
            self.skip,
        )
        for batch, values in results:
            single = alone[batch]
            vectors[owner[batch[single]]] = values[single]
            for j in np.flatnonzero(~single):  # several windows of one text may share a batch
                vectors[owner[batch[j]]] += (share[batch[j]] * values[j]).astype(np.float32)
            if on_batch is not None:
                on_batch(len(batch))
        return np.asarray(vectors[plan.row_of])

    def embed_tokens(self, plan: Plan) -> list[np.ndarray]:
        """Return (n_tokens, n_layers, hidden_size), float32, per sequence."""
        if not len(plan.texts):
            return []
        encoder, input_ids = self._load(max(self.layers)), plan.tokenized.input_ids
        vectors: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(input_ids)
        results = run_batches(
            encoder,
            input_ids,
            self._batches(input_ids),
            lambda batch, space: encoder.token_states(batch, self.layers, space),
        )
        for batch, values in results:
            ends = np.cumsum([len(input_ids[i]) for i in batch])
            for i, states in zip(batch, np.split(values, ends[:-1]), strict=True):
                vectors[i] = states.copy()  # a view would keep the whole batch alive
        return vectors

    def _load(self, depth: int) -> Encoder:
        return load_encoder(self.checkpoint, depth, device=self.device, dtype=self.dtype)


def find_distinct(texts: Sequence[Any]) -> tuple[list[Any], np.ndarray]:
    """Return the distinct texts, and which one each row is."""
    position: dict[Any, int] = {}
    row_of = np.array([position.setdefault(text, len(position)) for text in texts], dtype=np.int64)
    return list(position), row_of


def naming_row(error: TextTooLongError, row_of: np.ndarray, n_before: int = 0) -> TextTooLongError:
    """Return the error with the first row of its text."""
    row = int(np.flatnonzero(row_of == n_before + error.text)[0])
    return TextTooLongError(row, error.n_tokens, error.max_length)


def run_batches(
    encoder: Encoder,
    input_ids: Sequence[np.ndarray],
    batches: Sequence[np.ndarray],
    compute: Callable[[TokenBatch, Any], Tensor],  # first axis over texts or tokens
    skip: int = 0,  # first tokens that no pooling includes
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions and values, halving batches if memory runs out."""
    workspace = encoder.workspace()
    waiting = deque(batches)
    in_flight: deque[tuple[np.ndarray, Callable[[], np.ndarray]]] = deque()
    n_in_flight = _IN_FLIGHT if encoder.device.type == "cuda" else 0
    budget: int | None = None
    while waiting:
        positions = waiting.popleft()
        n_tokens = sum(len(input_ids[i]) for i in positions)
        if budget is not None and n_tokens > budget and len(positions) > 1:
            middle = len(positions) // 2
            waiting.extendleft([positions[middle:], positions[:middle]])
            continue
        try:
            values = compute(TokenBatch([input_ids[i] for i in positions], skip), workspace)
        except torch.OutOfMemoryError as error:
            if len(positions) == 1:
                raise MemoryError(
                    f"One text of {n_tokens} tokens does not fit into the memory of "
                    f"{encoder.device}. Use device='cpu', or truncation='window' with a smaller "
                    "max_length."
                ) from error
            budget = n_tokens // 2
            workspace = encoder.workspace()  # the old buffers may be too large
            torch.cuda.empty_cache()
            waiting.appendleft(positions)
            continue
        in_flight.append((positions, _copy_to_host(values)))
        if len(in_flight) > n_in_flight:
            positions, wait = in_flight.popleft()
            yield positions, wait()
    for positions, wait in in_flight:
        yield positions, wait()


def _copy_to_host(values: Tensor) -> Callable[[], np.ndarray]:
    """Start copying, and return a function that waits."""
    if not values.is_cuda:
        return values.cpu().numpy
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(values.device))  # its default is the first GPU

    def wait() -> np.ndarray:
        done.synchronize()
        array: np.ndarray = copy.numpy()
        return array

    return wait
