"""Rows of different lengths, laid end to end."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ragged:
    """Row i is `values[offsets[i] : offsets[i + 1]]`."""

    values: Array
    """[elements, ...]."""
    offsets: NDArray[np.int64]
    """[rows + 1], rising from 0 to the number of elements."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[rows]."""
        return np.diff(self.offsets)

    def row_of(self, element: int) -> int:
        """The row that an element belongs to."""
        return int(np.searchsorted(self.offsets, element, side="right")) - 1
