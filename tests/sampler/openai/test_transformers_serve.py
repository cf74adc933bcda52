"""`transformers serve`: a real server that speaks OpenAI's /completions, but in text only.

It takes no token ids, tells none and has no logprobs, so a sampler can't answer from it. What is shown: our HTTP side
understands it, whole and streamed, and each thing it lacks is an error with a name, never an answer.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sampler.calls import sample_request
from tests.sampler.openai.conftest import Serve
from tests.sampler.openai.server import ModelServer
from tinsmith_server.sampler import wire
from tinsmith_server.sampler.openai.answers import piece_of
from tinsmith_server.sampler.openai.asks import Ask, sample_body
from tinsmith_server.sampler.openai.client import Client, Server
from tinsmith_server.sampler.openai.dialect import OTHER
from tinsmith_server.sampler.openai.messages import Completion, parse, parse_event
from tinsmith_server.sampler.openai.reported import ReportedLogprobs
from tinsmith_server.sampler.openai.served_model import ServedModel
from tinsmith_server.serving import CannotServe
from tinsmith_server.serving.circuit_breaker import CircuitBreaker
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument, ServiceError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server, once it answers; it takes ten seconds to start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    home = tmp_path_factory.mktemp("transformers")
    (home / "hub").mkdir()
    process = subprocess.Popen(
        [
            Path(sys.executable).with_name("transformers"),
            *("serve", str(model_directory), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"),
        ],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_until_it_answers(port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(port: int) -> None:
    gives_up = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < gives_up, "it does not come up"
            time.sleep(0.2)
        else:
            return


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    server = Server(base_url=url, api_key="", timeout_s=60, attempts=1, connections=4)
    talk = Client(server, CircuitBreaker("transformers serve", is_failure=lambda error: False))
    yield talk
    await talk.close()


def served(model_directory: Path) -> ServedModel:
    return ServedModel(
        name="random",
        remote=str(model_directory),
        architecture="",
        context=512,
        vocabulary=263,
        eos_ids=frozenset(),
        text=Any,
        reported=ReportedLogprobs(scaled=False, filtered=False, shifted=False),
    )


async def test_it_is_understood_and_what_it_lacks_has_a_name(client: Client, model_directory: Path) -> None:
    """K-03: a real OpenAI-compatible server on loopback."""
    model = served(model_directory)
    text = {"model": str(model_directory), "prompt": "ab", "max_tokens": 6, "temperature": 0.0}
    whole = parse(Completion, await client.post("completions", text))
    assert [choice.finish_reason for choice in whole.choices] == ["length"]
    events = [parse_event(data) async for data in client.stream("completions", text | {"stream": True})]
    assert [choice.finish_reason for event in events for choice in event.choices if choice.finish_reason] == ["length"]

    request = wire.sample_request(sample_request([[1, 2]], max_tokens=2))
    with pytest.raises(FailedPrecondition) as lacking:
        piece_of(whole.choices[0], request.params, model, top=0)
    assert (lacking.value.reason, lacking.value.metadata) == ("BACKEND_UNSUPPORTED", {"parameter": "token ids"})
    body = sample_body(request, Ask(prompt=0, first=0, answers=1), model, model.remote, OTHER)
    with pytest.raises(InvalidArgument, match="Unexpected fields in the request") as refused:
        await client.post("completions", body)
    assert refused.value.reason == "BACKEND_REFUSED"
    with pytest.raises(InvalidArgument, match="prompt must be a string"):
        await client.post("completions", text | {"prompt": [1, 2]})
    with pytest.raises(ServiceError):
        await client.post("no-such-thing", text)


async def test_a_sampler_over_it_does_not_start(serve: Serve, server: ModelServer, url: str) -> None:
    """It lists the hub's cache, where a directory is not."""
    with pytest.raises(CannotServe, match="BASE_MODEL_NOT_FOUND"):
        async with serve(server, openai_base_url=url):
            pass
