"""A matrix of the model, with or without a low-rank adapter beside it."""

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

    def delta(self) -> Tensor:
        """B A, [out, in]."""
        return self.b_OR @ self.a_RI


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """x -> W x + b, and B A x where an adapter runs unmerged."""

    weight_OI: Tensor
    bias_O: Tensor | None = None
    lora: Lora | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        y = F.linear(x, self.weight_OI, self.bias_O)
        return y if self.lora is None else y + F.linear(F.linear(x, self.lora.a_RI), self.lora.b_OR)

    def merged(self) -> "Linear":
        """The same map as one matrix; the base weight is not touched. Sums in float32 whatever the weights' type."""
        if self.lora is None:
            return self
        weight = self.weight_OI.float() + self.lora.delta().float()
        return Linear(weight_OI=weight.to(self.weight_OI.dtype), bias_O=self.bias_O)

    def bytes_beside(self, base: "Linear") -> int:
        """Memory that this matrix holds and `base` does not."""
        own = 0 if self.weight_OI.data_ptr() == base.weight_OI.data_ptr() else self.weight_OI.nbytes
        return own + (0 if self.lora is None else self.lora.a_RI.nbytes + self.lora.b_OR.nbytes)


def fuse(parts: Sequence[Linear]) -> Linear:
    """One matrix that gives the parts' outputs one after the other."""
    return Linear(
        weight_OI=torch.cat([part.weight_OI for part in parts]),
        bias_O=_fused_bias(parts),
        lora=_fused_lora(parts),
    )


def _fused_bias(parts: Sequence[Linear]) -> Tensor | None:
    if all(part.bias_O is None for part in parts):
        return None
    biases = [part.weight_OI.new_zeros(len(part.weight_OI)) if part.bias_O is None else part.bias_O for part in parts]
    return torch.cat(biases)


def _fused_lora(parts: Sequence[Linear]) -> Lora | None:
    """The As stacked, the Bs on the diagonal; a part without an adapter has an empty block."""
    if all(part.lora is None for part in parts):
        return None
    empty = [Lora(a_RI=part.weight_OI[:0], b_OR=part.weight_OI[:, :0]) for part in parts]
    loras = [part.lora or none for part, none in zip(parts, empty, strict=True)]
    return Lora(
        a_RI=torch.cat([lora.a_RI for lora in loras]),
        b_OR=_block_diagonal([lora.b_OR for lora in loras]),
    )


def _block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    out = blocks[0].new_zeros(sum(len(block) for block in blocks), sum(block.shape[1] for block in blocks))
    row = column = 0
    for block in blocks:
        out[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return out
