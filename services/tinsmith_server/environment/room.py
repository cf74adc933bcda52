"""The environments as a process."""

import asyncio

import grpc.aio

from tinsmith import Addresses
from tinsmith.aio import Suite
from tinsmith.environment.v1 import environment_service_pb2_grpc as pb_grpc
from tinsmith_server.environment.episodes import Episodes
from tinsmith_server.environment.family import Family
from tinsmith_server.environment.grading import Grader
from tinsmith_server.environment.problem import ProblemFamily
from tinsmith_server.environment.service import EnvironmentService
from tinsmith_server.environment.settings import EnvironmentSettings
from tinsmith_server.environment.text_arena import TextArenaFamily
from tinsmith_server.serving import RoomDefinition, outgoing_metadata


class EnvironmentRoom:
    """Episodes in memory. A process that ends takes them with it; whoever made them makes them again."""

    def __init__(self, settings: EnvironmentSettings) -> None:
        self._settings = settings
        self._suite = Suite(Addresses(grader=settings.grader), metadata=outgoing_metadata)
        self._episodes = Episodes(
            max_episodes=settings.max_episodes,
            idle_timeout_s=settings.idle_timeout_s,
            done_timeout_s=settings.done_timeout_s,
        )
        self._expiring: asyncio.Task[None] | None = None

    def register(self, server: grpc.aio.Server) -> None:
        families: dict[str, Family] = {"problem": ProblemFamily(Grader(self._suite)), "text_arena": TextArenaFamily()}
        service = EnvironmentService(families, self._episodes, remembered_calls=self._settings.remembered_calls)
        pb_grpc.add_EnvironmentServiceServicer_to_server(service, server)

    async def start(self) -> None:
        self._expiring = asyncio.create_task(self._expire())

    async def stop(self) -> None:
        if self._expiring is not None:
            self._expiring.cancel()
        await self._suite.close()

    async def _expire(self) -> None:
        pause_s = min(self._settings.idle_timeout_s, self._settings.done_timeout_s, 20.0) / 4
        while True:
            await asyncio.sleep(pause_s)
            self._episodes.expire()


ROOM = RoomDefinition(
    name="environment",
    default_port=50055,
    settings=EnvironmentSettings,
    services=("tinsmith.environment.v1.EnvironmentService",),
    open=EnvironmentRoom,
)
