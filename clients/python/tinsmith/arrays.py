"""Tensors of the wire as numpy arrays, without copying where that is possible. Needs numpy: `tinsmith[numpy]`.

Values may be numpy arrays, nested lists, or tensors of torch or JAX. On the wire floats of every width, bfloat16 too,
are float32; integers and booleans are int64, int32 stays. A number that has no place there is a ValueError that names
it, never another number: 1.5 as an integer, 1e39 as float32, 2**63 as int64. NaN and infinity are numbers of float32.
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from tinsmith.types.v1 import (
    DTYPE_FLOAT32,
    DTYPE_INT32,
    DTYPE_INT64,
    Column,
    Dtype,
    RaggedTensor,
    SparseRaggedTensor,
    Tensor,
)

__all__ = [
    "array",
    "column_of",
    "dense_and_offsets",
    "flat_and_offsets",
    "ragged",
    "ragged_of",
    "rows",
    "sparse_of",
    "tensor",
]

Array = npt.NDArray[Any]

_NUMPY: dict[int, np.dtype[Any]] = {
    DTYPE_FLOAT32: np.dtype("<f4"),
    DTYPE_INT32: np.dtype("<i4"),
    DTYPE_INT64: np.dtype("<i8"),
}
_FLOAT, _INTEGER = _NUMPY[DTYPE_FLOAT32], _NUMPY[DTYPE_INT64]
_NUMBERS = "fiub"
"""numpy's kinds of numbers that are taken."""
_WIRE: dict[np.dtype[Any], Dtype.ValueType] = {
    np.dtype("<f4"): DTYPE_FLOAT32,
    np.dtype("<i4"): DTYPE_INT32,
    np.dtype("<i8"): DTYPE_INT64,
}


def tensor(values: npt.ArrayLike) -> Tensor:
    """An array as a Tensor; ValueError for a number that has no place in it."""
    flat = _on_the_wire(_as_array(values))
    return Tensor(dtype=_WIRE[flat.dtype], shape=flat.shape, data=flat.tobytes())


def array(message: Tensor) -> Array:
    """A Tensor as a read-only array that shares its memory. ValueError when its size is not that of its shape."""
    flat = np.frombuffer(message.data, _dtype(message.dtype))
    if prod(message.shape) != len(flat) or any(extent < 0 for extent in message.shape):
        raise ValueError(f"can't reshape {len(flat)} values into {list(message.shape)}")
    return flat.reshape(tuple(message.shape))


def ragged(rows: Sequence[npt.ArrayLike], dtype: npt.DTypeLike) -> RaggedTensor:
    """Rows of different lengths, each [length, ...] with the same inner shape, as a RaggedTensor of this type.

    ValueError for a number that has no place in it.
    """
    arrays = [_as_array(row) for row in rows]
    offsets = np.zeros(len(arrays) + 1, "<i8")
    np.cumsum([len(row) for row in arrays], out=offsets[1:])
    return ragged_of(_joined(arrays, np.dtype(dtype)), offsets)


def ragged_of(flat: Array, offsets: Array) -> RaggedTensor:
    """Rows laid end to end, [elements, ...], and their boundaries, int64 [rows + 1], as a RaggedTensor."""
    flat = _on_the_wire(flat)
    return RaggedTensor(
        dtype=_WIRE[flat.dtype],
        offsets=np.ascontiguousarray(offsets, "<i8").tobytes(),
        inner_shape=flat.shape[1:],
        data=flat.tobytes(),
    )


def sparse_of(flat: Array, offsets: Array, *, pad_value: float = 0.0) -> SparseRaggedTensor:
    """Rows laid end to end, [elements, width], of which most values are `pad_value`, in compressed sparse row form."""
    flat = _on_the_wire(flat)
    stored = flat != pad_value
    return SparseRaggedTensor(
        dtype=_WIRE[flat.dtype],
        offsets=np.ascontiguousarray(offsets, "<i8").tobytes(),
        entries=np.concatenate([[0], np.cumsum(stored.sum(axis=1))]).astype("<i8").tobytes(),
        columns=np.nonzero(stored)[1].astype("<i8").tobytes(),
        data=flat[stored].tobytes(),
        width=flat.shape[1],
        pad_value=pad_value,
    )


def column_of(flat: Array, offsets: Array, *, pad_value: float = 0.0) -> Column:
    """Rows laid end to end, [elements] or [elements, width], as a column: sparse where that takes fewer numbers."""
    if flat.ndim == 2:
        stored = np.count_nonzero(flat != pad_value)
        if (len(flat) + 1) + 2 * stored < flat.size:
            return Column(sparse=sparse_of(flat, offsets, pad_value=pad_value))
    return Column(ragged=ragged_of(flat, offsets))


def dense_and_offsets(message: SparseRaggedTensor) -> tuple[Array, Array]:
    """The rows with all their values, laid end to end, [elements, width], and their boundaries, int64 [rows + 1].

    ValueError, naming what is wrong, when the parts do not fit each other.
    """
    offsets, entries, columns = (
        np.frombuffer(part, "<i8") for part in (message.offsets, message.entries, message.columns)
    )
    data = np.frombuffer(message.data, _dtype(message.dtype))
    if not _rises(entries, len(data)) or not _rises(offsets, len(entries) - 1):
        raise ValueError("offsets must rise from 0 to the number of elements, entries to the number of values")
    if len(columns) != len(data) or (len(columns) and not 0 <= columns.min() <= columns.max() < message.width):
        raise ValueError(f"columns must be one a value, each from 0 to {message.width - 1}")
    flat = np.full((len(entries) - 1, message.width), message.pad_value, data.dtype)
    flat[np.repeat(np.arange(len(flat)), np.diff(entries)), columns] = data
    return flat, offsets


def flat_and_offsets(message: RaggedTensor) -> tuple[Array, Array]:
    """The rows laid end to end, [elements, ...], and their boundaries, int64 [rows + 1]. They share its memory.

    ValueError, naming what is wrong, when the boundaries do not fit the data.
    """
    inner = tuple(message.inner_shape)
    flat = np.frombuffer(message.data, _dtype(message.dtype))
    if len(flat) % prod(inner):
        raise ValueError(f"{len(flat)} values are no whole number of elements of shape {inner}")
    flat = flat.reshape(-1, *inner)
    offsets = np.frombuffer(message.offsets, "<i8") if message.offsets else np.zeros(1, "<i8")
    if not _rises(offsets, len(flat)):
        raise ValueError(f"offsets must rise from 0 to the {len(flat)} elements of the data")
    return flat, offsets


def rows(message: RaggedTensor) -> list[Array]:
    """The rows as read-only arrays that share the message's memory."""
    flat, offsets = flat_and_offsets(message)
    bounds: Iterable[tuple[int, int]] = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return [flat[start:stop] for start, stop in bounds]


def _dtype(wire: Dtype.ValueType) -> np.dtype[Any]:
    if wire not in _NUMPY:
        raise ValueError(f"unknown element type {Dtype.Name(wire) if wire in Dtype.values() else wire}")
    return _NUMPY[wire]


def _rises(bounds: Array, end: int) -> bool:
    """Whether these are boundaries from 0 to the end."""
    return len(bounds) > 0 and bounds[0] == 0 and bounds[-1] == end and not (np.diff(bounds) < 0).any()


def _as_array(values: Any) -> Array:
    """As numpy has it. It has no bfloat16, and torch does not widen it by itself."""
    if isinstance(values, np.ndarray) and values.dtype.kind in _NUMBERS:
        return values
    name = str(getattr(values, "dtype", ""))
    if name == "torch.bfloat16":
        values = values.float()
    elif name == "bfloat16":
        values = values.astype(np.float32)
    return np.asarray(values)


def _joined(arrays: Sequence[Array], dtype: np.dtype[Any]) -> Array:
    """The rows laid end to end. Those of different types are converted one by one: numpy would join int64 and float64
    as float64, which has no place for large integers."""
    filled = [row for row in arrays if row.size]
    if not filled:
        return (arrays[0] if arrays else np.zeros(0)).astype(dtype)
    if len({row.dtype for row in filled}) > 1:
        filled = [_cast(row, dtype) for row in filled]
    return _cast(np.concatenate(filled), dtype)


def _on_the_wire(values: Array) -> Array:
    if values.dtype in _WIRE:
        return values
    return _cast(values, _FLOAT if values.dtype.kind == "f" else _INTEGER)


def _cast(values: Array, dtype: np.dtype[Any]) -> Array:
    """The same numbers as another type; floats may be rounded. ValueError for one that would become another."""
    if values.dtype == dtype:
        return values
    if values.dtype.kind not in _NUMBERS and values.size:
        raise ValueError(f"{values.flat[0]!r} is no number that fits in {dtype.name}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
        wrong = np.isfinite(values) & np.isinf(cast) if dtype.kind == "f" else cast != values
    if wrong.any():
        raise ValueError(f"{values[wrong][0]!r} does not fit in {dtype.name}")
    return cast
