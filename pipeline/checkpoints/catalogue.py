"""The published BERT configurations, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedModel:
    """One published configuration.

    Attributes
    ----------
    model : str
        Hub id, to give as ``BertVectorizer(model=...)``.
    name : str
        What people call it.
    n_layers, hidden_size, n_heads : int
        Of the encoder; the feed-forward layers are four times ``hidden_size`` wide.
    n_vocabulary : int
        Word pieces.
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
        """Weights of embeddings, layers and pooler (Devlin et al. 2019, section 3)."""
        h, f = self.hidden_size, 4 * self.hidden_size
        token_types = 2 if self.family == "bert" else 0
        embeddings = (self.n_vocabulary + 512 + token_types) * h + 2 * h  # + LayerNorm
        attention = 4 * (h * h + h) + 2 * h  # query, key, value, output + LayerNorm
        feed_forward = (h * f + f) + (f * h + h) + 2 * h
        pooler = h * h + h if self.family == "bert" else 0
        return embeddings + self.n_layers * (attention + feed_forward) + pooler


_ROWS = (
    # model, name, layers, width, heads, vocabulary, case
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


def catalogue() -> list[PublishedModel]:
    """Return the published BERT configurations, smallest first within each kind.

    Returns
    -------
    list of PublishedModel
        Source: the model cards on the hub. Any other encoder of these families works by its id.

    Examples
    --------
    >>> {entry.name: entry.n_parameters for entry in catalogue()}["BERT-Large"]
    333579264
    """
    return [PublishedModel(*row) for row in _ROWS]
