"""The grader as a process: a gRPC server in front of worker processes."""

import asyncio

import grpc.aio

from tinsmith.grader.v1 import grader_service_pb2_grpc as pb_grpc
from tinsmith_server.grader.grader import Judge
from tinsmith_server.grader.grading import Grading
from tinsmith_server.grader.pool import Pool
from tinsmith_server.grader.request import RequestReader
from tinsmith_server.grader.service import GraderService
from tinsmith_server.grader.settings import GraderSettings
from tinsmith_server.serving import RoomDefinition


class GraderRoom:
    """Grades; keeps no state but what it has seen lately."""

    def __init__(self, settings: GraderSettings) -> None:
        self._settings = settings
        self.pools = {
            judge: Pool(
                judge,
                workers=settings.workers,
                worker_items=settings.worker_items,
                worker_memory_bytes=settings.worker_memory_bytes,
            )
            for judge in Judge
        }
        """The workers of each judge."""

    def register(self, server: grpc.aio.Server) -> None:
        grading = Grading(self.pools, max_waiting=self._settings.max_waiting)
        reader = RequestReader(self._settings)
        service = GraderService(grading, reader, stream_window=self._settings.stream_window)
        pb_grpc.add_GraderServiceServicer_to_server(service, server)

    async def start(self) -> None:
        """Starts the symbolic workers; those of math-verify start with the first item that asks for them."""
        await self.pools[Judge.SYMBOLIC].start()

    async def stop(self) -> None:
        await asyncio.gather(*(pool.stop() for pool in self.pools.values()))


ROOM = RoomDefinition(
    name="grader",
    default_port=50054,
    settings=GraderSettings,
    services=("tinsmith.grader.v1.GraderService",),
    open=GraderRoom,
)
