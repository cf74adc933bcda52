"""StreamBatches: credit, cursors, data in the place of rows."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.dataset.conftest import inline
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import rows
from tinsmith.dataset.v1 import (
    Batching,
    BuildDatumsRequest,
    Canonicalize,
    Cursor,
    DatasetSpec,
    DatumFormat,
    Operation,
    RowShape,
    StreamBatchesRequest,
    StreamBatchesResponse,
    StreamStart,
)
from tinsmith.types.v1 import Conversation, Message, Row

HUNDRED = inline([{"i": number} for number in range(100)])


class Requests:
    """The client's side of a stream, fed by hand."""

    def __init__(self, **start: object) -> None:
        values = {"dataset": HUNDRED, "batching": Batching(batch_size=10, epochs=1), **start}
        self._queue: asyncio.Queue[StreamBatchesRequest | None] = asyncio.Queue()
        self.send(StreamBatchesRequest(start=StreamStart(**values)))

    def send(self, request: StreamBatchesRequest | None) -> None:
        self._queue.put_nowait(request)

    async def __aiter__(self) -> AsyncIterator[StreamBatchesRequest]:
        while (request := await self._queue.get()) is not None:
            yield request


def numbers(response: StreamBatchesResponse) -> list[int]:
    return [json.loads(row.json)["i"] for row in response.batch.rows]


async def test_never_more_batches_than_credit(suite: Suite) -> None:
    requests = Requests(credit=3)
    answers = suite.datasets.StreamBatches(aiter(requests))
    assert [numbers(await anext(answers))[0] for _ in range(3)] == [0, 10, 20]
    waiting = asyncio.ensure_future(anext(answers))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    requests.send(StreamBatchesRequest(credit=1))
    assert numbers(await waiting)[0] == 30
    await answers.aclose()


async def test_a_stream_ends_after_the_last_batch(suite: Suite) -> None:
    got = [answer async for answer in suite.datasets.StreamBatches(aiter(Requests(credit=100)))]
    assert [number for answer in got for number in numbers(answer)] == list(range(100))


@pytest.mark.parametrize("place", [1, 5, 9])
async def test_a_stream_goes_on_from_its_cursor(suite: Suite, place: int) -> None:
    """D-09."""
    batching = Batching(batch_size=10, epochs=2, shuffle_epochs=True, seed=3)
    whole = [answer async for answer in suite.datasets.StreamBatches(aiter(Requests(batching=batching, credit=100)))]
    cursor = whole[place - 1].batch.next
    requests = Requests(batching=batching, credit=100, cursor=cursor)
    assert [answer async for answer in suite.datasets.StreamBatches(aiter(requests))] == whole[place:]


async def test_a_closed_side_without_credit_is_an_error_and_no_end(suite: Suite) -> None:
    requests = Requests(credit=2)
    requests.send(None)
    answers = suite.datasets.StreamBatches(aiter(requests))
    assert len([await anext(answers) for _ in range(2)]) == 2
    with pytest.raises(TinsmithError) as error:
        await anext(answers)
    assert (error.value.code.name, error.value.reason) == ("FAILED_PRECONDITION", "CREDIT_EXHAUSTED")


async def test_misuse_is_refused(suite: Suite) -> None:
    start = StreamBatchesRequest(start=StreamStart(dataset=HUNDRED, batching=Batching(batch_size=1)))
    for message, reason in ((start, "STARTED_TWICE"), (StreamBatchesRequest(credit=-1), "BAD_CREDIT")):
        requests = Requests(credit=1)
        requests.send(message)
        with pytest.raises(TinsmithError) as error:
            async for _ in suite.datasets.StreamBatches(aiter(requests)):
                pass
        assert error.value.reason == reason

    async def no_start() -> AsyncIterator[StreamBatchesRequest]:
        yield StreamBatchesRequest(credit=1)

    with pytest.raises(TinsmithError) as error:
        await anext(suite.datasets.StreamBatches(no_start()))
    assert error.value.reason == "START_REQUIRED"
    foreign = Requests(cursor=Cursor(batch=1, fingerprint="0" * 64))
    with pytest.raises(TinsmithError) as error:
        await anext(suite.datasets.StreamBatches(aiter(foreign)))
    assert error.value.reason == "CURSOR_MISMATCH"


async def test_data_in_the_place_of_rows(suite: Suite) -> None:
    turns = [{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": "4"}]
    canonical = Operation(canonicalize=Canonicalize(shape=RowShape.ROW_SHAPE_CONVERSATION))
    dataset = DatasetSpec(inline=inline([{"messages": turns}] * 3).inline, operations=[canonical])
    wanted = DatumFormat(model="plain")
    requests = Requests(dataset=dataset, batching=Batching(batch_size=2, epochs=1), datums=wanted)
    got = [answer async for answer in suite.datasets.StreamBatches(aiter(requests))]
    conversation = Conversation(messages=[Message(**turn) for turn in turns])
    oracle = await suite.datasets.BuildDatums(
        BuildDatumsRequest(rows=[Row(conversation=conversation)] * 2, format=wanted)
    )
    assert got[0].datums == oracle.datums
    assert not got[0].batch.rows
    assert [len(rows(answer.datums.batch.tokens)) for answer in got] == [2, 1]
