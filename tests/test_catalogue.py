"""The catalogue of published models: its numbers are those of transformers' own models."""

import json

import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from pipeline.checkpoints.catalogue import catalogue
from pipeline.checkpoints.checkpoint import installed_folder
from pipeline.vectorizer import DEFAULT_MODEL


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.model)
def test_the_number_of_parameters_is_that_of_transformers_own_model(entry):
    if entry.family == "distilbert":
        config = DistilBertConfig(
            vocab_size=entry.n_vocabulary,
            dim=entry.hidden_size,
            hidden_dim=4 * entry.hidden_size,
            n_layers=entry.n_layers,
            n_heads=entry.n_heads,
        )
        kind = DistilBertModel
    else:
        config = BertConfig(
            vocab_size=entry.n_vocabulary,
            hidden_size=entry.hidden_size,
            intermediate_size=4 * entry.hidden_size,
            num_hidden_layers=entry.n_layers,
            num_attention_heads=entry.n_heads,
        )
        kind = BertModel
    with torch.device("meta"):
        model = kind(config)
    assert entry.n_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.model)
def test_words_are_those_the_documentation_allows(entry):
    assert entry.case in ("uncased", "cased")
    assert entry.family == ("distilbert" if "distilbert" in entry.model else "bert")
    if "cased" in entry.model:
        assert entry.case == ("uncased" if "uncased" in entry.model else "cased")
    assert (entry.languages == "multilingual") == ("multilingual" in entry.model)


def test_the_default_model_is_listed_as_its_own_files_say():
    [entry] = [entry for entry in catalogue() if entry.model == DEFAULT_MODEL]
    folder = installed_folder(DEFAULT_MODEL)
    config = json.loads((folder / "config.json").read_text())
    assert entry.family == config["model_type"]
    assert entry.n_layers == config["num_hidden_layers"]
    assert entry.hidden_size == config["hidden_size"]
    assert entry.n_heads == config["num_attention_heads"]
    assert entry.n_vocabulary == config["vocab_size"]
    assert config["intermediate_size"] == 4 * entry.hidden_size
    assert config["max_position_embeddings"] == 512
    lowercase = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["normalizer"][
        "lowercase"
    ]
    assert entry.case == ("uncased" if lowercase else "cased")
