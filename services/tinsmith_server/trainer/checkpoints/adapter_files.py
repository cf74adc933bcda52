"""Adapters and optimizers as files: PEFT's own format, and beside it the optimizer's memory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from tinsmith_server.serving.errors import DataLoss, FailedPrecondition
from tinsmith_server.trainer.checkpoints.peft_config import read_config
from tinsmith_server.trainer.local.adapter import AdaptedMatrix, Adapter
from tinsmith_server.trainer.local.optimizer import AdamW

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
OPTIMIZER = "optimizer.safetensors"

PREFIX = "base_model.model."
"""Before the path of each matrix in the names of an adapter's tensors."""
MEAN, MEAN_SQUARE, STEP = "exp_avg", "exp_avg_sq", "step"
"""What the tensors of an optimizer's file are named after."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerMemory:
    """What AdamW remembers, float32 [size]."""

    mean: Tensor
    mean_square: Tensor
    step: int


def write_adapter(adapter: Adapter, base_model: str) -> dict[str, bytes]:
    """The files of an adapter; the same adapter gives the same bytes. FailedPrecondition with reason
    WEIGHTS_NOT_FINITE."""
    _refuse_not_finite(adapter.values)
    tensors = {}
    for matrix, a_RI, b_OR in adapter.split(adapter.values):
        tensors[f"{PREFIX}{matrix.path}.lora_A.weight"] = a_RI.cpu().clone()
        tensors[f"{PREFIX}{matrix.path}.lora_B.weight"] = b_OR.cpu().clone()
    config = json.dumps(_config(adapter, base_model), indent=2, sort_keys=True).encode()
    return {CONFIG: config, WEIGHTS: safetensors.torch.save(tensors)}


def write_optimizer(adapter: Adapter, optimizer: AdamW) -> dict[str, bytes]:
    """The optimizer's memory, its moments named like the adapter's tensors. FailedPrecondition with reason
    WEIGHTS_NOT_FINITE."""
    tensors = {STEP: torch.tensor([optimizer.step])}
    for moment, vector in ((MEAN, optimizer.mean), (MEAN_SQUARE, optimizer.mean_square)):
        _refuse_not_finite(vector)
        for matrix, a_RI, b_OR in adapter.split(vector):
            tensors[f"{moment}.{matrix.path}.lora_A.weight"] = a_RI.cpu().clone()
            tensors[f"{moment}.{matrix.path}.lora_B.weight"] = b_OR.cpu().clone()
    return {OPTIMIZER: safetensors.torch.save(tensors)}


def read_adapter(files: Mapping[str, bytes], like: Adapter) -> Tensor:
    """A stored adapter's numbers, laid out like those of `like`.

    Raises FailedPrecondition with reason CHECKPOINT_MISMATCH when it has another rank or other matrices, with reason
    ADAPTER_UNSUPPORTED when it is no plain LoRA; DataLoss with reason CHECKPOINT_CORRUPT when it can't be read.
    """
    if CONFIG not in files:
        raise mismatch("its weights at a Tinker service, not here; use it with backend tinker")
    stored = read_config(files[CONFIG])
    if (stored.rank, stored.alpha) != (like.shape.rank, like.shape.alpha):
        own = f"rank {like.shape.rank} and alpha {like.shape.alpha:g}"
        raise mismatch(f"rank {stored.rank} and alpha {stored.alpha:g}, the model {own}")
    return _vector(_tensors(files, WEIGHTS), like, PREFIX)


def read_optimizer(files: Mapping[str, bytes], like: Adapter) -> OptimizerMemory:
    """Stored optimizer memory for an adapter like `like`. Errors as `read_adapter`."""
    tensors = _tensors(files, OPTIMIZER)
    return OptimizerMemory(
        mean=_vector(tensors, like, f"{MEAN}."),
        mean_square=_vector(tensors, like, f"{MEAN_SQUARE}."),
        step=int(tensors[STEP][0]),
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


def _vector(tensors: Mapping[str, Tensor], like: Adapter, prefix: str) -> Tensor:
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
    return vector


def _refuse_not_finite(vector: Tensor) -> None:
    if not bool(torch.isfinite(vector).all()):
        raise FailedPrecondition(
            "the model's weights or its optimizer's memory are not finite, and such are never stored; load the last "
            "checkpoint and lower the learning rate",
            reason="WEIGHTS_NOT_FINITE",
        )


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
        "target_modules": list(adapter.shape.target_modules) or endings(adapter.matrices),
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def endings(matrices: Sequence[AdaptedMatrix]) -> list[str]:
    """The shortest endings of the paths that PEFT takes for them: "q_proj", or "attn.c_proj" where two kinds share
    their last name."""
    parents: dict[str, set[str]] = {}
    for matrix in matrices:
        place, _, last = matrix.path.rpartition(".")
        parents.setdefault(last, set()).add(place.rpartition(".")[2])
    return sorted(
        last if len(places) == 1 else f"{place}.{last}" for last, places in parents.items() for place in places
    )
