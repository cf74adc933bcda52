"""What a process serves: a room, and how to open it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc.aio

from tinsmith_server.serving.settings import RoomSettings


class Room(Protocol):
    """The inside of a process. The kit starts, drains and stops it."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicers; called once, before the server starts."""

    async def start(self) -> None:
        """Loads what the room needs. The process is alive but not ready until this returns."""

    async def stop(self) -> None:
        """Frees what the room holds; called once, after the last call has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomDefinition:
    """A room before it is opened."""

    name: str
    """As `tinsmith serve` takes it."""
    default_port: int
    settings: type[RoomSettings]
    services: tuple[str, ...]
    """Full names of the gRPC services, for health and reflection."""
    open: Callable[[Any], Room]
    """Makes the room of its settings; does no work that takes time."""

    @property
    def default_address(self) -> str:
        return f"127.0.0.1:{self.default_port}"
