"""What a batch must be before anything is computed with it. Whole columns are checked at once; only when one is found
wanting is the datum looked for."""

from collections.abc import Mapping

import numpy as np

from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.causal import CausalModel
from tinsmith_server.trainer.losses.base import TARGETS, Loss
from tinsmith_server.trainer.ragged import Ragged
from tinsmith_server.trainer.request import Batch, TrainingCall

_TOKENS = "tokens"


def check_call(call: TrainingCall, model: CausalModel, *, max_data: int) -> TrainingCall:
    """The call with its integers as int64, ready to be computed.

    Raises InvalidArgument with reason MISSING_LOSS_INPUT, UNKNOWN_LOSS_INPUT, BAD_TENSOR, TOKEN_OUT_OF_VOCABULARY,
    SEQUENCE_TOO_LONG, NON_FINITE_INPUT, EMPTY_BATCH or BATCH_TOO_LARGE; the metadata name the datum and the column.
    """
    batch, loss = call.batch, call.loss
    _check_names(batch.columns, loss)
    if not len(batch.tokens):
        raise InvalidArgument("the batch holds no data; leave the call out", reason="EMPTY_BATCH")
    if len(batch.tokens) > max_data:
        raise InvalidArgument(
            f"the batch holds {len(batch.tokens)} data, this trainer takes {max_data}; send them in several calls",
            reason="BATCH_TOO_LARGE",
            metadata={"data": str(len(batch.tokens)), "max_data": str(max_data)},
        )
    _check_lengths(batch.tokens, model.context)
    columns = {name: _typed(name, batch.columns[name], kind) for name, kind in loss.columns.items()}
    for name, column in columns.items():
        _check_rows(name, column, batch.tokens)
    _check_widths(columns, loss)
    _check_vocabulary(_TOKENS, batch.tokens, model.vocabulary)
    _check_vocabulary(TARGETS, columns[TARGETS], model.vocabulary)
    for name, column in columns.items():
        _check_finite(name, column)
    tokens = Ragged(values=batch.tokens.values.astype(np.int64, copy=False), offsets=batch.tokens.offsets)
    return TrainingCall(batch=Batch(tokens=tokens, columns=columns), loss=loss, omit_logprobs=call.omit_logprobs)


def bad_tensor(column: str, what: str, datum: int | None = None) -> InvalidArgument:
    """The error of a column whose shape, type or values are not what they must be."""
    return _refused("BAD_TENSOR", column, what, datum)


def _check_names(columns: Mapping[str, Ragged], loss: Loss) -> None:
    wanted = ", ".join(loss.columns)
    for name in loss.columns:
        if name not in columns:
            raise _refused("MISSING_LOSS_INPUT", name, f"is missing; {loss.name} reads {wanted}")
    for name in columns:
        if name not in loss.columns:
            raise _refused("UNKNOWN_LOSS_INPUT", name, f"is not read by {loss.name}, which reads {wanted}")


def _check_lengths(tokens: Ragged, context: int) -> None:
    lengths = tokens.lengths
    if not lengths.all():
        raise bad_tensor(_TOKENS, "has no token", int(np.argmin(lengths)))
    if lengths.max() > context:
        datum = int(np.argmax(lengths))
        what = f"has {lengths[datum]} tokens, the model reads at most {context}"
        raise _refused("SEQUENCE_TOO_LONG", _TOKENS, what, datum)


def _typed(name: str, column: Ragged, kind: type) -> Ragged:
    """The column as int64 or float32. Only what loses nothing is converted."""
    if kind is int:
        if column.values.dtype.kind != "i":
            raise bad_tensor(name, "holds float32; it must be int64 or int32")
        # Copied, because torch takes no memory that is read-only.
        return Ragged(values=column.values.astype(np.int64), offsets=column.offsets)
    if column.values.dtype != np.float32:
        raise bad_tensor(name, f"holds {column.values.dtype}; it must be float32")
    # Copied, as above.
    return Ragged(values=column.values.copy(), offsets=column.offsets)


def _check_rows(name: str, column: Ragged, tokens: Ragged) -> None:
    if len(column) != len(tokens):
        raise bad_tensor(name, f"has {len(column)} rows for {len(tokens)} data")
    unlike = np.flatnonzero(column.offsets != tokens.offsets)
    if len(unlike):
        datum = int(unlike[0]) - 1
        what = f"has {column.lengths[datum]} values for {tokens.lengths[datum]} tokens"
        raise bad_tensor(name, what, datum)


def _check_widths(columns: Mapping[str, Ragged], loss: Loss) -> None:
    shape = columns[TARGETS].values.shape
    for name, column in columns.items():
        if column.values.ndim > (2 if loss.many_targets else 1):
            raise bad_tensor(name, f"has {column.values.ndim - 1} inner dimensions, too many for {loss.name}")
        if column.values.shape != shape:
            raise bad_tensor(name, f"has the inner shape {list(column.values.shape[1:])}, {TARGETS} {list(shape[1:])}")


def _check_vocabulary(name: str, column: Ragged, vocabulary: int) -> None:
    values = column.values
    if not len(values) or (values.min() >= 0 and values.max() < vocabulary):
        return
    wrong = ((values < 0) | (values >= vocabulary)).reshape(len(values), -1).any(axis=1)
    datum = column.row_of(int(np.argmax(wrong)))
    what = f"holds a token id outside 0 to {vocabulary - 1}"
    raise _refused("TOKEN_OUT_OF_VOCABULARY", name, what, datum)


def _check_finite(name: str, column: Ragged) -> None:
    if column.values.dtype.kind != "f":
        return
    finite = np.isfinite(column.values)
    if not finite.all():
        wrong = ~finite.reshape(len(finite), -1).all(axis=1)
        raise _refused("NON_FINITE_INPUT", name, "holds NaN or infinity", column.row_of(int(np.argmax(wrong))))


def _refused(reason: str, column: str, what: str, datum: int | None = None) -> InvalidArgument:
    where = column if datum is None else f"{column} of datum {datum}"
    metadata = {"column": column} | ({} if datum is None else {"datum": str(datum)})
    return InvalidArgument(f"{where} {what}", reason=reason, metadata=metadata, violations=[(where, what)])
