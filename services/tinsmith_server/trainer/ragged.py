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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseRagged:
    """Rows whose elements are vectors of one width, most of whose values are alike. Element e has
    `values[entries[e] : entries[e + 1]]` in `columns[...]`, and `pad_value` elsewhere."""

    values: Array
    """[stored]."""
    columns: NDArray[np.int64]
    """[stored], from 0 to `width` - 1."""
    entries: NDArray[np.int64]
    """[elements + 1], rising from 0 to the number of stored values."""
    offsets: NDArray[np.int64]
    """As those of `Ragged`."""
    width: int
    pad_value: float

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[rows]."""
        return np.diff(self.offsets)

    def row_of(self, element: int) -> int:
        """The row that an element belongs to."""
        return int(np.searchsorted(self.offsets, element, side="right")) - 1

    def dense(self, elements: NDArray[np.int64] | None = None) -> Array:
        """Some elements, or all, with all their values: [elements, width]."""
        chosen = np.arange(len(self.entries) - 1) if elements is None else elements
        dense = np.full((len(chosen), self.width), self.pad_value, self.values.dtype)
        sizes = self.entries[chosen + 1] - self.entries[chosen]
        rows = np.repeat(np.arange(len(chosen)), sizes)
        # The stored values of the chosen elements, counted on from where each element's begin.
        begins = self.entries[chosen] - (np.cumsum(sizes) - sizes)
        stored = np.repeat(begins, sizes) + np.arange(len(rows))
        dense[rows, self.columns[stored]] = self.values[stored]
        return dense
