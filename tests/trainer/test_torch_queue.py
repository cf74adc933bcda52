"""The thread that runs torch: who is computed with whom, and what a failure does to the others."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from tests.trainer.models import base_model, batch
from tinsmith_server.serving.errors import InvalidArgument, Unavailable
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.local import torch_queue
from tinsmith_server.trainer.local.backend import causal_model
from tinsmith_server.trainer.local.together import Work, run_together
from tinsmith_server.trainer.local.torch_queue import TorchQueue
from tinsmith_server.trainer.local.trained_model import Limits, TrainedModel
from tinsmith_server.trainer.losses import CrossEntropy
from tinsmith_server.trainer.request import ForwardResult, TrainingCall

BASE = causal_model(base_model("qwen3"), name="qwen3")
GPT2 = causal_model(base_model("gpt2"), name="gpt2")
CALL = TrainingCall(batch=batch(CrossEntropy()), loss=CrossEntropy())


@pytest.fixture
async def queue() -> AsyncIterator[TorchQueue]:
    made = TorchQueue(torch_threads=1, max_nodes=1000)
    yield made
    await made.stop()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[Work]]:
    """What was computed together, pass by pass."""
    seen: list[list[Work]] = []

    def spy(works: Sequence[Work]) -> list[ForwardResult | Exception]:
        seen.append(list(works))
        return run_together(works)

    monkeypatch.setattr(torch_queue, "run_together", spy)
    return seen


def models(count: int, base: object = BASE, **limits: int) -> list[TrainedModel]:
    return [TrainedModel(base, LoraShape(rank=4, alpha=8.0, seed=i), limits=Limits(**limits)) for i in range(count)]  # type: ignore[arg-type]


def preparing(model: TrainedModel, call: TrainingCall = CALL) -> Callable[[], Work]:
    return lambda: model.prepare(call, trains=True)


async def held_up(queue: TorchQueue) -> threading.Event:
    """Keeps the thread busy until the event is set."""
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go.wait(30)

    asyncio.get_running_loop().create_task(queue.run(hold))
    await asyncio.to_thread(begun.wait, 30)
    return go


async def arrived(queue: TorchQueue, count: int) -> None:
    """Until so much waits; each task puts its work there at its first turn."""
    for _ in range(2):
        await asyncio.sleep(0)
    assert queue.waiting == count


async def gathered(queue: TorchQueue, *calls: Callable[[], Work]) -> list[ForwardResult | BaseException]:
    """Results of calls that have all arrived before the thread was free."""
    go = await held_up(queue)
    tasks = [asyncio.create_task(queue.compute(call)) for call in calls]
    await arrived(queue, len(calls))
    go.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_calls_that_wait_at_the_same_time_are_one_pass(queue: TorchQueue, passes: list[list[Work]]) -> None:
    expected = models(1)[0].forward_backward(CALL).metrics
    results = await gathered(queue, *map(preparing, models(5)))
    assert [len(works) for works in passes] == [5]
    for result in results:
        assert isinstance(result, ForwardResult)
        assert result.metrics.keys() == expected.keys()


async def test_a_call_that_comes_alone_does_not_wait_for_company(queue: TorchQueue, passes: list[list[Work]]) -> None:
    for model in models(3):
        await queue.compute(preparing(model))
    assert [len(works) for works in passes] == [1, 1, 1]


async def test_a_pass_keeps_within_the_token_budget_and_the_order_of_arrival(passes: list[list[Work]]) -> None:
    nodes = models(1)[0].prepare(CALL, trains=True).pieces.nodes
    queue, made = TorchQueue(torch_threads=1, max_nodes=2 * nodes + 1), models(5)
    await gathered(queue, *map(preparing, made))
    await queue.stop()
    adapters = [[work.adapter for work in works] for works in passes]
    order = [model._adapter for model in made]
    assert adapters == [order[:2], order[2:4], order[4:]]


async def test_calls_on_other_bases_or_in_several_micro_batches_run_alone(
    queue: TorchQueue, passes: list[list[Work]]
) -> None:
    made = [*models(2), *models(1, micro_batch_tokens=20), *models(2, GPT2), *models(1)]
    results = await gathered(queue, *map(preparing, made))
    assert all(isinstance(result, ForwardResult) for result in results)
    assert sorted(len(works) for works in passes) == [1, 1, 1, 3]


async def test_two_calls_of_one_model_never_share_a_pass(queue: TorchQueue, passes: list[list[Work]]) -> None:
    (model,) = models(1)
    await gathered(queue, preparing(model), preparing(model))
    assert [len(works) for works in passes] == [1, 1]


async def test_a_refused_call_is_answered_and_the_others_run(queue: TorchQueue, passes: list[list[Work]]) -> None:
    bad = TrainingCall(batch=batch(CrossEntropy()), loss=CrossEntropy(), terms=())
    bad.batch.tokens.values[3] = 10_000
    first, second, third = models(3)
    results = await gathered(queue, preparing(first), preparing(second, bad), preparing(third))
    assert isinstance(results[1], InvalidArgument)
    assert results[1].reason == "TOKEN_OUT_OF_VOCABULARY"
    assert [len(works) for works in passes] == [2]


async def test_when_a_pass_breaks_each_call_has_its_own_outcome(
    queue: TorchQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when there is no memory for all of them at once, or when one is poison."""
    made = models(3)
    poison = made[1]._adapter

    def breaking(works: Sequence[Work]) -> list[ForwardResult | Exception]:
        if any(work.adapter is poison for work in works):
            raise MemoryError("too much")
        return run_together(works)

    monkeypatch.setattr(torch_queue, "run_together", breaking)
    results = await gathered(queue, *map(preparing, made))
    assert [type(result) for result in results] == [ForwardResult, MemoryError, ForwardResult]
    assert poison.has_gradients is False
    expected = models(3)[2]
    expected.forward_backward(CALL)
    assert made[2]._adapter.gradients.equal(expected._adapter.gradients)


async def test_short_work_goes_first(queue: TorchQueue) -> None:
    done: list[str] = []
    go = await held_up(queue)
    (model,) = models(1)

    def prepare() -> Work:
        done.append("call")
        return model.prepare(CALL, trains=True)

    tasks = [
        asyncio.create_task(queue.compute(prepare)),
        asyncio.create_task(queue.run_long(lambda: done.append("long"))),
        asyncio.create_task(queue.run(lambda: done.append("short"))),
    ]
    await arrived(queue, 3)
    go.set()
    await asyncio.gather(*tasks)
    assert done == ["short", "call", "long"]


async def test_stopping_answers_what_waits(queue: TorchQueue) -> None:
    go = await held_up(queue)
    waiting = asyncio.create_task(queue.compute(preparing(models(1)[0])))
    await arrived(queue, 1)
    stopping = asyncio.create_task(queue.stop())
    await asyncio.sleep(0)
    go.set()
    await stopping
    with pytest.raises(Unavailable) as refused:
        await waiting
    assert refused.value.reason == "SHUTTING_DOWN"
    with pytest.raises(Unavailable):
        await queue.run(lambda: None)
