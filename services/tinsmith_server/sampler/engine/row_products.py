"""Matrix products whose rows do not feel each other: the ground on which batch invariance stands.

Libraries pick another kernel, and with it another order of summation, for other numbers of rows. Within a set of sizes
they do not, and `calibration.py` finds at load which of these ways the machine's library allows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith_server.sampler.engine.linear import Linear

LEAST_ROWS = 16
ROW_QUANTUM = 8
TILE_ROWS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class RowProducts:
    """How rows meet a matrix."""

    tile: int | None = None
    """None: all rows in one product. Otherwise one product for every so many rows, always of the same size."""

    def padded(self, rows: int) -> int:
        """Number of rows, padding included, that a batch of `rows` is computed with."""
        if self.tile is not None:
            return -(-rows // self.tile) * self.tile
        return max(LEAST_ROWS, -(-rows // ROW_QUANTUM) * ROW_QUANTUM)

    def __call__(self, linear: Linear, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]; rows as `padded` gives them."""
        if self.tile is None:
            return linear(x)
        return torch.cat([linear(tile) for tile in torch.split(x, self.tile)])
