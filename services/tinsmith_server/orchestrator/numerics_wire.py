"""Columns of NumericsService's messages as arrays, and back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.arrays import array, ragged_of, tensor
from tinsmith.types.v1 import RaggedTensor, Tensor
from tinsmith_server.orchestrator.numerics import check_finite, float32
from tinsmith_server.orchestrator.peers.wire import from_message
from tinsmith_server.orchestrator.ragged import Ragged
from tinsmith_server.serving.errors import InvalidArgument


def column(field: str, message: RaggedTensor, like: Ragged | None = None, *, scalars: bool = True) -> Ragged:
    """A column, sharing the message's memory. InvalidArgument with reason BAD_TENSOR.

    With `like` it must have that column's boundaries, with `scalars` no inner shape.
    """
    try:
        rows = from_message(message)
    except ValueError as error:
        raise bad_tensor(field, str(error)) from None
    if scalars and message.inner_shape:
        raise bad_tensor(field, "has an inner shape, but its elements must be scalars")
    if like is not None and not np.array_equal(rows.offsets, like.offsets):
        raise bad_tensor(field, "does not have the row boundaries of the columns before it")
    return rows


def flags(request: Any, field: str, like: Ragged) -> NDArray[np.bool_] | None:
    """Which elements of an optional column are above 0, bool [elements]; None when it is absent."""
    if not request.HasField(field):
        return None
    above: NDArray[np.bool_] = column(field, getattr(request, field), like).flat > 0
    return above


def one_a_row(field: str, message: Tensor, rows: int) -> NDArray[np.float64]:
    """A tensor [rows]. InvalidArgument with reason BAD_TENSOR."""
    try:
        values = array(message)
    except ValueError as error:
        raise bad_tensor(field, str(error)) from None
    if values.shape != (rows,):
        raise bad_tensor(field, f"its shape must be [{rows}], one value a row")
    return values.astype(np.float64)


def weighted_sums(field: str, logprobs: Ragged, weights: Ragged | None) -> NDArray[np.float64]:
    """Sum of each row's logprobs times weights, float64 [rows]; 1 without weights, and what weighs 0 does not count.

    InvalidArgument with reason NOT_FINITE.
    """
    terms = logprobs.flat.astype(np.float64)
    if weights is not None:
        counted = weights.flat != 0
        terms = np.where(counted, terms, 0.0) * weights.flat
    check_finite(field, terms)
    row_of = np.repeat(np.arange(len(logprobs)), logprobs.lengths)
    return np.bincount(row_of, terms, minlength=len(logprobs)).astype(np.float64, copy=False)  # int64 without rows


def rows_message(flat: NDArray[np.float32], offsets: NDArray[np.int64]) -> RaggedTensor:
    """Rows as a message."""
    return ragged_of(flat, offsets)


def values_message(field: str, values: NDArray[np.float64]) -> Tensor:
    """Numbers as float32. InvalidArgument with reason NOT_FINITE when one is too large for that."""
    return tensor(float32(field, values))


def bad_tensor(field: str, description: str) -> InvalidArgument:
    """The error of a column that does not fit."""
    return InvalidArgument(
        f"{field}: {description}", reason="BAD_TENSOR", metadata={"field": field}, violations=[(field, description)]
    )
