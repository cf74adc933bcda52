"""Fixtures: stand-ins for the services of a run, and an orchestrator that uses them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.orchestrator.fakes import Fakes
from tests.orchestrator.support import Bench, bench


@pytest.fixture
async def orchestra(tmp_path: Path) -> AsyncIterator[Bench]:
    """An orchestrator over stand-ins."""
    async with bench(tmp_path) as opened:
        yield opened


@pytest.fixture
def fakes(orchestra: Bench) -> Fakes:
    return orchestra.fakes
