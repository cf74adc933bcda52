"""`adapter_config.json` as PEFT writes it: what of it we compute exactly, and what we refuse."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinsmith_server.serving.errors import FailedPrecondition

_READ = frozenset(
    {"peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"}
)
_OF_NO_EFFECT = frozenset(
    {
        "auto_mapping",
        "exclude_modules",
        "fan_in_fan_out",  # says how the base model stores a matrix, which the base model itself says
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",  # which matrices are adapted, the names of the tensors say
        "lora_dropout",  # of the training before; ours has none
        "megatron_core",
        "peft_version",
        "qalora_group_size",  # of use_qalora alone
        "revision",
        "target_modules",
        "task_type",
    }
)
"""What changes nothing of the arithmetic."""
_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal")
"""Those that leave the base model as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftConfig:
    """A LoRA adapter's configuration."""

    base_model: str
    """As whoever trained it named it; may be empty."""
    rank: int
    alpha: float
    """Numerator of the scale alpha / rank, also where PEFT's own is alpha / sqrt(rank)."""


def read_config(content: bytes) -> PeftConfig:
    """Parses the file. FailedPrecondition with reason ADAPTER_UNSUPPORTED, saying what, unless it is LoRA with nothing
    that changes its arithmetic; options that are not known count as such, where they are set."""
    try:
        config = json.loads(content)
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
        alpha *= math.sqrt(rank) if config.get("use_rslora") else 1.0
        base_model = config.get("base_model_name_or_path") or ""
        if rank < 1 or not math.isfinite(alpha) or not isinstance(base_model, str):
            raise ValueError("its rank, alpha or base model is none that could be one")
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise unsupported("its configuration is none as PEFT writes it", "adapter_config.json") from error
    if config.get("peft_type") != "LORA":
        raise unsupported(f"it is {config.get('peft_type')}, not LORA", "peft_type")
    if odd := _odd_options(config):
        raise unsupported(f"it sets {', '.join(odd)}", odd[0])
    return PeftConfig(base_model=base_model, rank=rank, alpha=alpha)


def unsupported(what: str, option: str) -> FailedPrecondition:
    """The error of an adapter whose arithmetic is not that of plain LoRA on linear layers."""
    return FailedPrecondition(
        f"the adapter can't be used as it is: {what}; export it as plain LoRA on linear layers",
        reason="ADAPTER_UNSUPPORTED",
        metadata={"option": option},
    )


def _odd_options(config: Mapping[str, Any]) -> list[str]:
    odd = [key for key, value in config.items() if value and key not in _READ | _OF_NO_EFFECT]
    if config.get("bias", "none") != "none":
        odd.append("bias")
    if config.get("init_lora_weights", True) not in _INITIALISATIONS:
        odd.append(f"init_lora_weights={config['init_lora_weights']}")
    return sorted(odd)
