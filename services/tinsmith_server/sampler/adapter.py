"""A LoRA adapter as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from tinsmith_server.sampler.engine.linear import Lora
from tinsmith_server.serving.errors import FailedPrecondition

_PREFIX = "base_model.model."
_UNSUPPORTED = {"use_dora": False, "bias": "none", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """Low-rank terms by the name of the matrix they change, for example "model.layers.0.mlp.up_proj"."""

    base_model: str
    """The base model it was trained on, as its configuration names it."""
    loras: Mapping[str, Lora]
    """float32; the scale is already in B."""
    base_copies: Mapping[str, Tensor]
    """Parameters of the base model that PEFT stored along, by their name in it; they must be what the base has."""


def read_adapter(config_json: bytes, tensor_file: bytes) -> Adapter:
    """Parses the two files of a PEFT adapter.

    Raises FailedPrecondition with reason ADAPTER_UNSUPPORTED for anything but plain LoRA.
    """
    try:
        config = json.loads(config_json)
        _refuse_unsupported(config)
        scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
        tensors = safetensors.torch.load(tensor_file)
    except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError, SafetensorError) as error:
        raise FailedPrecondition(
            "the checkpoint's files are not an adapter as PEFT writes it; save it again", reason="ADAPTER_UNSUPPORTED"
        ) from error
    # Cloned, because the parser's views are not aligned alike in every process and rounding may follow alignment.
    tensors = {name: tensor.float().clone() for name, tensor in tensors.items()}
    copies = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    halves = {name: tensor for name, tensor in tensors.items() if name not in copies}
    return Adapter(
        base_model=config.get("base_model_name_or_path") or "",
        loras={name: Lora(a_RI=a, b_OR=b * scale) for name, a, b in _pairs(halves)},
        base_copies={_in_base(name).replace(".base_layer.", "."): tensor for name, tensor in copies.items()},
    )


def _refuse_unsupported(config: Mapping[str, object]) -> None:
    unlike = [key for key, plain in _UNSUPPORTED.items() if (config.get(key) or plain) != plain]
    if config.get("peft_type") != "LORA" or unlike:
        raise FailedPrecondition(
            f"the adapter is not a plain LoRA: {config.get('peft_type')}, sets {', '.join(unlike) or 'nothing else'}; "
            "export it as LoRA on linear layers",
            reason="ADAPTER_UNSUPPORTED",
        )


def _pairs(halves: Mapping[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    suffix_a, suffix_b = ".lora_A.weight", ".lora_B.weight"
    names = sorted({name.removesuffix(suffix_a).removesuffix(suffix_b) for name in halves})
    expected = {name + suffix for name in names for suffix in (suffix_a, suffix_b)}
    if halves.keys() != expected or any(half.ndim != 2 for half in halves.values()):
        raise FailedPrecondition(
            "the adapter's tensors are not pairs of lora_A and lora_B; export it as LoRA on linear layers",
            reason="ADAPTER_UNSUPPORTED",
        )
    return [(_in_base(name), halves[name + suffix_a], halves[name + suffix_b]) for name in names]


def _in_base(name: str) -> str:
    return name.removeprefix(_PREFIX)


def unfit(name: str, why: str) -> FailedPrecondition:
    """The error of an adapter that does not fit its base model."""
    return FailedPrecondition(
        f"the adapter does not fit the base model: {name} {why}; sample it with the base model it was trained on",
        reason="ADAPTER_MISMATCH",
        metadata={"module": name},
    )


def checked(name: str, lora: Lora, out_features: int, in_features: int) -> Lora:
    """`lora`, if it fits a matrix [out, in]."""
    expected = (out_features, in_features)
    actual = (lora.b_OR.shape[0], lora.a_RI.shape[1])
    if actual != expected or lora.b_OR.shape[1] != lora.a_RI.shape[0]:
        raise unfit(
            name, f"is {actual[0]}x{actual[1]} in the adapter and {expected[0]}x{expected[1]} in the base model"
        )
    return lora


def check_base_copies(adapter: Adapter, model: nn.Module) -> None:
    """Raises FailedPrecondition with reason ADAPTER_MISMATCH where a stored base parameter is not the base's own."""
    if not adapter.base_copies:
        return
    base = model.state_dict()
    for name, copy in adapter.base_copies.items():
        if name not in base or base[name].shape != copy.shape:
            raise unfit(name, "is no parameter of it")
        if not torch.equal(base[name], copy.to(base[name])):
            raise unfit(name, "differs, so the adapter was trained on other weights")
