"""Checkpoint: what an artifact carries comes back, and is believed only as far as its hashes go."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from pipeline.checkpoints.checkpoint import Checkpoint, read_tensor_table, resolve
from pipeline.exceptions import CheckpointError


@pytest.fixture
def checkpoint(tiny_bert):
    return resolve(tiny_bert)


def carried(checkpoint, **changes):
    return Checkpoint.from_state({**checkpoint.to_state(), **changes}, checkpoint.source)


def test_what_is_carried_comes_back_unverified_with_the_same_array(checkpoint):
    again = carried(checkpoint)
    assert again.weights is checkpoint.weights
    assert again.fingerprint == checkpoint.fingerprint
    assert (checkpoint.verified, again.verified) == (True, False)
    assert again.verify() == checkpoint.source["sha256"]["model.safetensors"] == checkpoint.verify()
    assert again.verified


def test_a_mapped_array_becomes_a_plain_one_over_the_same_mapping(checkpoint, tmp_path):
    np.save(tmp_path / "weights.npy", np.asarray(checkpoint.weights))
    mapped = np.load(tmp_path / "weights.npy", mmap_mode="c")
    again = carried(checkpoint, weights=mapped)
    assert type(again.weights) is np.ndarray
    assert np.shares_memory(again.weights, mapped)
    again.verify()


@pytest.mark.parametrize("name", ["config_json", "tokenizer_json"])
@pytest.mark.parametrize(
    "change", [lambda text: text + " ", lambda text: text.encode(), lambda text: None]
)
def test_other_texts_are_refused_at_once(name, change, checkpoint):
    with pytest.raises(
        CheckpointError,
        match=r"(config|tokenizer)\.json in this file is not the one .*was tampered with",
    ):
        carried(checkpoint, **{name: change(getattr(checkpoint, name))})


def test_other_weights_are_refused_when_they_are_verified_and_each_time(checkpoint):
    other = checkpoint.weights.copy()
    other[-1] ^= 1
    again = carried(checkpoint, weights=other)
    for _ in range(2):
        with pytest.raises(
            CheckpointError,
            match=rf"sha256 {hashlib.sha256(other.data).hexdigest()}, but were saved with",
        ):
            again.verify()


def test_a_part_of_the_weights_has_a_hash_and_a_fingerprint_of_its_own(checkpoint):
    part = replace(
        checkpoint, weights=checkpoint.weights[:100], weights_sha256="ab" * 32, verified=False
    )
    assert part.fingerprint != checkpoint.fingerprint
    with pytest.raises(CheckpointError, match=f"were saved with {'ab' * 32}"):
        part.verify()
    right = hashlib.sha256(checkpoint.weights[:100].tobytes()).hexdigest()
    assert replace(part, weights_sha256=right).verify() == right


def test_a_table_is_read_with_the_place_of_the_first_byte(checkpoint):
    table, start = read_tensor_table(checkpoint.weights, "it")
    assert start + max(entry["data_offsets"][1] for entry in table.values()) == len(
        checkpoint.weights
    )
    with pytest.raises(
        CheckpointError, match=r"The weights of 'it' are not a complete model\.safetensors file"
    ):
        read_tensor_table(checkpoint.weights[:-1], "it")
