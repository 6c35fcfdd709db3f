"""A checkpoint without the tensors that nobody runs, for artifacts. Used by vectorizer."""

import hashlib
import json
import re
import weakref
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.bert.shape import bare_name
from pipeline.checkpoints.model_files import Checkpoint, read_tensor_table
from pipeline.forks import ForkSafeLock

# Below this share a copy in memory costs more than the file gains: the whole weights stay mapped from where they are.
SMALLEST_SAVING = 0.05
_LAYER = re.compile(r"(?:encoder|transformer)\.layer\.(\d+)\.")
_PARTS = ("embeddings.", "embeddings_project.", "encoder.", "transformer.", "pooler.")

_made: "weakref.WeakValueDictionary[tuple[str, int, bool], Checkpoint]" = weakref.WeakValueDictionary()
_made_lock = ForkSafeLock()


def cut(checkpoint: Checkpoint, depth: int, *, with_pooler: bool) -> Checkpoint:
    """Leave out what is never run: deeper layers, a pooler not asked for, the heads of pre-training.

    Parameters
    ----------
    checkpoint : Checkpoint
        Whole.
    depth : int
        Layers to keep, 0 to the model's own number.
    with_pooler : bool
        Whether to keep the pooler.

    Returns
    -------
    Checkpoint
        The same config, tokenizer and source, fewer bytes of weights; the checkpoint itself where less than a twentieth would be
        saved. Asked twice, the same object, as long as somebody has it.
    """
    key = (checkpoint.fingerprint, depth, with_pooler)
    with _made_lock:
        found = _made.get(key)
        if found is None:
            found = _made[key] = _cut(checkpoint, depth, with_pooler)
        return found


def _cut(checkpoint: Checkpoint, depth: int, with_pooler: bool) -> Checkpoint:
    table, start = read_tensor_table(checkpoint.weights, checkpoint.source["model"])
    family = checkpoint.config["model_type"]
    kept = {name: entry for name, entry in table.items() if _is_run(bare_name(name, family), depth, with_pooler)}
    n_bytes = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in kept.values())
    if n_bytes > (1 - SMALLEST_SAVING) * len(checkpoint.weights):
        return checkpoint
    checkpoint.verify()
    weights = _write(kept, checkpoint.weights[start:])
    return replace(checkpoint, weights=weights, depth=depth, weights_sha256=hashlib.sha256(weights.data).hexdigest())


def _write(entries: dict[str, dict[str, Any]], data: np.ndarray) -> np.ndarray:
    """Write the bytes of a safetensors file of some tensors, whatever their types: see `read_tensor_table` for the format."""
    table, chunks, end = {}, [], 0
    for name, entry in entries.items():
        begin, stop = entry["data_offsets"]
        table[name] = {**entry, "data_offsets": [end, end + stop - begin]}
        chunks.append(data[begin:stop])
        end += stop - begin
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # so that the data begin at a multiple of 8
    written = np.frombuffer(len(header).to_bytes(8, "little") + header, dtype=np.uint8)
    return np.concatenate([written, *chunks])


def _is_run(name: str, depth: int, with_pooler: bool) -> bool:
    layer = _LAYER.match(name)
    if layer is not None:
        return int(layer[1]) < depth
    return name.startswith(_PARTS) and (with_pooler or not name.startswith("pooler."))
