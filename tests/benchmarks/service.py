"""One service as a process of its own, and the public client that drives it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import psutil
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.suite import wait_until
from tinsmith.aio import Suite
from tinsmith_server.cli.supervised import supervised
from tinsmith_server.serving import launch_environment

T = TypeVar("T")
START_TIMEOUT_S = 280.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A service that is ready."""

    room: str
    address: str
    pid: int

    def memory_bytes(self) -> int:
        """Resident, with that of its own children."""
        process = psutil.Process(self.pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))

    @contextmanager
    def client(self) -> Iterator["Client"]:
        """A connection of its own."""
        with asyncio.Runner() as runner:
            suite = runner.run(self._connect())
            try:
                yield Client(suite=suite, runner=runner)
            finally:
                runner.run(suite.close())

    async def _connect(self) -> Suite:
        return Suite.connect(**{self.room: self.address})


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """The asyncio client for benchmarks, which are not asynchronous themselves."""

    suite: Suite
    runner: asyncio.Runner

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it to its end."""
        return self.runner.run(work)


@contextmanager
def serving(room: str, home: Path, **settings: object) -> Iterator[Service]:
    """`tinsmith serve` on a free port, ready, and stopped at the end."""
    home.mkdir(parents=True, exist_ok=True)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "tinsmith_server.cli", "serve", room, "--address=127.0.0.1:0", f"--home={home}"]
    log = home / f"{room}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            env=supervised(launch_environment()),
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{room} did not start: {log.read_text()}"
        address = json.loads(line)["address"]
        _wait_until_ready(process, address, log)
        yield Service(room=room, address=address, pid=process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: "subprocess.Popen[str]", address: str, log: Path) -> None:
    with grpc.insecure_channel(address) as channel:
        health = HealthStub(channel)

        def is_ready() -> bool:
            assert process.poll() is None, f"the service ended: {log.read_text()}"
            try:
                return health.Check(HealthCheckRequest(), timeout=10).status == HealthCheckResponse.SERVING
            except grpc.RpcError:  # the process is ending; the next look says why
                return False

        wait_until(is_ready, START_TIMEOUT_S, log.read_text)
