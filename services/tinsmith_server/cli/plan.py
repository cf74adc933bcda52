"""What `up` starts: a command and an environment for each room."""

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinsmith_server.cli.ports import (
    HTTP_ROOM,
    PortChoice,
    UserSettings,
    choose_addresses,
    choose_http_address,
    reachable,
)
from tinsmith_server.serving.launcher import launch_environment
from tinsmith_server.serving.registry import ROOMS

PROGRAM = (sys.executable, "-m", "tinsmith_server.cli")
CALLERS = ("grader", "environment", "orchestrator", "gateway")
"""Rooms that call others, whose addresses are settings named like the rooms."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomPlan:
    """How a room's process is started, the first time and again."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    address: str
    """For clients on this machine."""
    log: Path
    http_address: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SuitePlan:
    """What the rooms of a suite are made of."""

    home: Path
    ports: PortChoice = "default"
    config: Path | None = None
    base_models: Sequence[str] = ()
    """Entries of the setting base_models; none leaves it to the rooms."""
    program: Sequence[str] = PROGRAM
    rooms: Sequence[str] = tuple(ROOMS)
    """In the order in which they start."""
    user: UserSettings = field(default_factory=UserSettings)

    def rooms_to_start(self) -> list[RoomPlan]:
        """Chooses the addresses, once."""
        addresses = choose_addresses(self.rooms, self.ports, self.user)
        taken = addresses.values()
        http_address = choose_http_address(self.ports, self.user, taken) if HTTP_ROOM in self.rooms else ""
        service_key = self._service_key()
        return [
            RoomPlan(
                name=room,
                command=self._command(room),
                environment=self._environment(room, addresses, http_address) | service_key,
                address=reachable(addresses[room]),
                log=self.home / "logs" / f"{room}.log",
                http_address=reachable(http_address) if room == HTTP_ROOM else "",
            )
            for room in self.rooms
        ]

    def _service_key(self) -> dict[str, str]:
        """A secret by which the rooms know each other, where callers need keys and the user has set none."""
        has_keys, has_secret = (
            self.user.environment.get(f"TINSMITH_{key.upper()}") or self.user.file.get(key)
            for key in ("api_keys", "service_key")
        )
        return {"TINSMITH_SERVICE_KEY": secrets.token_hex(32)} if has_keys and not has_secret else {}

    def _command(self, room: str) -> list[str]:
        config = ["--config", str(self.config)] if self.config else []
        return [*self.program, "serve", room, *config]

    def _environment(self, room: str, addresses: Mapping[str, str], http_address: str) -> dict[str, str]:
        ours = {"TINSMITH_HOME": str(self.home), f"TINSMITH_{room.upper()}_ADDRESS": addresses[room]}
        if room == HTTP_ROOM:
            ours["TINSMITH_GATEWAY_HTTP_ADDRESS"] = http_address
        if self.base_models and not self.user.value(room, "base_models"):
            ours["TINSMITH_BASE_MODELS"] = ",".join(self.base_models)
        if room in CALLERS:
            ours |= self._wiring(room, addresses)
        return launch_environment(self.user.environment) | ours

    def _wiring(self, room: str, addresses: Mapping[str, str]) -> dict[str, str]:
        """Where this room finds the others, unless the user has put something of their own in a room's place."""
        return {
            f"TINSMITH_{room.upper()}_{other.upper()}": reachable(address)
            for other, address in addresses.items()
            if other != room and self.user.value(room, other) is None
        }
