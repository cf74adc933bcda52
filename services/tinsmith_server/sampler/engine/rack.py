"""Keys and values of the rows that are being decoded, as rectangles of one size class.

A row's own part begins at the page in which its prompt ends, so that a page is either shared or the row's. Groups of
several answers share the whole pages of their prompt: their queries meet those keys in one product a group, so that the
prompt is read once, not once an answer. Small groups have everything for their own.

Letters: L layers, B rows, G groups, W most rows of a group, H KV heads, R query heads of a KV head, S own positions,
T shared positions, D head size.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.engine.attention import (
    LEAST_QUERIES,
    PAGE,
    add_values,
    attend_each,
    padded_queries,
    scores,
    unpadded,
    whole_keys,
)
from tinsmith_server.sampler.engine.model import LlamaFamilyModel
from tinsmith_server.sampler.engine.prefill import Prefill

_LEAST_ROWS = 16
_MOST_SPARE = 64
"""Rows beyond those needed that a growing rack makes room for."""
_MOST_SPARE_PLACES = 1 << 14
"""Places of these rows; long ones get no spare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeClass:
    """What a rack's rectangles measure; both are powers of two, or 0."""

    shared_pages: int
    own_tokens: int

    @classmethod
    @lru_cache(maxsize=4096)
    def of(cls, *, rows: int, prompt: int, new_tokens: int) -> "SizeClass":
        """The class of a group whose prompt has `prompt` tokens and whose rows may grow by `new_tokens`."""
        shared = prompt // PAGE if rows > LEAST_QUERIES else 0  # with few rows, sharing costs more than it saves
        own = prompt - shared * PAGE + new_tokens
        return cls(shared_pages=_power(shared) if shared else 0, own_tokens=_power(max(own, PAGE // 2)))

    def tokens(self, rows: int) -> int:
        """Places that a group of `rows` takes."""
        return self.shared_pages * PAGE + rows * self.own_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """What all layers of one decoding step share."""

    used: int
    """Own positions that the step looks at."""
    mask_B1S: Tensor
    slot: int | Tensor
    """Where the new token goes: the own position of all rows, or int64 [B * H] into the flat own part."""


class Rack:
    """Rows of one size class."""

    def __init__(self, model: LlamaFamilyModel, size: SizeClass) -> None:
        self._model, self.size = model, size
        self._own = model.empty_kv(0, size.own_tokens)
        self._shared = model.empty_kv(0, size.shared_pages * PAGE)
        self._shared_tokens_G = np.zeros(0, np.int64)
        self._group_B = np.zeros(0, np.int64)
        self._base_B = np.zeros(0, np.int64)
        self._own_B = np.zeros(0, np.int64)
        self._step: _Step | None = None
        self._grid: _Grid | None = None

    def __len__(self) -> int:
        return len(self._own_B)

    @property
    def positions_B(self) -> NDArray[np.int64]:
        """Position of the token that each row reads next."""
        return self._base_B + self._own_B

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._own.nbytes + self._shared.nbytes

    def add(self, prefill: Prefill, sequence_B: NDArray[np.int64], *, shared: int) -> None:
        """Takes rows over from a prefill: row b continues sequence `sequence_B[b]`; `shared` pages of each are shared.

        The rows of a sequence are one group; all are new.
        """
        sequence_G, group_B = np.unique(sequence_B, return_inverse=True)
        cut = shared * PAGE
        self._own = self._joined(self._own, len(self), prefill.kv, sequence_B, cut)
        if self.size.shared_pages:
            groups = len(self._shared_tokens_G)
            self._shared = self._joined(self._shared, groups, prefill.kv, sequence_G, 0)
            self._shared_tokens_G = np.append(self._shared_tokens_G, np.full(len(sequence_G), cut))
            self._group_B = np.append(self._group_B, group_B + groups)
        self._base_B = np.append(self._base_B, np.full(len(sequence_B), cut))
        self._own_B = np.append(self._own_B, prefill.lengths_P[sequence_B] - cut)
        self._grid = None

    def drop(self, gone_B: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Forgets rows. Returns the former places of the rows that are left: the last ones fill the holes."""
        order_B = _filled(gone_B)
        moved = np.flatnonzero(order_B != np.arange(len(order_B)))
        self._move(self._own, order_B[moved], moved)
        self._base_B, self._own_B = self._base_B[order_B], self._own_B[order_B]
        if 2 * len(order_B) + _spare(self.size.own_tokens) < self._own.shape[2]:
            self._own = self._own[:, :, : len(order_B)].clone()
        if self.size.shared_pages:
            self._drop_groups(self._group_B[order_B])
        self._grid = None
        return order_B

    def kv_of(self, row: int, page: int) -> Tensor:
        """A whole page of a row, [2, L, H, PAGE, D]; `page` counts from the sequence's first."""
        start = page * PAGE - int(self._base_B[row])
        if start < 0:  # the cache may have lost what the row shares
            return self._shared[:, :, self._group_B[row], :, page * PAGE : (page + 1) * PAGE]
        return self._own[:, :, row, :, start : start + PAGE]

    def begin_step(self) -> None:
        """Makes ready for the next token of every row."""
        if self.size.shared_pages and self._grid is None:
            self._grid = _Grid.of(self._group_B, self._shared_tokens_G, self._model, self._shared)
        used = whole_keys(int(self._own_B.max()) + 1)
        uniform = bool((self._own_B == self._own_B[0]).all())
        at_B = torch.from_numpy(self._own_B[:1] if uniform else self._own_B).to(self._model.device)
        beyond = torch.arange(used, device=at_B.device) > at_B[:, None]
        mask = torch.zeros(beyond.shape, dtype=self._own.dtype, device=at_B.device).masked_fill_(beyond, float("-inf"))
        heads = self._own.shape[3]
        rows = torch.arange(len(self) * heads, device=at_B.device) * self.size.own_tokens
        slot = int(self._own_B[0]) if uniform else rows + at_B.repeat_interleave(heads)
        self._step = _Step(used=used, mask_B1S=mask[:, None], slot=slot)

    def end_step(self) -> None:
        """Counts the token. Rows that have ended but are still here stay within their places."""
        self._own_B = np.minimum(self._own_B + 1, self.size.own_tokens - 1)

    def attend(self, layer: int, query_BND: Tensor, key_BHD: Tensor, value_BHD: Tensor) -> Tensor:
        """Stores the new token's key and value, then attends to everything so far. Returns [B, N * D]."""
        assert self._step is not None
        own = self._own[:, layer, : len(self)]
        self._store(self._own[0, layer], key_BHD, self._step.slot)
        self._store(self._own[1, layer], value_BHD, self._step.slot)
        keys, values = own[:, :, :, : self._step.used]
        if self._grid is None:
            return attend_each(query_BND, keys, values, self._step.mask_B1S)
        return self._attend_shared(layer, query_BND, keys, values, self._grid, self._step)

    def _attend_shared(
        self, layer: int, query_BND: Tensor, keys: Tensor, values: Tensor, grid: "_Grid", step: _Step
    ) -> Tensor:
        rows, heads = len(self), keys.shape[1]
        repeats = query_BND.shape[1] // heads
        shared_keys, shared_values = self._shared[:, layer, : grid.groups].flatten(1, 2)
        query_XMD = padded_queries(query_BND, heads)
        own_XMS = scores(query_XMD, keys.flatten(0, 1))
        own_XMS.view(rows, -1, step.used).add_(step.mask_B1S)
        shared_XWT = scores(grid.lay(query_XMD.view(rows, heads, -1, query_XMD.shape[-1])[:, :, :repeats]), shared_keys)
        shared_XWT.view(grid.groups, -1, shared_XWT.shape[-1]).add_(grid.mask_G1T)
        length = shared_XWT.shape[-1]
        weights = own_XMS.new_zeros(rows, heads, own_XMS.shape[1], length + step.used)
        weights[:, :, :repeats, :length] = grid.take(shared_XWT, heads, repeats)
        weights[..., length:] = own_XMS.view(rows, heads, -1, step.used)
        weights = weights.softmax(-1)
        shared = add_values(None, grid.lay(weights[:, :, :repeats, :length]), shared_values)
        summed = own_XMS.new_zeros(rows, heads, own_XMS.shape[1], shared.shape[-1])
        summed[:, :, :repeats] = grid.take(shared, heads, repeats)
        own = weights.flatten(0, 1)[..., length:]
        return unpadded(add_values(summed.flatten(0, 1), own, values.flatten(0, 1)), rows, query_BND.shape[1])

    def _store(self, kept_BHSD: Tensor, new_BHD: Tensor, slot: int | Tensor) -> None:
        if isinstance(slot, int):
            kept_BHSD[: len(self), :, slot] = new_BHD
        else:
            kept_BHSD.view(-1, kept_BHSD.shape[-1]).index_copy_(0, slot, new_BHD.reshape(len(slot), -1))

    def _joined(self, kv: Tensor, used: int, source: Tensor, sequence_N: NDArray[np.int64], start: int) -> Tensor:
        """`kv` with these sequences behind its first `used` ones, from position `start` on.

        Every place is written: what a former row left there might be NaN.
        """
        length, stop = kv.shape[4], used + len(sequence_N)
        new = source[:, :, :, :, start : start + length].index_select(2, self._model.on_device(sequence_N))
        if not used and new.shape[4] == length:
            return new
        kv = self._grown(kv, used, stop)
        kv[:, :, used:stop, :, : new.shape[4]] = new
        kv[:, :, used:stop, :, new.shape[4] :] = 0
        return kv

    def _grown(self, kv: Tensor, used: int, wanted: int) -> Tensor:
        if wanted <= kv.shape[2]:
            return kv
        spare = _spare(kv.shape[4])
        rows = max(wanted, min(max(_LEAST_ROWS, 2 * used), wanted + spare))
        grown = self._model.empty_kv(rows, kv.shape[4])
        grown[:, :, :used] = kv[:, :, :used]
        return grown

    def _move(self, kv: Tensor, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        if len(source):
            to, of = (torch.from_numpy(places).to(kv.device) for places in (target, source))
            kv.index_copy_(2, to, kv.index_select(2, of))

    def _drop_groups(self, group_B: NDArray[np.int64]) -> None:
        """Forgets groups without rows; `group_B` are the groups of the rows that are left."""
        gone_G = np.bincount(group_B, minlength=len(self._shared_tokens_G)) == 0
        order_G = _filled(gone_G)
        moved = np.flatnonzero(order_G != np.arange(len(order_G)))
        self._move(self._shared, order_G[moved], moved)
        new_place = np.zeros(len(gone_G), np.int64)
        new_place[order_G] = np.arange(len(order_G))
        self._group_B = new_place[group_B]
        self._shared_tokens_G = self._shared_tokens_G[order_G]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grid:
    """Rows of unequal groups laid into a rectangle of G groups by W places."""

    groups: int
    row_of_place: Tensor
    """int64 [G * W]; empty places repeat row 0, and nobody reads what they compute."""
    place_of_row: Tensor
    """int64 [B]."""
    mask_G1T: Tensor

    @classmethod
    def of(
        cls, group_B: NDArray[np.int64], tokens_G: NDArray[np.int64], model: LlamaFamilyModel, shared: Tensor
    ) -> "_Grid":
        counts_G = np.bincount(group_B, minlength=len(tokens_G))
        width = max(int(counts_G.max()), -(-LEAST_QUERIES // model.repeats))
        order = np.argsort(group_B, kind="stable")
        within = np.arange(len(group_B)) - np.repeat(np.cumsum(counts_G) - counts_G, counts_G)
        place_of_row = np.empty(len(group_B), np.int64)
        place_of_row[order] = group_B[order] * width + within
        row_of_place = np.zeros(len(tokens_G) * width, np.int64)
        row_of_place[place_of_row] = np.arange(len(group_B))
        mask = np.where(np.arange(shared.shape[4]) >= tokens_G[:, None, None], -np.inf, 0.0)
        return cls(
            groups=len(tokens_G),
            row_of_place=torch.from_numpy(row_of_place).to(model.device),
            place_of_row=torch.from_numpy(place_of_row).to(model.device),
            mask_G1T=torch.from_numpy(mask).to(shared),
        )

    def lay(self, rows_BHRX: Tensor) -> Tensor:
        """[G * H, W * R, X]."""
        _, heads, repeats, size = rows_BHRX.shape
        places = rows_BHRX[self.row_of_place].view(self.groups, -1, heads, repeats, size)
        return places.transpose(1, 2).reshape(self.groups * heads, -1, size)

    def take(self, places: Tensor, heads: int, repeats: int) -> Tensor:
        """The reverse: [B, H, R, X]."""
        laid = places.view(self.groups, heads, -1, repeats, places.shape[-1]).transpose(1, 2)
        return laid.reshape(-1, heads, repeats, places.shape[-1])[self.place_of_row]


def _filled(gone: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The order in which what is left fills the first places, moving as little as possible."""
    left = int((~gone).sum())
    order = np.arange(left)
    order[gone[:left]] = np.flatnonzero(~gone[left:]) + left
    return order


def _spare(places: int) -> int:
    """Most spare rows of so many places each."""
    return min(_MOST_SPARE, _MOST_SPARE_PLACES // places)


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()
