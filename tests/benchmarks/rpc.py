"""What the serving kit and our client add to a call: ours against a bare grpc.aio echo and a bare stub."""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from tests.benchmarks.report import Row, paired
from tinsmith import Suite
from tinsmith.orchestrator.v1 import (
    GetRunRequest,
    GetRunResponse,
    OrchestratorServiceServicer,
    OrchestratorServiceStub,
    Run,
    add_OrchestratorServiceServicer_to_server,
)
from tinsmith_server.serving import RoomDefinition, RoomServer, RoomSettings, launch_environment

CALLS = 400
ROUNDS = 9


def rows() -> list[Row]:
    """Median latency of a unary call, one in flight."""
    with (
        _server("kit") as kit,
        _server("bare") as bare,
        Suite.connect(orchestrator=kit) as suite,
        grpc.insecure_channel(bare) as channel,
    ):
        stub = OrchestratorServiceStub(channel)
        return [
            paired(
                "unary call of 64 bytes, median",
                "µs",
                lambda: _latency_us(suite.orchestrator.GetRun),
                lambda: _latency_us(stub.GetRun),
                peer="bare grpc.aio echo and stub",
                rounds=ROUNDS,
                target=1.5,
                lower_is_better=True,
            )
        ]


def _latency_us(call: Callable[[GetRunRequest], GetRunResponse]) -> float:
    request, times = GetRunRequest(run_id="x" * 60), []
    for _ in range(CALLS):
        began = time.perf_counter()
        call(request)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


class _Echo(OrchestratorServiceServicer):
    async def GetRun(self, request: GetRunRequest, context: Any) -> GetRunResponse:
        return GetRunResponse(run=Run(run_id=request.run_id))


class _Room:
    def __init__(self, _: RoomSettings) -> None: ...

    def register(self, server: grpc.aio.Server) -> None:
        add_OrchestratorServiceServicer_to_server(_Echo(), server)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@contextmanager
def _server(kind: str) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.benchmarks.rpc", kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=launch_environment())
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


async def _serve_kit() -> None:
    definition = RoomDefinition(
        name="echo",
        default_port=1,
        settings=RoomSettings,
        services=("tinsmith.orchestrator.v1.OrchestratorService",),
        open=_Room,
    )
    server = RoomServer(definition, RoomSettings(address="127.0.0.1:0"))
    await server.bind()
    await server.load()
    print(server.address, flush=True)
    await asyncio.Event().wait()


async def _serve_bare() -> None:
    server = grpc.aio.server()
    add_OrchestratorServiceServicer_to_server(_Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_kit() if sys.argv[1] == "kit" else _serve_bare())
