"""Sums and running sums over the tokens of each datum, in a fixed order on every device and differentiable twice."""

from typing import Any

import torch
from torch import Tensor


def segment_sum(values: Tensor, lengths_S: Tensor) -> Tensor:
    """Sums of runs of these lengths: floating [tokens], int64 [segments] -> [segments]."""
    sums: Tensor = _SegmentSum.apply(values, lengths_S)
    return sums


class _SegmentSum(torch.autograd.Function):
    """torch's own has no second derivative."""

    @staticmethod
    def forward(context: Any, values: Tensor, lengths_S: Tensor) -> Tensor:
        context.save_for_backward(lengths_S)
        # Unsafe only leaves out the check of the lengths, which fails where there is no segment.
        return torch.segment_reduce(values, "sum", lengths=lengths_S, unsafe=True)

    @staticmethod
    def backward(context: Any, gradient_S: Tensor) -> tuple[Tensor, None]:
        (lengths_S,) = context.saved_tensors
        return spread(gradient_S, lengths_S), None


def spread(values_S: Tensor, lengths_S: Tensor) -> Tensor:
    """Each segment's value for all its tokens: [segments], int64 [segments] -> [tokens]."""
    spread_out: Tensor = _Spread.apply(values_S, lengths_S)
    return spread_out


class _Spread(torch.autograd.Function):
    """The counterpart of `_SegmentSum`: each is the other's gradient."""

    @staticmethod
    def forward(context: Any, values_S: Tensor, lengths_S: Tensor) -> Tensor:
        context.save_for_backward(lengths_S)
        return values_S.repeat_interleave(lengths_S)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (lengths_S,) = context.saved_tensors
        return segment_sum(gradient.contiguous(), lengths_S), None


def segment_cumsum(values: Tensor, lengths_S: Tensor, *, backward: bool = False) -> Tensor:
    """Sums of each run up to and with each token, or from it to the run's end: floating [tokens] -> [tokens]."""
    sums: Tensor = _SegmentCumsum.apply(values, lengths_S, backward)
    return sums


class _SegmentCumsum(torch.autograd.Function):
    """All runs at once, since a call may bring thousands: after step k each token has the sum of 2^k tokens of its run.
    A run's sums are the same whatever runs stand beside it. The gradient is the sum the other way round."""

    @staticmethod
    def forward(context: Any, values: Tensor, lengths_S: Tensor, backward: bool) -> Tensor:
        context.save_for_backward(lengths_S)
        context.sums_backward = backward
        if backward:
            return _running_sums(values.flip(0), lengths_S.flip(0)).flip(0)
        return _running_sums(values, lengths_S)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (lengths_S,) = context.saved_tensors
        return segment_cumsum(gradient, lengths_S, backward=not context.sums_backward), None, None


def _running_sums(values: Tensor, lengths_S: Tensor) -> Tensor:
    starts_S = lengths_S.cumsum(0) - lengths_S
    place = torch.arange(len(values), device=values.device) - starts_S.repeat_interleave(lengths_S)
    sums, step, longest = values.clone(), 1, int(lengths_S.max())
    while step < longest:
        sums[step:] += torch.where(place[step:] >= step, sums[:-step], 0.0)
        step *= 2
    return sums
