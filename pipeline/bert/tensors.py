"""The tensors of a checkpoint, as views of its bytes, checked against its config. Used by packed and hugging_face."""

from collections.abc import Mapping, Sequence
from math import prod

import torch

from pipeline.bert.shape import bare_name
from pipeline.checkpoints.model_files import Checkpoint, CheckpointError, read_tensor_table

_TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_tensors(checkpoint: Checkpoint, family: str, expected: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """View the tensors that a model needs inside the bytes of the weights, without copying them.

    Parameters
    ----------
    checkpoint : Checkpoint
        The weights.
    family : str
        ``model_type`` of the config.
    expected : mapping of str to shape
        What the config asks for, by the names of HF's model without a head.

    Returns
    -------
    dict of str to Tensor
        Every expected name, in the precision of the file.

    Raises
    ------
    CheckpointError
        When config and weights disagree: a tensor missing, of the wrong shape, type or size.
    """
    name = checkpoint.source["model"]
    table, start = read_tensor_table(checkpoint.weights, name)
    buffer = memoryview(checkpoint.weights)  # type: ignore[arg-type]
    tensors = {}
    for stored, entry in table.items():
        bare = bare_name(stored, family)
        if bare not in expected:
            continue
        if entry["dtype"] not in _TORCH_DTYPES:
            raise CheckpointError(
                f"{name!r} holds {bare!r} as {entry['dtype']}; read are {', '.join(_TORCH_DTYPES)}. Use the checkpoint that is "
                "not quantized."
            )
        dtype, shape = _TORCH_DTYPES[entry["dtype"]], entry["shape"]
        begin, end = entry["data_offsets"]
        if end - begin != prod(shape) * dtype.itemsize:  # read all the same, it would take its neighbours' bytes
            raise CheckpointError(
                f"model.safetensors of {name!r} is damaged: {bare!r} of shape {tuple(shape)} has {end - begin} bytes. Fetch "
                "the model again."
            )
        tensors[bare] = torch.frombuffer(buffer, dtype=dtype, count=prod(shape), offset=start + begin).reshape(shape)
    _refuse_disagreement(name, expected, tensors)
    return tensors


def _refuse_disagreement(name: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, torch.Tensor]) -> None:
    missing = sorted(set(expected) - set(found))
    if missing:
        raise CheckpointError(
            f"config.json and model.safetensors of {name!r} disagree: the config asks for {len(missing)} tensors that the "
            f"weights do not hold, first {missing[0]!r}. They must come from the same model; nothing is filled in at random."
        )
    for key, shape in expected.items():
        if tuple(found[key].shape) != tuple(shape):
            raise CheckpointError(
                f"config.json and model.safetensors of {name!r} disagree: {key!r} is {tuple(shape)} by the config and "
                f"{tuple(found[key].shape)} in the weights. They must come from the same model."
            )
