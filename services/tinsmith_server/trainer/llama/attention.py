"""Attention of the Llama family over the grids of `layout.py`: head norms, rotation, scores, and their gradients.

All grids' queries, keys and values are gathered at once, row by row and head by head, so that each grid is one batch of
plain matrix products. A grid's items do not touch, and each has the layout in memory, and so the bits, that it has
alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tinsmith_server.models.llama_family import Rotary
from tinsmith_server.trainer.llama import rms_norm
from tinsmith_server.trainer.llama.layout import Grid

_SHORT_ROW = 64
"""Up to this many keys plain matrix products beat torch's fused attention on a CPU, where its blocks stay empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """Heads of a model, and their norm."""

    queries: int
    keys: int
    size: int
    norm_epsilon: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GridPlace:
    """One grid's part of what `Places` gathers."""

    rows: int
    queries: int
    keys: int
    mask_R1QK: Tensor | None
    """Added to the scores: 0 where a query sees a key, else minus infinity; None where causality says it."""
    of_queries: slice
    of_keys: slice


class Places:
    """Where in a projection's outputs, seen as rows of one head each, the grids find what they read."""

    def __init__(self, grids: Sequence[Grid], place_N: Tensor, heads: Heads, like: Tensor) -> None:
        turned = heads.queries + heads.keys
        of_query, of_key = torch.arange(heads.queries), torch.arange(heads.keys)
        queries: list[Tensor] = []
        keys: list[Tensor] = []
        values: list[Tensor] = []
        places: list[Tensor] = []
        self.heads = heads
        self.grids: list[GridPlace] = []
        self.rows = rows_of_keys = 0
        """Rows of the grids' outputs, one a query and head; behind them is one for nodes that are only padding."""
        for grid in grids:
            nodes_RQ, nodes_RK = torch.from_numpy(grid.queries_RQ), torch.from_numpy(grid.keys_RK)
            queries.append((nodes_RQ[:, None] * turned + of_query[:, None]).flatten())
            keys.append((nodes_RK[:, None] * turned + (heads.queries + of_key)[:, None]).flatten())
            values.append((nodes_RK[:, None] * (turned + heads.keys) + (turned + of_key)[:, None]).flatten())
            places.append(_places(nodes_RQ, self.rows, of_query))
            after, after_keys = self.rows + len(queries[-1]), rows_of_keys + len(keys[-1])
            self.grids.append(
                GridPlace(
                    rows=len(nodes_RQ),
                    queries=nodes_RQ.shape[1],
                    keys=nodes_RK.shape[1],
                    mask_R1QK=_mask(grid, like),
                    of_queries=slice(self.rows, after),
                    of_keys=slice(rows_of_keys, after_keys),
                )
            )
            self.rows, rows_of_keys = after, after_keys
        self.queries, self.keys, self.values = (torch.cat(each).to(like.device) for each in (queries, keys, values))
        # Place -1, that of padding, finds the row behind all others.
        places.append(torch.full((1, heads.queries), self.rows))
        self.outputs_NH = torch.cat(places)[place_N].to(like.device)
        """For each head of each node the row that holds its attention output."""


def _places(nodes_RQ: Tensor, before: int, of_query: Tensor) -> Tensor:
    """For each query of a grid, and each head, the row of its output, which come row by row and head by head."""
    rows, queries = nodes_RQ.shape
    heads_RH = before + queries * torch.arange(rows * len(of_query)).view(rows, 1, -1)
    return (heads_RH + torch.arange(queries)[:, None]).flatten(0, 1)


def attention(
    heads_NO: Tensor, norm: Tensor | None, rotary: Rotary, places: Places, wanted_M: Tensor | None = None
) -> Tensor:
    """Attention outputs of the nodes, or of those that are wanted, [M, query heads * size].

    `heads_NO` are queries, keys and values of all nodes, head after head; `norm` is that of `models.qk_norm_of`.
    """
    outputs_MH = places.outputs_NH if wanted_M is None else places.outputs_NH[wanted_M]
    attended: Tensor = _Attention.apply(heads_NO, norm, rotary, places, outputs_MH)
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, heads_NO: Tensor, norm: Tensor | None, rotary: Rotary, places: Places, outputs_MH: Tensor
    ) -> Tensor:
        heads = places.heads
        heads_NHD = heads_NO.view(len(heads_NO), -1, heads.size)
        turned = heads_NHD[:, : heads.queries + heads.keys]
        scale = None
        if norm is not None:
            turned, scale = rms_norm.forward(turned, norm, heads.norm_epsilon)
        turned = rotary(turned).view(-1, heads.size)
        query, key = turned.index_select(0, places.queries), turned.index_select(0, places.keys)
        value = heads_NHD.view(-1, heads.size).index_select(0, places.values)
        out = value.new_empty(places.rows + 1, heads.size)
        out[places.rows :] = 0
        tapes = [_attend(heads, grid, (query, key, value), out) for grid in places.grids]
        context.save_for_backward(heads_NO, query, key, value)
        context.norm, context.scale, context.rotary = norm, scale, rotary
        context.places, context.outputs_MH, context.tapes = places, outputs_MH, tapes
        return out.index_select(0, outputs_MH.flatten()).view(len(outputs_MH), -1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        heads_NO, query, key, value = context.saved_tensors
        places, heads = context.places, context.places.heads
        nodes, turned_heads = len(heads_NO), heads.queries + heads.keys
        of_out = value.new_zeros(places.rows + 1, heads.size)
        of_out.index_add_(0, context.outputs_MH.flatten(), gradient.reshape(-1, heads.size))
        of_query, of_key, of_value = torch.empty_like(of_out), torch.empty_like(key), torch.empty_like(value)
        of_query[places.rows :] = 0
        for grid, tape in zip(places.grids, context.tapes, strict=True):
            tape.backward(grid, (query, key, value), of_out, (of_query, of_key, of_value))
        found = torch.zeros_like(heads_NO)
        found_NHD = found.view(nodes, -1, heads.size)
        found_NHD.view(-1, heads.size).index_add_(0, places.values, of_value)
        of_turned = value.new_zeros(nodes, turned_heads, heads.size)
        of_turned.view(-1, heads.size).index_add_(0, places.keys, of_key)
        own = of_query.index_select(0, places.outputs_NH.flatten()).view(nodes, heads.queries, heads.size)
        of_turned[:, : heads.queries] = own
        straight = context.rotary.back(of_turned)
        if context.norm is not None:
            here = heads_NO.view(nodes, -1, heads.size)[:, :turned_heads]
            straight = rms_norm.backward(straight, here, context.norm, context.scale)
        found_NHD[:, :turned_heads] = straight
        return found, None, None, None, None


_Parts = tuple[Tensor, Tensor, Tensor]
"""Of queries, keys and values, all grids' rows [*, size]."""


class _Products:
    """A grid that was computed by plain products: what its backward pass needs."""

    def __init__(self, heads: Heads, shares: Tensor) -> None:
        self._heads, self._shares = heads, shares

    def backward(self, grid: GridPlace, parts: _Parts, of_out: Tensor, found: _Parts) -> None:
        query, key, value = _items(self._heads, grid, parts)
        of_query, of_key, of_value = _items(self._heads, grid, found)
        of_mine = of_out[grid.of_queries].view(query.shape)
        shares = self._shares.view(len(query), -1, grid.keys)
        torch.bmm(shares.transpose(1, 2), of_mine, out=of_value)
        of_shares = torch.bmm(of_mine, value.transpose(1, 2)).view(self._shares.shape)
        inner = (of_shares * self._shares).sum(-1, keepdim=True)
        of_scores = of_shares.sub_(inner).mul_(self._shares).mul_(self._heads.size**-0.5).view(shares.shape)
        torch.bmm(of_scores, key, out=of_query)
        torch.bmm(of_scores.transpose(1, 2), query, out=of_key)


class _Fused:
    """A grid that torch's fused attention computed: a graph of its own."""

    def __init__(self, leaves: _Parts, out: Tensor) -> None:
        self._leaves, self._out = leaves, out

    def backward(self, grid: GridPlace, parts: _Parts, of_out: Tensor, found: _Parts) -> None:
        gradients = torch.autograd.grad(self._out, self._leaves, of_out[grid.of_queries].view(self._out.shape))
        for part, rows, gradient in zip(found, (grid.of_queries, grid.of_keys, grid.of_keys), gradients, strict=True):
            part[rows].view(gradient.shape).copy_(gradient)


def _attend(heads: Heads, grid: GridPlace, parts: _Parts, out: Tensor) -> _Products | _Fused:
    """Writes a grid's attention outputs."""
    mine = out[grid.of_queries]
    if grid.mask_R1QK is not None and grid.keys <= _SHORT_ROW and out.device.type == "cpu":
        return _attend_by_products(heads, grid, grid.mask_R1QK, _items(heads, grid, parts), mine)
    with torch.enable_grad():
        query, key, value = (
            part.view(grid.rows, -1, length, heads.size).detach().requires_grad_()
            for part, length in zip(_items(heads, grid, parts), (grid.queries, grid.keys, grid.keys), strict=True)
        )
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=grid.mask_R1QK,
            is_causal=grid.mask_R1QK is None,
            enable_gqa=heads.queries != heads.keys,
        )
    mine.view(attended.shape).copy_(attended.detach())
    return _Fused((query, key, value), attended)


def _attend_by_products(heads: Heads, grid: GridPlace, mask_R1QK: Tensor, items: _Parts, out: Tensor) -> _Products:
    """The query heads of one key head go through one product."""
    query, key, value = items
    scores = torch.bmm(query, key.transpose(1, 2)).view(grid.rows, heads.queries, grid.queries, grid.keys)
    shares = torch.add(mask_R1QK, scores, alpha=heads.size**-0.5).softmax(dim=-1)
    torch.bmm(shares.view(len(query), -1, grid.keys), value, out=out.view(query.shape))
    return _Products(heads, shares)


def _items(heads: Heads, grid: GridPlace, parts: _Parts) -> _Parts:
    """A grid's part of each as a batch, one item for each row and key head."""
    query, key, value = parts
    items = grid.rows * heads.keys
    return (
        query[grid.of_queries].view(items, -1, heads.size),
        key[grid.of_keys].view(items, grid.keys, heads.size),
        value[grid.of_keys].view(items, grid.keys, heads.size),
    )


def _mask(grid: Grid, like: Tensor) -> Tensor | None:
    queries, keys = grid.queries_RQ.shape[1], grid.keys_RK.shape[1]
    if grid.shared_R is not None:
        last_RQ1 = (torch.from_numpy(grid.shared_R)[:, None] + torch.arange(queries))[:, :, None].to(like.device)
        hidden = torch.arange(keys, device=like.device) > last_RQ1
        return like.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)[:, None]
    if keys <= _SHORT_ROW and like.device.type == "cpu":
        return like.new_full((1, 1, queries, keys), -math.inf).triu_(1)
    return None
