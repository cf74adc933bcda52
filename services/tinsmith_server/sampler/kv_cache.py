"""Keys and values of one layer: each prompt's once, each answer's own.

Answers of one prompt form a group. Their queries meet the prompt's keys in one matrix product a group, so that the
prompt's part of the cache is read once, not once an answer. Heads come first in every layout because then both parts of
the attention, prompt and answer, are plain batched matrix products over views.

Letters: H KV heads, P prompts, T prompt positions (padded on the right), B rows (answers), R query heads of a KV head,
G = most rows of a group, S answer positions, D head size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_GROWTH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Which answers are being decoded, and how far they are."""

    positions_B: Tensor
    """Position of the token that is read now, int64 [B]."""
    answered: int
    """Answer tokens already in the cache; the same for all rows."""
    prompt_mask_P1T: Tensor | None
    """0 where a prompt has a token, -infinity at its padding; None without padding."""
    grid: "Grid | None"
    """None when every group has the same number of rows, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Rows of unequal groups laid into a rectangle of P groups by G places."""

    row_of_place: Tensor
    """int64 [P * G]; empty places repeat row 0, and nobody reads what they compute."""
    place_of_row: Tensor
    """int64 [B]."""

    @classmethod
    def of(cls, group_of_row_B: Tensor, groups: int) -> "Grid | None":
        """`group_of_row_B` is sorted."""
        counts_P = torch.bincount(group_of_row_B, minlength=groups)
        widest = int(counts_P.max())
        if widest * groups == len(group_of_row_B):
            return None
        first_P = counts_P.cumsum(0) - counts_P
        within_B = torch.arange(len(group_of_row_B), device=group_of_row_B.device) - first_P[group_of_row_B]
        place_of_row = group_of_row_B * widest + within_B
        row_of_place = torch.zeros(groups * widest, dtype=torch.int64, device=group_of_row_B.device)
        row_of_place[place_of_row] = torch.arange(len(group_of_row_B), device=group_of_row_B.device)
        return cls(row_of_place=row_of_place, place_of_row=place_of_row)


class LayerCache:
    """The KV cache of one layer."""

    def __init__(self, prompt_keys_HPTD: Tensor, prompt_values_HPTD: Tensor) -> None:
        self._prompt_keys, self._prompt_values = prompt_keys_HPTD, prompt_values_HPTD
        self._keys = self._values = prompt_keys_HPTD.new_empty(len(prompt_keys_HPTD), 0, 0, prompt_keys_HPTD.shape[-1])

    @property
    def prompt_length(self) -> int:
        """Prompt positions, padding included."""
        return self._prompt_keys.shape[2]

    @classmethod
    def of_prompt(cls, keys_PHTD: Tensor, values_PHTD: Tensor) -> "LayerCache":
        """Starts the cache with the prompts' keys and values."""
        return cls(keys_PHTD.transpose(0, 1).contiguous(), values_PHTD.transpose(0, 1).contiguous())

    @classmethod
    def join(cls, parts: "list[LayerCache]") -> "LayerCache":
        """Prompts of several prefills as one batch, padded to the longest."""
        if len(parts) == 1:
            return parts[0]
        length = max(part._prompt_keys.shape[2] for part in parts)
        keys, values = (
            torch.cat([torch.nn.functional.pad(x, (0, 0, 0, length - x.shape[2])) for x in tensors], dim=1)
            for tensors in ([part._prompt_keys for part in parts], [part._prompt_values for part in parts])
        )
        return cls(keys, values)

    def keep(self, rows_B: Tensor, prompts_P: Tensor | None) -> None:
        """Drops the answers that are not in `rows_B` and, when given, the prompts that are not in `prompts_P`."""
        if self._keys.shape[2]:
            self._keys, self._values = self._keys[:, rows_B], self._values[:, rows_B]
        if prompts_P is not None:
            self._prompt_keys, self._prompt_values = self._prompt_keys[:, prompts_P], self._prompt_values[:, prompts_P]

    def attend(self, query_BND: Tensor, key_BHD: Tensor, value_BHD: Tensor, rows: Rows) -> Tensor:
        """Adds the new token's key and value, then attends to everything so far. Returns [B, N * D], N = H * R."""
        batch, heads, size = key_BHD.shape
        self._append(key_BHD, value_BHD, rows.answered)
        query_HBRD = query_BND.view(batch, heads, -1, size).transpose(0, 1).mul(1 / math.sqrt(size)).contiguous()
        seen = rows.answered + 1
        keys_XSD, values_XSD = (x.view(heads * batch, -1, size)[:, :seen] for x in (self._keys, self._values))
        own_XRS = torch.bmm(query_HBRD.view(heads * batch, -1, size), keys_XSD.transpose(1, 2))
        prompt_HBRT = self._prompt_scores(query_HBRD, rows)
        length = prompt_HBRT.shape[-1]
        weights = torch.cat([prompt_HBRT, own_XRS.view(heads, batch, -1, seen)], dim=-1).softmax(-1)
        own = torch.bmm(weights.view(heads * batch, -1, length + seen)[..., length:], values_XSD)
        attended_HBRD = own.view(heads, batch, -1, size) + self._prompt_sum(weights[..., :length], rows)
        return attended_HBRD.transpose(0, 1).reshape(batch, -1)

    def _append(self, key_BHD: Tensor, value_BHD: Tensor, at: int) -> None:
        if at >= self._keys.shape[2]:
            self._keys, self._values = (self._grown(x, len(key_BHD), at) for x in (self._keys, self._values))
        self._keys[:, :, at] = key_BHD.transpose(0, 1)
        self._values[:, :, at] = value_BHD.transpose(0, 1)

    def _grown(self, old_HBSD: Tensor, batch: int, used: int) -> Tensor:
        heads, _, _, size = old_HBSD.shape
        grown = old_HBSD.new_empty(heads, batch, max(_GROWTH, 2 * used), size)
        if used:
            grown[:, :, :used] = old_HBSD[:, :, :used]
        return grown

    def _prompt_scores(self, query_HBRD: Tensor, rows: Rows) -> Tensor:
        """Scores of every row against its own prompt, [H, B, R, T]."""
        heads, _, repeats, size = query_HBRD.shape
        places = query_HBRD if rows.grid is None else query_HBRD[:, rows.grid.row_of_place]
        prompts = self._prompt_keys.shape[1]
        scores = torch.matmul(places.view(heads, prompts, -1, size), self._prompt_keys.transpose(2, 3))
        if rows.prompt_mask_P1T is not None:
            scores += rows.prompt_mask_P1T
        scores = scores.view(heads, -1, repeats, scores.shape[-1])
        return scores if rows.grid is None else scores[:, rows.grid.place_of_row]

    def _prompt_sum(self, weights_HBRT: Tensor, rows: Rows) -> Tensor:
        """Values of every row's prompt, weighted, [H, B, R, D]."""
        heads, _, repeats, length = weights_HBRT.shape
        places = weights_HBRT if rows.grid is None else weights_HBRT[:, rows.grid.row_of_place]
        prompts = self._prompt_values.shape[1]
        summed = torch.matmul(places.reshape(heads, prompts, -1, length), self._prompt_values)
        summed = summed.view(heads, -1, repeats, summed.shape[-1])
        return summed if rows.grid is None else summed[:, rows.grid.place_of_row]
