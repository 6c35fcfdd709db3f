"""walk_text: what BERT does to one text, step by step."""

from dataclasses import dataclass

import numpy as np

from pipeline.bert.config import read_shape
from pipeline.bert.encoder import HuggingFaceEncoder, load_encoder
from pipeline.bert.tokenizing import TextTokenizer
from pipeline.checkpoints.checkpoint import resolve
from pipeline.notebook import block, paragraph, signed, table_html
from pipeline.tables import Table
from pipeline.texts import check_texts
from pipeline.vectorizer import DEFAULT_MODEL


@dataclass(frozen=True, repr=False)
class TextWalk:
    """The steps of one text through BERT.

    Attributes
    ----------
    tokens : list of str, length n_tokens
        [CLS], the word pieces, [SEP], then [PAD] up to ``max_length``.
    input_ids, attention_mask : ndarray of shape (n_tokens,), int64
        Vocabulary ids; 1 for real tokens and 0 for padding.
    hidden_states : ndarray of shape (n_layers + 1, 1, n_tokens, hidden_size), float32
        Layer 0 is the embedding output, the last one is ``last_hidden_state``.
    n_lost : int
        Tokens that did not fit and were cut from the end.
    """

    tokens: list[str]
    input_ids: np.ndarray
    attention_mask: np.ndarray
    hidden_states: np.ndarray
    n_lost: int

    def __repr__(self) -> str:
        return (
            f"TextWalk({' '.join(self.tokens)!r}, hidden_states {self.hidden_states.shape}, "
            f"n_lost={self.n_lost})"
        )

    def _repr_html_(self) -> str:
        n_states, _, n_tokens, size = self.hidden_states.shape
        columns = (self.tokens, self.input_ids, self.attention_mask, self.last_hidden_state[0])
        rows = [
            [token, str(number), str(mask), *(signed(value, ".2f") for value in vector[:4]), "…"]
            for token, number, mask, vector in zip(*columns, strict=True)
        ]
        dimensions = (str(i) for i in range(min(4, size)))
        caption = (
            f"{n_tokens} tokens through {n_states - 1} layers, and the first of the {size} numbers "
            "that each token has in the last layer"
        )
        table = Table(caption, ("Token", "Id", "Mask", *dimensions, "…"), rows, shown=30)
        lost = f"{self.n_lost} tokens did not fit and were cut." if self.n_lost else ""
        return block(table_html(table), paragraph(lost, "bad"))

    @property
    def last_hidden_state(self) -> np.ndarray:
        """One vector per token of the last layer, shape (1, n_tokens, hidden_size)."""
        return np.asarray(self.hidden_states[-1])

    @property
    def cls_vector(self) -> np.ndarray:
        """The hidden state of [CLS] in the last layer, shape (hidden_size,)."""
        return np.asarray(self.hidden_states[-1, 0, 0])


def walk_text(text: str, *, model: str = DEFAULT_MODEL, max_length: int | None = None) -> TextWalk:
    """Run one text through tokenizer and encoder, padded as in a tutorial.

    Parameters
    ----------
    text : str
        One text.
    model : str
        Hub id or folder.
    max_length : int, optional
        Pad or cut to this many tokens. None is the length of the text.

    Returns
    -------
    TextWalk
        Tokens, ids, mask and the hidden states of all layers, shown as a table in a notebook.

    Examples
    --------
    >>> walk_text("I love Paris", max_length=7).tokens
    ['[CLS]', 'i', 'love', 'paris', '[SEP]', '[PAD]', '[PAD]']
    """
    checkpoint = resolve(model)
    shape = read_shape(checkpoint)
    if max_length is not None and not 3 <= max_length <= shape.max_positions:
        raise ValueError(
            f"max_length={max_length}; allowed are 3 ([CLS], a token, [SEP]) to "
            f"{shape.max_positions}, the limit of {model!r}."
        )
    tokenizer = TextTokenizer(checkpoint.tokenizer_json, max_length or shape.max_positions, "head")
    tokenized = tokenizer(check_texts([text]))
    real = tokenized.input_ids[0]
    n_padding = max(0, (max_length or 0) - len(real))
    input_ids = np.concatenate([real, np.full(n_padding, shape.pad_token_id)])
    mask = np.concatenate([np.ones(len(real), dtype=np.int64), np.zeros(n_padding, dtype=np.int64)])
    encoder = load_encoder(checkpoint, shape.n_layers, device="cpu", packed=False)
    assert isinstance(encoder, HuggingFaceEncoder)
    states = encoder.hidden_states(input_ids[None], mask[None])
    return TextWalk(
        tokens=[tokenizer.token(i) for i in input_ids],
        input_ids=input_ids,
        attention_mask=mask,
        hidden_states=np.stack([state.cpu().numpy() for state in states]),
        n_lost=int(tokenized.n_lost[0]),
    )
