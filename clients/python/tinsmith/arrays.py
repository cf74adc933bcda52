"""Tensors of the wire as numpy arrays, without copying where that is possible. Needs numpy: `tinsmith[numpy]`."""

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from tinsmith.types.v1 import DTYPE_FLOAT32, DTYPE_INT32, DTYPE_INT64, Dtype, RaggedTensor, Tensor

__all__ = ["array", "flat_and_offsets", "ragged", "ragged_of", "rows", "tensor"]

Array = npt.NDArray[Any]

_NUMPY: dict[int, np.dtype[Any]] = {
    DTYPE_FLOAT32: np.dtype("<f4"),
    DTYPE_INT32: np.dtype("<i4"),
    DTYPE_INT64: np.dtype("<i8"),
}
_WIRE: dict[np.dtype[Any], Dtype.ValueType] = {
    np.dtype("<f4"): DTYPE_FLOAT32,
    np.dtype("<i4"): DTYPE_INT32,
    np.dtype("<i8"): DTYPE_INT64,
}


def tensor(values: npt.ArrayLike) -> Tensor:
    """An array as a Tensor. float64, float16 become float32; other integers and booleans int64."""
    values = _on_the_wire(np.asarray(values))
    return Tensor(dtype=_WIRE[values.dtype], shape=values.shape, data=values.tobytes())


def array(message: Tensor) -> Array:
    """A Tensor as a read-only array that shares its memory. ValueError when its size is not that of its shape."""
    return np.frombuffer(message.data, _dtype(message.dtype)).reshape(tuple(message.shape))


def ragged(rows: Sequence[npt.ArrayLike], dtype: npt.DTypeLike) -> RaggedTensor:
    """Rows of different lengths, each [length, ...] with the same inner shape, as a RaggedTensor."""
    arrays = [np.asarray(row, dtype) for row in rows]
    offsets = np.zeros(len(arrays) + 1, "<i8")
    np.cumsum([len(row) for row in arrays], out=offsets[1:])
    return ragged_of(np.concatenate(arrays) if arrays else np.zeros(0, dtype), offsets)


def ragged_of(flat: Array, offsets: Array) -> RaggedTensor:
    """Rows laid end to end, [elements, ...], and their boundaries, int64 [rows + 1], as a RaggedTensor."""
    flat = _on_the_wire(flat)
    return RaggedTensor(
        dtype=_WIRE[flat.dtype],
        offsets=np.ascontiguousarray(offsets, "<i8").tobytes(),
        inner_shape=flat.shape[1:],
        data=flat.tobytes(),
    )


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
    if offsets[0] != 0 or offsets[-1] != len(flat) or (np.diff(offsets) < 0).any():
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


def _on_the_wire(values: Array) -> Array:
    if values.dtype in _WIRE:
        return np.ascontiguousarray(values)
    return np.ascontiguousarray(values, "<f4" if values.dtype.kind == "f" else "<i8")
