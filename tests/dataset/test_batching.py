"""How rows are cut into batches, and how a reader goes on where it was."""

import json

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataset.conftest import inline
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.dataset.v1 import Batch, Batching, Cursor, DatasetSpec, GetBatchRequest, Operation, Shuffle
from tinsmith_server.dataset import spec
from tinsmith_server.dataset.batching import read_batch
from tinsmith_server.dataset.opened import OpenedDataset
from tinsmith_server.dataset.rows import ListRows, RowShape
from tinsmith_server.serving.errors import OutOfRange

TEN = inline([{"i": number} for number in range(10)])


async def batches(suite: Suite, batching: Batching, dataset: DatasetSpec = TEN, *, most: int = 100) -> list[Batch]:
    """All batches, each from the cursor of the one before."""
    found: list[Batch] = []
    cursor = Cursor()
    while len(found) < most:
        request = GetBatchRequest(dataset=dataset, batching=batching, cursor=cursor)
        try:
            found.append((await suite.datasets.GetBatch(request)).batch)
        except TinsmithError as error:
            if error.reason != "END_OF_DATA":
                raise
            return found
        cursor = found[-1].next
    return found


def numbers(batch: Batch) -> list[int]:
    return [json.loads(row.json)["i"] for row in batch.rows]


async def test_batches_are_those_of_datasets(suite: Suite) -> None:
    """D-10."""
    for drop_last in (True, False):
        oracle = datasets.Dataset.from_dict({"i": list(range(10))}).batch(4, drop_last_batch=drop_last)
        got = await batches(suite, Batching(batch_size=4, epochs=1, drop_last=drop_last))
        assert [numbers(batch) for batch in got] == list(oracle["i"])
        assert len(got) == (2 if drop_last else 3)


async def test_epochs_are_shuffled_from_the_original_order(suite: Suite) -> None:
    """D-12."""
    got = await batches(suite, Batching(batch_size=5, epochs=3, shuffle_epochs=True, seed=1))
    hub = datasets.Dataset.from_dict({"i": list(range(10))})
    assert [batch.epoch for batch in got] == [0, 0, 1, 1, 2, 2]
    assert [batch.index for batch in got] == list(range(6))
    for epoch in range(3):
        order = [number for batch in got[2 * epoch : 2 * epoch + 2] for number in numbers(batch)]
        assert order == hub.shuffle(seed=1 + epoch)["i"]


async def test_no_epochs_means_for_ever(suite: Suite) -> None:
    got = await batches(suite, Batching(batch_size=10), most=5)
    assert [batch.epoch for batch in got] == list(range(5))


async def test_continuous_batches_cross_the_ends_of_epochs(suite: Suite) -> None:
    got = await batches(suite, Batching(batch_size=4, epochs=2, continuous=True))
    assert [numbers(batch) for batch in got] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]
    assert [batch.epoch for batch in got] == [0, 0, 0, 1, 1]
    last = (await batches(suite, Batching(batch_size=6, epochs=1, continuous=True)))[-1]
    assert numbers(last) == [6, 7, 8, 9]
    assert len(await batches(suite, Batching(batch_size=6, epochs=1, continuous=True, drop_last=True))) == 1


async def test_no_rows_are_no_batches(suite: Suite) -> None:
    for continuous in (True, False):
        batching = Batching(batch_size=4, continuous=continuous)
        assert await batches(suite, batching, DatasetSpec(inline=inline([]).inline)) == []
    assert await batches(suite, Batching(batch_size=11, drop_last=True)) == []


async def test_a_cursor_of_other_data_is_refused(suite: Suite) -> None:
    cursor = (await batches(suite, Batching(batch_size=4), most=1))[0].next
    shuffled = inline([{"i": number} for number in range(10)], Operation(shuffle=Shuffle(seed=0)))
    for request in (
        GetBatchRequest(dataset=TEN, batching=Batching(batch_size=5), cursor=cursor),
        GetBatchRequest(dataset=shuffled, batching=Batching(batch_size=4), cursor=cursor),
        GetBatchRequest(dataset=inline([{"i": 0}]), batching=Batching(batch_size=4), cursor=cursor),
    ):
        with pytest.raises(TinsmithError) as error:
            await suite.datasets.GetBatch(request)
        assert (error.value.code.name, error.value.reason) == ("OUT_OF_RANGE", "CURSOR_MISMATCH")
    unchecked = GetBatchRequest(dataset=shuffled, batching=Batching(batch_size=4), cursor=Cursor(batch=1))
    assert (await suite.datasets.GetBatch(unchecked)).batch.index == 1


BATCHINGS = st.builds(
    spec.Batching,
    batch_size=st.integers(1, 7),
    drop_last=st.booleans(),
    epochs=st.integers(1, 3),
    shuffle_epochs=st.booleans(),
    seed=st.integers(0, 5),
    continuous=st.booleans(),
)


def opened(length: int) -> OpenedDataset:
    rows = ListRows([{"i": number} for number in range(length)], size_bytes=0)
    return OpenedDataset(rows=rows, shape=RowShape.JSON, raw=rows, source=rows, identity=[], steps=[], skipped=0)


def read_on(batching: spec.Batching, length: int, start: int) -> list[list[int]]:
    """Batches from `start` on, read by a process that has seen none before."""
    dataset, found = opened(length), []
    while True:
        try:
            batch = read_batch(dataset, batching, start + len(found))
        except OutOfRange:
            return found
        found.append([row["i"] for row in batch.rows])


@given(batching=BATCHINGS, length=st.integers(0, 20), start=st.integers(0, 12))
def test_reading_on_gives_what_reading_through_gives(batching: spec.Batching, length: int, start: int) -> None:
    """D-09, D-11: a batch depends on its number alone."""
    assert read_on(batching, length, start) == read_on(batching, length, 0)[start:]


@given(batching=BATCHINGS, length=st.integers(1, 20))
def test_every_row_comes_once_an_epoch(batching: spec.Batching, length: int) -> None:
    got = [number for batch in read_on(batching, length, 0) for number in batch]
    if not batching.drop_last:
        assert len(got) == length * batching.epochs
        for epoch in range(batching.epochs):
            assert sorted(got[epoch * length : (epoch + 1) * length]) == list(range(length))
    assert all(len(batch) == batching.batch_size for batch in read_on(batching, length, 0)) or not batching.drop_last
