"""Rows of different lengths in one buffer, as they travel and as the sampler returns them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """Row i is `values[offsets[i] : offsets[i + 1]]`."""

    values: NDArray[np.generic]
    """[elements, *inner shape]."""
    offsets: NDArray[np.int64]
    """int64 [rows + 1], the first 0."""

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.generic]], dtype: DTypeLike) -> "Ragged":
        """Lays `rows` end to end; without rows the result is empty."""
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        values = np.concatenate(rows) if rows else np.zeros(0)
        return cls(values=values.astype(dtype, copy=False), offsets=offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.generic]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[np.generic]]:
        return (self[row] for row in range(len(self)))
