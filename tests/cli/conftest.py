"""A real gRPC server with an orchestrator of the test's own, and a home that leads to it."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.cli.fake_orchestrator import Orchestrator
from tinsmith.orchestrator.v1 import add_OrchestratorServiceServicer_to_server


@dataclass(frozen=True, kw_only=True, slots=True)
class Fake:
    """What a test gets of the orchestrator."""

    servicer: Orchestrator
    home: str


@pytest.fixture
def orchestrator(tmp_path: Path) -> Iterator[Fake]:
    servicer = Orchestrator()
    server = grpc.server(ThreadPoolExecutor(4))
    add_OrchestratorServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    services = {"orchestrator": {"address": f"127.0.0.1:{port}"}}
    (tmp_path / "suite.json").write_text(json.dumps({"pid": 1, "ready": True, "services": services}))
    yield Fake(servicer=servicer, home=str(tmp_path))
    server.stop(0)
