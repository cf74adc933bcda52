"""The suite from outside: seven processes, each with health and reflection."""

import subprocess
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.suite import RunningSuite
from tinsmith_server.serving import ROOMS, find_room

ROOT = Path(__file__).resolve().parents[2]


def test_there_are_seven_service_processes(suite: RunningSuite) -> None:
    children = [child.cmdline() for child in psutil.Process(suite.process.pid).children()]
    served = [command[command.index("serve") + 1] for command in children if "serve" in command]
    assert sorted(served) == sorted(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_every_process_answers_health_and_reflection(suite: RunningSuite, room: str) -> None:
    address = suite.addresses[room]
    services = find_room(room).services
    with grpc.insecure_channel(address) as channel:
        for name in ("", "liveness", *services):
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
    command = [ROOT / ".venv/bin/buf", "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--list-methods"]
    listed = subprocess.run([*command, f"http://{address}"], check=True, capture_output=True, text=True, timeout=60)
    for name in services:
        assert f"{name}/" in listed.stdout


def test_gateway_says_that_all_is_ready(suite: RunningSuite) -> None:
    answer = httpx.get(f"http://{suite.service('gateway').http_address}/readyz", timeout=30)
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


def test_room_processes_have_the_malloc_setting(suite: RunningSuite) -> None:
    """Large messages cost three times as much without it; it must be there before the process begins."""
    pid = suite.service("trainer").pid
    assert pid is not None
    environment = psutil.Process(pid).environ()
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "33554432"
    assert environment["MALLOC_TRIM_THRESHOLD_"] == "1073741824"
