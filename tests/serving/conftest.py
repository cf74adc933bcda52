"""The puppet's room, served and called."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.serving.puppet import ROOM, Puppet, PuppetRoom
from tinsmith import Addresses
from tinsmith.aio import Suite
from tinsmith_server.serving import RoomServer

OpenServer = Callable[..., RoomServer]


@pytest.fixture
def open_server(tmp_path: Path) -> OpenServer:
    """Makes a server of the puppet's room with these settings, not yet bound."""

    def opened(**settings: object) -> RoomServer:
        values = {"address": "127.0.0.1:0", "home": tmp_path, "drain_s": 1.0, **settings}
        return RoomServer(ROOM, ROOM.settings.model_validate(values))

    return opened


@pytest.fixture
async def server(open_server: OpenServer) -> AsyncIterator[RoomServer]:
    """The puppet's room, ready."""
    server = open_server()
    await server.bind()
    await server.load()
    yield server
    await server.stop()


@pytest.fixture
def puppet(server: RoomServer) -> Puppet:
    """Decides what the room answers."""
    assert isinstance(server.room, PuppetRoom)
    return server.room.puppet


@pytest.fixture
async def suite(server: RoomServer) -> AsyncIterator[Suite]:
    """A client of the room."""
    async with Suite(Addresses(environment=server.address)) as suite:
        yield suite
