"""Which rows of a batch carry which adapter, and the products that add their terms.

Rows of one adapter are laid into tiles, padded, and all tiles meet their adapters' factors in one batched product a
matrix. The tile's height follows from the counts; it does not change a row's bits, nor does what stands in the other
rows (`calibration.py`). A batch of one adapter only needs no tiles.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.engine.low_rank import Factors, LowRank

LEAST_TILE = 8
"""Rows of the smallest tile."""
_MOST_TILE = 1024
_STACKS_KEPT = 4
IN_PLACE_INNER = 64
"""Up to this inner size a product that is added in place rounds as one that is added afterwards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tiles:
    row_of_place: Tensor
    """int64 [tiles * height]; empty places repeat row 0, and nobody reads what they compute."""
    place_of_row: Tensor
    """int64 [adapted rows]."""
    adapted: Tensor | None
    """int64 [adapted rows], where some rows are the base model's; None when all are adapted."""
    adapter_of_tile: Tensor | None
    """int64 [tiles]; None when tile i is adapter i's."""
    height: int


class AdapterStacks:
    """Factors of several adapters stacked for batched products; the last few sets are remembered."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[LowRank, ...], dict[int, Factors | None]] = OrderedDict()

    def of(self, adapters: tuple[LowRank, ...]) -> "dict[int, Factors | None]":
        """Stacks by site of these adapters, filled by `stacked`."""
        found = self._known.setdefault(adapters, {})
        self._known.move_to_end(adapters)
        while len(self._known) > _STACKS_KEPT:
            self._known.popitem(last=False)
        return found


class AdapterRows:
    """Adds the adapters' terms to the rows of one batch."""

    def __init__(
        self,
        adapters: Sequence[LowRank | None],
        adapter_of_row_B: NDArray[np.int64],
        stacks: AdapterStacks,
        device: torch.device,
    ) -> None:
        """Row b has `adapters[adapter_of_row_B[b]]`, None being the base model; adapters may repeat."""
        used = [adapters[number] for number in np.unique(adapter_of_row_B).tolist()]
        self._adapters = tuple(dict.fromkeys(adapter for adapter in used if adapter is not None))
        self._only = self._adapters[0] if len(self._adapters) == 1 and None not in used else None
        self._tiles: _Tiles | None = None
        if self._adapters and self._only is None:
            places: dict[LowRank | None, int] = {adapter: place for place, adapter in enumerate(self._adapters)}
            place_of_adapter = np.array([places.get(adapter, -1) for adapter in adapters])
            self._tiles = _tiles(place_of_adapter[adapter_of_row_B], len(self._adapters), device)
            self._stacks = stacks.of(self._adapters)
            self._of_tile: dict[int, Factors] = {}

    def add(self, site: int, x: Tensor, y: Tensor) -> Tensor:
        """y += x A B of each row's own adapter, in place; rows of `x` and `y` beyond the batch are padding."""
        if self._only is not None:
            factors = self._only.sites[site]
            return y if factors is None else _added(x, y, factors)
        if self._tiles is None:
            return y
        stack = self._stacked(site)
        return y if stack is None else self._add_tiles(self._tiles, stack, x, y)

    def _add_tiles(self, tiles: _Tiles, stack: Factors, x: Tensor, y: Tensor) -> Tensor:
        places = x[tiles.row_of_place].view(-1, tiles.height, x.shape[-1])
        terms = torch.bmm(torch.bmm(places, stack.a_IK), stack.b_KO).view(-1, y.shape[-1])[tiles.place_of_row]
        if tiles.adapted is None:
            y[: len(terms)] += terms
            return y
        return y.index_add_(0, tiles.adapted, terms)

    def _stacked(self, site: int) -> Factors | None:
        """One pair of factors a tile; None where no adapter changes the matrix."""
        assert self._tiles is not None
        if site not in self._stacks:
            self._stacks[site] = _stack([adapter.sites[site] for adapter in self._adapters])
        stack, order = self._stacks[site], self._tiles.adapter_of_tile
        if stack is None or order is None:
            return stack
        if site not in self._of_tile:
            self._of_tile[site] = Factors(a_IK=stack.a_IK[order], b_KO=stack.b_KO[order])
        return self._of_tile[site]


def _added(x: Tensor, y: Tensor, factors: Factors) -> Tensor:
    inner = x @ factors.a_IK
    return y.addmm_(inner, factors.b_KO) if inner.shape[1] <= IN_PLACE_INNER else y.add_(inner @ factors.b_KO)


def _stack(sites: Sequence[Factors | None]) -> Factors | None:
    present = [site for site in sites if site is not None]
    if not present:
        return None
    inner = max(site.a_IK.shape[1] for site in present)
    nothing = Factors(a_IK=torch.zeros_like(present[0].a_IK), b_KO=torch.zeros_like(present[0].b_KO))
    padded = [(nothing if site is None else site).padded(inner) for site in sites]
    return Factors(a_IK=torch.stack([site.a_IK for site in padded]), b_KO=torch.stack([site.b_KO for site in padded]))


def _tiles(adapter_of_row: NDArray[np.int64], adapters: int, device: torch.device) -> _Tiles:
    order = np.argsort(adapter_of_row, kind="stable")
    order = order[np.searchsorted(adapter_of_row[order], 0) :]
    counts = np.bincount(adapter_of_row[order], minlength=adapters)
    height = _height(counts)
    tiles_of_adapter = -(-counts // height)
    first_place = (np.cumsum(tiles_of_adapter) - tiles_of_adapter) * height
    first_row = np.cumsum(counts) - counts
    place = np.arange(len(order)) + np.repeat(first_place - first_row, counts)
    row_of_place = np.zeros(int(tiles_of_adapter.sum()) * height, np.int64)
    row_of_place[place] = order
    whole = len(order) == len(adapter_of_row)
    place_of_row = np.empty(len(adapter_of_row), np.int64)
    place_of_row[order] = place
    adapter_of_tile = np.repeat(np.arange(adapters), tiles_of_adapter)
    return _Tiles(
        row_of_place=torch.from_numpy(row_of_place).to(device),
        place_of_row=torch.from_numpy(place_of_row if whole else place).to(device),
        adapted=None if whole else torch.from_numpy(order).to(device),
        adapter_of_tile=torch.from_numpy(adapter_of_tile).to(device) if (tiles_of_adapter > 1).any() else None,
        height=height,
    )


def _height(counts: NDArray[np.int64]) -> int:
    """The power of two that pads least; of equals the highest, which makes the fewest tiles."""
    heights = [1 << power for power in range(LEAST_TILE.bit_length() - 1, _MOST_TILE.bit_length())]
    return min(reversed(heights), key=lambda height: int((-(-counts // height) * height).sum()))
