"""RMS norm (Zhang and Sennrich 2019) over the last dimension, in float32: y = w x / sqrt(mean(x^2) + epsilon).

The weight is frozen, so the backward pass is one formula, which torch's own would compute in three times as many passes
over the numbers:

    dx = s (w dy) - x s^3 mean(w dy x)    with s = 1 / sqrt(mean(x^2) + epsilon)

All operations are exact or row by row, so that a row has the same bits whatever stands in the others; torch's rsqrt,
for one, would round the last few rows of a tensor otherwise than those before them.
"""

from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """[..., d] -> the same; `weight` [d] or [heads, d] gets no gradient."""
    normed: Tensor = _RmsNorm.apply(x, weight, epsilon)
    return normed


def forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The norm, in x's type, and s, float32 [..., 1]."""
    wide = x.float()
    norm: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = norm.square_().mul_(1 / x.shape[-1]).add_(epsilon).sqrt_().reciprocal_()
    return (wide * scale).mul_(weight).to(x.dtype), scale


def backward(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """dx, in x's type."""
    wide = x.float()
    weighted = gradient * weight.float()
    correction = (weighted * wide).sum(-1, keepdim=True).mul_(scale.pow(3)).mul_(-1 / x.shape[-1])
    return weighted.mul_(scale).addcmul_(wide, correction).to(x.dtype)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        y, scale = forward(x, weight, epsilon)
        context.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return backward(gradient, *context.saved_tensors), None, None
