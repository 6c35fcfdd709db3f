"""Both encoders: hidden states are HF's at every depth, and what disagrees is named."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, MODEL_MAPPING, GPT2Config
from transformers.models.bert.modeling_bert import BertModel

from pipeline.bert.config import PACKED as SUPPORTED
from pipeline.bert.config import read_shape
from pipeline.bert.encoder import choose_device, load_encoder, n_loads
from pipeline.bert.packed import PackedEncoder
from pipeline.bert.pooling import TokenBatch
from pipeline.checkpoints.checkpoint import CheckpointError, resolve
from tests.conftest import FAMILIES, FRESH_SEEDS, TEXTS, build_model

TOLERANCE = 1e-5
SOME = [TEXTS[0], TEXTS[5], "", "film"]
IDS = np.array([[2, 7, 9, 11, 3], [2, 30, 31, 7, 3]])


def hidden_states(encoder, ids):
    """Run texts of one length and return all layers as HF does."""
    n_layers = encoder.depth + 1
    states = encoder.token_states(TokenBatch(list(ids)), range(n_layers))
    return list(states.view(*ids.shape, n_layers, -1).permute(2, 0, 1, 3))


@pytest.fixture(params=[True, False], ids=["packed", "hugging face"], autouse=True)
def load(request):
    """Load by either forward: every test here holds for both."""
    return lambda checkpoint, depth, **where: load_encoder(
        checkpoint, depth, packed=request.param, **where
    )


@pytest.fixture
def last_layer(load):
    """Give the last layer of a few texts by model folder."""
    return lambda folder, depth=3: hidden_states(load(resolve(str(folder)), depth), IDS)[-1].numpy()


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """Give a copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def change_weights(folder, change):
    save_file(
        change(load_file(folder / "model.safetensors")),
        folder / "model.safetensors",
        {"format": "pt"},
    )


# ---- hidden states


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_hugging_faces_up_to_every_depth(
    family, model_folder, hugging_face, load
):
    oracle = hugging_face(model_folder(family))
    checkpoint = resolve(model_folder(family))
    for text in SOME:
        expected = oracle.hidden_states(text)
        for depth in range(4):
            encoder = load(checkpoint, depth)
            states = hidden_states(encoder, np.array([oracle.ids(text)]))
            assert encoder.depth == depth
            assert len(states) == depth + 1
            assert (
                np.abs(torch.stack(states)[:, 0].numpy() - expected[: depth + 1]).max() <= TOLERANCE
            )


def test_a_forward_pass_keeps_no_gradient_and_drops_nothing_out(tmp_path, load):
    folder = build_model(
        tmp_path / "model", "bert", hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5
    )
    encoder = load(resolve(str(folder)), 3)
    first, second = hidden_states(encoder, IDS), hidden_states(encoder, IDS)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert not a.requires_grad
    assert torch.is_grad_enabled()


# ---- loading


def test_loading_copies_nothing_but_what_is_fused(tmp_path, monkeypatch):
    checkpoint = resolve(str(build_model(tmp_path / "model", "bert", seed=next(FRESH_SEEDS))))
    begin = checkpoint.weights.ctypes.data

    def is_view(tensor):
        return begin <= tensor.data_ptr() < begin + checkpoint.weights.nbytes

    for depth in (0, 3):
        parameters = list(load_encoder(checkpoint, depth, packed=False)._model.parameters())
        assert len(parameters) == 5 + 16 * depth + 2  # embeddings, layers, pooler
        assert all(is_view(parameter) and not parameter.requires_grad for parameter in parameters)
    monkeypatch.setenv("PIPELINE_PRODUCTS", "blas")
    packed = PackedEncoder(checkpoint, 3, torch.device("cpu"), torch.float32)
    assert is_view(packed._words)
    for layer in packed._layers:
        assert is_view(layer.up._weight)
        assert is_view(layer.down._weight)
        assert is_view(layer.output._weight)
        assert not is_view(layer.qkv._weight)


def test_the_same_question_gets_the_same_encoder(tiny_bert, tmp_path, load):
    copied = shutil.copytree(tiny_bert, tmp_path / "copied")
    encoder = load(resolve(tiny_bert), 3)
    assert load(resolve(str(copied)), 3) is encoder  # equal files are one model, wherever they lie
    assert load(resolve(tiny_bert), 3, device="cpu", dtype="float32") is encoder
    assert load(resolve(tiny_bert), 2) is not encoder
    change_weights(copied, lambda tensors: {name: tensor + 1 for name, tensor in tensors.items()})
    assert load(resolve(str(copied)), 3) is not encoder


def test_many_threads_load_a_model_once_and_get_the_same_numbers(tmp_path, load):
    folder = build_model(tmp_path / "model", "bert", seed=next(FRESH_SEEDS))
    checkpoint = resolve(str(folder))
    expected = BertModel.from_pretrained(folder)(torch.tensor(IDS)).last_hidden_state.detach()
    found, start = [], threading.Barrier(8)
    before = n_loads()

    def run():
        start.wait(timeout=60)
        encoder = load(checkpoint, 3)
        found.append((encoder, hidden_states(encoder, IDS)[-1]))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 8
    assert n_loads() == before + 1
    assert len({id(encoder) for encoder, _ in found}) == 1
    assert max(float((states - expected).abs().max()) for _, states in found) <= TOLERANCE


def test_encoders_that_were_pushed_out_are_built_again(tmp_path, last_layer):
    folders = [
        build_model(tmp_path / str(seed), "bert", seed=seed, n_layers=1) for seed in range(6)
    ]
    first = [last_layer(folder, 1) for folder in folders]
    for folder, expected in zip(folders, first, strict=True):
        assert np.array_equal(last_layer(folder, 1), expected)


# ---- checkpoints of other makes


@pytest.mark.parametrize("family", FAMILIES)
def test_names_with_the_prefix_of_a_model_with_a_head_are_understood(
    family, model_folder, hugging_face, tmp_path, last_layer
):
    folder = Path(shutil.copytree(model_folder(family), tmp_path / "model"))
    model_type = family.removesuffix("-cased")
    head = {"cls.predictions.bias": torch.zeros(3), "classifier.weight": torch.zeros(2, 2)}
    for prefix in SUPPORTED[model_type]:
        change_weights(
            folder, lambda tensors, p=prefix: {p + k: v for k, v in tensors.items()} | head
        )
        found = last_layer(folder)
        expected = [
            hugging_face(model_folder(family)).hidden_states_of_ids(ids.tolist())[3] for ids in IDS
        ]
        assert np.abs(found - expected).max() <= TOLERANCE
        shutil.copy(Path(model_folder(family), "model.safetensors"), folder / "model.safetensors")


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_the_layer_norm_names_of_converted_checkpoints_are_understood(
    prefix, folder, hugging_face, tiny_bert, last_layer
):
    def rename(name):
        return prefix + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )

    change_weights(
        folder, lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}
    )
    assert any(name.endswith("gamma") for name in resolve(str(folder)).tensor_table())
    expected = [hugging_face(tiny_bert).hidden_states_of_ids(ids.tolist())[3] for ids in IDS]
    assert np.abs(last_layer(folder) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_checkpoints_of_other_precision_are_computed_in_float32(dtype, folder, load):
    change_weights(
        folder, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}
    )
    change_config(folder, dtype=str(dtype).removeprefix("torch."))
    states = hidden_states(load(resolve(str(folder)), 3), IDS)
    oracle = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = oracle(torch.tensor(IDS), output_hidden_states=True).hidden_states
    for found, right in zip(states, expected, strict=True):
        assert found.dtype == torch.float32
        assert (found - right).abs().max() <= TOLERANCE


def test_settings_of_the_config_that_shape_the_output_of_transformers_change_nothing(
    folder, tiny_bert, last_layer
):
    expected = last_layer(tiny_bert)
    change_config(
        folder,
        return_dict=False,
        output_attentions=True,
        output_hidden_states=False,
        use_cache=True,
    )
    assert np.abs(last_layer(folder) - expected).max() <= TOLERANCE


def test_more_tensors_than_the_config_asks_for_do_no_harm(folder, tiny_bert, last_layer):
    expected = last_layer(tiny_bert)
    change_weights(
        folder,
        lambda tensors: (
            tensors | {"embeddings.position_ids": torch.arange(64)[None], "extra": torch.ones(1)}
        ),
    )
    assert np.array_equal(last_layer(folder), expected)


# ---- the shape


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shape_is_that_of_transformers_own_model(family, model_folder, hugging_face):
    shape = read_shape(resolve(model_folder(family)))
    model = hugging_face(model_folder(family)).model
    assert shape.family == family.removesuffix("-cased")
    assert (shape.n_layers, shape.hidden_size) == (3, 32)
    assert shape.max_positions == 64
    assert shape.n_vocabulary == model.get_input_embeddings().num_embeddings
    assert shape.has_pooler == (getattr(model, "pooler", None) is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_sequence_is_encoded_and_a_longer_one_is_not(family, model_folder, load):
    checkpoint = resolve(model_folder(family))
    encoder = load(checkpoint, 1)
    n_tokens = read_shape(checkpoint).max_positions
    assert hidden_states(encoder, np.full((1, n_tokens), 7))[-1].shape == (1, n_tokens, 32)
    with pytest.raises((IndexError, RuntimeError)):
        hidden_states(encoder, np.full((1, n_tokens + 1), 7))


# ---- what is refused


def test_a_family_that_is_no_bert_is_refused_with_those_that_are(tmp_path, load):
    config = GPT2Config(vocab_size=160, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    folder = build_model(tmp_path / "model", "bert")
    MODEL_MAPPING[type(config)](config).save_pretrained(folder)
    for use in (read_shape, lambda checkpoint: load(checkpoint, 1)):
        with pytest.raises(
            CheckpointError,
            match=r"family 'gpt2'.* Supported are bert, distilbert, roberta, .*electra",
        ):
            use(resolve(str(folder)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": "three"}, r"not a valid bert config: .*num_hidden_layers"),
        ({"hidden_size": 33}, r"hidden size \(33\)"),
        ({"hidden_act": "no_such_function"}, "no_such_function"),
    ],
)
def test_a_config_no_model_can_be_made_of_is_refused_by_name(values, message, folder, load):
    change_config(folder, **values)
    with pytest.raises(CheckpointError, match=rf"(?s)config\.json of '{folder}' .*{message}"):
        load(resolve(str(folder)), 3)


def test_a_roberta_without_a_padding_id_is_refused(tmp_path):
    folder = build_model(tmp_path / "model", "roberta")
    change_config(folder, pad_token_id=None)
    with pytest.raises(CheckpointError, match=r"config\.json of .*pad_token_id"):
        read_shape(resolve(str(folder)))


MISSING = "encoder.layer.2.output.dense.weight"


def test_a_missing_tensor_is_named_and_never_filled_in(folder, load):
    change_weights(folder, lambda tensors: {k: v for k, v in tensors.items() if k != MISSING})
    with pytest.raises(
        CheckpointError,
        match=rf"'{folder}' disagree: .* needs 1 tensors .*first '{MISSING}'.*"
        "never filled in",
    ):
        load(resolve(str(folder)), 3)
    assert len(hidden_states(load(resolve(str(folder)), 2), IDS)) == 3  # the layers below are whole


def test_a_tensor_of_another_shape_is_named_with_both(folder, load):
    change_config(folder, vocab_size=500)
    with pytest.raises(
        CheckpointError,
        match=r"'embeddings\.word_embeddings\.weight' has the shape \(500, 32\) in the config "
        r"and \(160, 32\) in",
    ):
        load(resolve(str(folder)), 3)


def test_a_tensor_of_a_type_that_is_not_read_is_named_with_its_type(folder, load):
    change_weights(
        folder,
        lambda tensors: {k: v.to(torch.int8) if k == MISSING else v for k, v in tensors.items()},
    )
    with pytest.raises(CheckpointError, match=rf"{MISSING}.*I8"):
        load(resolve(str(folder)), 3)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", "cpu:7"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(device, tiny_bert, load):
    for use in (choose_device, lambda device: load(resolve(tiny_bert), 1, device=device)):
        with pytest.raises(
            ValueError,
            match=rf"device='{device}' is not available .* cpu.*"
            "Use 'auto'",
        ):
            use(device)


def test_half_precision_is_refused_where_the_cpu_does_not_compute_in_it(
    tiny_bert, load, monkeypatch
):
    monkeypatch.setattr("pipeline.bert.encoder.computes_bfloat16", lambda: False)
    for dtype in ("float16", "bfloat16"):
        with pytest.raises(
            ValueError, match=rf"dtype='{dtype}' needs an accelerator.*Use dtype='auto'"
        ):
            load(resolve(tiny_bert), 1, device="cpu", dtype=dtype)
    assert choose_device("cpu", "auto") == (torch.device("cpu"), torch.float32)


def test_without_a_wish_device_and_precision_suit_the_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == (torch.device("cpu"), torch.float32)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == (torch.device("mps"), torch.float32)
    assert choose_device("mps", "float16") == (torch.device("mps"), torch.float16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == (torch.device("cuda:0"), torch.float16)
    assert choose_device("cuda:1", "float32") == (torch.device("cuda:1"), torch.float32)
    assert choose_device("cpu") == (torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="Available: cuda:0, cuda:1, mps, cpu"):
        choose_device("cuda:2")


def test_every_supported_family_is_known_to_transformers():
    for family in SUPPORTED:
        assert CONFIG_MAPPING[family] in MODEL_MAPPING
