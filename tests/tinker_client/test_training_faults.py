"""A Tinker service that fails: calls go through when it recovers, else end soon with an error that says what is wrong
(K-02)."""

import asyncio

import pytest

from tests.conformance.calls import batch, forward_backward, train
from tests.tinker_client.conftest import PATIENCE_S, TIMEOUT_S, Bench
from tests.tinker_server.faults import GARBAGE, Fault, Status, cut, cut_when_done, hang
from tests.tinker_server.server import API_KEY
from tinsmith.aio import Suite, TinsmithError
from tinsmith.trainer.v1 import CreateModelRequest, LoadStateRequest, Model, SaveForSamplerRequest, SaveStateRequest
from tinsmith.types.v1 import LoraConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")
ENOUGH_S = 4 * (TIMEOUT_S + PATIENCE_S)
"""After this long a call hangs."""
TRANSIENT: dict[str, tuple[str, Fault]] = {
    "forward_backward 503": ("forward_backward", Status(503, headers={"retry-after-ms": "20"})),
    "forward_backward cut": ("forward_backward", cut),
    "forward_backward cut when done": ("forward_backward", cut_when_done),
    "optim_step 429": ("optim_step", Status(429, headers={"retry-after-ms": "20"})),
    "optim_step cut when done": ("optim_step", cut_when_done),
    "result 500": ("retrieve_future", Status(500)),
    "result 429": ("retrieve_future", Status(429)),
}
LASTING: dict[str, tuple[Fault, tuple[str, str]]] = {
    "500": (Status(500), ("UNAVAILABLE", "BACKEND_UNAVAILABLE")),
    "429": (Status(429, headers={"retry-after": "1"}), ("RESOURCE_EXHAUSTED", "BACKEND_BUSY")),
    "402": (Status(402), ("FAILED_PRECONDITION", "BACKEND_BILLING")),
    "401": (Status(401), ("FAILED_PRECONDITION", "BACKEND_CREDENTIALS")),
    "422": (Status(422), ("INVALID_ARGUMENT", "BACKEND_REFUSED")),
    "hang": (hang, ("UNAVAILABLE", "BACKEND_UNAVAILABLE")),
    "garbage": (GARBAGE, ("INTERNAL", "BACKEND_BAD_ANSWER")),
}


async def create(suite: Suite) -> Model:
    """A fresh model."""
    request = CreateModelRequest(base_model="random", lora=LoraConfig(rank=4, seed=1))
    return (await suite.trainer.CreateModel(request)).model


@pytest.mark.parametrize("name", TRANSIENT)
async def test_passing_fault_is_not_seen_and_nothing_is_done_twice(bench: Bench, name: str) -> None:
    endpoint, fault = TRANSIENT[name]
    model, twin = await create(bench.suite), await create(bench.suite)
    expected = await train(bench.suite, twin, 2)
    bench.faults.asked.clear()
    bench.faults.once(endpoint, fault)
    assert await train(bench.suite, model, 2) == expected
    requests = {"forward_backward": 2, "optim_step": 2, "retrieve_future": 4}
    assert bench.faults.asked.count(endpoint) == requests[endpoint] + 1


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        *(("forward_backward", name) for name in LASTING),
        *(("retrieve_future", name) for name in LASTING if name != "hang"),
    ],
)
async def test_lasting_fault_ends_the_call_with_its_name(bench: Bench, endpoint: str, name: str) -> None:
    fault, expected = LASTING[name]
    model = await create(bench.suite)
    bench.faults.always(endpoint, fault)
    with pytest.raises(TinsmithError) as failed:
        await asyncio.wait_for(forward_backward(bench.suite, model), ENOUGH_S)
    error = failed.value
    assert (error.code.name, error.reason) == expected
    assert (error.retry_after_s is not None) == (error.code.name in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
    if name == "429":
        assert error.retry_after_s == 1
    if name == "422":
        assert "as asked for" in error.message


async def test_service_that_is_never_ready_ends_at_the_deadline(bench: Bench) -> None:
    model = await create(bench.suite)
    bench.faults.always("retrieve_future", Status(408, b'{"type": "try_again", "queue_state": "active"}'))
    with pytest.raises(TinsmithError) as failed:
        await asyncio.wait_for(forward_backward(bench.suite, model), ENOUGH_S)
    assert (failed.value.code.name, failed.value.reason) == ("DEADLINE_EXCEEDED", "BACKEND_TIMEOUT")
    assert failed.value.retry_after_s is not None


async def test_lost_result_is_an_error(bench: Bench) -> None:
    model = await create(bench.suite)
    bench.faults.once("retrieve_future", Status(410))
    with pytest.raises(TinsmithError) as failed:
        await forward_backward(bench.suite, model)
    assert (failed.value.code.name, failed.value.reason) == ("UNAVAILABLE", "BACKEND_UNAVAILABLE")


@pytest.mark.parametrize("category", ["user", "server"])
async def test_failed_work_says_whose_fault_it_is(bench: Bench, category: str) -> None:
    model = await create(bench.suite)
    body = b'{"error": "the reason why", "category": "%s"}' % category.encode()
    bench.faults.once("retrieve_future", Status(200, body))
    with pytest.raises(TinsmithError) as failed:
        await forward_backward(bench.suite, model)
    assert failed.value.code.name == {"user": "INVALID_ARGUMENT", "server": "UNAVAILABLE"}[category]
    assert "the reason why" in failed.value.message
    assert "request_id" not in failed.value.message


async def test_call_that_the_service_refuses_leaves_the_model_usable(bench: Bench) -> None:
    model, twin = await create(bench.suite), await create(bench.suite)
    expected = await train(bench.suite, twin, 2)
    with pytest.raises(TinsmithError) as refused:
        await forward_backward(bench.suite, model, batch=batch([[1, 1_000_000]]))
    assert refused.value.reason == "BACKEND_REFUSED"
    assert await train(bench.suite, model, 2) == expected


async def test_model_whose_state_is_in_doubt_is_not_used_until_it_is_loaded(bench: Bench) -> None:
    suite, model = bench.suite, await create(bench.suite)
    await train(suite, model, 1)
    saved = (await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    expected = await train(suite, model, 2)
    bench.faults.always("forward_backward", Status(500))
    with pytest.raises(TinsmithError):
        await forward_backward(suite, model)
    bench.faults.clear()
    for call in (
        forward_backward(suite, model),
        suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id, name="doubtful")),
        suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id)),
    ):
        with pytest.raises(TinsmithError) as refused:
            await call
        assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "MODEL_STATE_UNKNOWN")
    load = LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri, load_optimizer=True)
    assert (await suite.trainer.LoadState(load)).model.step == 1
    assert await train(suite, model, 2) == expected


async def test_weights_that_the_service_has_lost(bench: Bench) -> None:
    suite, model = bench.suite, await create(bench.suite)
    saved = (await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    bench.faults.once("load_weights", Status(404))
    with pytest.raises(TinsmithError) as failed:
        await suite.trainer.LoadState(LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri))
    assert (failed.value.code.name, failed.value.reason) == ("NOT_FOUND", "CHECKPOINT_NOT_FOUND")
    await train(suite, model, 1)


async def test_what_the_service_says_is_told_without_the_key(bench: Bench) -> None:
    model = await create(bench.suite)
    bench.faults.once("forward_backward", Status(422, b'{"detail": "no account has the key %s"}' % API_KEY.encode()))
    with pytest.raises(TinsmithError) as failed:
        await forward_backward(bench.suite, model)
    assert "no account has the key" in failed.value.message
    assert API_KEY not in failed.value.message
