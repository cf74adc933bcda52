"""Fixtures of the trainer tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.support import serving
from tinsmith.aio import Suite
from tinsmith_server.trainer import ROOM

torch.set_num_threads(1)
# A busy machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture
async def suite(tmp_path: Path, model_directory: Path) -> AsyncIterator[Suite]:
    """A client of a trainer that serves the random model as "random"."""
    settings = {"base_models": (f"random={model_directory}",), "sequence_wait_s": 0.3, "max_models": 8}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        yield suite
