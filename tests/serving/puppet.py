"""A room whose answers a test decides: the environment service's contract without environments."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
from pydantic import Field

from tinsmith.environment.v1 import (
    EnvironmentServiceServicer,
    ListEnvironmentsRequest,
    ListEnvironmentsResponse,
    PlayRequest,
    PlayResponse,
    add_EnvironmentServiceServicer_to_server,
)
from tinsmith_server.serving import CommaSeparated, RoomDefinition, RoomSettings
from tinsmith_server.serving.errors import ServiceError

SERVICE = "tinsmith.environment.v1.EnvironmentService"


class PuppetSettings(RoomSettings):
    """Settings like those that real rooms have."""

    base_models: CommaSeparated = Field(("tinsmith-tiny",), description="base models")
    checkpoint_root: str = Field("", description="where checkpoints live")
    max_waiting: int = Field(256, ge=0, description="most requests that wait")


async def nothing() -> None:
    """What a puppet does unless told."""


class Puppet(EnvironmentServiceServicer):
    """ListEnvironments and Play do as the test says; the other methods have no code."""

    def __init__(self) -> None:
        self.act: Callable[[], Awaitable[None]] = nothing
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def ListEnvironments(self, request: ListEnvironmentsRequest, context: Any) -> ListEnvironmentsResponse:
        self.entered.set()
        try:
            await self.act()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return ListEnvironmentsResponse(next_page_token=request.page_token)

    async def Play(self, request_iterator: AsyncIterator[PlayRequest], context: Any) -> AsyncIterator[PlayResponse]:
        async for _ in request_iterator:
            yield PlayResponse()
            await self.act()


class PuppetRoom:
    """Starts when the test lets it."""

    def __init__(self, settings: PuppetSettings) -> None:
        self.settings = settings
        self.puppet = Puppet()
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.refusal: ServiceError | None = None
        self.is_stopped = False

    def register(self, server: grpc.aio.Server) -> None:
        add_EnvironmentServiceServicer_to_server(self.puppet, server)

    async def start(self) -> None:
        await self.may_start.wait()
        if self.refusal is not None:
            raise self.refusal

    async def stop(self) -> None:
        self.is_stopped = True


ROOM = RoomDefinition(name="puppet", default_port=50099, settings=PuppetSettings, services=(SERVICE,), open=PuppetRoom)
