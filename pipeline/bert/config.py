"""The configuration of a BERT: family, sizes, and what this package supports."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.exceptions import CheckpointError

# model_type in config.json -> the prefixes its tensors carry when they were saved with a head on top.
FAMILIES: dict[str, tuple[str, ...]] = {
    "bert": ("bert.",),
    "distilbert": ("distilbert.",),
    "roberta": ("roberta.",),
    "xlm-roberta": ("roberta.", "xlm-roberta."),
    "camembert": ("roberta.", "camembert."),
    "electra": ("electra.", "discriminator.electra."),
}
# These count positions from padding_idx + 1, so their table holds that many rows more than there are usable positions.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")
# Activations of the feed-forward layer that the packed forward knows, by their names in HF's configs.
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True)
class EncoderShape:
    """What a checkpoint's config says about its encoder, read without loading it.

    Attributes
    ----------
    family : str
        ``model_type`` of the config, one of `FAMILIES`.
    n_layers : int
        Encoder layers; there is one hidden state more, the embedding output, which is layer 0.
    hidden_size : int
        Width of every hidden state.
    max_positions : int
        Longest sequence the position table allows, [CLS] and [SEP] included.
    n_vocabulary : int
        Rows of the word embedding.
    pad_token_id : int
        What fills shorter texts of a padded batch.
    has_pooler : bool
        Whether the checkpoint holds trained weights for ``pooler_output``.
    """

    family: str
    n_layers: int
    hidden_size: int
    max_positions: int
    n_vocabulary: int
    pad_token_id: int
    has_pooler: bool


@dataclass(frozen=True)
class BertConfig:
    """The values of a plain BertModel's config.json, under HF's names and with HF's defaults (those of bert-base-uncased).

    Read without importing transformers, which costs seconds; a test compares the defaults with HF's own.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self | None:
        """Return the config of a plain BertModel, or None where anything about it is unusual.

        Parameters
        ----------
        values : dict
            The parsed config.json.

        Returns
        -------
        BertConfig or None
            None is for HF's own classes to run, or to refuse in their words.
        """
        if values.get("model_type") != "bert" or values.get("position_embedding_type") not in (
            None,
            "absolute",
        ):
            return None
        if any(values.get(name) for name in ("is_decoder", "add_cross_attention", "pruned_heads")):
            return None
        own = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        own["pad_token_id"] = own.get("pad_token_id") or 0
        defaults = cls()
        for name, value in own.items():
            kind = type(getattr(defaults, name))
            if isinstance(value, bool) or not isinstance(
                value, (int, float) if kind is float else kind
            ):
                return None
        config = cls(**own)
        sizes = [
            getattr(config, name)
            for name, value in vars(defaults).items()
            if isinstance(value, int)
        ]
        sizes.remove(config.pad_token_id)
        if (
            min(sizes) < 1
            or config.hidden_size % config.num_attention_heads
            or config.hidden_act not in ACTIVATIONS
        ):
            return None
        return config


@lru_cache(maxsize=8)
def read_plain_config(config_json: str) -> BertConfig | None:
    """Return what `BertConfig.read` makes of the text of a config.json; asked several times per call, so remembered."""
    return BertConfig.read(json.loads(config_json))


def read_shape(checkpoint: Checkpoint) -> EncoderShape:
    """Read the encoder's shape from the config and the weight table.

    Raises
    ------
    CheckpointError
        For families that are not supported.
    """
    config: Any = read_plain_config(checkpoint.config_json) or hf_config(checkpoint)
    family = checkpoint.config["model_type"]
    offset = config.pad_token_id + 1 if family in OFFSET_POSITIONS else 0
    return EncoderShape(
        family=family,
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        max_positions=config.max_position_embeddings - offset,
        n_vocabulary=config.vocab_size,
        pad_token_id=config.pad_token_id or 0,
        has_pooler=any(
            bare_name(name, family) == "pooler.dense.weight" for name in checkpoint.tensor_table()
        ),
    )


def hf_config(checkpoint: Checkpoint) -> Any:
    """Return transformers' own config object.

    Raises
    ------
    CheckpointError
        For families that are not supported, and for values that transformers refuses.
    """
    name = checkpoint.source["model"]
    values = checkpoint.config
    family = values.pop("model_type", None)
    if family not in FAMILIES:
        raise CheckpointError(
            f"{name!r} is of the family {family!r}; supported are {', '.join(FAMILIES)}: encoders of the BERT kind, with a "
            "hidden state per layer."
        )
    if family in OFFSET_POSITIONS and values.get("pad_token_id", 1) is None:
        raise CheckpointError(
            f"config.json of {name!r} has no pad_token_id, from which positions count."
        )
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[family](**values)
    except Exception as error:  # a config may be wrong in any way; transformers raises its own validation errors here
        raise CheckpointError(
            f"config.json of {name!r} is not a valid {family} config: {error}"
        ) from error


def bare_name(name: str, family: str) -> str:
    """Strip the prefix of a model with a head, and the LayerNorm names of checkpoints converted from TensorFlow."""
    for prefix in FAMILIES[family]:
        name = name.removeprefix(prefix)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )
