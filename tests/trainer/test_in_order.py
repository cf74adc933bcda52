"""Order and idempotency: whatever arrives in whatever order, each call runs once, in the order of seq_id."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith_server.serving.errors import Aborted, InvalidArgument, NotFound
from tinsmith_server.trainer.hosting.in_order import CallOrder


def order(*, gap_wait_s: float = 5.0, kept_answers: int = 64) -> CallOrder:
    return CallOrder(gap_wait_s=gap_wait_s, kept_answers=kept_answers)


def work(ran: list[int], number: int, *, takes: int = 1) -> Callable[[], Awaitable[int]]:
    """Work that takes some turns of the event loop, notes that it ran, and answers with a value of its own."""

    async def run() -> int:
        for _ in range(takes):
            await asyncio.sleep(0)
        ran.append(number)
        return number * 100

    return run


@settings(max_examples=150, deadline=None)
@given(
    arrivals=st.integers(1, 8).flatmap(
        lambda calls: st.tuples(
            st.permutations(range(1, calls + 1)), st.lists(st.integers(1, calls), max_size=8), st.randoms()
        )
    )
)
def test_any_arrival_order_with_repeats_gives_the_sequential_result(arrivals: tuple) -> None:  # type: ignore[type-arg]
    """T-02"""
    numbers, repeats, chance = arrivals
    arriving = [*numbers, *repeats]
    chance.shuffle(arriving)

    async def scenario() -> None:
        ran: list[int] = []
        calls = order()
        tasks = []
        for number in arriving:
            takes = chance.randint(0, 3)
            tasks.append(asyncio.create_task(calls.run(work(ran, number, takes=takes), seq_id=number)))
            for _ in range(chance.randint(0, 4)):
                await asyncio.sleep(0)
        answers = await asyncio.gather(*tasks)
        assert ran == sorted(numbers)
        assert answers == [number * 100 for number in arriving]
        assert calls.last_seq_id == len(numbers)

    asyncio.run(scenario())


async def test_a_repeat_waits_for_the_answer_of_the_first() -> None:
    ran: list[int] = []
    calls = order()
    answers = await asyncio.gather(*(calls.run(work(ran, 1, takes=5), seq_id=1) for _ in range(3)))
    assert answers == [100, 100, 100]
    assert ran == [1]


async def test_a_refused_call_consumes_its_seq_id_and_a_repeat_is_refused_alike() -> None:
    async def refuse() -> int:
        raise InvalidArgument("no", reason="BAD_TENSOR")

    ran: list[int] = []
    calls = order()
    for _ in range(2):
        with pytest.raises(InvalidArgument):
            await calls.run(refuse, seq_id=1)
    assert await calls.run(work(ran, 2), seq_id=2) == 200


async def test_a_cancelled_caller_does_not_stop_the_work() -> None:
    ran: list[int] = []
    calls = order()
    first = asyncio.create_task(calls.run(work(ran, 1, takes=20), seq_id=1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert await calls.run(work(ran, 99), seq_id=1) == 100
    assert ran == [1]


async def test_a_gap_is_waited_for_and_then_reported() -> None:
    ran: list[int] = []
    calls = order(gap_wait_s=0.05)
    with pytest.raises(Aborted) as refused:
        await calls.run(work(ran, 3), seq_id=3)
    assert refused.value.reason == "SEQUENCE_GAP"
    assert refused.value.metadata == {"seq_id": "3", "expected_seq_id": "1"}
    assert await calls.run(work(ran, 1), seq_id=1) == 100
    assert await calls.run(work(ran, 2), seq_id=2) == 200
    assert await calls.run(work(ran, 3), seq_id=3) == 300


async def test_an_early_caller_that_leaves_holds_up_nobody() -> None:
    ran: list[int] = []
    calls = order()
    early = asyncio.create_task(calls.run(work(ran, 2), seq_id=2))
    await asyncio.sleep(0)
    early.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await early
    assert await calls.run(work(ran, 1), seq_id=1) == 100
    assert ran == [1]
    assert await calls.run(work(ran, 2), seq_id=2) == 200


async def test_a_call_without_seq_id_runs_after_all_that_has_arrived() -> None:
    ran: list[int] = []
    calls = order()
    second = asyncio.create_task(calls.run(work(ran, 2, takes=5), seq_id=2))
    await asyncio.sleep(0)
    unnumbered = asyncio.create_task(calls.run(work(ran, 9)))
    await asyncio.sleep(0)
    first = asyncio.create_task(calls.run(work(ran, 1, takes=5), seq_id=1))
    await asyncio.gather(first, second, unnumbered)
    assert ran == [1, 2, 9]
    assert calls.last_seq_id == 2


async def test_a_request_id_stands_in_for_the_seq_id() -> None:
    ran: list[int] = []
    calls = order()
    answers = await asyncio.gather(*(calls.run(work(ran, 1, takes=3), request_id="a") for _ in range(2)))
    answers += [await calls.run(work(ran, 2), request_id="b"), await calls.run(work(ran, 3), request_id="a")]
    assert answers == [100, 100, 200, 100]
    assert ran == [1, 2]


async def test_calls_without_any_id_all_run() -> None:
    ran: list[int] = []
    calls = order()
    await asyncio.gather(*(calls.run(work(ran, number)) for number in (1, 1, 2)))
    assert ran == [1, 1, 2]


async def test_an_answer_that_is_no_longer_kept_is_not_computed_again() -> None:
    ran: list[int] = []
    calls = order(kept_answers=2)
    for number in (1, 2, 3, 4):
        await calls.run(work(ran, number), seq_id=number)
    assert await calls.run(work(ran, 3), seq_id=3) == 300
    with pytest.raises(Aborted) as refused:
        await calls.run(work(ran, 1), seq_id=1)
    assert refused.value.reason == "SEQUENCE_EXPIRED"
    assert ran == [1, 2, 3, 4]


async def test_closing_refuses_what_waits_and_finishes_what_has_begun() -> None:
    ran: list[int] = []
    calls = order()
    begun = asyncio.create_task(calls.run(work(ran, 1, takes=5), seq_id=1))
    early = asyncio.create_task(calls.run(work(ran, 3), seq_id=3))
    await asyncio.sleep(0)
    farewell = calls.close(NotFound("gone", reason="MODEL_NOT_FOUND"), last=work(ran, 99))
    assert await begun == 100
    await farewell
    for waiting in (early, asyncio.create_task(calls.run(work(ran, 2), seq_id=2))):
        with pytest.raises(NotFound):
            await waiting
    assert ran == [1, 99]


class Message:
    """Something large that a refused call came with."""


async def test_a_refusal_that_is_kept_does_not_keep_what_was_refused() -> None:
    """Repeats get the refusal; the request, which the frames of its traceback hold, is gone."""
    calls = order()
    seen: list[weakref.ref[Message]] = []

    async def call() -> None:
        message = Message()
        seen.append(weakref.ref(message))

        async def refuse() -> None:
            raise InvalidArgument(f"{message} is none", reason="BAD_TENSOR")

        await calls.run(refuse, seq_id=1)

    for _ in range(3):
        with pytest.raises(InvalidArgument) as refused:
            await call()
        assert refused.value.reason == "BAD_TENSOR"
        del refused
    gc.collect()
    assert [message() for message in seen] == [None] * 3


async def test_a_closed_order_keeps_none_of_those_it_refused() -> None:
    calls = order()
    await calls.close(NotFound("gone", reason="MODEL_NOT_FOUND"), last=work([], 0))
    seen: list[weakref.ref[Message]] = []

    async def call() -> None:
        message = Message()
        seen.append(weakref.ref(message))
        await calls.run(lambda: work([], 1)(), seq_id=1)

    for _ in range(3):
        with pytest.raises(NotFound) as refused:
            await call()
        del refused
    gc.collect()
    assert [message() for message in seen] == [None] * 3
