"""Rows with random access: what every source becomes and every operation works on.

A row is a dict of plain JSON values. Sources and operations keep what they can lazy: a permutation is an array of row
numbers, a mapping is a function that is called when a row is read.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.dataset.columns import Column, columns_of, union
from tinsmith_server.serving.errors import NotFound

Row = dict[str, Any]
Indices = NDArray[np.int64]

_CHUNK = 1024


class RowShape(IntEnum):
    """The canonical shapes; the numbers are those of the contract."""

    JSON = 0
    PROBLEM = 1
    CONVERSATION = 2
    PREFERENCE = 3
    PROMPT = 4


class Rows(Protocol):
    """Rows by number."""

    @property
    def length(self) -> int | None:
        """How many; None when there is no end, or none is known yet."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""

    @property
    def quick(self) -> bool:
        """Whether rows are in memory or computed at once, so that the event loop may read some."""

    @property
    def size_bytes(self) -> int:
        """About how much memory they hold."""

    def columns(self) -> tuple[Column, ...]:
        """The columns with their types. May look at every row."""

    def read(self, indices: Indices) -> list[Row]:
        """The rows of these numbers, int64 [rows], each below `length`. Where that is None, rows from the end on are
        left out."""


def each_chunk(rows: Rows, length: int) -> Iterator[list[Row]]:
    """All rows in order, some at a time."""
    for start in range(0, length, _CHUNK):
        yield rows.read(np.arange(start, min(start + _CHUNK, length)))


def require_columns(rows: Rows, wanted: Sequence[str]) -> None:
    """NotFound with reason COLUMN_NOT_FOUND names the first column that is not there, and those that are."""
    for name in wanted:
        if name not in rows.names:
            raise NotFound(
                f"no column {name!r}; there are {', '.join(rows.names) or 'none'}",
                reason="COLUMN_NOT_FOUND",
                metadata={"column": name, "columns": ",".join(rows.names)},
            )


class ListRows:
    """Rows in memory. Columns are the union of their keys; what a row lacks is null."""

    quick = True

    def __init__(self, rows: Sequence[Row], *, size_bytes: int) -> None:
        self.names = tuple(dict.fromkeys(name for row in rows for name in row))
        self._rows = [row if len(row) == len(self.names) else dict.fromkeys(self.names) | row for row in rows]
        self.length = len(rows)
        self.size_bytes = size_bytes

    def columns(self) -> tuple[Column, ...]:
        return columns_of(self.names, self._rows)

    def read(self, indices: Indices) -> list[Row]:
        return [self._rows[index] for index in indices.tolist()]


class SelectedRows:
    """Some rows of others, in another order."""

    def __init__(self, inner: Rows, indices: Indices) -> None:
        # A selection of a selection is a selection: reading costs one step however many there were.
        selection = inner if isinstance(inner, SelectedRows) else None
        self._inner: Rows = inner if selection is None else selection._inner
        self._indices: Indices = indices if selection is None else selection._indices[indices]
        self.length = len(indices)

    @property
    def names(self) -> tuple[str, ...]:
        return self._inner.names

    @property
    def quick(self) -> bool:
        return self._inner.quick

    @property
    def size_bytes(self) -> int:
        return self._inner.size_bytes + self._indices.nbytes

    def columns(self) -> tuple[Column, ...]:
        return self._inner.columns()

    def read(self, indices: Indices) -> list[Row]:
        return self._inner.read(self._indices[indices])


class MappedRows:
    """Rows made of others, each of one."""

    def __init__(self, inner: Rows, names: Sequence[str], make: Callable[[Row], Row]) -> None:
        self._inner = inner
        self._make = make
        self.names = tuple(names)

    @property
    def length(self) -> int | None:
        return self._inner.length

    @property
    def quick(self) -> bool:
        return self._inner.quick

    @property
    def size_bytes(self) -> int:
        return self._inner.size_bytes

    def columns(self) -> tuple[Column, ...]:
        if self.length is None:
            return columns_of(self.names, self.read(np.arange(1)))
        return columns_of(self.names, (row for chunk in each_chunk(self, self.length) for row in chunk))

    def read(self, indices: Indices) -> list[Row]:
        return [self._make(row) for row in self._inner.read(indices)]


class ConcatenatedRows:
    """Rows of several datasets, one after the other; what a part lacks is null."""

    def __init__(self, parts: Sequence[Rows], lengths: Sequence[int]) -> None:
        self._parts = parts
        self._bounds = np.cumsum([0, *lengths])
        self.names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        self.length = int(self._bounds[-1])

    @property
    def quick(self) -> bool:
        return all(part.quick for part in self._parts)

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self._parts)

    def columns(self) -> tuple[Column, ...]:
        return union([part.columns() for part in self._parts])

    def read(self, indices: Indices) -> list[Row]:
        found: list[Row] = [{}] * len(indices)
        owners = np.searchsorted(self._bounds, indices, side="right") - 1
        for number in np.unique(owners).tolist():
            places = np.flatnonzero(owners == number)
            rows = self._parts[number].read(indices[places] - self._bounds[number])
            for place, row in zip(places.tolist(), rows, strict=True):
                found[place] = row if len(row) == len(self.names) else dict.fromkeys(self.names) | row
        return found
