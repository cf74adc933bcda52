"""Tensors of the wire as ragged columns."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinsmith.arrays import array, flat_and_offsets
from tinsmith.types.v1 import data_pb2, tensor_pb2
from tinsmith_server.serving.errors import FailedPrecondition
from tinsmith_server.trainer.ragged import Array, Ragged, SparseRagged
from tinsmith_server.trainer.request import Batch
from tinsmith_server.trainer.validation import bad_tensor

_TOKENS = "tokens"


def of_batch(message: data_pb2.DatumBatch) -> Batch:
    """Ragged columns share the message's memory. InvalidArgument with reason BAD_TENSOR names the column."""
    tokens = _ragged(_TOKENS, message.tokens)
    _check_tokens(tokens)
    return Batch(tokens=tokens, columns={name: _column(name, column) for name, column in message.loss_inputs.items()})


def of_list(message: data_pb2.DatumList) -> Batch:
    """Single data, laid end to end. Errors as `of_batch`; they name the datum too.

    FailedPrecondition with reason MODALITY_UNSUPPORTED for a chunk that is not text.
    """
    tokens = _joined(_TOKENS, [_tokens(number, datum) for number, datum in enumerate(message.data)])
    names = {name for datum in message.data for name in datum.loss_inputs}
    columns = {}
    for name in sorted(names):
        columns[name] = _joined(name, [_values(number, name, datum) for number, datum in enumerate(message.data)])
    return Batch(tokens=tokens, columns=columns)


def _column(name: str, message: tensor_pb2.Column) -> Ragged | SparseRagged:
    if message.WhichOneof("values") == "sparse":
        return _sparse(name, message.sparse)
    return _ragged(name, message.ragged)


def _ragged(name: str, message: tensor_pb2.RaggedTensor) -> Ragged:
    try:
        values, offsets = flat_and_offsets(message)
    except ValueError as error:
        raise bad_tensor(name, str(error)) from error
    return Ragged(values=values, offsets=offsets)


def _sparse(name: str, message: tensor_pb2.SparseRaggedTensor) -> SparseRagged:
    try:
        offsets, entries, columns = (
            np.frombuffer(part, "<i8") for part in (message.offsets, message.entries, message.columns)
        )
        data, _ = flat_and_offsets(_as_one_row(message))
    except ValueError as error:
        raise bad_tensor(name, str(error)) from error
    _check_pad(name, message.pad_value, data.dtype)
    if not len(entries) or not len(offsets) or offsets[0] != 0 or offsets[-1] != len(entries) - 1:
        raise bad_tensor(name, "offsets must rise from 0 to the number of tokens, which is that of entries less one")
    if entries[0] != 0 or entries[-1] != len(data) or (np.diff(entries) < 0).any() or (np.diff(offsets) < 0).any():
        raise bad_tensor(name, "entries must rise from 0 to the number of values")
    if len(columns) != len(data) or (len(columns) and not 0 <= columns.min() <= columns.max() < message.width):
        raise bad_tensor(name, f"columns must be one a value, each from 0 to {message.width - 1}")
    return SparseRagged(
        values=data,
        columns=columns,
        entries=entries,
        offsets=offsets,
        width=message.width,
        pad_value=message.pad_value,
    )


def _check_pad(name: str, pad_value: float, dtype: np.dtype[Any]) -> None:
    """Whether what is not stored is a number of the same type. NaN and infinity are numbers of float32."""
    if dtype.kind == "i":
        limits = np.iinfo(dtype)
        fits = pad_value.is_integer() and limits.min <= pad_value <= limits.max
    else:
        fits = not math.isfinite(pad_value) or abs(pad_value) <= float(np.finfo(dtype).max)
    if not fits:
        raise bad_tensor(name, f"has the pad_value {pad_value}, which is no {dtype}")


def _as_one_row(message: tensor_pb2.SparseRaggedTensor) -> tensor_pb2.RaggedTensor:
    size = len(message.data) // (8 if message.dtype == tensor_pb2.DTYPE_INT64 else 4)
    return tensor_pb2.RaggedTensor(dtype=message.dtype, offsets=np.array([0, size], "<i8").tobytes(), data=message.data)


def _tokens(number: int, datum: data_pb2.Datum) -> Array:
    for chunk in datum.model_input.chunks:
        kind = chunk.WhichOneof("content")
        if kind != "token_ids":
            raise FailedPrecondition(
                f"datum {number} holds {kind}; the models trained here read text only",
                reason="MODALITY_UNSUPPORTED",
                metadata={"datum": str(number), "modality": str(kind)},
            )
        if len(chunk.token_ids) % 4:
            raise bad_tensor(_TOKENS, "must be int32, four bytes a token", number)
    return np.frombuffer(b"".join(chunk.token_ids for chunk in datum.model_input.chunks), "<i4")


def _values(number: int, name: str, datum: data_pb2.Datum) -> Array:
    if name not in datum.loss_inputs:
        raise bad_tensor(name, "is missing, though other data have it", number)
    try:
        values = array(datum.loss_inputs[name])
    except ValueError as error:
        raise bad_tensor(name, str(error), number) from error
    return values.reshape(1) if values.ndim == 0 else values


def _joined(name: str, rows: Sequence[Array]) -> Ragged:
    """Rows laid end to end, if they are alike."""
    for number, row in enumerate(rows):
        if row.dtype != rows[0].dtype or row.shape[1:] != rows[0].shape[1:]:
            what = (
                f"is {row.dtype} of inner shape {list(row.shape[1:])}, that of datum 0 {rows[0].dtype} of inner shape"
            )
            raise bad_tensor(name, f"{what} {list(rows[0].shape[1:])}", number)
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Ragged(values=np.concatenate(rows) if rows else np.zeros(0, np.int32), offsets=offsets)


def _check_tokens(tokens: Ragged) -> None:
    if tokens.values.dtype.kind != "i" or tokens.values.ndim != 1:
        raise bad_tensor(_TOKENS, "must be int32 token ids, one a token")
