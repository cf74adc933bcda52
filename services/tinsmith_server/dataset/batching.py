"""Which rows a batch has, by its number. Nothing is remembered: any batch can be had from any process.

With n rows, batches of b, and k batches an epoch (n / b rounded up, or down with drop_last):

    batch i is batch i mod k of epoch i div k          (the default: batches end with their epoch)
    batch i has rows i b .. (i + 1) b of the epochs laid end to end     (continuous)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinsmith_server.dataset.opened import OpenedDataset
from tinsmith_server.dataset.rows import Indices, Row
from tinsmith_server.dataset.spec import Batching
from tinsmith_server.serving.errors import FailedPrecondition, OutOfRange

_LAST_EPOCH = (1 << 31) - 1
"""The contract counts epochs in 32 bits."""
_LAST_ROW = 1 << 62


@dataclass(frozen=True, kw_only=True, slots=True)
class RowBatch:
    """One batch."""

    rows: list[Row]
    epoch: int
    index: int


def read_batch(dataset: OpenedDataset, batching: Batching, index: int) -> RowBatch:
    """Batch `index`, counted from 0 over all epochs.

    OutOfRange with reason END_OF_DATA behind the last; FailedPrecondition where epochs of a dataset without a known
    end are to be shuffled.
    """
    size = batching.batch_size
    if (index + 1) * size > _LAST_ROW:
        raise _end(batching, index, dataset.rows.length or 0)
    if dataset.rows.length is None:
        _refuse_shuffles(batching)
        rows = dataset.rows.read(np.arange(index * size, (index + 1) * size))
        if len(rows) == size:
            return RowBatch(rows=rows, epoch=0, index=index)
    # A stream that gave less has come to its end, so that its length is known now.
    length = dataset.rows.length or 0
    epoch, order_of, numbers = _place(dataset, batching, index, length)
    indices = _ordered(order_of, numbers, length)
    return RowBatch(rows=dataset.rows.read(indices), epoch=epoch, index=index)


def _place(
    dataset: OpenedDataset, batching: Batching, index: int, length: int
) -> tuple[int, Callable[[int], Indices | None], range]:
    """The epoch of a batch, the order of each epoch, and the batch's rows counted over the epochs laid end to end."""
    size = batching.batch_size
    if batching.continuous:
        numbers = range(index * size, (index + 1) * size)
        if batching.epochs:
            numbers = range(numbers.start, min(numbers.stop, batching.epochs * length))
        is_there = length > 0 and (len(numbers) == size or (len(numbers) > 0 and not batching.drop_last))
        epoch = numbers.start // length if length else 0
    else:
        in_epoch = length // size if batching.drop_last else -(-length // size)
        epoch, place = divmod(index, in_epoch) if in_epoch else (0, 0)
        is_there = in_epoch > 0 and (batching.epochs == 0 or epoch < batching.epochs)
        start = epoch * length + place * size
        numbers = range(start, min(start + size, (epoch + 1) * length))
    if not is_there or epoch > _LAST_EPOCH:
        raise _end(batching, index, length)
    if not batching.shuffle_epochs:
        return epoch, lambda _: None, numbers
    return epoch, lambda number: dataset.epoch_order(batching.seed + number, length), numbers


def _ordered(order_of: Callable[[int], Indices | None], numbers: range, length: int) -> Indices:
    """Row numbers of a batch: its places in the epochs it touches, by the order of each."""
    parts = []
    start = numbers.start
    while start < numbers.stop:
        epoch, place = divmod(start, length)
        stop = min(numbers.stop - epoch * length, length)
        order = order_of(epoch)
        parts.append(np.arange(place, stop) if order is None else order[place:stop])
        start = epoch * length + stop
    return np.concatenate(parts)


def _refuse_shuffles(batching: Batching) -> None:
    if batching.shuffle_epochs:
        raise FailedPrecondition(
            "epochs can't be shuffled where the number of rows is not known: put a take before, or stream without "
            "shuffle_epochs",
            reason="ENDLESS_DATASET",
        )


def _end(batching: Batching, index: int, length: int) -> OutOfRange:
    epochs = f"{batching.epochs} epochs of " if batching.epochs else ""
    last = ", the last one only if it is full" if batching.drop_last else ""
    return OutOfRange(
        f"there is no batch {index}: {epochs}{length} rows in batches of {batching.batch_size}{last}",
        reason="END_OF_DATA",
        metadata={"batch": str(index), "rows": str(length)},
    )
