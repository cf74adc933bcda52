"""Fixtures of the `openai` backend's tests."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.sampler.openai.server import ModelServer, model_server, sampler_settings
from tests.support import serving
from tinsmith.aio import Suite
from tinsmith_server.sampler import ROOM

Serve = Callable[..., AbstractAsyncContextManager[Suite]]

VLLM_URL, VLLM_KEY, VLLM_MODEL = (os.environ.get(f"TINSMITH_TEST_VLLM_{name}", "") for name in ("URL", "KEY", "MODEL"))
"""A real vLLM, started with --logprobs-mode processed_logprobs and --max-logprobs 20 or more, and the directory of the
model that it serves."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A sampler over a server, and one with the same model in its own process; both read checkpoints in `home`."""

    remote: Suite
    local: Suite
    model: Path
    home: Path


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Several threads of torch that wait for each other make a step of the small model five times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
async def server(model_directory: Path) -> AsyncIterator[ModelServer]:
    """The imitation of vLLM, over the random model."""
    async with model_server(model_directory) as running:
        yield running


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Starts a sampler over a server."""

    @asynccontextmanager
    async def start(server: ModelServer, **settings: object) -> AsyncIterator[Suite]:
        values = {**sampler_settings(server), **settings}
        async with serving(ROOM, tmp_path, **values) as address, Suite.connect(sampler=address) as client:
            yield client

    return start


@pytest.fixture
async def remote(serve: Serve, server: ModelServer) -> AsyncIterator[Suite]:
    """A client of a sampler over the imitation."""
    async with serve(server) as client:
        yield client


@pytest.fixture(params=["imitation", "vllm"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Over the imitation, and where the environment names one over a real vLLM: what is true of one is of both."""
    if request.param == "vllm":
        if not VLLM_URL:
            pytest.skip("TINSMITH_TEST_VLLM_URL names no server")
        model, settings = (
            Path(VLLM_MODEL),
            {"openai_base_url": VLLM_URL, "openai_api_key": VLLM_KEY, "backend": "openai"},
        )
        async with _world(model, tmp_path, settings) as found:
            yield found
        return
    model = request.getfixturevalue("model_directory")
    async with model_server(model) as server, _world(model, tmp_path, sampler_settings(server)) as found:
        yield found


@asynccontextmanager
async def _world(model: Path, home: Path, settings: dict[str, object]) -> AsyncIterator[World]:
    values = {"base_models": f"random={model}"}
    async with (
        serving(ROOM, home, **(settings | values)) as there,
        serving(ROOM, home, **values) as here,
        Suite.connect(sampler=there) as remote,
        Suite.connect(sampler=here) as local,
    ):
        yield World(remote=remote, local=local, model=model, home=home)
