"""A `datasets.Dataset` as rows: read from its memory-mapped files."""

from typing import TYPE_CHECKING

from tinsmith_server.dataset.columns import Column
from tinsmith_server.dataset.plain import plain
from tinsmith_server.dataset.rows import Indices, Row

if TYPE_CHECKING:
    import datasets


class HubRows:
    """Rows on disk; the system's page cache holds what is read often."""

    quick = False
    size_bytes = 0

    def __init__(self, dataset: "datasets.Dataset") -> None:
        # Plain values instead of decoded pictures and sounds: rows are JSON.
        self._table = dataset.with_format("arrow")
        self._types = dataset.features.arrow_schema
        self.names: tuple[str, ...] = tuple(dataset.column_names)
        self.length: int = len(dataset)

    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(name=field.name, type=str(field.type)) for field in self._types)

    def read(self, indices: Indices) -> list[Row]:
        return [plain(row) for row in self._table[indices.tolist()].to_pylist()] if len(indices) else []
