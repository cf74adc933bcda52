"""Fixtures of the conformance suite: every test runs once over each backend."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from tests.conformance.worlds import SAMPLERS, TRAINERS, World, open_worlds

Worlds = Mapping[str, World]

torch.set_num_threads(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trainers(tmp_path_factory: pytest.TempPathFactory, model_directory: Path) -> AsyncIterator[Worlds]:
    """Every backend of the trainer."""
    async with open_worlds(TRAINERS, tmp_path_factory.mktemp("trainers"), model_directory) as worlds:
        yield worlds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def samplers(tmp_path_factory: pytest.TempPathFactory, model_directory: Path) -> AsyncIterator[Worlds]:
    """Every backend of the sampler."""
    async with open_worlds(SAMPLERS, tmp_path_factory.mktemp("samplers"), model_directory) as worlds:
        yield worlds


@pytest.fixture(params=TRAINERS)
def trainer(request: pytest.FixtureRequest, trainers: Worlds) -> World:
    """One backend of the trainer."""
    return trainers[request.param]


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest, samplers: Worlds) -> World:
    """One backend of the sampler."""
    return samplers[request.param]
