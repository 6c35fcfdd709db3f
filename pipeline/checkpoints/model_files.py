"""A model's files in memory: config, tokenizer, weights and their hashes; read by checkpoint, or carried by an artifact."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pipeline.checkpoints.hub import CONFIG, TOKENIZER, WEIGHTS


class CheckpointError(ValueError):
    """A model could not be found, read or verified."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One frozen model: everything that decides its vectors, and where it came from.

    Attributes
    ----------
    config_json : str
        Text of ``config.json``.
    tokenizer_json : str
        Text of ``tokenizer.json``.
    weights : ndarray of shape (n_bytes,), uint8
        The bytes of ``model.safetensors``, memory-mapped where they come from a file.
    source : dict
        ``model`` (as asked for), ``kind`` (``"folder"``, ``"installed copy"``, ``"hub cache"``, ``"hub"``), ``revision``
        (the hub's commit, or None; of a folder what its ``source.json`` says, where its ``SHA256SUMS`` agrees) and ``sha256``
        (file name -> hash of the three files).
    depth : int or None
        Encoder layers whose weights are here; None is all of the model's.
    weights_sha256 : str or None
        Of ``weights``, where they are not the whole file; None is that of ``source``.
    verified : bool
        Whether the hashes were taken from these very bytes. What comes out of an artifact is verified by `verify`, when its
        encoder is built.
    """

    config_json: str
    tokenizer_json: str
    weights: np.ndarray
    source: dict[str, Any]
    depth: int | None = None
    weights_sha256: str | None = None
    verified: bool = True

    @property
    def config(self) -> dict[str, Any]:
        """The parsed ``config.json``."""
        config: dict[str, Any] = json.loads(self.config_json)
        return config

    @property
    def fingerprint(self) -> str:
        """One hash over config, tokenizer and the weights that are here."""
        hashes = self.source["sha256"] if self.weights_sha256 is None else {**self.source["sha256"], "here": self.weights_sha256}
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    def to_state(self) -> dict[str, Any]:
        """Return what an artifact carries: strings, numbers and the one array."""
        return {
            "config_json": self.config_json,
            "tokenizer_json": self.tokenizer_json,
            "weights": self.weights,
            "depth": self.depth,
            "weights_sha256": self.weights_sha256,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], source: dict[str, Any]) -> Self:
        """Take what an artifact carried, and compare config and tokenizer with their hashes; the weights are left to `verify`.

        Raises
        ------
        CheckpointError
            Where they are not those that the vectorizer was fitted with.
        """
        for name, text in ((CONFIG, state["config_json"]), (TOKENIZER, state["tokenizer_json"])):
            if not isinstance(text, str) or hashlib.sha256(text.encode()).hexdigest() != source["sha256"][name]:
                raise CheckpointError(
                    f"The {name} in this file is not the one that the vectorizer was fitted with (sha256 "
                    f"{source['sha256'][name]}). The file is damaged or was tampered with: copy or train it again."
                )
        # asarray: a plain array over the file's mapping, which skops and loky understand
        return cls(**{**state, "weights": np.asarray(state["weights"])}, source=source, verified=False)

    def verify(self) -> str:
        """Compare the weights with their hash, where that was not done yet.

        Returns
        -------
        str
            The sha256 of the weights that are here.

        Raises
        ------
        CheckpointError
            Where they differ.
        """
        expected: str = self.weights_sha256 or self.source["sha256"][WEIGHTS]
        if self.verified:
            return expected
        found = hashlib.sha256(self.weights.data).hexdigest()
        if found != expected:
            raise CheckpointError(
                f"The weights of {self.source['model']!r} in this file have sha256 {found}; it was made with {expected}. The "
                "file is damaged, or another one took its place while it was open: load, copy or train it again."
            )
        object.__setattr__(self, "verified", True)
        return expected

    def tensor_table(self) -> dict[str, dict[str, Any]]:
        """Read the header of the weights: tensor name -> ``dtype``, ``shape``, ``data_offsets``.

        Returns
        -------
        dict
            As in the safetensors format; offsets count from the end of the header.

        Raises
        ------
        CheckpointError
            Where the bytes are no safetensors file or shorter than the header says.
        """
        return read_tensor_table(self.weights, self.source["model"])[0]


def read_tensor_table(weights: np.ndarray, name: str) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the tensor table of safetensors bytes and the position of its first data byte.

    The format (8 bytes of header length, JSON header, data) is described at
    https://huggingface.co/docs/safetensors/index#format.
    """
    try:
        length = int.from_bytes(weights[:8].tobytes(), "little")
        if not 2 <= length <= len(weights) - 8:
            raise ValueError(f"its header claims {length} bytes of {len(weights)}")
        table = json.loads(weights[8 : 8 + length].tobytes())
        table.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in table.values()), default=0)
        if 8 + length + end > len(weights):
            raise ValueError(f"it is cut short: {len(weights)} bytes where {8 + length + end} are needed")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The weights of {name!r} are not a whole {WEIGHTS} file: {error}. Fetch the model again."
        ) from error
    return table, 8 + length
