"""What a checkpoint was published with: prompt, poolings, Dense and norms."""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.bert.pooling import Pooling
from pipeline.bert.weights import TORCH_DTYPES
from pipeline.checkpoints.checkpoint import INSTALLED, Checkpoint, read_tensor_table
from pipeline.exceptions import CheckpointError, ModelWarning

# Keys of 1_Pooling/config.json, as sentence-transformers concatenates.
_POOLING_KEYS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": functional.relu,
    "GELU": functional.gelu,
    "SiLU": functional.silu,
    "Sigmoid": torch.sigmoid,
    "LeakyReLU": functional.leaky_relu,
    "ELU": functional.elu,
    "Softplus": functional.softplus,
    "Mish": functional.mish,
}
_TYPE = re.compile(r"sentence_transformers\.(?:[a-z_]+\.)*(\w+)")


@dataclass(frozen=True)
class Step:
    """One module after the pooling."""

    kind: str  # "Dense", "LayerNorm" or "Normalize"
    tensors: dict[str, Tensor]
    activation: str = "Identity"
    residual: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Map (n_texts, n_in) to (n_texts, n_out)."""
        if self.kind == "Normalize":
            return functional.normalize(x, dim=-1)
        if self.kind == "LayerNorm":
            weight, bias = self.tensors["norm.weight"], self.tensors["norm.bias"]
            return functional.layer_norm(x, weight.shape, weight, bias)
        dense = functional.linear(x, self.tensors["linear.weight"], self.tensors.get("linear.bias"))
        y: Tensor = _ACTIVATIONS[self.activation](dense)
        if not self.residual:
            return y
        projection = self.tensors.get("residual.weight")
        return y + (x if projection is None else functional.linear(x, projection))


@dataclass(frozen=True)
class SentenceModules:
    """A checkpoint's own way from text to sentence vector."""

    poolings: tuple[Pooling, ...]
    steps: tuple[Step, ...]
    include_prompt: bool  # whether poolings include the prompt
    prompt: str  # the default one, "" for none
    lower: bool
    max_length: int | None
    width: int  # number of features

    def finish(self, pooled: np.ndarray) -> np.ndarray:
        """Turn (n_texts, n_poolings * hidden_size) into features."""
        with torch.inference_mode():
            x = torch.tensor(pooled)
            for step in self.steps:
                x = step(x)
            return np.asarray(x.numpy())


def sentence_modules(checkpoint: Checkpoint) -> SentenceModules:
    """Read the modules of a checkpoint, or raise for unknown ones."""
    name, files = checkpoint.source["model"], checkpoint.modules
    if "modules.json" not in files:
        raise CheckpointError(
            f"pooling='checkpoint' needs the file modules.json of sentence-transformers, and "
            f"{name!r} has none: its authors published no pooling. Use 'mean' or 'cls'."
        )
    listed = _json(files, "modules.json", name)
    try:
        kinds = [(_kind(module["type"], name), module["path"]) for module in listed]
        if [kind for kind, _ in kinds[:2]] != ["Transformer", "Pooling"]:
            raise ValueError(f"its modules are {', '.join(kind for kind, _ in kinds)}")
        pooling = _json(files, f"{kinds[1][1]}/config.json", name)
        poolings = _poolings(pooling)
        steps = tuple(
            _step(kind, path, files, name) for kind, path in kinds[2:] if kind != "Dropout"
        )
        prefix = f"{kinds[0][1]}/" if kinds[0][1] else ""
        settings = _json(files, f"{prefix}sentence_bert_config.json", name)
        tokenizer = _json(files, f"{prefix}tokenizer_config.json", name)
        about = _json(files, "config_sentence_transformers.json", name)
        length = settings.get("max_seq_length") or tokenizer.get("model_max_length")
        prompt = (about.get("prompts") or {}).get(about.get("default_prompt_name"), "")
        return SentenceModules(
            poolings,
            steps,
            bool(pooling.get("include_prompt", True)),
            str(prompt or ""),
            bool(settings.get("do_lower_case", False)),
            length if type(length) is int else None,
            _width(poolings, steps, checkpoint.config),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"pooling='checkpoint' cannot run the modules of {name!r}: {error}. Supported are an "
            "encoder, a Pooling, then Dense, LayerNorm or Normalize. Use 'mean' or 'cls'."
        ) from error


def hint_at_modules(checkpoint: Checkpoint, model: str) -> None:
    """Warn if a checkpoint was published with another pooling."""
    try:
        modules = sentence_modules(checkpoint)
    except CheckpointError:
        return
    kinds = [step.kind for step in modules.steps if step.kind != "Normalize"]
    if modules.poolings != ("mean",) or kinds:
        others = ", then ".join([" and ".join(modules.poolings), *kinds])
        warnings.warn(
            f"The authors of {model!r} pool by {others}, not by the mean alone. "
            "Use pooling='checkpoint' to get their vectors.",
            ModelWarning,
            stacklevel=6,
        )


def hint_at_length(
    checkpoint: Checkpoint, model: str, n_tokens: np.ndarray, max_length: int
) -> None:
    """Warn if sentence-transformers would cut some texts earlier."""
    length = checkpoint.max_seq_length
    # the default model was measured with 512: docs/long-texts.md
    if length is None or model in INSTALLED:
        return
    if length < max_length and (n_tokens > length).any():
        # no counts: equal messages are shown once per search
        warnings.warn(
            f"Some texts are longer than {length} tokens, where sentence-transformers cuts them "
            f"for {model!r} (max_seq_length in sentence_bert_config.json). Here they are read up "
            f"to {max_length}. Set max_length={length} for the vectors of sentence-transformers, "
            f"or max_length={max_length} to keep these.",
            ModelWarning,
            stacklevel=5,
        )


def _json(files: Mapping[str, np.ndarray], file: str, name: str) -> Any:
    """Return the parsed file, or {} if there is none."""
    try:
        return json.loads(files[file].tobytes() if file in files else "{}") or {}
    except ValueError as error:
        raise CheckpointError(
            f"{file} of {name!r} cannot be read: {error}. Fetch the model again."
        ) from error


def _kind(type_name: str, name: str) -> str:
    known = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")
    match = _TYPE.fullmatch(type_name)
    if match is None or match[1] not in known:
        raise ValueError(f"{type_name!r} is not supported, and code of {name!r} is never run")
    return match[1]


def _poolings(config: dict[str, Any]) -> tuple[Pooling, ...]:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _POOLING_KEYS.items() if config.get(key)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    if unknown := set(modes).difference(_POOLING_KEYS.values()):
        raise ValueError(f"unknown pooling modes {sorted(unknown)}")
    return modes


def _step(kind: str, path: str, files: Mapping[str, np.ndarray], name: str) -> Step:
    config = _json(files, f"{path}/config.json", name)
    if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise ValueError(f"{path} works on {config['module_input_name']!r}")
    if kind == "Normalize":
        return Step(kind, {})
    file = f"{path}/model.safetensors"
    if file not in files:
        raise ValueError(f"{file} is missing (other formats can execute code and are not read)")
    table, start = read_tensor_table(files[file], name)
    tensors = {}
    for tensor, entry in table.items():
        begin, end = entry["data_offsets"]
        raw = torch.from_numpy(np.array(files[file][start + begin : start + end]))
        tensors[tensor] = raw.view(TORCH_DTYPES[entry["dtype"]]).reshape(entry["shape"]).float()
    if kind == "LayerNorm":
        return Step(kind, {key: tensors[key] for key in ("norm.weight", "norm.bias")})
    # the default of sentence-transformers is Tanh
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    short = activation.rpartition(".")[2]
    if not activation.startswith("torch.nn.modules.") or short not in _ACTIVATIONS:
        raise ValueError(
            f"activation {activation!r} of {path} is not one of {', '.join(_ACTIVATIONS)}"
        )
    return Step(kind, tensors, short, bool(config.get("use_residual")))


def _width(poolings: Sequence[Pooling], steps: Sequence[Step], config: dict[str, Any]) -> int:
    """Return the number of features, or raise if modules do not fit."""
    size: int = (config.get("hidden_size") or config["dim"]) * len(poolings)
    for step in steps:
        weight = step.tensors.get("linear.weight", step.tensors.get("norm.weight"))
        if weight is None:
            continue
        if weight.shape[-1] != size:
            raise ValueError(f"{step.kind} takes {weight.shape[-1]} features but gets {size}")
        if step.kind == "Dense":
            size = len(weight)
    return size
