"""Matrices of the base model beside adapters that change while they are trained, for one model or several at once.

A small matrix is added up with its low-rank term once a call, and the forward and backward passes then see one plain
matrix; its gradient is carried over to the two halves at the end. For a large one the halves stay apart, which costs
less arithmetic and no memory of the matrix's size. Both are exact; which is faster depends on the shape alone.

Several models go through a projection together as sections of rows, each with its own matrix. A section is one product
with the shape that it has alone, so its numbers are those that it has alone, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tinsmith_server.trainer.local.adapter import Halves


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One of the model's own kinds of matrices within a projection."""

    paths: tuple[str, ...]
    """Its modules' paths, one a layer."""
    rows: slice
    inputs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Projection:
    """A frozen matrix of every layer, which may hold several of the model's one below the other."""

    weight_LOI: Tensor
    bias_LO: Tensor | None
    parts: tuple[Part, ...]


@dataclass(kw_only=True, slots=True, eq=False)
class SectionWeight:
    """What one model multiplies its rows with."""

    weight_OI: Tensor
    transposed_IO: Tensor
    halves: Halves | None = None
    """A [R, in] and scaled B [out, R] where they stay apart."""
    is_trained: bool = False
    """Whether the gradients of its rows are needed."""
    gradient_OI: Tensor | None = None
    """Where the gradient of a merged matrix goes; None where nothing in it is trained."""
    half_gradients: Halves | None = None
    """The same for halves that stay apart, float32."""
    has_gradients: bool = False
    """Whether a backward pass has been here, so that the next one adds to what it left."""


@dataclass(kw_only=True, slots=True, eq=False)
class Linear:
    """x -> W x + b of one layer, with a W of its own for each section of the rows."""

    sections: list[SectionWeight]
    bias_O: Tensor | None

    def __call__(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """[rows, in] -> [rows, out]; `counts` are the rows of each section."""
        trained = any(section.gradient_OI is not None or section.half_gradients for section in self.sections)
        # Autograd asks for gradients only behind something that requires one, which the first layer's input does not.
        switch = torch.zeros((), requires_grad=trained)
        product: Tensor = _Product.apply(x, switch, self, counts)
        return product

    def only(self, section: int) -> "Linear":
        """The same for the rows of one section."""
        return Linear(sections=[self.sections[section]], bias_O=self.bias_O)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, switch: Tensor, linear: Linear, counts: Sequence[int]) -> Tensor:
        context.save_for_backward(x)
        context.linear, context.counts = linear, counts
        y = x.new_empty(len(x), len(linear.sections[0].weight_OI))
        for section, mine, out in zip(linear.sections, _split(x, counts), _split(y, counts), strict=True):
            if linear.bias_O is None:
                torch.mm(mine, section.transposed_IO, out=out)
            else:
                torch.addmm(linear.bias_O, mine, section.transposed_IO, out=out)
            if section.halves is not None:
                out.addmm_(mine @ section.halves.a_RI.t(), section.halves.b_OR.t())
        return y

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        (x,) = context.saved_tensors
        linear, counts = context.linear, context.counts
        passed_on = torch.empty_like(x) if context.needs_input_grad[0] else None
        parts = [None] * len(counts) if passed_on is None else _split(passed_on, counts)
        for section, mine, above, below in zip(
            linear.sections, _split(x, counts), _split(gradient.contiguous(), counts), parts, strict=True
        ):
            if section.is_trained:
                _backward(section, mine, above, below)
            elif below is not None:
                below.zero_()
        return passed_on, None, None, None


def _split(rows: Tensor, counts: Sequence[int]) -> tuple[Tensor, ...]:
    # A single section is the whole; and this way round torch's own, slower, `Tensor.split`.
    return (rows,) if len(counts) == 1 else torch.split_with_sizes(rows, counts)


def _backward(section: SectionWeight, x: Tensor, above: Tensor, below: Tensor | None) -> None:
    """Gradients of one section: `below` is that of its rows."""
    if below is not None:
        torch.mm(above, section.weight_OI, out=below)
    if section.gradient_OI is not None:
        if section.has_gradients:
            section.gradient_OI.addmm_(above.t(), x)
        else:
            torch.mm(above.t(), x, out=section.gradient_OI)
    section.has_gradients = True
    if section.halves is None:
        return
    behind = above @ section.halves.b_OR
    if below is not None:
        below.addmm_(behind, section.halves.a_RI)
    if section.half_gradients is not None:
        section.half_gradients.a_RI.add_(behind.t() @ x)
        section.half_gradients.b_OR.add_(above.t() @ (x @ section.halves.a_RI.t()))


def stacked(layers: Sequence[Sequence[tuple[str, torch.nn.Linear]]]) -> Projection:
    """One projection that gives the outputs of several linear modules one after the other, for all layers. The modules'
    own weights become views of it, so that they exist once."""
    modules = [[module for _, module in layer] for layer in layers]
    weight_LOI = torch.stack([torch.cat([module.weight.detach() for module in layer]) for layer in modules])
    sizes = [len(module.weight) for module in modules[0]]
    for layer, own_OI in zip(modules, weight_LOI.unbind(), strict=True):
        for module, rows in zip(layer, torch.split_with_sizes(own_OI, sizes), strict=True):
            module.weight.data = rows
    biases = [_bias(layer) for layer in modules]
    has_bias = any(bool(bias.any()) for bias in biases)
    return Projection(weight_LOI=weight_LOI, bias_LO=torch.stack(biases) if has_bias else None, parts=_parts(layers))


def single(path: str, module: torch.nn.Linear) -> Projection:
    """The projection of one linear module that stands outside the layers; it shares the module's memory."""
    bias_LO = None if module.bias is None else module.bias.detach()[None]
    part = Part(paths=(path,), rows=slice(0, len(module.weight)), inputs=module.in_features)
    return Projection(weight_LOI=module.weight.detach()[None], bias_LO=bias_LO, parts=(part,))


def _parts(layers: Sequence[Sequence[tuple[str, torch.nn.Linear]]]) -> tuple[Part, ...]:
    parts, start = [], 0
    for of_layers in zip(*layers, strict=True):
        module = of_layers[0][1]
        rows = slice(start, start + module.out_features)
        parts.append(Part(paths=tuple(path for path, _ in of_layers), rows=rows, inputs=module.in_features))
        start = rows.stop
    return tuple(parts)


def _bias(modules: Sequence[torch.nn.Linear]) -> Tensor:
    return torch.cat(
        [
            module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias.detach()
            for module in modules
        ]
    )
