"""Fixtures of the sampler's tests."""

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import torch

from tests.sampler.lab import Lab, own_model, random_model
from tests.support import serving
from tinsmith.aio import Suite
from tinsmith_server.sampler import ROOM
from tinsmith_server.sampler.local.hugging_face import HuggingFaceModel


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Qwen3 on the sampler's own forward pass."""
    oracle = random_model("qwen3")
    return Lab(oracle=oracle, model=own_model(oracle))


@pytest.fixture(
    scope="session",
    params=[
        "qwen3",
        "qwen2",
        "llama",
        "qwen3 on transformers",
        "gpt2 on transformers",
        "mistral on transformers",
    ],
)
def any_lab(request: pytest.FixtureRequest) -> Lab:
    """Every family on every forward pass that can run it."""
    family, _, road = request.param.partition(" on ")
    oracle = random_model(family)
    if road:
        return Lab(oracle=oracle, model=HuggingFaceModel(copy.deepcopy(oracle), name="random"))
    return Lab(oracle=oracle, model=own_model(oracle))


@pytest.fixture
def serve(tmp_path: Path, model_directory: Path) -> Callable[..., AbstractAsyncContextManager[Suite]]:
    """Starts a sampler process's server with the random model as "random"; settings may be added."""

    @asynccontextmanager
    async def start(**settings: object) -> AsyncIterator[Suite]:
        values = {"base_models": f"random={model_directory}", **settings}
        async with serving(ROOM, tmp_path, **values) as address, Suite.connect(sampler=address) as suite:
            yield suite

    return start


@pytest.fixture
async def suite(serve: Callable[..., AbstractAsyncContextManager[Suite]]) -> AsyncIterator[Suite]:
    """A client of a running sampler."""
    async with serve() as client:
        yield client
