"""Matrices of the base model beside an adapter that changes while it is trained.

A small matrix is added up with its low-rank term once a call, and the forward and backward passes then see one plain
matrix; its gradient is carried over to the two halves at the end. For a large one the halves stay apart, which costs
less arithmetic and no memory of the matrix's size. Both are exact; which is faster depends on the shape alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tinsmith_server.trainer.adapter import Adapter, Halves

_THIN_COST = 4.0
"""How much slower a product with a dimension of rank size runs, per operation, than one of two large matrices; measured
on CPUs for ranks 8 to 32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Projection:
    """One frozen matrix, which may hold several of the model one below the other."""

    weight_OI: Tensor
    bias_O: Tensor | None
    parts: tuple[tuple[str, int], ...]
    """Path and rows of each of the model's matrices in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """x -> W x + b, and B A x where the halves stay apart."""

    weight_OI: Tensor
    bias_O: Tensor | None
    halves: Halves | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        y = F.linear(x, self.weight_OI, self.bias_O)
        return y if self.halves is None else y + F.linear(F.linear(x, self.halves.a_RI), self.halves.b_OR)


class GradientBridge:
    """Cuts the graph between the adapter and what is derived from it once a call, so that each micro-batch runs a
    backward pass of its own, and one pass at the end carries the sums over."""

    def __init__(self) -> None:
        self._cuts: list[tuple[Tensor, Tensor]] = []

    def cut(self, derived: Tensor) -> Tensor:
        """A leaf with the value of `derived`."""
        leaf = derived.detach().requires_grad_(derived.requires_grad)
        self._cuts.append((derived, leaf))
        return leaf

    def carry(self) -> None:
        """Passes the leaves' gradients on."""
        reached = [(derived, leaf.grad) for derived, leaf in self._cuts if leaf.grad is not None]
        if reached:
            torch.autograd.backward([derived for derived, _ in reached], [gradient for _, gradient in reached])
        self._cuts.clear()


def adapted(projection: Projection, adapter: Adapter, bridge: GradientBridge) -> Linear:
    """The projection with the adapter's terms for its parts."""
    halves = _stacked(projection, adapter)
    if halves is None:
        return Linear(weight_OI=projection.weight_OI, bias_O=projection.bias_O)
    if _merging_is_cheaper(projection.weight_OI, adapter.shape.rank):
        merged = torch.addmm(projection.weight_OI, halves.b_OR, halves.a_RI, alpha=adapter.scale)
        return Linear(weight_OI=bridge.cut(merged), bias_O=projection.bias_O)
    dtype = projection.weight_OI.dtype
    apart = Halves(bridge.cut(halves.a_RI.to(dtype)), bridge.cut((halves.b_OR * adapter.scale).to(dtype)))
    return Linear(weight_OI=projection.weight_OI, bias_O=projection.bias_O, halves=apart)


def _merging_is_cheaper(weight_OI: Tensor, rank: int) -> bool:
    """Compares one more product of the matrix's size with those by the halves. Never where adding would round."""
    outputs, inputs = weight_OI.shape
    return weight_OI.dtype == torch.float32 and outputs * inputs <= 2 * _THIN_COST * rank * (outputs + inputs)


def _stacked(projection: Projection, adapter: Adapter) -> Halves | None:
    """The parts' As one below the other and their Bs on a diagonal; a part without an adapter has an empty block."""
    found = [adapter.halves.get(path) for path, _ in projection.parts]
    present = [halves for halves in found if halves is not None]
    if not present:
        return None
    if len(found) == 1:
        return present[0]
    blocks = [
        projection.weight_OI.new_zeros(rows, 0) if halves is None else halves.b_OR
        for halves, (_, rows) in zip(found, projection.parts, strict=True)
    ]
    b_OR = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return Halves(torch.cat([halves.a_RI for halves in present]), b_OR)


def fused(parts: Sequence[tuple[str, torch.nn.Linear]]) -> Projection:
    """One projection that gives the outputs of several linear modules one after the other. The modules' own weights
    become views of it, so that they exist once."""
    weight_OI = torch.cat([module.weight.detach() for _, module in parts])
    sizes = [len(module.weight) for _, module in parts]
    for (_, module), rows in zip(parts, torch.split_with_sizes(weight_OI, sizes), strict=True):
        module.weight.data = rows
    return Projection(
        weight_OI=weight_OI,
        bias_O=_fused_bias([module for _, module in parts]),
        parts=tuple((path, len(module.weight)) for path, module in parts),
    )


def single(path: str, module: torch.nn.Linear) -> Projection:
    """The projection of one linear module."""
    bias_O = None if module.bias is None else module.bias.detach()
    return Projection(weight_OI=module.weight.detach(), bias_O=bias_O, parts=((path, len(module.weight)),))


def _fused_bias(modules: Sequence[torch.nn.Linear]) -> Tensor | None:
    if all(module.bias is None for module in modules):
        return None
    return torch.cat(
        [
            module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias.detach()
            for module in modules
        ]
    )
