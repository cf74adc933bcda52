"""A matrix of the base model, and the low-rank term that an adapter adds to it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """The term scale * B A of Hu et al. 2021, "LoRA"."""

    a_RI: Tensor
    """[rank, in]."""
    b_OR: Tensor
    """[out, rank], scale included."""

    def merged_into(self, weight_OI: Tensor) -> Tensor:
        """W + B A, a new tensor; sums in float32 whatever the weight's type."""
        return (weight_OI.float() + (self.b_OR @ self.a_RI).float()).to(weight_OI.dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """x -> W x + b."""

    weight_OI: Tensor
    bias_O: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return F.linear(x, self.weight_OI, self.bias_O)


def fuse(parts: Sequence[Linear]) -> Linear:
    """One matrix that gives the parts' outputs one after the other."""
    return Linear(weight_OI=torch.cat([part.weight_OI for part in parts]), bias_O=_fused_bias(parts))


def _fused_bias(parts: Sequence[Linear]) -> Tensor | None:
    if all(part.bias_O is None for part in parts):
        return None
    biases = [part.weight_OI.new_zeros(len(part.weight_OI)) if part.bias_O is None else part.bias_O for part in parts]
    return torch.cat(biases)
