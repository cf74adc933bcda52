"""The command line with rooms that need no model, as a program: `python -m tests.cli.fake_suite up HOME PORTS`.

What a room does at its start is in the environment: FAKE_<ROOM> is "fail" (it says why it can't serve) or "crash" (it
ends at once); FAKE_COUNT names a file that gets a byte for every start.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio

from tinsmith_server.cli.failures import report
from tinsmith_server.cli.output import console
from tinsmith_server.cli.plan import SuitePlan
from tinsmith_server.cli.serve import serve
from tinsmith_server.cli.up import only_suite, run_suite
from tinsmith_server.serving import RoomDefinition, RoomSettings
from tinsmith_server.serving.errors import FailedPrecondition

NAMES = ("dataset", "grader", "orchestrator")


class CallerSettings(RoomSettings):
    """Settings of a room that calls others."""

    grader: str = ""
    dataset: str = ""


class FakeRoom:
    def __init__(self, name: str, settings: Any) -> None:
        self._name = name
        self._settings = settings
        if count := os.environ.get("FAKE_COUNT"):
            with Path(count).open("a") as file:
                file.write(name[0])

    def register(self, server: grpc.aio.Server) -> None:
        """Serves nothing but health and reflection."""

    async def start(self) -> None:
        match os.environ.get(f"FAKE_{self._name.upper()}"):
            case "fail":
                raise FailedPrecondition("the disk is on fire; put it out", reason="DISK_ON_FIRE")
            case "crash":
                os.abort()
        if isinstance(self._settings, CallerSettings):
            print(f"grader={self._settings.grader} dataset={self._settings.dataset}", flush=True)

    async def stop(self) -> None:
        """Holds nothing."""


def rooms() -> dict[str, str]:
    """Name -> module, as the registry has it."""
    found = {}
    for number, name in enumerate(NAMES):
        settings = CallerSettings if name == "orchestrator" else RoomSettings
        room = RoomDefinition(
            name=name,
            default_port=50061 + number,
            settings=settings,
            services=(),
            open=lambda values, name=name: FakeRoom(name, values),
        )
        sys.modules[f"fake_{name}"] = SimpleNamespace(ROOM=room)  # type: ignore[assignment]
        found[name] = f"fake_{name}"
    return found


def main() -> None:
    command, *words = sys.argv[1:]
    try:
        if command == "serve":
            sys.exit(serve(words[0], words[1:], None, rooms()))
        home, ports = Path(words[0]), words[1]
        home.mkdir(parents=True, exist_ok=True)
        plan = SuitePlan(
            home=home,
            ports="auto" if ports == "auto" else "default",
            program=(sys.executable, "-m", "tests.cli.fake_suite"),
            rooms=NAMES,
        )
        with only_suite(home, console()):
            run_suite(plan, console())
    except Exception as error:
        sys.exit(report(error))


if __name__ == "__main__":
    main()
