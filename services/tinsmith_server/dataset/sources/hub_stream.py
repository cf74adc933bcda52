"""A `datasets.IterableDataset` as rows: read one after the other, going on where the last reader stopped."""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from tinsmith_server.dataset.columns import Column, columns_of
from tinsmith_server.dataset.plain import plain
from tinsmith_server.dataset.rows import Indices, Row

if TYPE_CHECKING:
    import datasets


class HubStream:
    """Rows of a streaming dataset. Reading on is cheap; reading back, or far ahead, reads all the rows before again."""

    quick = False
    size_bytes = 0

    def __init__(self, dataset: "datasets.IterableDataset", names: Sequence[str] = ()) -> None:
        self._dataset = dataset
        self._lock = threading.Lock()
        self._place = 0
        self._ahead: Iterator[Row] | None = None
        self._known_names = tuple(names) or tuple(dataset.column_names or ())
        self.length: int | None = None
        """Known once the end was reached."""

    @property
    def names(self) -> tuple[str, ...]:
        if not self._known_names:
            self._known_names = tuple(next(iter(self._dataset), {}))
        return self._known_names

    def columns(self) -> tuple[Column, ...]:
        return columns_of(self.names, [plain(row) for row in islice(iter(self._dataset), 1)])

    def read(self, indices: Indices) -> list[Row]:
        """As `Rows.read`, for rising numbers."""
        if not len(indices):
            return []
        with self._lock:
            wanted = set(indices.tolist())
            found = self._rows_between(int(indices.min()), int(indices.max()) + 1)
            return [row for number, row in found if number in wanted]

    def shuffled(self, seed: int, buffer_size: int) -> "HubStream":
        return HubStream(self._dataset.shuffle(seed=seed, buffer_size=buffer_size), self.names)

    def taken(self, count: int) -> "HubStream":
        return HubStream(self._dataset.take(count), self.names)

    def skipped(self, count: int) -> "HubStream":
        return HubStream(self._dataset.skip(count), self.names)

    def filtered(self, keep: Callable[[Row, int], bool]) -> "HubStream":
        numbers = count()
        return HubStream(self._dataset.filter(lambda row: keep(row, next(numbers))), self.names)

    def mapped(self, names: Sequence[str], make: Callable[[Row], Row]) -> "HubStream":
        made = self._dataset.map(lambda row: make(plain(row)), remove_columns=list(self.names))
        return HubStream(made, names)

    def _rows_between(self, start: int, stop: int) -> list[tuple[int, Row]]:
        if self._ahead is None or start < self._place:
            self._ahead, self._place = iter(self._dataset), 0
        for _ in islice(self._ahead, start - self._place):
            self._place += 1
        found: list[tuple[int, Any]] = []
        for row in islice(self._ahead, stop - max(start, self._place) if self._place >= start else 0):
            found.append((self._place, plain(row)))
            self._place += 1
        if self._place < stop:
            self.length = self._place
        return found
