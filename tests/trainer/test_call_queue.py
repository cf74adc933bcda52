"""The queue of calls as clients see it: bounded, and watched."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import serving
from tests.trainer.calls import batch, create, forward_backward, optim_step
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import WatchQueueRequest
from tinsmith.types.v1 import QueueState, QueueStatus
from tinsmith_server.trainer import ROOM

ACTIVE, FULL = QueueState.QUEUE_STATE_ACTIVE, QueueState.QUEUE_STATE_PAUSED_CAPACITY
HEAVY = batch([[i % 200, *range(200)] for i in range(40)])


async def watched(suite: Suite, until: Callable[[QueueStatus], bool]) -> list[QueueStatus]:
    """The queue as one watcher sees it, up to the first status that it waits for."""
    seen: list[QueueStatus] = []
    async with asyncio.timeout(30):
        async for message in suite.trainer.WatchQueue(WatchQueueRequest()):
            seen.append(message.status)
            if until(message.status):
                break
    return seen


async def test_an_idle_queue_is_told_at_once(suite: Suite) -> None:
    (status,) = await watched(suite, lambda status: True)
    assert (status.state, status.reason, status.waiting, status.running) == (ACTIVE, "", 0, 0)
    assert status.HasField("estimated_wait")


async def test_overload_is_seen_by_two_clients_and_a_call_too_many_may_be_sent_again(
    tmp_path: Path, model_directory: Path
) -> None:
    """R-07. The refused call has not consumed its seq_id."""
    settings = {"base_models": (f"random={model_directory}",), "max_waiting_calls": 3}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        model = await create(suite)
        async with Suite.connect(trainer=address) as other:
            watchers = [
                asyncio.create_task(watched(each, lambda status: status.state == FULL)) for each in (suite, other)
            ]
            await asyncio.sleep(0.1)
            calls = [forward_backward(model, seq_id, batch=HEAVY) for seq_id in (1, 2, 3)]
            sent = [asyncio.ensure_future(suite.trainer.ForwardBackward(call)) for call in calls]
            seen = await asyncio.gather(*watchers)
        with pytest.raises(TinsmithError) as refused:
            await suite.trainer.OptimStep(optim_step(model, 4))
        assert (refused.value.code.name, refused.value.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0
        first = await sent[0]
        repeat = asyncio.ensure_future(suite.trainer.ForwardBackward(calls[0]))
        await asyncio.gather(*sent)
        assert await repeat == first
        assert (await suite.trainer.OptimStep(optim_step(model, 4))).step == 1
    for statuses in seen:
        assert statuses[0].state == ACTIVE
        assert statuses[-1].waiting + statuses[-1].running == 3
        assert statuses[-1].reason
        assert statuses[-1].estimated_wait.ToTimedelta().total_seconds() > 0


async def test_a_watcher_sees_the_queue_empty_itself_again(suite: Suite) -> None:
    model = await create(suite)
    statuses: list[QueueStatus] = []
    was_busy = asyncio.Event()

    async def watch() -> None:
        async for message in suite.trainer.WatchQueue(WatchQueueRequest()):
            statuses.append(message.status)
            if message.status.running:
                was_busy.set()
            if was_busy.is_set() and not message.status.running + message.status.waiting:
                return

    async with asyncio.timeout(30):
        watcher = asyncio.create_task(watch())
        await asyncio.sleep(0.1)
        await asyncio.gather(*(suite.trainer.ForwardBackward(forward_backward(model, i)) for i in (1, 2, 3)))
        await watcher
    assert max(status.waiting for status in statuses) >= 1
    assert statuses[-1].state == ACTIVE
