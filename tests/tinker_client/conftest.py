"""Fixtures: a trainer and a sampler whose Tinker service can be made to fail. They give up soon."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from tests.support import serving
from tests.tinker_server.faults import Faults
from tests.tinker_server.server import TinkerServer, tinker_server
from tinsmith.aio import Suite
from tinsmith_server.sampler import ROOM as SAMPLER
from tinsmith_server.trainer import ROOM as TRAINER

torch.set_num_threads(1)
TIMEOUT_S, PATIENCE_S = 5.0, 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A client of both rooms, and the service behind them."""

    suite: Suite
    server: TinkerServer
    home: Path

    @property
    def faults(self) -> Faults:
        """What fails."""
        return self.server.faults


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, model_directory: Path) -> AsyncIterator[Bench]:
    """Both rooms over one service."""
    home = tmp_path_factory.mktemp("home")
    async with tinker_server(home / "service", model_directory) as server:
        settings = {
            "base_models": f"random={server.base_model}",
            "tinker_timeout_s": TIMEOUT_S,
            "tinker_patience_s": PATIENCE_S,
            **server.settings,
        }
        async with (
            serving(TRAINER, home, **settings) as trainer,
            serving(SAMPLER, home, **settings) as sampler,
            Suite.connect(trainer=trainer, sampler=sampler) as suite,
        ):
            yield Bench(suite=suite, server=server, home=home)


@pytest.fixture
def bench(running: Bench) -> Iterator[Bench]:
    """The same, with a service in order at the beginning of each test."""
    running.faults.clear()
    yield running
    running.faults.clear()
