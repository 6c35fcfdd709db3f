"""FrozenBert: one model and what is taken from it; the bert room's front door. Used by vectorizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pipeline.bert.batching import batch_by_length, pack_by_length
from pipeline.bert.embedding import Plan, embed, embed_tokens, plan
from pipeline.bert.encoder import BATCH_TOKENS, DType, choose_device, load_encoder
from pipeline.bert.packed import can_pack
from pipeline.bert.pooling import Pooling, resolve_layers
from pipeline.bert.shape import read_shape
from pipeline.bert.tokenizing import TextTokenizer, Truncation, text_tokenizer
from pipeline.checkpoints.model_files import Checkpoint, CheckpointError


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
            checkpoint, shape.n_layers, shape.hidden_size, chosen, poolings, length, truncation, batch_tokens, device, dtype
        )

    @property
    def deepest_layer(self) -> int:
        """The deepest layer whose weights are here: an artifact may carry fewer than the model has."""
        return self.n_layers if self.checkpoint.depth is None else self.checkpoint.depth

    @property
    def tokenizer(self) -> TextTokenizer:
        """Texts -> token ids, cut to length."""
        return text_tokenizer(self.checkpoint.tokenizer_json, self.max_length, self.truncation)

    def plan(self, texts: Sequence[str] | Sequence[tuple[str, ...]], *, pieces: bool = False) -> Plan:
        """Tokenise and batch texts, see `pipeline.bert.embedding.plan`."""
        return plan(texts, self.tokenizer, self.group, pieces=pieces)

    def group(self, lengths: Sequence[int]) -> list[np.ndarray]:
        """Group sequences into batches: packed to the budget, or of equal length where the encoder does not pack."""
        device, dtype = choose_device(self.device, self.dtype)
        budget = self.batch_tokens or BATCH_TOKENS[device.type]
        return (pack_by_length if can_pack(self.checkpoint, device, dtype) else batch_by_length)(lengths, budget)

    def embed(self, made: Plan, on_batch: Callable[[int], None] | None = None) -> np.ndarray:
        """Return the vectors of a plan, shape (n_texts, n_poolings, n_layers, hidden_size), float32."""
        if not made.batches:
            return np.zeros((0, len(self.poolings), len(self.layers), self.hidden_size), dtype=np.float32)
        depth = self.n_layers if "pooler" in self.poolings else max(self.layers)
        return embed(
            made, self._load(depth), poolings=self.poolings, layers=self.layers, hidden_size=self.hidden_size, on_batch=on_batch
        )

    def embed_tokens(self, made: Plan) -> list[np.ndarray]:
        """Return one array of shape (n_tokens, n_layers, hidden_size), float32, per sequence of a plan."""
        return embed_tokens(made, self._load(max(self.layers)), layers=self.layers) if made.batches else []

    def _load(self, depth: int) -> Any:
        return load_encoder(self.checkpoint, depth, device=self.device, dtype=self.dtype)
