"""From a DatasetSpec to an open dataset."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from tinsmith_server.dataset import spec
from tinsmith_server.dataset.opened import OpenedDataset, Step
from tinsmith_server.dataset.operations import apply, shape_after
from tinsmith_server.dataset.rows import ListRows, Rows, RowShape
from tinsmith_server.dataset.settings import DatasetSettings
from tinsmith_server.dataset.sources.arithmetic import BLOCK, ArithmeticRows
from tinsmith_server.dataset.sources.bad_rows import BadRows
from tinsmith_server.dataset.sources.catalogue import find_entry, open_entry
from tinsmith_server.dataset.sources.files import locate_all, open_files
from tinsmith_server.dataset.sources.first_rows import FirstRows
from tinsmith_server.dataset.sources.hub import Hub
from tinsmith_server.dataset.sources.jsonl import read_objects
from tinsmith_server.serving.errors import InvalidArgument

_DEEPEST = 8
"""Concats within each other."""


class Opener:
    """Opens datasets with what the settings allow. Blocks: not for the event loop."""

    def __init__(self, settings: DatasetSettings) -> None:
        self._settings = settings
        self._hub = Hub(mirror=settings.mirror_directory, cache=settings.hub_cache)

    def stamp(self, wanted: spec.DatasetSpec) -> tuple[object, ...]:
        """What changes when the data behind a spec do: size and time of its files. Raises what `locate` raises."""
        own = _stamps(wanted.source, self._settings)
        nested = [self.stamp(other) for operation in wanted.operations for other in _others(operation)]
        return (*own, *nested)

    def is_cut_by_batch(self, wanted: spec.DatasetSpec) -> bool:
        """Whether the rows depend on the size of the batches that are asked for."""
        is_arithmetic = isinstance(wanted.source, spec.CatalogueSource) and wanted.source.name == "arithmetic"
        return is_arithmetic and all(isinstance(operation, spec.Take) for operation in wanted.operations)

    def open(self, wanted: spec.DatasetSpec, *, batch_size: int, depth: int = 0) -> OpenedDataset:
        """The rows of a spec. Raises what `dataset_service.proto` says of every call that names a dataset.

        `batch_size` matters to sources that make their rows by the batch.
        """
        if depth > _DEEPEST:
            raise InvalidArgument(
                f"datasets are nested more than {_DEEPEST} deep", reason="TOO_DEEP", metadata={"limit": str(_DEEPEST)}
            )
        source, shape, skipped = self._source(wanted.source)
        if isinstance(source, ArithmeticRows) and self.is_cut_by_batch(wanted):
            source = source.in_blocks(batch_size)
        rows, raw = source, source
        steps: list[Step] = []
        for operation in wanted.operations:
            others = [self.open(other, batch_size=BLOCK, depth=depth + 1) for other in _others(operation)]
            if isinstance(operation, spec.Canonicalize):
                raw = rows
            rows = _apply(rows, operation, [other.rows for other in others], self._settings.filter_timeout_s)
            shape = shape_after(shape, operation)
            if any(other.shape is not shape for other in others):
                shape = RowShape.JSON
            if shape is RowShape.JSON:
                raw = rows
            skipped += sum(other.skipped for other in others)
            steps.append(_step(operation, others))
        identity = [type(wanted.source).__name__, _plain(wanted.source), *_sizes(wanted.source, self._settings)]
        return OpenedDataset(
            rows=rows, shape=shape, raw=raw, source=source, identity=identity, steps=steps, skipped=skipped
        )

    def _source(self, source: spec.Source) -> tuple[Rows, RowShape, int]:
        """The rows of a source, their shape, and how many were left out."""
        match source:
            case spec.CatalogueSource():
                return open_entry(source, self._hub), find_entry(source).shape, 0
            case spec.HubSource():
                return self._hub.open(source), RowShape.JSON, 0
            case spec.FilesSource():
                files = locate_all(source, self._settings.data_directory)
                rows, skipped = open_files(source, files, max_bytes=self._settings.max_file_bytes)
                return rows, RowShape.JSON, skipped
            case spec.InlineSource(rows_json=texts):
                inline = list(read_objects(texts, "inline", BadRows(skip=False)))
                return ListRows(inline, size_bytes=4 * sum(map(len, texts))), RowShape.JSON, 0


def _apply(rows: Rows, operation: spec.Operation, others: Sequence[Rows], filter_timeout_s: float) -> Rows:
    if isinstance(operation, spec.Take) and isinstance(rows, ArithmeticRows):
        return FirstRows(rows, operation.count)
    return apply(rows, operation, others=others, filter_timeout_s=filter_timeout_s)


def _others(operation: spec.Operation) -> Sequence[spec.DatasetSpec]:
    return operation.datasets if isinstance(operation, spec.Concat) else ()


def _stamps(source: spec.Source, settings: DatasetSettings) -> list[object]:
    if not isinstance(source, spec.FilesSource):
        return []
    return [(file.name, file.size, file.changed_ns) for file in locate_all(source, settings.data_directory)]


def _sizes(source: spec.Source, settings: DatasetSettings) -> list[object]:
    """As `_stamps`, but equal on every host."""
    if not isinstance(source, spec.FilesSource):
        return []
    return [[file.name, file.size] for file in locate_all(source, settings.data_directory)]


def _step(operation: spec.Operation, others: Sequence[OpenedDataset]) -> Step:
    alone = replace(operation, datasets=()) if isinstance(operation, spec.Concat) else operation
    return Step(operation=[type(operation).__name__, _plain(alone)], others=tuple(others))


def _plain(value: Any) -> dict[str, Any]:
    made: dict[str, Any] = asdict(value)
    if isinstance(value, spec.InlineSource):
        made["rows_json"] = [text.decode(errors="replace") for text in value.rows_json]
    return made
