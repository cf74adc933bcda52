"""Adapters laid out beside a projection for the length of a call, and their gradients brought home at its end.

What is done for a small matrix (W + s B A before, dB = s dW A^T and dA = s B^T dW behind) is done for all layers of all
adapters of the same rank by one batched product, which gives each of its items the bits that it gives it alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from tinsmith_server.trainer.llama.linear import Linear, Part, Projection, SectionWeight
from tinsmith_server.trainer.local.adapter import Adapter, Halves

_THIN_COST = 4.0
"""How much slower a product with a dimension of rank size runs, per operation, than one of two large matrices; measured
on CPUs for ranks 8 to 32."""

Gradients = dict[str, tuple[Tensor, Tensor]]
"""Gradients of A and of B, flat, by path."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bound:
    """An adapter for the length of a call."""

    adapter: Adapter
    is_trained: bool
    """Whether gradients are wanted."""
    gradients: Gradients
    """Those that have been brought home."""


class AdaptedProjection:
    """One projection of all layers, with the terms of some adapters."""

    def __init__(self, projection: Projection, adapters: Sequence[Bound]) -> None:
        weights = projection.weight_LOI.unbind()
        sections = [
            [SectionWeight(weight_OI=own, transposed_IO=own.t(), is_trained=bound.is_trained) for bound in adapters]
            for own in weights
        ]
        biases = [None] * len(weights) if projection.bias_LO is None else projection.bias_LO.unbind()
        self.layers = [Linear(sections=own, bias_O=bias_O) for own, bias_O in zip(sections, biases, strict=True)]
        self._terms = [_terms(projection, kind, members, sections) for kind, members in _alike(projection, adapters)]

    def bring_home(self) -> None:
        """Turns what the backward passes have left into gradients of the adapters' halves."""
        for terms in self._terms:
            terms.bring_home()


@dataclass(frozen=True, slots=True, order=True)
class _Kind:
    """What adapters must have in common to be laid out together."""

    rank: int
    is_trained: bool
    merges: bool
    parts: tuple[int, ...]
    """Places of the projection's parts that they change."""


def _alike(projection: Projection, adapters: Sequence[Bound]) -> list[tuple[_Kind, list[tuple[int, Bound]]]]:
    """The adapters that change the projection, with their places, those of a kind together."""

    def kind(bound: Bound) -> _Kind:
        rank = bound.adapter.shape.rank
        return _Kind(
            rank=rank,
            is_trained=bound.is_trained,
            merges=_merging_is_cheaper(projection.weight_LOI, rank),
            parts=tuple(
                place
                for place, part in enumerate(projection.parts)
                if any(path in bound.adapter.halves for path in part.paths)
            ),
        )

    found = sorted(((kind(bound), place, bound) for place, bound in enumerate(adapters)), key=lambda each: each[:2])
    return [
        (alike, [(place, bound) for _, place, bound in members])
        for alike, members in groupby(found, key=lambda each: each[0])
        if alike.parts
    ]


def _terms(
    projection: Projection,
    kind: _Kind,
    members: Sequence[tuple[int, Bound]],
    sections: Sequence[Sequence[SectionWeight]],
) -> "_Merged | _Apart":
    mine = [[layer[place] for layer in sections] for place, _ in members]
    how = _Merged if kind.merges else _Apart
    return how(projection, [projection.parts[part] for part in kind.parts], [bound for _, bound in members], mine)


def _merging_is_cheaper(weight_LOI: Tensor, rank: int) -> bool:
    """Compares one more product of the matrix's size with those by the halves. Never where adding would round."""
    _, outputs, inputs = weight_LOI.shape
    return weight_LOI.dtype == torch.float32 and outputs * inputs <= 2 * _THIN_COST * rank * (outputs + inputs)


class _Merged:
    """Matrices added up, for adapters of one kind. Items of the batched products: each adapter's layers, in order."""

    def __init__(
        self,
        projection: Projection,
        parts: Sequence[Part],
        adapters: Sequence[Bound],
        sections: Sequence[Sequence[SectionWeight]],
    ) -> None:
        base_LOI = projection.weight_LOI
        self._adapters, self._parts = adapters, parts
        self._scales_G11 = base_LOI.new_tensor(
            [bound.adapter.scale for bound in adapters for _ in range(len(base_LOI))]
        )[:, None, None]
        weights_GOI = base_LOI.repeat(len(adapters), 1, 1)
        self._gradients_GOI = torch.empty_like(weights_GOI) if adapters[0].is_trained else None
        self._halves = [self._stack(part) for part in parts]
        for part, (a_GRI, b_GOR) in zip(parts, self._halves, strict=True):
            weights_GOI[:, part.rows].baddbmm_(b_GOR, a_GRI)
        self._sections = [section for layers in sections for section in layers]
        for section, weight_OI in zip(self._sections, weights_GOI.unbind(), strict=True):
            section.weight_OI, section.transposed_IO = weight_OI, weight_OI.t()
        if self._gradients_GOI is not None:
            for section, gradient_OI in zip(self._sections, self._gradients_GOI.unbind(), strict=True):
                section.gradient_OI = gradient_OI

    def bring_home(self) -> None:
        if self._gradients_GOI is None or not self._sections[0].has_gradients:
            return
        for part, (a_GRI, b_GOR) in zip(self._parts, self._halves, strict=True):
            gradient_GOI = self._gradients_GOI[:, part.rows]
            of_a = torch.bmm(b_GOR.transpose(1, 2), gradient_GOI).flatten(1).unbind()
            # The other way round, since a product that is as narrow as the rank is slow.
            of_b = torch.bmm(a_GRI, gradient_GOI.transpose(1, 2)).mul_(self._scales_G11).transpose(1, 2)
            places = [(bound, path) for bound in self._adapters for path in part.paths]
            for (bound, path), a, b in zip(places, of_a, of_b.flatten(1).unbind(), strict=True):
                if path in bound.adapter.halves:
                    bound.gradients[path] = (a, b)

    def _stack(self, part: Part) -> Halves:
        """A, and B times the scale, of every adapter and layer."""
        halves = [_halves(bound.adapter, path, part) for bound in self._adapters for path in part.paths]
        b_GOR = torch.stack([b_OR for _, b_OR in halves]).mul_(self._scales_G11)
        return Halves(torch.stack([a_RI for a_RI, _ in halves]), b_GOR)


class _Apart:
    """Halves beside the base's matrices. Those of several parts are put together: the As one below the other, the Bs on
    a diagonal."""

    def __init__(
        self,
        projection: Projection,
        parts: Sequence[Part],
        adapters: Sequence[Bound],
        sections: Sequence[Sequence[SectionWeight]],
    ) -> None:
        self._parts, self._adapters, self._sections = parts, adapters, sections
        for bound, layers in zip(adapters, sections, strict=True):
            for layer, section in enumerate(layers):
                section.halves = self._together(projection.weight_LOI, bound.adapter, layer)
                if bound.is_trained:
                    section.half_gradients = Halves(
                        *(half.new_zeros(half.shape, dtype=torch.float32) for half in section.halves)
                    )

    def bring_home(self) -> None:
        for bound, layers in zip(self._adapters, self._sections, strict=True):
            rank, scale = bound.adapter.shape.rank, bound.adapter.scale
            for layer, section in enumerate(layers):
                if section.half_gradients is None or not section.has_gradients:
                    continue
                of_a, of_b = section.half_gradients
                for number, part in enumerate(self._parts):
                    if part.paths[layer] not in bound.adapter.halves:
                        continue
                    mine = slice(number * rank, (number + 1) * rank)
                    b = of_b[part.rows, mine] * scale
                    bound.gradients[part.paths[layer]] = (of_a[mine].flatten(), b.flatten())

    def _together(self, weight_LOI: Tensor, adapter: Adapter, layer: int) -> Halves:
        halves = [_halves(adapter, part.paths[layer], part) for part in self._parts]
        rank = adapter.shape.rank
        b_OR = weight_LOI.new_zeros(weight_LOI.shape[1], len(halves) * rank)
        for number, (part, (_, own_OR)) in enumerate(zip(self._parts, halves, strict=True)):
            b_OR[part.rows, number * rank : (number + 1) * rank] = own_OR * adapter.scale
        return Halves(torch.cat([a_RI for a_RI, _ in halves]).to(weight_LOI.dtype), b_OR)


def _halves(adapter: Adapter, path: str, part: Part) -> Halves:
    """The adapter's halves of a matrix; zeros where it leaves this layer's alone."""
    found = adapter.halves.get(path)
    if found is not None:
        return found
    rank, like = adapter.shape.rank, adapter.values
    return Halves(like.new_zeros(rank, part.inputs), like.new_zeros(part.rows.stop - part.rows.start, rank))
