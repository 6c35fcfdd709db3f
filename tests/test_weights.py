"""Weights: views of a checkpoint's bytes, checked, renamed, and cut to what runs."""

import json

import numpy as np
import pytest
import safetensors.numpy

from pipeline import BertVectorizer
from pipeline.bert.weights import cut
from pipeline.checkpoints.checkpoint import resolve
from pipeline.vectorizer import DEFAULT_MODEL
from tests.conftest import FAMILIES, TEXTS, build_model

# ---- cut


def tensors(checkpoint):
    return safetensors.numpy.load(checkpoint.weights.tobytes())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_checkpoint_holds_the_same_bytes_of_what_is_left(family, model_folder):
    whole = resolve(model_folder(family))
    short = cut(whole, 1, with_pooler=False)
    left, before = tensors(short), tensors(whole)
    assert left.keys() < before.keys()
    assert all(np.array_equal(left[name], before[name]) for name in left)
    assert not any("layer.1." in name or "layer.2." in name or "pooler" in name for name in left)
    assert any("layer.0." in name for name in left)
    assert (short.config_json, short.tokenizer_json, short.source) == (
        whole.config_json,
        whole.tokenizer_json,
        whole.source,
    )
    assert short.depth == 1


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_its_vectors_are_those_of_the_whole_model_bit_for_bit(
    family, depth, model_folder, tmp_path
):
    vectorizer = BertVectorizer(
        model_folder(family), layers=tuple(range(depth + 1)), cache=None
    ).fit(TEXTS)
    expected = vectorizer.transform(TEXTS)
    vectorizer._checkpoint = cut(resolve(model_folder(family)), depth, with_pooler=False)
    assert np.array_equal(vectorizer.transform(TEXTS), expected)


def test_the_heads_of_pre_training_are_left_out(tmp_path):
    folder = build_model(tmp_path / "m", "bert")
    heads = {
        "cls.predictions.decoder.weight": np.ones((160, 32), np.float32),
        "cls.seq_relationship.weight": np.ones((2, 32)),
    }
    path = folder / "model.safetensors"
    own = {f"bert.{name}": value for name, value in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file({**own, **heads}, path)
    short = cut(resolve(str(folder)), 3, with_pooler=True)
    assert tensors(short).keys() == own.keys()


def test_where_little_would_be_saved_it_stays_the_mapped_file(tiny_bert):
    whole = resolve(tiny_bert)
    assert cut(whole, 3, with_pooler=True) is whole
    default = resolve(DEFAULT_MODEL)
    assert (
        cut(default, 6, with_pooler=False) is default
    )  # its pooler is less than a hundredth of it


def test_asked_twice_it_is_the_same_object(tiny_bert):
    short = cut(resolve(tiny_bert), 1, with_pooler=False)
    assert cut(resolve(tiny_bert), 1, with_pooler=False) is short
    assert cut(resolve(tiny_bert), 2, with_pooler=False) is not short


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_tensors_of_any_type_at_any_place_are_kept(padding, tmp_path):
    """Half precision, integers, and a header whose length is no multiple of eight."""
    folder = build_model(tmp_path / "m", "bert")
    path = folder / "model.safetensors"
    tensors_now = {
        name: value.astype(np.float16) for name, value in safetensors.numpy.load_file(path).items()
    }
    tensors_now["embeddings.position_ids"] = np.arange(64)
    safetensors.numpy.save_file(tensors_now, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length])).encode() + b" " * padding
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    left = tensors(cut(resolve(str(folder)), 1, with_pooler=False))
    assert all(np.array_equal(left[name], tensors_now[name]) for name in left)
    assert left["embeddings.position_ids"].dtype == np.int64
