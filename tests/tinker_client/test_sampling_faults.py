"""A Tinker service that fails while it samples."""

import asyncio

import pytest

from tests.conformance.calls import logprobs_request, sample_request, values
from tests.tinker_client.conftest import PATIENCE_S, TIMEOUT_S, Bench
from tests.tinker_server.faults import GARBAGE, Fault, Status, cut, cut_when_done, hang
from tinsmith.aio import TinsmithError
from tinsmith.sampler.v1 import SampleStreamRequest, WatchQueueRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")
ENOUGH_S = 4 * (TIMEOUT_S + PATIENCE_S)
REQUEST = sample_request([[72, 105], [7]], temperature=0.0)
TRANSIENT: list[tuple[str, Fault]] = [
    ("asample", Status(500)),
    ("asample", Status(429)),
    ("asample", cut_when_done),
    ("retrieve_future", cut),
]
LASTING: dict[str, tuple[Fault, tuple[str, str]]] = {
    "500": (Status(500), ("UNAVAILABLE", "BACKEND_UNAVAILABLE")),
    "429": (Status(429, headers={"retry-after": "7"}), ("RESOURCE_EXHAUSTED", "BACKEND_BUSY")),
    "402": (Status(402), ("FAILED_PRECONDITION", "BACKEND_BILLING")),
    "401": (Status(401), ("FAILED_PRECONDITION", "BACKEND_CREDENTIALS")),
    "422": (Status(422), ("INVALID_ARGUMENT", "BACKEND_REFUSED")),
    "hang": (hang, ("UNAVAILABLE", "BACKEND_UNAVAILABLE")),
    "cut": (cut, ("UNAVAILABLE", "BACKEND_UNAVAILABLE")),
    "garbage": (GARBAGE, ("INTERNAL", "BACKEND_BAD_ANSWER")),
}


async def _stream(bench: Bench) -> None:
    async for _ in bench.suite.sampler.SampleStream(SampleStreamRequest(sample=REQUEST)):
        pass


@pytest.mark.parametrize(
    ("endpoint", "fault"), TRANSIENT, ids=["asample 500", "asample 429", "asample cut when done", "result cut"]
)
async def test_passing_fault_is_not_seen(bench: Bench, endpoint: str, fault: Fault) -> None:
    expected = await bench.suite.sampler.Sample(REQUEST)
    bench.faults.once(endpoint, fault)
    found = await bench.suite.sampler.Sample(REQUEST)
    assert values(found.tokens).tolist() == values(expected.tokens).tolist()


@pytest.mark.parametrize("name", LASTING)
async def test_lasting_fault_ends_the_call_with_its_name(bench: Bench, name: str) -> None:
    """As a stream, which the client does not try again."""
    fault, expected = LASTING[name]
    await bench.suite.sampler.Sample(REQUEST)
    bench.faults.always("asample", fault)
    with pytest.raises(TinsmithError) as failed:
        await asyncio.wait_for(_stream(bench), ENOUGH_S)
    assert (failed.value.code.name, failed.value.reason) == expected


async def test_scores_fail_as_answers_do(bench: Bench) -> None:
    bench.faults.always("asample", Status(402))
    for call in (
        bench.suite.sampler.Sample(REQUEST),
        bench.suite.sampler.ComputeLogprobs(logprobs_request([[1, 2]])),
    ):
        with pytest.raises(TinsmithError) as failed:
            await call
        assert failed.value.reason == "BACKEND_BILLING"


async def test_service_recovers(bench: Bench) -> None:
    bench.faults.always("create_sampling_session", Status(422))
    request = sample_request([[1]], "tinsmith://m/sampler/none")
    with pytest.raises(TinsmithError):
        await bench.suite.sampler.Sample(request)
    bench.faults.clear()
    assert len((await bench.suite.sampler.Sample(REQUEST)).stop_reasons) == 2


async def test_cancelled_call_ends_the_work_at_the_service(bench: Bench) -> None:
    bench.faults.always("retrieve_future", hang)
    call = asyncio.ensure_future(bench.suite.sampler.Sample(REQUEST))
    while "retrieve_future" not in bench.faults.asked[-2:]:  # noqa: ASYNC110  # the server has no event for it
        await asyncio.sleep(0.01)
    call.cancel()
    async with asyncio.timeout(ENOUGH_S):
        while "cancel_future" not in bench.faults.asked:  # noqa: ASYNC110  # the server has no event for it
            await asyncio.sleep(0.01)
        async for message in bench.suite.sampler.WatchQueue(WatchQueueRequest()):
            if message.status.running == 0:
                break
