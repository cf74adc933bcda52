"""What a batch must be before anything is computed with it. Whole columns are checked at once; only when one is found
wanting is the datum looked for."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.losses.base import SEQUENCES, TARGETS
from tinsmith_server.trainer.losses.needs import Need, Shape
from tinsmith_server.trainer.objective import Objective
from tinsmith_server.trainer.ragged import Ragged, SparseRagged
from tinsmith_server.trainer.request import Batch, TrainingCall

_TOKENS = "tokens"
_MOST_DENSE_VALUES = 1 << 26
"""Values of the sparse columns that are unpacked: 256 MB of float32."""
Column = Ragged | SparseRagged


class Reader(Protocol):
    """What is asked of the model that shall read a batch."""

    @property
    def vocabulary(self) -> int: ...

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        ...


def check_call(call: TrainingCall, model: Reader, *, max_data: int) -> TrainingCall:
    """The call with its integers as int64, ready to be computed.

    Raises InvalidArgument with reason MISSING_LOSS_INPUT, UNKNOWN_LOSS_INPUT, BAD_TENSOR, TOKEN_OUT_OF_VOCABULARY,
    SEQUENCE_TOO_LONG, NON_FINITE_INPUT, EMPTY_BATCH, BATCH_TOO_LARGE, BAD_LOSS_GRAPH or BAD_REGULARIZER; the metadata
    name the datum and the column.
    """
    batch, objective = call.batch, call.objective
    _check_names(batch.columns, objective)
    if not len(batch.tokens):
        raise InvalidArgument("the batch holds no data; leave the call out", reason="EMPTY_BATCH")
    if len(batch.tokens) > max_data:
        raise InvalidArgument(
            f"the batch holds {len(batch.tokens)} data, this trainer takes {max_data}; send them in several calls",
            reason="BATCH_TOO_LARGE",
            metadata={"data": str(len(batch.tokens)), "max_data": str(max_data)},
        )
    _check_lengths(batch.tokens, model.context)
    columns = dict(batch.columns)
    _check_unpacked(columns, objective)
    for name, need in objective.needs:
        columns[name] = _fitting(name, columns[name], need, batch.tokens)
    _check_widths(columns, objective, model.vocabulary)
    _check_vocabulary(_TOKENS, batch.tokens, model.vocabulary)
    _check_vocabulary(TARGETS, columns[TARGETS], model.vocabulary)
    for name, column in columns.items():
        _check_finite(name, column)
    objective.check(columns, model.vocabulary)
    tokens = Ragged(values=batch.tokens.values.astype(np.int64, copy=False), offsets=batch.tokens.offsets)
    return replace(call, batch=Batch(tokens=tokens, columns=columns))


def bad_tensor(column: str, what: str, datum: int | None = None) -> InvalidArgument:
    """The error of a column whose shape, type or values are not what they must be."""
    return _refused("BAD_TENSOR", column, what, datum)


def _check_names(columns: Mapping[str, Column], objective: Objective) -> None:
    for name, need in objective.needs:
        if name not in columns:
            raise _refused("MISSING_LOSS_INPUT", name, f"is missing; {need.reader} reads it")
    known = dict(objective.needs)
    for name in columns:
        if name not in known or name == SEQUENCES:
            what = f"is not read by {objective.loss.name}, which reads {', '.join(known)}"
            raise _refused("UNKNOWN_LOSS_INPUT", name, what)


def _check_lengths(tokens: Ragged, context: int) -> None:
    lengths = tokens.lengths
    if not lengths.all():
        raise bad_tensor(_TOKENS, "has no token", int(np.argmin(lengths)))
    if lengths.max() > context:
        datum = int(np.argmax(lengths))
        what = f"has {lengths[datum]} tokens, the model reads at most {context}"
        raise _refused("SEQUENCE_TOO_LONG", _TOKENS, what, datum)


def _check_unpacked(columns: Mapping[str, Column], objective: Objective) -> None:
    """Whether the sparse columns can be held with all their values, but for those that stay sparse."""
    sizes: dict[str, int] = {}
    for name, need in objective.needs:
        column = columns[name]
        if isinstance(column, SparseRagged) and need.shape is not Shape.VOCABULARY:
            sizes[name] = (len(column.entries) - 1) * column.width
    total = sum(sizes.values())
    if total > _MOST_DENSE_VALUES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise InvalidArgument(
            f"the sparse columns have {total} values when their zeros are counted, {largest} the most of them, and may "
            f"have {_MOST_DENSE_VALUES}; send the data in several calls",
            reason="BATCH_TOO_LARGE",
            metadata={"column": largest, "values": str(total), "max_values": str(_MOST_DENSE_VALUES)},
        )


def _fitting(name: str, column: Column, need: Need, tokens: Ragged) -> Column:
    """The column with the type of numbers that is needed, and the rows of the data. InvalidArgument BAD_TENSOR."""
    if isinstance(column, SparseRagged) and need.shape is not Shape.VOCABULARY:
        column = Ragged(values=column.dense(), offsets=column.offsets)
    typed = _typed(name, column, need)
    _check_rows(name, typed, tokens, by_datum=need.shape is Shape.DATUM)
    return typed


def _typed(name: str, column: Column, need: Need) -> Column:
    """The column as int64 or float32. Only what loses nothing is converted."""
    dtype = column.values.dtype
    if need.kind is int and dtype.kind != "i":
        raise bad_tensor(name, f"holds float32; it must be int64 or int32 for {need.reader}")
    if need.kind is float and dtype != np.float32:
        raise bad_tensor(name, f"holds {dtype}; it must be float32 for {need.reader}")
    # Copied, because torch takes no memory that is read-only.
    return replace(column, values=column.values.astype(np.int64 if dtype.kind == "i" else np.float32))


def _check_rows(name: str, column: Column, tokens: Ragged, *, by_datum: bool) -> None:
    if len(column) != len(tokens):
        raise bad_tensor(name, f"has {len(column)} rows for {len(tokens)} data")
    expected = np.arange(len(tokens) + 1) if by_datum else tokens.offsets
    unlike = np.flatnonzero(column.offsets != expected)
    if len(unlike):
        datum = int(unlike[0]) - 1
        wanted = "where one is needed" if by_datum else f"for {tokens.lengths[datum]} tokens"
        raise bad_tensor(name, f"has {column.lengths[datum]} values {wanted}", datum)


def _check_widths(columns: Mapping[str, Column], objective: Objective, vocabulary: int) -> None:
    targets = columns[TARGETS].values
    if targets.ndim > (2 if objective.loss.many_targets else 1):
        raise bad_tensor(TARGETS, f"has {targets.ndim - 1} inner dimensions, too many for {objective.loss.name}")
    for name, need in objective.needs:
        column = columns[name]
        inner = [column.width] if isinstance(column, SparseRagged) else list(column.values.shape[1:])
        allowed = _inner_shapes(need.shape, list(targets.shape[1:]), vocabulary)
        if inner not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise bad_tensor(name, f"has the inner shape {inner}, {need.reader} needs {wanted}")


def _inner_shapes(shape: Shape, of_targets: list[int], vocabulary: int) -> list[list[int]]:
    match shape:
        case Shape.TARGETS:
            return [of_targets]
        case Shape.TOKENS_OR_TARGETS:
            return [[], of_targets] if of_targets else [[]]
        case Shape.DATUM:
            return [[]]
        case Shape.VOCABULARY:
            return [[vocabulary]]


def _check_vocabulary(name: str, column: Column, vocabulary: int) -> None:
    values = column.values
    if not len(values) or (values.min() >= 0 and values.max() < vocabulary):
        return
    wrong = ((values < 0) | (values >= vocabulary)).reshape(len(values), -1).any(axis=1)
    datum = column.row_of(int(np.argmax(wrong)))
    what = f"holds a token id outside 0 to {vocabulary - 1}"
    raise _refused("TOKEN_OUT_OF_VOCABULARY", name, what, datum)


def _check_finite(name: str, column: Column) -> None:
    if column.values.dtype.kind != "f":
        return
    if isinstance(column, SparseRagged) and not column.pad_value < np.inf:
        raise _refused("NON_FINITE_INPUT", name, "has a pad_value that is neither finite nor -infinity")
    finite = np.isfinite(column.values)
    if not finite.all():
        wrong = int(np.argmax(~finite.reshape(len(finite), -1).all(axis=1)))
        if isinstance(column, SparseRagged):
            wrong = int(np.searchsorted(column.entries, wrong, side="right")) - 1
        raise _refused("NON_FINITE_INPUT", name, "holds NaN or infinity", column.row_of(wrong))


def _refused(reason: str, column: str, what: str, datum: int | None = None) -> InvalidArgument:
    where = column if datum is None else f"{column} of datum {datum}"
    metadata = {"column": column} | ({} if datum is None else {"datum": str(datum)})
    return InvalidArgument(f"{where} {what}", reason=reason, metadata=metadata, violations=[(where, what)])
