"""Rows of different lengths in one buffer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ragged:
    """Row i is `flat[offsets[i] : offsets[i + 1]]`."""

    flat: NDArray[Any]
    """The rows end to end, [elements]."""
    offsets: NDArray[np.int64]
    """Row boundaries, int64 [rows + 1], the first 0."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Elements of each row, int64 [rows]."""
        return np.diff(self.offsets)

    def row(self, number: int) -> NDArray[Any]:
        return self.flat[self.offsets[number] : self.offsets[number + 1]]

    def take(self, rows: NDArray[np.int64]) -> "Ragged":
        """The named rows in the named order; a row may be named several times."""
        offsets = offsets_of(self.lengths[rows])
        return Ragged(flat=self.flat[places(offsets, self.offsets[rows])], offsets=offsets)


def offsets_of(lengths: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
    """Boundaries of rows of these lengths, int64 [rows + 1]."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def joined(first: Ragged, second: Ragged) -> Ragged:
    """Each row of `first` with the same row of `second` behind it."""
    lengths = first.lengths + second.lengths
    offsets = offsets_of(lengths)
    flat = np.empty(offsets[-1], np.result_type(first.flat, second.flat))
    flat[places(first.offsets, offsets[:-1])] = first.flat
    flat[places(second.offsets, offsets[:-1] + first.lengths)] = second.flat
    return Ragged(flat=flat, offsets=offsets)


def places(offsets: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the elements of rows with these boundaries lie in a buffer in which row i begins at starts[i]."""
    return np.repeat(starts - offsets[:-1], np.diff(offsets)) + np.arange(offsets[-1])


def by_length(offsets: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each length above 0 that rows with these boundaries have, with the numbers of those rows, rising.

    For what can be done with many rows at once only where they are equally long: a batch has many rows but few lengths.
    """
    lengths = np.diff(offsets)
    order = np.argsort(lengths, kind="stable")
    distinct, firsts = np.unique(lengths[order], return_index=True)
    for length, rows in zip(distinct.tolist(), np.split(order, firsts)[1:], strict=True):
        if length:
            yield length, rows
