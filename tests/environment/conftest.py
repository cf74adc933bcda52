"""The environment room, with a grader of another hand behind it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.environment.support import FakeGrader, Room, serving_grader
from tests.support import serving
from tinsmith import Addresses
from tinsmith.aio import Suite
from tinsmith_server.environment import ROOM

OpenRoom = Callable[..., AbstractAsyncContextManager[Room]]


@pytest.fixture
def open_room(tmp_path: Path) -> OpenRoom:
    """Opens the room with these settings."""

    @asynccontextmanager
    async def opened(**settings: object) -> AsyncIterator[Room]:
        async with (
            serving(ROOM, tmp_path, **settings) as address,
            Suite(Addresses(environment=address)) as suite,
        ):
            yield Room(suite)

    return opened


@pytest.fixture
async def grader() -> FakeGrader:
    """What the fake grader does and saw."""
    return FakeGrader()


@pytest.fixture
async def room(open_room: OpenRoom, grader: FakeGrader) -> AsyncIterator[Room]:
    """The room with the fake grader behind it."""
    async with serving_grader(grader) as address, open_room(grader=address) as opened:
        yield opened
