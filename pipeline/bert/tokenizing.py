"""Texts -> token ids: a private tokenizers.Tokenizer, truncation policies, no padding. Used by embedding and walk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from tokenizers import Encoding, Tokenizer

from pipeline.exceptions import CheckpointError, TextTooLongError

# Characters tokenised at a time: the library keeps some 150 bytes of a token until its text is done, ids are 8.
AT_ONCE = 1 << 20

Truncation = Literal["head", "tail", "head_tail", "window", "error"]


def select_tokens(n_tokens: int, capacity: int, truncation: Truncation) -> list[np.ndarray]:
    """Choose which of a text's own tokens are kept, as one index array per window.

    Parameters
    ----------
    n_tokens : int
        Tokens of the text, [CLS] and [SEP] not counted.
    capacity : int
        How many of them fit beside [CLS] and [SEP].
    truncation : {"head", "tail", "head_tail", "window", "error"}
        ``head_tail`` keeps a quarter from the start and the rest from the end, the proportion of Sun et al. 2019, "How to
        Fine-Tune BERT for Text Classification?", section 5.3.1 (128 + 382 of 510). ``window`` covers the text with windows
        that share a quarter of their tokens, cut as HF tokenizers cut with ``stride=capacity // 4``.

    Returns
    -------
    list of ndarray of shape (n_kept,), int64
        A single array, except for ``window``.

    Examples
    --------
    >>> select_tokens(6, 4, "head_tail")
    [array([0, 3, 4, 5])]
    >>> select_tokens(6, 4, "window")
    [array([0, 1, 2, 3]), array([3, 4, 5])]
    """
    if n_tokens <= capacity:
        return [np.arange(n_tokens)]
    if truncation == "tail":
        return [np.arange(n_tokens - capacity, n_tokens)]
    if truncation == "head_tail":
        head = capacity // 4
        return [np.concatenate([np.arange(head), np.arange(n_tokens - capacity + head, n_tokens)])]
    if truncation == "window":
        step = capacity - capacity // 4
        starts = range(0, n_tokens - capacity + step, step)
        return [np.arange(start, min(start + capacity, n_tokens)) for start in starts]
    return [np.arange(capacity)]


@dataclass
class TokenizedTexts:
    """Token ids of many texts, cut to length; one sequence per text, or several under ``truncation="window"``.

    Attributes
    ----------
    input_ids : list of ndarray of shape (n_tokens,), int64
        One per sequence, [CLS] and [SEP] included, no padding.
    owner : ndarray of shape (n_sequences,), int64
        The text each sequence belongs to; ascending.
    n_tokens, n_lost : ndarray of shape (n_texts,), int64
        Tokens of the whole text with [CLS] and [SEP], and how many of them were cut off.
    """

    input_ids: list[np.ndarray] = field(default_factory=list)
    owner: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    n_tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    n_lost: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@lru_cache(maxsize=8)
def _load_tokenizer(tokenizer_json: str) -> Tokenizer:
    """Build one tokenizer per distinct tokenizer.json; its state is set here and never again, so threads may share it."""
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # tokenizers raises bare Exception
        raise CheckpointError(
            f"tokenizer.json cannot be read: {error}. Fetch the model again."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


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


@lru_cache(maxsize=32)
def text_tokenizer(tokenizer_json: str, max_length: int, truncation: Truncation) -> "TextTokenizer":
    """Return the tokenizer of these settings, the same one each time: it never changes, and making it costs two trial texts."""
    return TextTokenizer(tokenizer_json, max_length, truncation)


class TextTokenizer:
    """Texts -> token ids, as the model's own tokenizer gives them, cut by our truncation policies.

    HF's tokenizer objects keep truncation and padding as shared, mutable state, which gives wrong ids when two threads use
    different settings; here both are done outside, on the ids.

    Parameters
    ----------
    tokenizer_json : str
        Text of ``tokenizer.json``; truncation and padding settings in it are ignored.
    max_length : int
        Most tokens in one sequence, [CLS] and [SEP] included.
    truncation : {"head", "tail", "head_tail", "window", "error"}
        What to do with longer texts, see `select_tokens`.
    """

    def __init__(self, tokenizer_json: str, max_length: int, truncation: Truncation) -> None:
        self._tokenizer = _load_tokenizer(tokenizer_json)
        self.max_length = max_length
        self.truncation = truncation
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a").ids
        start = len(full) - self._tokenizer.num_special_tokens_to_add(False)
        n_before = next(
            (i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0
        )
        if start != len(bare) or n_before == 0:
            raise CheckpointError(
                "tokenizer.json adds no [CLS] in front of a text, which BERT's sentence vectors need; save the tokenizer again "
                "with transformers' own class for this model."
            )
        self.prefix = np.array(full[:n_before], dtype=np.int64)  # [CLS]
        self.suffix = np.array(full[n_before + len(bare) :], dtype=np.int64)  # [SEP]
        self.capacity = max_length - len(self.prefix) - len(self.suffix)

    def __call__(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenise and cut texts.

        Parameters
        ----------
        texts : sequence of str, length n_texts
            Any valid unicode; the empty text gives [CLS] [SEP].

        Returns
        -------
        TokenizedTexts
            In the order of the texts.

        Raises
        ------
        TextTooLongError
            Under ``truncation="error"``, naming the first text that is too long.
        """
        ids: list[np.ndarray] = []
        for portion in _portions(texts):
            encodings = self._tokenizer.encode_batch_fast(portion, add_special_tokens=False)
            ids.extend(np.array(encoding.ids, dtype=np.int64) for encoding in encodings)
        return self._cut(ids)

    def with_pieces(
        self, texts: Sequence[str] | Sequence[Sequence[str]]
    ) -> tuple[list[Encoding], TokenizedTexts]:
        """Tokenise texts, or texts split into words already, keeping pieces, offsets and word numbers.

        Returns
        -------
        encodings : list of tokenizers.Encoding, length n_texts
            The whole texts, without [CLS] and [SEP] and without truncation.
        tokenized : TokenizedTexts
            The sequences that the encoder sees.
        """
        split = bool(texts) and not isinstance(texts[0], str)
        items: list[Any] = [list(words) for words in texts] if split else list(texts)
        encodings = self._tokenizer.encode_batch(
            items, is_pretokenized=split, add_special_tokens=False
        )
        return encodings, self._cut(
            [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        )

    def windows(self, n_tokens: int) -> list[np.ndarray]:
        """Return which of a text's own ``n_tokens`` tokens, [CLS] and [SEP] not counted, each of its sequences holds."""
        return select_tokens(n_tokens, self.capacity, self.truncation)

    def token(self, token_id: int) -> str:
        """Return the piece behind an id, such as ``##ing``."""
        return self._tokenizer.id_to_token(int(token_id)) or f"<{token_id}>"

    @property
    def largest_id(self) -> int:
        """The largest id this tokenizer can give out."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def _cut(self, ids: list[np.ndarray]) -> TokenizedTexts:
        n_special = len(self.prefix) + len(self.suffix)
        n_tokens = np.array([len(tokens) + n_special for tokens in ids], dtype=np.int64)
        n_lost = np.zeros(len(ids), dtype=np.int64)
        sequences: list[np.ndarray] = []
        owner: list[int] = []
        for i, tokens in enumerate(ids):
            if len(tokens) <= self.capacity:
                sequences.append(np.concatenate([self.prefix, tokens, self.suffix]))
                owner.append(i)
                continue
            if self.truncation == "error":
                raise TextTooLongError(i, int(n_tokens[i]), self.max_length)
            kept = self.windows(len(tokens))
            sequences.extend(
                np.concatenate([self.prefix, tokens[index], self.suffix]) for index in kept
            )
            owner.extend([i] * len(kept))
            if self.truncation != "window":
                n_lost[i] = len(tokens) - len(kept[0])
        return TokenizedTexts(sequences, np.array(owner, dtype=np.int64), n_tokens, n_lost)
