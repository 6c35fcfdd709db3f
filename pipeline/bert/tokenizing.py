"""Texts -> token ids, truncated, without padding."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer, normalizers

from pipeline.exceptions import CheckpointError, TextTooLongError

# Characters tokenised at a time: tokenizers keeps some 150 bytes per token until a text is done,
# ids take 8.
AT_ONCE = 1 << 20

Truncation = Literal["head", "tail", "head_tail", "window", "error"]


@dataclass
class TokenizedTexts:
    """Truncated token ids: one sequence per text, or several windows."""

    input_ids: list[np.ndarray]  # each (n_tokens,), int64, with [CLS] and [SEP]
    owner: np.ndarray  # the text of each sequence, (n_sequences,), int64, ascending
    n_tokens: np.ndarray  # of each whole text, (n_texts,), int64, with [CLS] and [SEP]
    n_lost: np.ndarray  # of them cut
    n_unknown: np.ndarray  # of them not in the vocabulary


class Pieces(NamedTuple):
    """The pieces of one text, without special tokens and prompt."""

    ids: list[int]
    tokens: list[str]
    word_ids: list[int | None]  # the word of each piece, from 0
    offsets: list[tuple[int, int]]  # its characters in the text


def _pieces_after(encoding: Encoding, n: int, n_characters: int) -> Pieces:
    """Return the pieces after a prompt."""
    words = encoding.word_ids[n:]
    first = next((word for word in words if word is not None), 0) if n else 0
    return Pieces(
        encoding.ids[n:],
        encoding.tokens[n:],
        [None if word is None else word - first for word in words],
        [(max(0, a - n_characters), max(0, b - n_characters)) for a, b in encoding.offsets[n:]],
    )


@contextlib.contextmanager
def _naming() -> Iterator[None]:
    """Name tokenizer.json in the errors and panics of tokenizers."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"tokenizer.json cannot be read: {error}. Fetch the model again."
        ) from error


@lru_cache(maxsize=8)
def _load_tokenizer(tokenizer_json: str, lower: bool) -> Tokenizer:
    """Build a tokenizer whose state never changes, for several threads."""
    with _naming():
        tokenizer = Tokenizer.from_str(tokenizer_json)
    if lower:
        own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _unknown_id(tokenizer: Tokenizer, tokenizer_json: str) -> int | None:
    """Return the id of [UNK], or None if there is none."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    if unknown is not None:
        found: int | None = tokenizer.token_to_id(unknown)
        return found
    unigram = re.search(r'"unk_id"\s*:\s*(\d+)', tokenizer_json)  # no attribute of the model
    return int(unigram[1]) if unigram else None


def _portions(texts: Sequence[str]) -> Iterator[list[str]]:
    portion: list[str] = []
    n_characters = 0
    for text in texts:
        if portion and n_characters + len(text) > AT_ONCE:
            yield portion
            portion, n_characters = [], 0
        portion.append(text)
        n_characters += len(text)
    if portion:
        yield portion


class TextTokenizer:
    """Turns texts into ids with the model's own tokenizer and our truncation."""

    # HF's tokenizers share truncation and padding between threads, which then get wrong ids.
    # Truncation happens here instead, on the ids.

    def __init__(
        self,
        tokenizer_json: str,
        max_length: int,
        truncation: Truncation,
        prompt: str = "",  # put before each text; truncation keeps it
        lower: bool = False,
    ) -> None:
        self._tokenizer = _load_tokenizer(tokenizer_json, lower)
        self.max_length, self.truncation, self._prompt = max_length, truncation, prompt
        # the prompt's last piece alone, such as a blank, may be part of the text's first one
        with _naming():
            bare, alone, joined = (
                self._tokenizer.encode(text, add_special_tokens=False).ids
                for text in ("a", prompt, f"{prompt}a")
            )
            full = self._tokenizer.encode("a").ids
        n_special, n = self._tokenizer.num_special_tokens_to_add(False), len(bare)
        n_before = next((i for i in range(len(full) - n + 1) if full[i : i + n] == bare), 0)
        if len(full) - n_special != n or n_before == 0:
            raise CheckpointError(
                "tokenizer.json does not put [CLS] in front of a text, which BERT's sentence "
                "vectors need. Save the tokenizer again with transformers' class for this model."
            )
        self._cls = np.array(full[:n_before], dtype=np.int64)
        self.suffix = np.array(full[n_before + n :], dtype=np.int64)  # [SEP]
        self.n_before = n_before + len(alone)  # tokens in front of a text
        differ = [i for i, (a, b) in enumerate(zip(alone, joined, strict=False)) if a != b]
        self._n_shared = min([*differ, len(alone), len(joined)])
        own = np.array(alone[: self._n_shared], dtype=np.int64)
        self.prefix = np.concatenate([self._cls, own])  # [CLS], and the prompt
        self.capacity = max_length - len(self.prefix) - len(self.suffix)
        self.unknown = _unknown_id(self._tokenizer, tokenizer_json)
        if self.capacity < 1:
            raise ValueError(
                f"max_length={max_length} leaves no room for text after the prompt {prompt!r} of "
                f"{len(alone)} tokens. Use a shorter prompt or a larger max_length."
            )

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenise and truncate texts. An empty text gives [CLS] [SEP]."""
        ids: list[np.ndarray] = []
        for portion in _portions(texts):
            whole = [self._prompt + text for text in portion] if self._prompt else portion
            with _naming():
                encodings = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
            ids.extend(np.array(encoding.ids, dtype=np.int64) for encoding in encodings)
        return self._cut(ids)

    def with_pieces(
        self, texts: Sequence[str] | Sequence[Sequence[str]]
    ) -> tuple[list[Pieces], TokenizedTexts]:
        """Tokenise texts, or split words, and return their pieces too."""
        split = bool(texts) and not isinstance(texts[0], str)
        before: Any = self._prompt
        if split:
            before = [self._prompt] if self._prompt else []
        items: list[Any] = [before + (list(words) if split else words) for words in texts]
        with _naming():
            encodings = self._tokenizer.encode_batch(
                items, is_pretokenized=split, add_special_tokens=False
            )
        ids = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        n = self._n_shared
        n_characters = 0 if split else len(self._prompt)  # offsets count within a word
        return [_pieces_after(encoding, n, n_characters) for encoding in encodings], self._cut(ids)

    def windows(self, n_tokens: int) -> list[np.ndarray]:
        """Return the tokens of a text in each of its sequences."""
        capacity = self.capacity
        if n_tokens <= capacity:
            return [np.arange(n_tokens)]
        if self.truncation == "tail":
            return [np.arange(n_tokens - capacity, n_tokens)]
        quarter = capacity // 4
        if self.truncation == "head_tail":
            # the proportion of Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?",
            # section 5.3.1 (128 + 382 of 510)
            tail = np.arange(n_tokens - capacity + quarter, n_tokens)
            return [np.concatenate([np.arange(quarter), tail])]
        if self.truncation == "window":
            # neighbours share a quarter, like HF tokenizers with stride=capacity // 4
            step = capacity - quarter
            starts = range(0, n_tokens - capacity + step, step)
            return [np.arange(start, min(start + capacity, n_tokens)) for start in starts]
        return [np.arange(capacity)]

    def token(self, token_id: int) -> str:
        """Return the piece of an id, such as ``##ing``."""
        return self._tokenizer.id_to_token(int(token_id)) or f"<{token_id}>"

    @property
    def largest_id(self) -> int:
        """Largest id of the vocabulary."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def _cut(self, ids: list[np.ndarray]) -> TokenizedTexts:
        n_special = len(self._cls) + len(self.suffix)
        n_tokens = np.array([len(tokens) + n_special for tokens in ids], dtype=np.int64)
        n_lost = np.zeros(len(ids), dtype=np.int64)
        n_unknown = np.zeros(len(ids), dtype=np.int64)
        if self.unknown is not None:
            n_unknown[:] = [np.count_nonzero(tokens == self.unknown) for tokens in ids]
        sequences: list[np.ndarray] = []
        owner: list[int] = []
        for i, whole in enumerate(ids):
            # a piece may cross the border between prompt and text
            before, tokens = self._cls, whole
            if self._n_shared:
                before = np.concatenate([self._cls, whole[: self._n_shared]])
                tokens = whole[self._n_shared :]
            kept = [tokens]
            if len(tokens) > self.capacity:
                if self.truncation == "error":
                    raise TextTooLongError(i, int(n_tokens[i]), self.max_length)
                kept = [tokens[index] for index in self.windows(len(tokens))]
                if self.truncation != "window":
                    n_lost[i] = len(tokens) - len(kept[0])
            sequences += [np.concatenate([before, part, self.suffix]) for part in kept]
            owner += [i] * len(kept)
        owners = np.array(owner, dtype=np.int64)
        return TokenizedTexts(sequences, owners, n_tokens, n_lost, n_unknown)


# the shared tokenizer of each choice of settings
text_tokenizer = lru_cache(maxsize=32)(TextTokenizer)
