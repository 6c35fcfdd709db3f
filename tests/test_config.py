"""Plain configs are read as transformers reads them; unusual ones are left to it."""

import json
from dataclasses import asdict

import pytest
from transformers import CONFIG_MAPPING, AutoConfig

from pipeline.bert.config import PACKED, BertConfig, bare_name
from tests.conftest import FAMILIES


def as_transformers(config, family):
    """Compare with HF's config of a family, by the names that it has."""
    theirs = {name: getattr(config, own) for name, own in _names(family).items()}
    theirs["model_type"] = config.model_type
    if theirs.get("embedding_size") == theirs["hidden_size"]:
        theirs["embedding_size"] = 0
    return theirs


def _names(family):
    if family == "distilbert":
        return {
            "vocab_size": "vocab_size",
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "max_position_embeddings": "max_position_embeddings",
            "pad_token_id": "pad_token_id",
        }
    names = set(asdict(BertConfig())) - {
        "model_type",
        *(["embedding_size"] * (family != "electra")),
    }
    return {name: name for name in names}


@pytest.mark.parametrize("family", PACKED)
def test_what_a_config_leaves_out_is_what_transformers_takes(family):
    theirs = as_transformers(CONFIG_MAPPING[family](), family)
    ours = asdict(BertConfig.read({"model_type": family}))
    assert {name: ours[name] for name in theirs} == theirs


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_config_is_read_as_transformers_reads_it(family, model_folder):
    with open(f"{model_folder(family)}/config.json", encoding="utf-8") as file:
        ours = asdict(BertConfig.read(json.load(file)))
    theirs = AutoConfig.from_pretrained(model_folder(family))
    expected = as_transformers(theirs, theirs.model_type)
    assert {name: ours[name] for name in expected} == expected


def test_a_distilbert_with_berts_names_is_left_to_transformers():
    assert BertConfig.read({"model_type": "distilbert", "dim": 32, "n_heads": 4}) is not None
    assert BertConfig.read({"model_type": "distilbert", "hidden_size": 32}) is None


@pytest.mark.parametrize(
    "unusual",
    [
        {"model_type": "gpt2"},
        {"model_type": None},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"pruned_heads": {"0": [1]}},
        {"hidden_act": "silu"},
        {"hidden_act": None},
        {"num_hidden_layers": "three"},
        {"num_hidden_layers": True},
        {"hidden_size": 33, "num_attention_heads": 4},
        {"hidden_size": 0},
        {"intermediate_size": -1},
        {"layer_norm_eps": "small"},
    ],
)
def test_what_is_unusual_is_left_to_transformers(unusual):
    assert BertConfig.read({"model_type": "bert"}) is not None
    assert BertConfig.read({"model_type": "bert", **unusual}) is None


def test_a_missing_padding_id_is_zero():
    assert BertConfig.read({"model_type": "bert", "pad_token_id": None}).pad_token_id == 0
    assert BertConfig.read({"model_type": "bert", "pad_token_id": 7}).pad_token_id == 7


@pytest.mark.parametrize(
    ("name", "family", "bare"),
    [
        (
            "bert.encoder.layer.0.output.LayerNorm.gamma",
            "bert",
            "encoder.layer.0.output.LayerNorm.weight",
        ),
        ("discriminator.electra.embeddings.LayerNorm.beta", "electra", "embeddings.LayerNorm.bias"),
        ("roberta.pooler.dense.weight", "camembert", "pooler.dense.weight"),
        ("cls.predictions.bias", "bert", "cls.predictions.bias"),
    ],
)
def test_names_lose_the_prefix_of_a_head_and_the_old_norm_names(name, family, bare):
    assert bare_name(name, family) == bare
