"""Adapters and optimizers as files: PEFT's own format, and beside it the optimizer's memory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tinsmith_server.serving.errors import DataLoss, FailedPrecondition
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.adapter import AdaptedMatrix, Adapter
from tinsmith_server.trainer.optimizer import AdamW

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OPTIMIZER = "optimizer.safetensors"

_PREFIX = "base_model.model."
_PLAIN: Mapping[str, object] = {
    "use_dora": False,
    "use_rslora": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
}
_MEAN, _MEAN_SQUARE, _STEP = "exp_avg", "exp_avg_sq", "step"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerMemory:
    """What AdamW remembers, float32 [size]."""

    mean: Tensor
    mean_square: Tensor
    step: int


def write_adapter(adapter: Adapter, base_model: str) -> dict[str, bytes]:
    """The files of an adapter; the same adapter gives the same bytes."""
    tensors = {}
    for matrix, a_RI, b_OR in adapter.split(adapter.values):
        tensors[f"{_PREFIX}{matrix.path}.lora_A.weight"] = a_RI.cpu().clone()
        tensors[f"{_PREFIX}{matrix.path}.lora_B.weight"] = b_OR.cpu().clone()
    config = json.dumps(_config(adapter, base_model), indent=2, sort_keys=True).encode()
    return {CONFIG: config, WEIGHTS: safetensors.torch.save(tensors)}


def write_optimizer(adapter: Adapter, optimizer: AdamW) -> dict[str, bytes]:
    """The optimizer's memory, its moments named like the adapter's tensors."""
    tensors = {_STEP: torch.tensor([optimizer.step])}
    for moment, vector in ((_MEAN, optimizer.mean), (_MEAN_SQUARE, optimizer.mean_square)):
        for matrix, a_RI, b_OR in adapter.split(vector):
            tensors[f"{moment}.{matrix.path}.lora_A.weight"] = a_RI.cpu().clone()
            tensors[f"{moment}.{matrix.path}.lora_B.weight"] = b_OR.cpu().clone()
    return {OPTIMIZER: safetensors.torch.save(tensors)}


def read_shape(config_json: bytes) -> LoraShape:
    """Rank and scale of a stored adapter, and which kinds of matrices it says it changes.

    Raises FailedPrecondition with reason ADAPTER_UNSUPPORTED for a kind of adapter that is not plain LoRA.
    """
    config = json.loads(config_json)
    unlike = [key for key, plain in _PLAIN.items() if (config.get(key) or plain) != plain]
    if config.get("peft_type") != "LORA" or unlike:
        raise FailedPrecondition(
            f"the adapter is not a plain LoRA: {config.get('peft_type')}, sets {', '.join(unlike) or 'nothing else'}; "
            "export it as LoRA on linear layers",
            reason="ADAPTER_UNSUPPORTED",
        )
    return LoraShape(rank=config["r"], alpha=float(config["lora_alpha"]))


def read_adapter(files: Mapping[str, bytes], like: Adapter) -> Tensor:
    """A stored adapter's numbers, laid out like those of `like`.

    Raises FailedPrecondition with reason CHECKPOINT_MISMATCH when it has another rank or other matrices, with reason
    ADAPTER_UNSUPPORTED when it is no plain LoRA; DataLoss with reason CHECKPOINT_CORRUPT when it can't be read or a
    number is not finite.
    """
    shape = read_shape(files[CONFIG])
    if (shape.rank, shape.alpha) != (like.shape.rank, like.shape.alpha):
        own = f"rank {like.shape.rank} and alpha {like.shape.alpha:g}"
        raise mismatch(f"rank {shape.rank} and alpha {shape.alpha:g}, the model {own}")
    return _vector(_tensors(files, WEIGHTS), like, _PREFIX, WEIGHTS)


def read_optimizer(files: Mapping[str, bytes], like: Adapter) -> OptimizerMemory:
    """Stored optimizer memory for an adapter like `like`. Errors as `read_adapter`."""
    tensors = _tensors(files, OPTIMIZER)
    return OptimizerMemory(
        mean=_vector(tensors, like, f"{_MEAN}.", OPTIMIZER),
        mean_square=_vector(tensors, like, f"{_MEAN_SQUARE}.", OPTIMIZER),
        step=int(tensors[_STEP][0]),
    )


def mismatch(has: str) -> FailedPrecondition:
    """The error of a checkpoint that does not fit the model; `has` says what it has."""
    return FailedPrecondition(
        f"the checkpoint does not fit the model: it has {has}", reason="CHECKPOINT_MISMATCH", metadata={"has": has}
    )


def _tensors(files: Mapping[str, bytes], name: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(files[name])
    except SafetensorError as error:
        raise DataLoss(
            f"{name} can't be read: {error}", reason="CHECKPOINT_CORRUPT", metadata={"file": name}
        ) from error


def _vector(tensors: Mapping[str, Tensor], like: Adapter, prefix: str, file: str) -> Tensor:
    """The tensors named `prefix` + path as one vector in the order of `like`."""
    vector = torch.empty_like(like.values)
    for matrix, a_RI, b_OR in like.split(vector):
        for half, place in (("A", a_RI), ("B", b_OR)):
            name = f"{prefix}{matrix.path}.lora_{half}.weight"
            if name not in tensors:
                raise mismatch(f"no {matrix.path}")
            if tensors[name].shape != place.shape:
                raise mismatch(f"{matrix.path} as {list(tensors[name].shape)}, the model as {list(place.shape)}")
            place.copy_(tensors[name])
    wanted = {f"{prefix}{matrix.path}.lora_{half}.weight" for matrix in like.matrices for half in "AB"}
    extra = sorted(name for name in tensors if name.startswith(prefix) and ".lora_" in name and name not in wanted)
    if extra:
        raise mismatch(f"{extra[0].removeprefix(prefix).partition('.lora_')[0]}, which the model does not adapt")
    if not bool(torch.isfinite(vector).all()):
        raise DataLoss(
            f"{file} holds numbers that are not finite; use an older checkpoint",
            reason="CHECKPOINT_CORRUPT",
            metadata={"file": file},
        )
    return vector


def _config(adapter: Adapter, base_model: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": adapter.shape.rank,
        "lora_alpha": adapter.shape.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(matrix.is_transposed for matrix in adapter.matrices),
        "target_modules": _target_modules(adapter.matrices),
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def _target_modules(matrices: tuple[AdaptedMatrix, ...]) -> list[str]:
    """The shortest endings of the paths that PEFT takes for them: "q_proj", or "attn.c_proj" where two kinds share
    their last name."""
    parents: dict[str, set[str]] = {}
    for matrix in matrices:
        place, _, last = matrix.path.rpartition(".")
        parents.setdefault(last, set()).add(place.rpartition(".")[2])
    return sorted(
        last if len(places) == 1 else f"{place}.{last}" for last, places in parents.items() for place in places
    )
