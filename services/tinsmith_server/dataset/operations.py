"""The operations of a dataset. Orders are those of `datasets`: numpy.random.default_rng(seed).permutation(rows)."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from tinsmith_server.dataset import spec
from tinsmith_server.dataset.canonical import SHAPE_COLUMNS, canonicalizer
from tinsmith_server.dataset.expression import predicate
from tinsmith_server.dataset.paths import first_column, reader
from tinsmith_server.dataset.plain import canonical_json
from tinsmith_server.dataset.rows import (
    ConcatenatedRows,
    Indices,
    MappedRows,
    Row,
    Rows,
    RowShape,
    SelectedRows,
    each_chunk,
    require_columns,
)
from tinsmith_server.dataset.sources.hub_stream import HubStream
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument

_MOST_ORDERED = 1 << 25
"""Rows whose order is kept as a list of numbers: 256 MiB of them."""


def permutation(seed: int, length: int) -> Indices:
    """Row numbers in the order of `datasets`' shuffle(seed), int64 [length].

    InvalidArgument with reason BAD_SEED; FailedPrecondition with reason ENDLESS_DATASET for more than 2^25 rows.
    """
    _refuse_when_too_long(length)
    if seed < 0:
        raise InvalidArgument(
            f"seed {seed} is negative; a shuffle takes seeds from 0", reason="BAD_SEED", metadata={"seed": str(seed)}
        )
    return np.random.default_rng(seed).permutation(length)


def _refuse_when_too_long(length: int) -> None:
    if length > _MOST_ORDERED:
        raise FailedPrecondition(
            f"{length} rows are too many to be put in an order: put a take of at most {_MOST_ORDERED} before",
            reason="ENDLESS_DATASET",
            metadata={"rows": str(length), "limit": str(_MOST_ORDERED)},
        )


def shape_after(shape: RowShape, operation: spec.Operation) -> RowShape:
    """The canonical shape that rows of `shape` have behind an operation."""
    if isinstance(operation, spec.Canonicalize):
        return operation.shape
    return RowShape.JSON if isinstance(operation, spec.SelectColumns | spec.MapFields) else shape


def apply(rows: Rows, operation: spec.Operation, *, others: Sequence[Rows], filter_timeout_s: float) -> Rows:
    """The rows behind an operation; `others` are the opened datasets of a Concat.

    Blocks where it must look at every row (Filter, Dedupe). Raises what `dataset_service.proto` says, and
    FailedPrecondition with reason ENDLESS_DATASET or STREAMING_UNSUPPORTED where the operation needs the number of
    rows and there is none.
    """
    changed = _of_each_row(rows, operation)
    if changed is not None:
        return changed
    if isinstance(rows, HubStream):
        return _of_stream(rows, operation)
    length = length_of(rows, operation)
    match operation:
        case spec.Filter():
            keep = predicate(operation.expression, timeout_s=filter_timeout_s)
            return _kept(rows, length, keep)
        case spec.Dedupe():
            return _deduplicated(rows, length, operation.columns)
        case spec.Concat():
            parts = [rows, *others]
            lengths = [length_of(part, operation) for part in parts]
            joined = ConcatenatedRows(parts, lengths)
            joined.columns()  # raises where types clash
            return joined
        case _:
            return SelectedRows(rows, _order(operation, length))


def length_of(rows: Rows, operation: spec.Operation) -> int:
    """The number of rows. FailedPrecondition when an operation needs it and there is none."""
    if rows.length is not None:
        return rows.length
    name = type(operation).__name__
    is_stream = isinstance(rows, HubStream)
    raise FailedPrecondition(
        f"{name} needs to know the number of rows; "
        + ("a streaming dataset does not tell: set streaming to false" if is_stream else "put a take before it"),
        reason="STREAMING_UNSUPPORTED" if is_stream else "ENDLESS_DATASET",
        metadata={"operation": name},
    )


def _of_each_row(rows: Rows, operation: spec.Operation) -> Rows | None:
    """Operations that make each row of one row; None for the others."""
    match operation:
        case spec.SelectColumns(columns=columns):
            require_columns(rows, columns)
            return _mapped(rows, columns, lambda row: {name: row[name] for name in columns})
        case spec.MapFields():
            return _with_fields(rows, operation)
        case spec.Canonicalize():
            make = canonicalizer(operation, rows.names)
            require_columns(rows, [first_column(path) for _, path in operation.columns])
            return _mapped(rows, SHAPE_COLUMNS[operation.shape], make)
        case _:
            return None


def _with_fields(rows: Rows, operation: spec.MapFields) -> Rows:
    require_columns(rows, [first_column(path) for _, path in operation.fields])
    readers = {name: reader(path) for name, path in operation.fields}
    kept = rows.names if operation.keep_others else ()
    names = tuple(dict.fromkeys((*kept, *readers)))
    return _mapped(
        rows,
        names,
        lambda row: {name: readers[name](row) if name in readers else row[name] for name in names},
    )


def _mapped(rows: Rows, names: Sequence[str], make: Callable[[Row], Row]) -> Rows:
    return rows.mapped(names, make) if isinstance(rows, HubStream) else MappedRows(rows, names, make)


def _of_stream(rows: HubStream, operation: spec.Operation) -> Rows:
    match operation:
        case spec.Shuffle():
            permutation(operation.seed, 0)  # raises for a seed that will not do
            return rows.shuffled(operation.seed, operation.buffer_size or 10_000)
        case spec.Take():
            return rows.taken(operation.count)
        case spec.Skip():
            return rows.skipped(operation.count)
        case spec.Filter():
            # A stream is filtered a batch at a time, by whoever reads it: there is no whole to bound.
            return rows.filtered(predicate(operation.expression, timeout_s=math.inf))
        case _:
            length_of(rows, operation)
            raise AssertionError("a stream has no length")


def _order(operation: spec.Operation, length: int) -> Indices:
    """Which rows an operation keeps, in its order."""
    _refuse_when_too_long(length)
    numbers = np.arange(length)
    match operation:
        case spec.Shuffle():
            return permutation(operation.seed, length)
        case spec.Take():
            return numbers[: operation.count]
        case spec.Skip():
            return numbers[operation.count :]
        case spec.Slice():
            return numbers[operation.start : operation.stop or length : operation.step or 1]
        case spec.SampleRows():
            return permutation(operation.seed, length)[: operation.count]
        case spec.Split():
            test = _test_size(operation, length)
            order = permutation(operation.seed, length)
            return order[:test] if operation.test_side else order[test:]
        case _:
            raise AssertionError(f"{operation} orders no rows")


def _test_size(operation: spec.Split, length: int) -> int:
    """Rows of the test side, rounded up, as `datasets` has it."""
    size = math.ceil(operation.test_fraction * length) if operation.test_fraction else operation.test_size
    if not 0 < size < length:
        raise InvalidArgument(
            f"a split of {length} rows can't have {size} on the test side; set test_size or test_fraction so that both "
            "sides have rows",
            reason="BAD_SPLIT",
            metadata={"rows": str(length), "test_size": str(size)},
        )
    return size


def _kept(rows: Rows, length: int, keep: Callable[[Row, int], bool]) -> Rows:
    number = 0
    kept: list[int] = []
    for chunk in each_chunk(rows, length):
        for row in chunk:
            if keep(row, number):
                kept.append(number)
            number += 1
    return SelectedRows(rows, np.array(kept, np.int64))


def _deduplicated(rows: Rows, length: int, columns: Sequence[str]) -> Rows:
    require_columns(rows, columns)
    names = columns or rows.names
    first: dict[bytes, int] = {}
    number = 0
    for chunk in each_chunk(rows, length):
        for row in chunk:
            first.setdefault(canonical_json([row[name] for name in names]), number)
            number += 1
    return SelectedRows(rows, np.array(list(first.values()), np.int64))
