"""What speed is measured on: SST-2 sentences, generated texts of known length, the default model
and a bert-base.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline import BertVectorizer, load_reviews, read_table
from pipeline.checkpoints.checkpoint import installed_folder
from pipeline.vectorizer import DEFAULT_MODEL

SEED = 0
# name -> token counts of n texts, [CLS] and [SEP] included
LENGTHS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "short": lambda random, n: random.integers(6, 19, n),
    "mixed": lambda random, n: np.clip(random.lognormal(np.log(40), 0.8, n), 8, 256).astype(int),
    "long": lambda random, n: random.integers(256, 513, n),
}


def sst2_sentences(file: Path, n_texts: int) -> list[str]:
    """Draw training sentences of SST-2; all of them where there are fewer.

    Parameters
    ----------
    file : Path
        CSV with the columns text, label and split.
    n_texts : int
        How many to draw.

    Returns
    -------
    list of str
    """
    table = read_table(file, columns=["text", "label", "split"])
    texts = table.loc[table["split"] == "train", "text"].drop_duplicates()
    return list(texts.sample(min(n_texts, len(texts)), random_state=SEED))


def generated(name: str, n_texts: int, vectorizer: BertVectorizer) -> list[str]:
    """Make texts of random words from the shipped reviews.

    Parameters
    ----------
    name : {"short", "mixed", "long"}
        Which lengths.
    n_texts : int
        How many.
    vectorizer : BertVectorizer
        Fitted; its tokenizer counts. Only words that are one token are used, so that a text has
        exactly the length drawn for it.

    Returns
    -------
    list of str
    """
    random = np.random.default_rng(SEED)
    lengths = LENGTHS[name](random, n_texts)
    words = np.array(single_token_words(vectorizer))
    texts = [" ".join(random.choice(words, length - 2)) for length in lengths]
    if (
        not np.array_equal(vectorizer.count_tokens(texts)["n_tokens"], lengths)
        or len(set(texts)) < n_texts
    ):
        raise RuntimeError(
            f"The texts of {name!r} do not have the lengths drawn for them, or are not distinct."
        )
    return texts


def single_token_words(vectorizer: BertVectorizer) -> list[str]:
    """Return the distinct words of the shipped reviews that are one token each."""
    texts = [text for part in load_reviews() for text in part["text"]]
    words = sorted({word for text in texts for word in text.lower().split() if word.isalpha()})
    return [
        word
        for word, n_tokens in zip(words, vectorizer.count_tokens(words)["n_tokens"], strict=True)
        if n_tokens == 3
    ]


def minilm() -> Path:
    """Return the folder of the default model."""
    folder = installed_folder(DEFAULT_MODEL)
    if folder is None:
        raise SystemExit("The default model is not installed; requirements.txt names it.")
    return folder


def make_bert_base(folder: Path) -> None:
    """Save a bert-base with random weights, which cost as much as trained ones, and the default
    model's tokenizer.
    """
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(SEED)
    BertModel(BertConfig()).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(minilm() / name, folder)
