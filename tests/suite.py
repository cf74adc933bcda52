"""A real suite for tests: seven processes on free ports, started by `tinsmith up`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tinsmith_server.cli.state import ServiceState, SuiteState, read_state
from tinsmith_server.cli.supervised import supervised

START_TIMEOUT_S = 280.0
"""The first start on a machine builds the embedded model, and tests share its cores."""
RESTART_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningSuite:
    """A suite that is ready."""

    home: Path
    process: "subprocess.Popen[bytes]"
    """`tinsmith up`."""
    output: Path
    """What it prints."""

    @property
    def state(self) -> SuiteState:
        """As suite.json has it now."""
        state = read_state(self.home)
        assert state is not None, f"no suite in {self.home}: {self.output.read_text()}"
        return state

    def service(self, room: str) -> ServiceState:
        return self.state.services[room]

    @property
    def addresses(self) -> dict[str, str]:
        """Room -> gRPC address; the same for the life of the suite."""
        return {room: service.address for room, service in self.state.services.items()}

    @property
    def environment(self) -> dict[str, str]:
        """For programs that find the suite by TINSMITH_HOME."""
        return {**os.environ, "TINSMITH_HOME": str(self.home)}

    def log(self, room: str) -> str:
        """What the room has said so far."""
        return Path(self.service(room).log).read_text(errors="replace")

    def kill(self, room: str) -> int:
        """Ends the room's process with SIGKILL; returns its pid. The suite starts another one."""
        pid = self.service(room).pid
        assert pid is not None, f"{room} has no process: {self.service(room)}"
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_until_back(self, room: str, killed: int) -> int:
        """Waits until the room is ready with a process other than the killed one; returns its pid."""

        def is_back() -> bool:
            service = self.service(room)
            return service.state == "ready" and service.pid not in (None, killed)

        wait_until(is_back, RESTART_TIMEOUT_S, lambda: f"{room} did not come back: {self.log(room)[-2000:]}")
        pid = self.service(room).pid
        assert pid is not None
        return pid


@contextmanager
def running_suite(
    home: Path, *base_models: str, environment: Mapping[str, str] | None = None
) -> Iterator[RunningSuite]:
    """A suite in `home`, ready, and stopped at the end.

    Without base models it serves the embedded one, which is built once for the machine; `environment` adds settings.
    """
    home.mkdir(parents=True, exist_ok=True)
    output = home / "up.log"
    models = [word for model in base_models for word in ("--base-model", model)]
    command = [sys.executable, "-m", "tinsmith_server.cli", "up", "--home", str(home), "--ports", "auto", *models]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=supervised({**os.environ, **(environment or {})}),
        )
    suite = RunningSuite(home=home, process=process, output=output)
    try:
        wait_until(lambda: _is_ready(suite), START_TIMEOUT_S, lambda: f"not ready in time: {output.read_text()}")
        yield suite
    finally:
        stop(process)


def _is_ready(suite: RunningSuite) -> bool:
    assert suite.process.poll() is None, f"the suite ended: {suite.output.read_text()}"
    state = read_state(suite.home)
    return state is not None and state.pid == suite.process.pid and state.ready


def stop(process: "subprocess.Popen[bytes]") -> int:
    """Asks `tinsmith up` to end and waits for it; returns its exit code."""
    process.terminate()
    try:
        return process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def wait_until(is_so: Callable[[], bool], timeout_s: float, otherwise: Callable[[], str]) -> None:
    """Waits for something that must happen; fails with the words of `otherwise` when it does not."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.05)
