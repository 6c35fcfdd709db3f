"""The configuration of a BERT: family, sizes and supported features."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.exceptions import CheckpointError

# model_type -> prefixes of its tensors when saved with a head
PACKED: dict[str, tuple[str, ...]] = {
    "bert": ("bert.",),
    "distilbert": ("distilbert.",),
    "roberta": ("roberta.",),
    "xlm-roberta": ("roberta.", "xlm-roberta."),
    "camembert": ("roberta.", "camembert."),
    "electra": ("electra.", "discriminator.electra."),
}
FAMILIES: dict[str, tuple[str, ...]] = PACKED | {  # the others run in transformers' own forward
    "albert": ("albert.",),
    "deberta": ("deberta.",),
    "deberta-v2": ("deberta.",),
    "ernie": ("ernie.",),
    "eurobert": ("model.",),
    "modernbert": ("model.",),
    "mpnet": ("mpnet.",),
    "roberta-prelayernorm": ("roberta_prelayernorm.",),
    "xlm-roberta-xl": ("roberta.",),
}
# These count positions from padding_idx + 1, so that a part of their table is unusable.
OFFSET_POSITIONS = (
    *("roberta", "xlm-roberta", "camembert"),
    *("mpnet", "roberta-prelayernorm", "xlm-roberta-xl"),
)
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
# Defaults in which a family differs from BERT.
_DEFAULTS: dict[str, dict[str, int]] = {
    "distilbert": {"num_hidden_layers": 6, "type_vocab_size": 0},
    "roberta": {"vocab_size": 50265, "pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "camembert": {"pad_token_id": 1},
    "electra": {
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "embedding_size": 128,
    },
}
# BERT's setting names -> DistilBERT's
_DISTILBERT = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
    "type_vocab_size": "",
    "layer_norm_eps": "",
}


@dataclass(frozen=True)
class EncoderShape:
    """Sizes of an encoder, read without loading it."""

    family: str
    n_layers: int  # without the embedding output, which is layer 0
    hidden_size: int
    max_positions: int  # longest sequence, [CLS] and [SEP] included
    n_vocabulary: int
    pad_token_id: int
    has_pooler: bool  # trained weights for pooler_output


@dataclass(frozen=True)
class BertConfig:
    """A config.json for the packed forward, with BERT's names and defaults."""

    # importing transformers takes seconds; a test compares the defaults

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
    embedding_size: int = 0  # ELECTRA's, before the projection; 0 means hidden_size
    model_type: str = "bert"

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self | None:
        """Return the config of a plain encoder, else None."""
        family = values.get("model_type")
        if family not in PACKED or _is_unusual(values):
            return None
        defaults = vars(cls(**{**_DEFAULTS.get(family, {}), "model_type": family}))
        names = {name: name for name in defaults}
        if family == "distilbert":
            names |= _DISTILBERT
        elif family != "electra":
            del names["embedding_size"]
        own = {name: values[theirs] for name, theirs in names.items() if theirs in values}
        own["pad_token_id"] = own.get("pad_token_id", defaults["pad_token_id"]) or 0
        for name, value in own.items():
            kind = type(defaults[name])
            allowed = (int, float) if kind is float else kind
            if isinstance(value, bool) or not isinstance(value, allowed):
                return None
        config = cls(**(defaults | own))
        sizes = {name: value for name, value in vars(config).items() if type(value) is int}
        del sizes["pad_token_id"]
        optional = (sizes.pop("embedding_size"), sizes.pop("type_vocab_size"))
        if min(sizes.values()) < 1 or min(optional) < 0:
            return None
        fits = config.hidden_size % config.num_attention_heads == 0
        return config if fits and config.hidden_act in ACTIVATIONS else None


def _is_unusual(values: dict[str, Any]) -> bool:
    family = values["model_type"]
    return (
        values.get("position_embedding_type") not in (None, "absolute")
        or any(values.get(name) for name in ("is_decoder", "add_cross_attention", "pruned_heads"))
        or (family in OFFSET_POSITIONS and values.get("pad_token_id", 1) is None)
        # transformers also accepts some of BERT's names for DistilBERT's
        or (family == "distilbert" and any(values.get(name) for name in _DISTILBERT))
    )


@lru_cache(maxsize=8)
def read_plain_config(config_json: str) -> BertConfig | None:
    """Return `BertConfig.read` of a config.json."""
    return BertConfig.read(json.loads(config_json))


def read_shape(checkpoint: Checkpoint) -> EncoderShape:
    """Read sizes from the config and the weight table."""
    config: Any = read_plain_config(checkpoint.config_json) or hf_config(checkpoint)
    family = checkpoint.config["model_type"]
    offset = config.pad_token_id + 1 if family in OFFSET_POSITIONS else 0
    names = {bare_name(name, family) for name in checkpoint.tensor_table()}
    return EncoderShape(
        family=family,
        n_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        max_positions=config.max_position_embeddings - offset,
        n_vocabulary=config.vocab_size,
        pad_token_id=config.pad_token_id or 0,
        has_pooler="pooler.dense.weight" in names,
    )


def hf_config(checkpoint: Checkpoint) -> Any:
    """Return transformers' own config object."""
    name = checkpoint.source["model"]
    values = checkpoint.config
    family = values.pop("model_type", None)
    if family not in FAMILIES:
        raise CheckpointError(
            f"{name!r} belongs to the family {family!r}, which is not supported. Supported are "
            f"{', '.join(FAMILIES)}: encoders like BERT that give a hidden state per layer and "
            "need no code of their own."
        )
    if family in OFFSET_POSITIONS and values.get("pad_token_id", 1) is None:
        raise CheckpointError(
            f"config.json of {name!r} has no pad_token_id, which is needed to number positions."
        )
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[family](**values)
    except Exception as error:
        raise CheckpointError(
            f"config.json of {name!r} is not a valid {family} config: {error}"
        ) from error


def bare_name(name: str, family: str) -> str:
    """Strip the prefix of a head, and rename TensorFlow's LayerNorms."""
    for prefix in FAMILIES[family]:
        name = name.removeprefix(prefix)
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    return name.replace("LayerNorm.beta", "LayerNorm.bias")
