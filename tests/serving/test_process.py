"""A room as a server: where it listens, when it is ready, how it stops, and as a process of its own."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.serving.conftest import OpenServer
from tests.serving.puppet import ROOM, SERVICE, PuppetRoom
from tinsmith import Addresses, TinsmithError
from tinsmith.aio import Suite
from tinsmith.environment.v1 import ListEnvironmentsRequest
from tinsmith_server.serving import CannotServe, RoomServer, UnknownRoom, find_room, launch_environment
from tinsmith_server.serving.errors import NotFound

REPOSITORY = Path(__file__).parents[2]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def _answers(address: str) -> bool:
    async with Suite(Addresses(environment=address)) as suite:
        answer = await suite.environment.ListEnvironments(ListEnvironmentsRequest(page_token="x"), timeout=30.0)
    return bool(answer.next_page_token == "x")


async def _health(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        return int((await check(health_pb2.HealthCheckRequest(service=service), timeout=30)).status)


@asynccontextmanager
async def _bound(server: RoomServer) -> AsyncIterator[RoomServer]:
    await server.bind()
    try:
        yield server
    finally:
        await server.stop()


async def test_port_zero_takes_a_free_port_and_says_which(open_server: OpenServer) -> None:
    async with _bound(open_server()) as server:
        await server.load()
        host, _, port = server.address.rpartition(":")
        assert (host, int(port) > 0) == ("127.0.0.1", True)
        assert await _answers(server.address)


async def test_a_taken_port_is_one_clear_line_and_exit_code_2(open_server: OpenServer) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        server = open_server(address=address)
        with pytest.raises(CannotServe) as refused:
            await server.bind()
        await server.stop()
    assert refused.value.exit_code == 2
    assert address in str(refused.value)
    assert "taken" in str(refused.value)
    assert "TINSMITH_PUPPET_ADDRESS" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    ["", " ", "nonsense", "127.0.0.1", ":0", "127.0.0.1:", "127.0.0.1:abc", "127.0.0.1:65536", "127.0.0.1:-1"],
)
async def test_what_is_no_address_is_refused_and_not_guessed(open_server: OpenServer, address: str) -> None:
    server = open_server(address=f"127.0.0.1:0,{address}")
    with pytest.raises(CannotServe, match="is no address") as refused:
        await server.bind()
    assert refused.value.exit_code == 2
    await server.stop()


async def test_a_second_server_of_ours_does_not_share_the_port(open_server: OpenServer) -> None:
    async with _bound(open_server()) as first:
        second = open_server(address=first.address)
        with pytest.raises(CannotServe):
            await second.bind()
        await second.stop()


async def test_a_unix_socket_is_an_address(open_server: OpenServer, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/room.sock"
    async with _bound(open_server(address=address)) as server:
        await server.load()
        assert server.address == address
        assert await _answers(address)


async def test_a_room_can_listen_at_several_addresses(open_server: OpenServer, tmp_path: Path) -> None:
    async with _bound(open_server(address=f"127.0.0.1:0, unix:{tmp_path}/room.sock,127.0.0.1:0")) as server:
        await server.load()
        addresses = server.address.split(",")
        assert len(set(addresses)) == 3
        assert all([await _answers(address) for address in addresses])


async def test_a_room_is_alive_while_it_loads_and_ready_when_it_has(open_server: OpenServer) -> None:
    server = open_server()
    assert isinstance(server.room, PuppetRoom)
    server.room.may_start.clear()
    async with _bound(server):
        loading = asyncio.create_task(server.load())
        assert [await _health(server.address, name) for name in ("", SERVICE)] == [NOT_SERVING, NOT_SERVING]
        server.room.may_start.set()
        await loading
        assert [await _health(server.address, name) for name in ("", SERVICE)] == [SERVING, SERVING]


async def test_a_room_that_cannot_start_says_why_and_never_is_ready(open_server: OpenServer) -> None:
    server = open_server()
    assert isinstance(server.room, PuppetRoom)
    server.room.refusal = NotFound("no base model 'x'; setting base_models", reason="BASE_MODEL_NOT_FOUND")
    async with _bound(server):
        with pytest.raises(CannotServe) as refused:
            await server.load()
        assert refused.value.exit_code == 1
        assert str(refused.value) == "puppet: no base model 'x'; setting base_models [BASE_MODEL_NOT_FOUND]"
        assert await _health(server.address) == NOT_SERVING


async def test_a_stopping_room_says_so_finishes_its_calls_and_takes_no_new_ones(open_server: OpenServer) -> None:
    server = open_server(drain_s=20.0)
    room = server.room
    assert isinstance(room, PuppetRoom)
    may_end = asyncio.Event()

    async def act() -> None:
        await may_end.wait()
        assert not room.is_stopped

    room.puppet.act = act
    await server.bind()
    await server.load()
    async with (
        grpc.aio.insecure_channel(server.address) as channel,
        Suite(Addresses(environment=server.address)) as suite,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == SERVING
        call = asyncio.ensure_future(suite.environment.ListEnvironments(ListEnvironmentsRequest(page_token="x")))
        await asyncio.wait_for(room.puppet.entered.wait(), 30)
        stopping = asyncio.create_task(server.stop())
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
        with pytest.raises(TinsmithError) as refused:
            await _answers(server.address)
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
        may_end.set()
        assert (await call).next_page_token == "x"
    await asyncio.wait_for(stopping, 30)
    assert room.is_stopped


async def test_a_call_that_does_not_end_holds_a_stop_no_longer_than_the_drain(open_server: OpenServer) -> None:
    server = open_server(drain_s=0.2)
    assert isinstance(server.room, PuppetRoom)
    server.room.puppet.act = asyncio.Event().wait  # type: ignore[assignment]  # for ever
    await server.bind()
    await server.load()
    async with Suite(Addresses(environment=server.address)) as suite:
        call = asyncio.ensure_future(suite.environment.ListEnvironments(ListEnvironmentsRequest()))
        await asyncio.wait_for(server.room.puppet.entered.wait(), 30)
        await asyncio.wait_for(server.stop(), 30)
        with pytest.raises(TinsmithError):
            await asyncio.wait_for(call, 60)


async def test_reflection_lists_what_is_served_unless_it_is_off(open_server: OpenServer) -> None:
    async def listed(address: str) -> set[str]:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        async with grpc.aio.insecure_channel(address) as channel:
            call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
            answer = await call.read()
        return {service.name for service in answer.list_services_response.service}

    async with _bound(open_server()) as server:
        assert {SERVICE, "grpc.health.v1.Health"} <= await listed(server.address)
    async with _bound(open_server(reflection=False)) as server:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await listed(server.address)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_over_the_limit_is_refused_and_one_under_it_is_not(open_server: OpenServer) -> None:
    async with (
        _bound(open_server(max_message_bytes=100_000)) as server,
        Suite(Addresses(environment=server.address)) as suite,
    ):
        await server.load()
        fits = ListEnvironmentsRequest(page_token="x" * 99_000)
        assert len((await suite.environment.ListEnvironments(fits)).next_page_token) == 99_000
        with pytest.raises(TinsmithError) as refused:
            await suite.environment.ListEnvironments(ListEnvironmentsRequest(page_token="x" * 100_000))
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_unknown_room_is_named_beside_those_that_there_are() -> None:
    with pytest.raises(UnknownRoom, match="no service 'trainr'; there are dataset, trainer"):
        find_room("trainr")
    with pytest.raises(UnknownRoom, match="dog needs no_such_library, which is not installed"):
        find_room("dog", {"dog": "no_such_library"})
    assert find_room("puppet", {"puppet": "tests.serving.puppet"}).name == "puppet"


CHILD = """
import os, sys
from tests.serving.puppet import ROOM
from tinsmith_server.serving import die_with_parent, run_room
if "--die" in sys.argv:
    die_with_parent()
more = dict(argument.split("=") for argument in sys.argv[3:] if "=" in argument)
settings = ROOM.settings.model_validate({"address": sys.argv[1], "home": sys.argv[2], **more})
sys.exit(run_room(ROOM, settings))
"""


async def _child(*arguments: str) -> asyncio.subprocess.Process:
    paths = os.pathsep.join(str(REPOSITORY / part) for part in (".", "services", "clients/python"))
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        *arguments,
        env=launch_environment({**os.environ, "PYTHONPATH": paths}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )


async def _announced(child: asyncio.subprocess.Process) -> dict[str, Any]:
    assert child.stdout is not None
    announced: dict[str, Any] = json.loads(await asyncio.wait_for(child.stdout.readline(), 60))
    return announced


async def test_a_process_announces_its_address_and_ends_with_0_on_sigterm(tmp_path: Path) -> None:
    child = await _child("127.0.0.1:0", str(tmp_path / "home"))
    announced = await _announced(child)
    assert (announced["room"], announced["pid"]) == (ROOM.name, child.pid)
    assert await _answers(announced["address"])
    assert (tmp_path / "home").is_dir()
    environment = psutil.Process(child.pid).environ()
    assert environment["TINSMITH_LAUNCHED"] == "1"
    assert environment["MALLOC_MMAP_THRESHOLD_"] == str(32 * 1024 * 1024)
    assert environment["MALLOC_TRIM_THRESHOLD_"] == str(1024 * 1024 * 1024)
    child.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(child.wait(), 60) == 0


async def test_a_process_on_a_taken_port_ends_with_2_and_one_line(tmp_path: Path, open_server: OpenServer) -> None:
    async with _bound(open_server()) as server:
        child = await _child(server.address, str(tmp_path))
        out, said = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == 2
    assert out == b""
    assert said.decode().count("\n") == 1
    assert f"can't listen on {server.address}" in said.decode()


async def test_a_process_that_cannot_use_its_folder_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    child = await _child("127.0.0.1:0", str(tmp_path / "file"))
    _, said = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == 1
    assert said.decode().count("\n") == 1
    assert "choose another with --home" in said.decode()


async def test_a_process_whose_metrics_port_is_taken_ends_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        child = await _child("127.0.0.1:0", str(tmp_path), f"metrics_port={port}")
        _, said = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == 2
    assert said.decode().count("\n") == 1
    assert f"can't serve metrics on port {port}" in said.decode()


def test_what_the_user_set_stays_in_the_environment() -> None:
    made = launch_environment({"MALLOC_TRIM_THRESHOLD_": "1", "PATH": "/bin"})
    assert (made["MALLOC_TRIM_THRESHOLD_"], made["PATH"]) == ("1", "/bin")
    assert made["TINSMITH_LAUNCHED"] == "1"


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "127.0.0.1:0", sys.argv[2], "--die"])
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
async def test_a_room_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    paths = os.pathsep.join(str(REPOSITORY / part) for part in (".", "services", "clients/python"))
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        CHILD,
        str(tmp_path),
        env=launch_environment({**os.environ, "PYTHONPATH": paths}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=REPOSITORY,
    )
    announced = await _announced(parent)
    room = psutil.Process(announced["pid"])
    parent.kill()
    await parent.wait()
    assert await asyncio.to_thread(room.wait, 60) is None or not room.is_running()
