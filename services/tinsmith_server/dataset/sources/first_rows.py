"""The first rows of a source without an end."""

from tinsmith_server.dataset.columns import Column
from tinsmith_server.dataset.rows import Indices, Row, Rows


class FirstRows:
    """As many rows as were taken; nothing is made before it is read."""

    def __init__(self, inner: Rows, length: int) -> None:
        self._inner = inner
        self.length = length
        self.names = inner.names
        self.quick = inner.quick
        self.size_bytes = inner.size_bytes

    def columns(self) -> tuple[Column, ...]:
        return self._inner.columns()

    def read(self, indices: Indices) -> list[Row]:
        return self._inner.read(indices)
