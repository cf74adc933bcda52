"""What a call carries: its deadline, its trace, its end."""

import asyncio

import grpc
import pytest

from tests.serving.puppet import Puppet
from tinsmith import Addresses, TinsmithError
from tinsmith.aio import Suite
from tinsmith.environment.v1 import ListEnvironmentsRequest, PlayRequest, StepRequest
from tinsmith_server.serving import RoomServer, outgoing_metadata, time_left, trace_id

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def test_a_handler_knows_how_long_its_caller_waits(suite: Suite, puppet: Puppet) -> None:
    left: list[float | None] = []

    async def act() -> None:
        left.append(time_left())

    puppet.act = act
    await suite.environment.ListEnvironments(ListEnvironmentsRequest(), timeout=30.0)
    (seconds,) = left
    assert seconds is not None
    assert 0 < seconds < 31.0, "gRPC rounds a deadline up on its way"
    assert time_left() is None


async def test_a_call_without_a_deadline_has_none(server: RoomServer, puppet: Puppet) -> None:
    left: list[float | None] = []

    async def act() -> None:
        left.append(time_left())

    puppet.act = act
    async with Suite(Addresses(environment=server.address)) as suite:
        await suite.environment.ListEnvironments(ListEnvironmentsRequest(), timeout=None)
    assert left == [None]


async def test_the_trace_of_a_call_goes_on_to_the_calls_that_it_makes(server: RoomServer, puppet: Puppet) -> None:
    seen: list[tuple[object, str]] = []

    async def note() -> None:
        seen.append((outgoing_metadata(), trace_id()))

    async with (
        Suite(Addresses(environment=server.address), metadata=outgoing_metadata) as behind,
        Suite(Addresses(environment=server.address), metadata=lambda: (("traceparent", PARENT),)) as caller,
    ):

        async def call_on() -> None:
            puppet.act = note
            await behind.environment.ListEnvironments(ListEnvironmentsRequest())

        puppet.act = call_on
        await caller.environment.ListEnvironments(ListEnvironmentsRequest())
    assert seen == [((("traceparent", PARENT),), TRACE)]
    assert outgoing_metadata() == ()


async def test_calls_at_the_same_time_keep_their_own_traces(server: RoomServer, puppet: Puppet) -> None:
    seen: dict[str, str] = {}

    async def act() -> None:
        before = trace_id()
        await asyncio.sleep(0.05)
        seen[before] = trace_id()

    puppet.act = act
    traces = [f"{number:032x}" for number in range(1, 9)]

    async def call(trace: str) -> None:
        metadata = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"),)
        async with Suite(Addresses(environment=server.address), metadata=lambda: metadata) as suite:
            await suite.environment.ListEnvironments(ListEnvironmentsRequest())

    await asyncio.gather(*map(call, traces))
    assert seen == {trace: trace for trace in traces}


async def test_a_caller_that_goes_away_cancels_its_work(suite: Suite, puppet: Puppet) -> None:
    async def act() -> None:
        await asyncio.Event().wait()

    puppet.act = act
    call = asyncio.ensure_future(suite.environment.ListEnvironments(ListEnvironmentsRequest()))
    await asyncio.wait_for(puppet.entered.wait(), 30)
    call.cancel()
    await asyncio.wait_for(puppet.cancelled.wait(), 30)


async def test_a_deadline_that_passes_cancels_the_work(suite: Suite, puppet: Puppet) -> None:
    async def act() -> None:
        await asyncio.Event().wait()

    puppet.act = act
    with pytest.raises(TinsmithError) as failed:
        await suite.environment.ListEnvironments(ListEnvironmentsRequest(), timeout=0.3)
    assert failed.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(puppet.cancelled.wait(), 30)


async def test_a_stream_answers_as_it_is_asked(suite: Suite) -> None:
    async def requests() -> object:
        for _ in range(5):
            yield PlayRequest(step=StepRequest())

    assert len([answer async for answer in suite.environment.Play(requests())]) == 5


async def test_many_calls_at_once_are_answered_each_with_its_own(suite: Suite) -> None:
    tokens = [str(number) for number in range(200)]
    answers = await asyncio.gather(
        *(suite.environment.ListEnvironments(ListEnvironmentsRequest(page_token=token)) for token in tokens)
    )
    assert [answer.next_page_token for answer in answers] == tokens
