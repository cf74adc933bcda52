"""What goes wrong between a sampler and its server: repeated where that helps, told as what it is where not."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.sampler.calls import sample_request
from tests.sampler.openai.conftest import Serve
from tests.sampler.openai.faults import Fault, FaultyServer, answering, event, faulty
from tests.sampler.openai.server import KEY, ModelServer, http_server
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import rows
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith.types.v1 import queue_pb2
from tinsmith_server.sampler import ROOM
from tinsmith_server.serving import CannotServe

Code = grpc.StatusCode
BUSY, DOWN = Fault(status=429), Fault(status=500)
ASKED = sample_request([[1, 2]], max_tokens=4, ignore_eos=True)
LONG = sample_request([[1, 2]], max_tokens=200, ignore_eos=True)


@pytest.fixture
def server(model_directory: Path) -> ModelServer:
    """What answers behind the front; without a port of its own."""
    return ModelServer(directory=model_directory)


@pytest.fixture
async def front(server: ModelServer) -> AsyncIterator[FaultyServer]:
    """A server that can fail."""
    async with faulty(server) as running:
        yield running


@pytest.fixture
async def remote(serve: Serve, server: ModelServer, front: FaultyServer) -> AsyncIterator[Suite]:
    """A client of a sampler over it."""
    async with serve(server, openai_base_url=front.url, openai_attempts=3) as client:
        front.times.clear()
        front.came.clear()
        yield client


async def failure(remote: Suite, request: pb.SampleRequest = ASKED, **options: Any) -> TinsmithError:
    with pytest.raises(TinsmithError) as caught:
        await remote.sampler.Sample(request, **options)
    return caught.value


def streamed(remote: Suite, request: pb.SampleRequest) -> Any:
    return remote.sampler.SampleStream(pb.SampleStreamRequest(sample=request))


async def two_given_up(front: FaultyServer) -> None:
    """Waits for two callers to close their connections."""
    async with asyncio.timeout(10):
        for _ in range(2):
            await front.given_up.get()


async def stream_failure(remote: Suite) -> TinsmithError:
    """Of a stream, which the client does not send again by itself, as it does other calls that are UNAVAILABLE."""
    with pytest.raises(TinsmithError) as caught:
        async for _ in streamed(remote, ASKED):
            pass
    return caught.value


@pytest.mark.parametrize(
    "fault",
    [BUSY, DOWN, Fault(status=503), Fault(status=408), Fault(cut=True), Fault(cut=True, body='{"choi')],
    ids=["429", "500", "503", "408", "cut at once", "cut later"],
)
async def test_what_passes_is_sent_again(remote: Suite, front: FaultyServer, fault: Fault) -> None:
    """K-03: 429 and 5xx are retried."""
    front.script[:] = [fault]
    assert len(rows((await remote.sampler.Sample(ASKED)).tokens)[0]) == 4
    front.script[:] = [fault]
    messages = [message async for message in streamed(remote, ASKED)]
    assert messages[-1].usage.completion_tokens == 4
    assert len(front.times) == 4


async def test_a_pause_grows_and_is_as_long_as_the_server_says(remote: Suite, front: FaultyServer) -> None:
    """K-03: Retry-After is honoured."""
    front.script[:] = [BUSY, BUSY]
    await remote.sampler.Sample(ASKED)
    first, second = np.diff(front.times)
    assert first >= 0.125
    assert second >= 0.25
    front.times.clear()
    front.script[:] = [Fault(status=429, headers={"retry-after": "0.7"})]
    await remote.sampler.Sample(ASKED)
    assert np.diff(front.times)[0] >= 0.7


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (BUSY, Code.RESOURCE_EXHAUSTED, "BACKEND_BUSY"),
        (DOWN, Code.UNAVAILABLE, "BACKEND_UNAVAILABLE"),
        (Fault(cut=True), Code.UNAVAILABLE, "BACKEND_UNAVAILABLE"),
    ],
)
async def test_what_does_not_pass_is_told_with_a_time_to_come_back(
    remote: Suite, front: FaultyServer, fault: Fault, code: Code, reason: str
) -> None:
    """K-03: typed errors, after as many attempts as the settings say."""
    front.script[:] = [fault] * 3
    error = await stream_failure(remote)
    assert (error.code, error.reason, len(front.times)) == (code, reason, 3)
    assert error.retry_after_s


async def test_nobody_is_made_to_wait_beyond_a_deadline(remote: Suite, front: FaultyServer) -> None:
    """K-03: backoff stays inside the deadline of the call."""
    front.script[:] = [Fault(status=429, headers={"retry-after": "20"})]
    error = await asyncio.wait_for(failure(remote, timeout=15), 10)
    assert (error.reason, error.retry_after_s) == ("BACKEND_BUSY", 20)
    front.script[:] = [Fault(status=503, headers={"retry-after": "3600"})]
    error = await asyncio.wait_for(stream_failure(remote), 10)
    assert (error.reason, error.retry_after_s) == ("BACKEND_UNAVAILABLE", 3600)
    for endless in ("9" * 400, "9" * 30):
        front.script[:] = [Fault(status=503, headers={"retry-after": endless})]
        error = await asyncio.wait_for(stream_failure(remote), 10)
        assert (error.reason, error.retry_after_s) == ("BACKEND_UNAVAILABLE", 86400)


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (Fault(status=401), Code.FAILED_PRECONDITION, "BACKEND_CREDENTIALS"),
        (Fault(status=402), Code.FAILED_PRECONDITION, "BACKEND_BILLING"),
        (
            Fault(status=429, body='{"error": {"code": "insufficient_quota"}}'),
            Code.FAILED_PRECONDITION,
            "BACKEND_BILLING",
        ),
        (Fault(status=404, body='{"detail": "Not Found"}'), Code.FAILED_PRECONDITION, "BACKEND_UNSUPPORTED"),
        (
            Fault(status=404, body='{"error": {"message": "no such model", "param": "model"}}'),
            Code.NOT_FOUND,
            "BASE_MODEL_NOT_FOUND",
        ),
        (
            Fault(status=400, body='{"error": {"code": "context_length_exceeded", "message": "too long"}}'),
            Code.INVALID_ARGUMENT,
            "PROMPT_TOO_LONG",
        ),
        (Fault(status=422, body="not even JSON"), Code.INVALID_ARGUMENT, "BACKEND_REFUSED"),
        (Fault(status=302, headers={"location": "http://127.0.0.1:1/"}), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (Fault(body="<html>"), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (Fault(body="[]"), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (Fault(body='{"choices": []}'), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (answering({"index": 1}), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (answering({"token_ids": [5, 6]}), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (answering({"token_ids": [100_000]}), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (answering({"token_ids": [-1]}), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (answering({"logprobs": None}), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (answering({"finish_reason": None}), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (answering({"finish_reason": "content_filter"}), Code.INTERNAL, "BACKEND_BAD_ANSWER"),
        (answering({"token_ids": None, "logprobs": {"tokens": ["!"], "token_logprobs": [-1.0]}}),
         Code.FAILED_PRECONDITION, "BACKEND_UNSUPPORTED"),
    ],
)  # fmt: skip
async def test_each_failure_has_its_own_name_and_is_not_repeated(
    remote: Suite, front: FaultyServer, fault: Fault, code: Code, reason: str
) -> None:
    """K-03: garbage, and what only an operator can mend."""
    front.script[:] = [fault]
    error = await failure(remote)
    assert (error.code, error.reason) == (code, reason)
    assert len(front.times) == 1
    assert (await remote.sampler.Sample(ASKED)).usage.completion_tokens == 4


async def test_a_server_that_is_silent_is_left(serve: Serve, server: ModelServer, front: FaultyServer) -> None:
    """K-03: timeout; the connection is closed, so that the server may stop."""
    async with serve(server, openai_base_url=front.url, openai_timeout_s=0.5) as remote:
        front.script[:] = [Fault(hang=True), Fault(hang=True, body=event())]
        error = await failure(remote)
        assert (error.code, error.reason) == (Code.DEADLINE_EXCEEDED, "BACKEND_TIMEOUT")
        stream = streamed(remote, ASKED)
        assert [delta.token_ids for delta in (await anext(stream)).deltas] == [b"\5\0\0\0"]
        with pytest.raises(TinsmithError) as caught:
            await anext(stream)
        assert caught.value.reason == "BACKEND_TIMEOUT"
        await two_given_up(front)


async def test_a_caller_that_goes_takes_the_request_along(remote: Suite, front: FaultyServer) -> None:
    """K-03: cancellation closes the HTTP request, streamed or not."""
    front.script[:] = [Fault(hang=True), Fault(hang=True, body=event())]
    call = asyncio.ensure_future(remote.sampler.Sample(ASKED))
    await front.came.wait()
    call.cancel()
    stream = streamed(remote, ASKED)
    await anext(stream)
    await stream.aclose()
    await two_given_up(front)


async def test_a_cancelled_stream_stops_the_servers_work(remote: Suite, server: ModelServer) -> None:
    server.step_s = 0.01
    stream = streamed(remote, LONG)
    await anext(stream)
    await stream.aclose()
    await asyncio.sleep(0.5)
    stopped_at = server.steps
    await asyncio.sleep(0.5)
    assert server.steps == stopped_at < 150


async def test_a_slow_stream_tells_tokens_as_they_come(remote: Suite, server: ModelServer) -> None:
    """K-03: R-08's first token long before the last."""
    server.step_s, steps = 0.004, server.steps
    stream = streamed(remote, LONG)
    await anext(stream)
    assert server.steps - steps < 60
    assert [message async for message in stream][-1].usage.completion_tokens == 200


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(body=event() + event(), cut=True), "BACKEND_UNAVAILABLE"),
        (Fault(body=event() + event()), "BACKEND_UNAVAILABLE"),
        (Fault(body=event() + "data: [DONE]\n\n"), "BACKEND_UNAVAILABLE"),
        (Fault(body=event() + "data: {\n\n"), "BACKEND_BAD_ANSWER"),
        (Fault(body=event() + event(index=3)), "BACKEND_BAD_ANSWER"),
        (Fault(body=event(finish_reason="stop") + event()), "BACKEND_BAD_ANSWER"),
        (Fault(body=event() + 'data: {"error": {"message": "CUDA", "code": 500}}\n\n'), "BACKEND_UNAVAILABLE"),
        (Fault(body=event() + 'data: {"error": {"code": 1e999}}\n\n'), "BACKEND_UNAVAILABLE"),
        (Fault(body="data: [DONE]\n\n"), "BACKEND_BAD_ANSWER"),
    ],
    ids=[
        "cut",
        "no end",
        "an answer without end",
        "garbage",
        "nobody's",
        "after the end",
        "error event",
        "endless code",
        "nothing",
    ],
)
async def test_a_stream_that_breaks_is_an_error_after_what_came(
    remote: Suite, front: FaultyServer, fault: Fault, reason: str
) -> None:
    """Never sent again once something was told, never taken for the end."""
    front.script[:] = [fault]
    assert (await stream_failure(remote)).reason == reason
    assert len(front.times) == 1


async def test_comments_and_empty_lines_of_a_stream_mean_nothing(remote: Suite, front: FaultyServer) -> None:
    body = ": ping\n\n" + event() + "\n\nevent: x\n" + event(finish_reason="length") + "data: [DONE]\n\n"
    front.script[:] = [Fault(body=body)]
    messages = [message async for message in streamed(remote, ASKED)]
    assert b"".join(delta.token_ids for message in messages for delta in message.deltas) == b"\5\0\0\0" * 2


async def test_when_one_prompt_fails_the_others_are_given_up(remote: Suite, front: FaultyServer) -> None:
    front.script[:] = [Fault(hang=True), Fault(hang=True), Fault(status=401)]
    error = await failure(remote, sample_request([[1], [2], [3]]))
    assert error.reason == "BACKEND_CREDENTIALS"
    await two_given_up(front)


async def test_a_server_that_keeps_failing_is_left_alone(remote: Suite, front: FaultyServer) -> None:
    """R-06: one breaker a backend; what is refused by it does not reach the server."""
    front.script[:] = [DOWN] * 100
    assert [(await stream_failure(remote)).reason for _ in range(2)] == ["BACKEND_UNAVAILABLE", "CIRCUIT_OPEN"]
    error = await stream_failure(remote)
    assert (error.code, error.reason) == (Code.UNAVAILABLE, "CIRCUIT_OPEN")
    assert 20 < (error.retry_after_s or 0) <= 30
    assert len(front.times) == 5


async def test_refusals_do_not_open_the_circuit(remote: Suite, front: FaultyServer) -> None:
    """R-06: 4xx are the caller's."""
    front.script[:] = [Fault(status=400)] * 10
    assert {(await failure(remote)).reason for _ in range(10)} == {"BACKEND_REFUSED"}
    await remote.sampler.Sample(ASKED)


async def test_the_key_is_sent_and_never_told(
    serve: Serve, server: ModelServer, front: FaultyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve(server, openai_base_url=front.url, openai_attempts=1) as remote:
        echo = json.dumps({"error": {"message": "at /srv/models/secret/weights: no"}})
        for fault in (Fault(status=400, body=echo), Fault(status=401, body=KEY), DOWN, Fault(body=KEY)):
            front.script[:] = [fault]
            error = await stream_failure(remote)
            assert KEY not in f"{error.message} {dict(error.metadata)}"
            assert "/srv" not in error.message
    assert all(header["authorization"] == f"Bearer {KEY}" for header in server.headers)
    assert not [record for record in caplog.records if KEY in record.getMessage()]


async def test_a_callers_own_key_never_reaches_the_server(
    serve: Serve, server: ModelServer, front: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is good for this suite alone, and the server has a key of its own."""
    monkeypatch.setenv("TINSMITH_API_KEY", "the-callers")
    async with serve(server, openai_base_url=front.url) as remote:
        await remote.sampler.Sample(ASKED)
    assert server.headers[-1]["authorization"] == f"Bearer {KEY}"
    assert "the-callers" not in str(server.headers)


async def test_a_sampler_waits_for_its_server_and_says_so_when_none_comes(
    serve: Serve, server: ModelServer, front: FaultyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    place = r"http://127\.0\.0\.1:9/v1 \(setting openai_base_url\).*BACKEND_UNAVAILABLE"
    with pytest.raises(CannotServe, match=place):
        async with serve(server, openai_base_url="http://127.0.0.1:9/v1", openai_start_s=1.2):
            pass
    said = [record for record in caplog.records if "is sought at" in record.getMessage()]
    assert len(said) == 1, "once, not at every try"
    with pytest.raises(CannotServe, match="BACKEND_CREDENTIALS"):
        async with serve(server, openai_base_url=front.url, openai_api_key="wrong"):
            pass


async def test_requests_beyond_the_bounds_are_refused_and_the_queue_can_be_watched(
    serve: Serve, server: ModelServer, front: FaultyServer
) -> None:
    settings = {"openai_base_url": front.url, "openai_concurrency": 1, "max_waiting": 1}
    async with serve(server, **settings) as remote:
        front.script[:] = [Fault(hang=True)]
        running = asyncio.ensure_future(remote.sampler.Sample(ASKED))
        watch = remote.sampler.WatchQueue(pb.WatchQueueRequest())
        async for message in watch:
            if message.status.running == 1:
                break
        waiting = asyncio.ensure_future(remote.sampler.Sample(ASKED))
        async for message in watch:
            if message.status.waiting == 1:
                break
        assert message.status.state == queue_pb2.QUEUE_STATE_PAUSED_CAPACITY
        error = await failure(remote)
        assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert error.retry_after_s
        running.cancel()
        assert (await waiting).usage.completion_tokens == 4


async def test_a_stream_of_rubbish_without_end_is_no_stream(serve: Serve, server: ModelServer) -> None:
    """Another service on the port."""

    async def other(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    async with http_server(other) as url:
        with pytest.raises(CannotServe, match="BACKEND_BAD_ANSWER"):
            async with serve(server, openai_base_url=url):
                pass


def test_settings_that_can_not_be_are_refused_at_once(tmp_path: Path) -> None:
    for wrong in (
        {"openai_base_url": "localhost:8000"},
        {"openai_base_url": "http://me:secret@localhost:8000/v1"},
        {"openai_models": "a"},
        {"backend": "vllm"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ROOM.settings(home=tmp_path, **wrong)
    assert KEY not in repr(ROOM.settings(home=tmp_path, openai_api_key=KEY))
