"""A dataset as a value: a source and the operations on it. See `spec.proto` for what each means."""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from tinsmith_server.dataset.rows import RowShape


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogueSource:
    name: str
    split: str
    options: tuple[tuple[str, str], ...]
    """(name, value), sorted by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    id: str
    config: str = ""
    split: str = ""
    revision: str = ""
    streaming: bool = False


class FileFormat(IntEnum):
    """The numbers are those of the contract."""

    BY_NAME = 0
    JSONL = 1
    CSV = 2
    PARQUET = 3
    ARROW = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class FilesSource:
    uris: tuple[str, ...]
    format: FileFormat
    skip_bad_rows: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class InlineSource:
    rows_json: tuple[bytes, ...]


Source: TypeAlias = CatalogueSource | HubSource | FilesSource | InlineSource


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectColumns:
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MapFields:
    fields: tuple[tuple[str, str], ...]
    """(new column, path in the old row), sorted by the new column."""
    keep_others: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    expression: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Shuffle:
    seed: int
    buffer_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Skip:
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    start: int
    stop: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Concat:
    datasets: tuple["DatasetSpec", ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    test_size: int
    test_fraction: float
    seed: int
    test_side: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Dedupe:
    columns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRows:
    count: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Canonicalize:
    shape: RowShape
    columns: tuple[tuple[str, str], ...]
    """(part of the shape, column or path), sorted by the part."""
    few_shot: tuple[tuple[str, str], ...] = ()
    """(role, content) of the turns before the question."""
    question_suffix: str = ""


Operation: TypeAlias = (
    SelectColumns
    | MapFields
    | Filter
    | Shuffle
    | Take
    | Skip
    | Slice
    | Concat
    | Split
    | Dedupe
    | SampleRows
    | Canonicalize
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSpec:
    """A dataset."""

    source: Source
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How rows are cut into batches; see Batching in `dataset_service.proto`."""

    batch_size: int
    drop_last: bool = False
    epochs: int = 1
    """0 goes on for ever."""
    shuffle_epochs: bool = False
    seed: int = 0
    continuous: bool = False
