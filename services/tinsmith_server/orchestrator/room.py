"""The orchestrator as a process."""

import os
import socket
from uuid import uuid4

import grpc.aio

from tinsmith import Addresses
from tinsmith.aio import Suite
from tinsmith.numerics.v1 import add_NumericsServiceServicer_to_server
from tinsmith.orchestrator.v1 import add_OrchestratorServiceServicer_to_server
from tinsmith_server.orchestrator.directory import KINDS, Directory
from tinsmith_server.orchestrator.driving import Driver, Supervisor
from tinsmith_server.orchestrator.numerics_service import NumericsService
from tinsmith_server.orchestrator.service import OrchestratorService
from tinsmith_server.orchestrator.settings import OrchestratorSettings
from tinsmith_server.orchestrator.starting import Starter
from tinsmith_server.orchestrator.store import Database, Leases, Registry, Runs
from tinsmith_server.serving import RoomDefinition, outgoing_metadata


class OrchestratorRoom:
    """Keeps its state in `<home>/orchestrator.db`."""

    def __init__(self, settings: OrchestratorSettings) -> None:
        self._database = Database(settings.home / "orchestrator.db")
        addresses = {name: getattr(settings, name) for name in KINDS}
        self._suite = Suite(Addresses(**addresses), metadata=outgoing_metadata)
        runs, registry = Runs(self._database), Registry(self._database)
        owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        driver = Driver(suite=self._suite, runs=runs, registry=registry, settings=settings, owner=owner)
        leases = Leases(self._database, owner=owner, duration_s=settings.lease_s)
        self._supervisor = Supervisor(driver, leases, max_running=settings.max_running, poll_s=settings.poll_s)
        self._service = OrchestratorService(
            runs=runs,
            registry=registry,
            starter=Starter(self._suite, runs, addresses),
            supervisor=self._supervisor,
            directory=Directory(registry, addresses),
            watch_heartbeat_s=settings.watch_heartbeat_s,
        )

    def register(self, server: grpc.aio.Server) -> None:
        add_OrchestratorServiceServicer_to_server(self._service, server)
        add_NumericsServiceServicer_to_server(NumericsService(), server)

    async def start(self) -> None:
        """Migrates the database and takes up the runs that nobody drives."""
        await self._database.open()
        self._supervisor.start()

    async def stop(self) -> None:
        await self._supervisor.stop()
        await self._suite.close()
        await self._database.close()


ROOM = RoomDefinition(
    name="orchestrator",
    default_port=50056,
    settings=OrchestratorSettings,
    services=("tinsmith.orchestrator.v1.OrchestratorService", "tinsmith.numerics.v1.NumericsService"),
    open=OrchestratorRoom,
)
