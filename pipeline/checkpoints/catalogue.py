"""The published BERT configurations and other encoders, as data."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class PublishedModel:
    """One published configuration.

    Attributes
    ----------
    model : str
        Hub id, for ``BertVectorizer(model=...)``.
    name : str
        Common name.
    n_layers, hidden_size, n_heads : int
        Of the encoder; the feed-forward layers are four times ``hidden_size`` wide.
    n_vocabulary : int
        Number of word pieces.
    case : str
        ``"uncased"`` (lower-cased, accents dropped) or ``"cased"``.
    languages : str
        ``"English"``, ``"multilingual"`` or another.
    family : str
        ``"bert"`` or ``"distilbert"``, which has neither token types nor a pooler.
    """

    model: str
    name: str
    n_layers: int
    hidden_size: int
    n_heads: int
    n_vocabulary: int
    case: str
    languages: str = "English"
    family: str = "bert"

    @property
    def n_parameters(self) -> int:
        """Number of weights (Devlin et al. 2019, section 3)."""
        h, f = self.hidden_size, 4 * self.hidden_size
        token_types = 2 if self.family == "bert" else 0
        embeddings = (self.n_vocabulary + 512 + token_types) * h + 2 * h
        attention = 4 * (h * h + h) + 2 * h  # query, key, value, output + LayerNorm
        feed_forward = (h * f + f) + (f * h + h) + 2 * h
        pooler = h * h + h if self.family == "bert" else 0
        return embeddings + self.n_layers * (attention + feed_forward) + pooler


_ROWS = (
    ("google/bert_uncased_L-2_H-128_A-2", "BERT-Tiny", 2, 128, 2, 30522, "uncased"),
    ("google/bert_uncased_L-4_H-256_A-4", "BERT-Mini", 4, 256, 4, 30522, "uncased"),
    ("google/bert_uncased_L-4_H-512_A-8", "BERT-Small", 4, 512, 8, 30522, "uncased"),
    ("google/bert_uncased_L-8_H-512_A-8", "BERT-Medium", 8, 512, 8, 30522, "uncased"),
    ("sentence-transformers/all-MiniLM-L6-v2", "MiniLM-L6 (default)", 6, 384, 12, 30522, "uncased"),
    ("sentence-transformers/all-MiniLM-L12-v2", "MiniLM-L12", 12, 384, 12, 30522, "uncased"),
    ("microsoft/MiniLM-L12-H384-uncased", "MiniLM-L12, not tuned", 12, 384, 12, 30522, "uncased"),
    ("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", "MiniLM-L12 multilingual",
     12, 384, 12, 250037, "cased", "multilingual"),
    ("distilbert/distilbert-base-uncased", "DistilBERT",
     6, 768, 12, 30522, "uncased", "English", "distilbert"),
    ("distilbert/distilbert-base-cased", "DistilBERT",
     6, 768, 12, 28996, "cased", "English", "distilbert"),
    ("distilbert/distilbert-base-multilingual-cased", "DistilBERT multilingual",
     6, 768, 12, 119547, "cased", "multilingual", "distilbert"),
    ("google-bert/bert-base-uncased", "BERT-Base", 12, 768, 12, 30522, "uncased"),
    ("google-bert/bert-base-cased", "BERT-Base", 12, 768, 12, 28996, "cased"),
    ("google-bert/bert-base-multilingual-uncased", "BERT-Base multilingual",
     12, 768, 12, 105879, "uncased", "multilingual"),
    ("google-bert/bert-base-multilingual-cased", "BERT-Base multilingual",
     12, 768, 12, 119547, "cased", "multilingual"),
    ("google-bert/bert-base-chinese", "BERT-Base Chinese",
     12, 768, 12, 21128, "uncased", "Chinese"),
    ("google-bert/bert-large-uncased", "BERT-Large", 24, 1024, 16, 30522, "uncased"),
    ("google-bert/bert-large-cased", "BERT-Large", 24, 1024, 16, 28996, "cased"),
)  # fmt: skip


class PublishedEncoder(NamedTuple):
    """Another encoder, with figures published by its authors or MTEB."""

    model: str
    parameters: str
    languages: str
    licence: str
    pooling: str  # of its authors
    prompt: str  # for classification, as its authors advise
    amazon: float | None  # accuracy, per cent: MTEB AmazonPolarityClassification
    imdb: float | None  # ImdbClassification
    banking: float | None  # Banking77Classification


# Figures from github.com/embeddings-benchmark/results at f4cc6c8b; prompts, poolings and licences
# from the model cards. None of them was measured here.
ENCODERS = (
    PublishedEncoder("sentence-transformers/all-MiniLM-L6-v2", "23 M", "English", "Apache-2.0",
                     "mean", "", 64.3, 61.8, 80.0),
    PublishedEncoder("avsolatorio/GIST-all-MiniLM-L6-v2", "23 M", "English", "MIT",
                     "mean", "", 87.2, 78.5, 84.2),
    PublishedEncoder("BAAI/bge-small-en-v1.5", "33 M", "English", "MIT",
                     "cls", "", 92.8, 90.6, 85.7),
    PublishedEncoder("intfloat/e5-small-v2", "33 M", "English", "MIT",
                     "mean", "query: ", 91.3, 86.0, 81.6),
    PublishedEncoder("thenlper/gte-small", "33 M", "English", "MIT",
                     "mean", "", 91.8, 86.8, 84.1),
    PublishedEncoder("Snowflake/snowflake-arctic-embed-s", "33 M", "English", "Apache-2.0",
                     "cls", "", 78.8, 69.5, 79.1),
    PublishedEncoder("sentence-transformers/all-mpnet-base-v2", "109 M", "English", "Apache-2.0",
                     "mean", "", 67.1, 71.2, 81.7),
    PublishedEncoder("google-bert/bert-base-uncased", "109 M", "English", "Apache-2.0",
                     "mean", "", 71.3, 65.4, 63.4),
    PublishedEncoder("intfloat/multilingual-e5-small", "118 M", "100 languages, Korean too", "MIT",
                     "mean", "query: ", 87.4, 75.8, 70.6),
    PublishedEncoder("sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", "118 M",
                     "50 languages, Korean too", "Apache-2.0", "mean", "", None, None, None),
)  # fmt: skip


def catalogue() -> list[PublishedModel]:
    """Return the published BERT configurations, by kind and size.

    Returns
    -------
    list of PublishedModel
        From the model cards on the hub. Any other encoder of these families works by its id.

    Examples
    --------
    >>> {entry.name: entry.n_parameters for entry in catalogue()}["BERT-Large"]
    333579264
    """
    return [PublishedModel(*row) for row in _ROWS]
