"""Which address each room of a suite listens on: fixed before the first process starts, kept when one starts again."""

import os
import random
import socket
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tinsmith_server.cli.failures import CommandFailed

PortChoice = Literal["auto", "default"]

DEFAULT_ADDRESSES: Mapping[str, str] = {
    "trainer": "127.0.0.1:50051",
    "sampler": "127.0.0.1:50052",
    "dataset": "127.0.0.1:50053",
    "grader": "127.0.0.1:50054",
    "environment": "127.0.0.1:50055",
    "orchestrator": "127.0.0.1:50056",
    "gateway": "127.0.0.1:50057",
}
DEFAULT_HTTP_ADDRESS = "127.0.0.1:8080"
HTTP_ROOM = "gateway"

_LOWEST_FREE_PORT = 15000
_HOST_TO_CALL = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


@dataclass(frozen=True, kw_only=True, slots=True)
class UserSettings:
    """What the user has said before `up` adds its own: the environment and the settings file."""

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    file: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, config: Path | None) -> "UserSettings":
        """CommandFailed when the file is not readable TOML."""
        path = config or (Path(os.environ["TINSMITH_CONFIG"]) if os.environ.get("TINSMITH_CONFIG") else None)
        if path is None:
            return cls()
        try:
            return cls(file=tomllib.loads(path.read_text()))
        except OSError as error:
            raise CommandFailed(f"can't read the settings file {path}: {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:
            raise CommandFailed(f"the settings file {path} is not TOML: {error}") from None

    def value(self, room: str, key: str) -> str | None:
        """What the user has set for this room, as text; None when nothing."""
        in_file = self.file.get(room, {}).get(key)
        return self.environment.get(f"TINSMITH_{room.upper()}_{key.upper()}") or (in_file and str(in_file)) or None


def choose_addresses(rooms: Iterable[str], ports: PortChoice, user: UserSettings) -> dict[str, str]:
    """Room -> address to listen on: with "auto" free ports, else what the user has set, else the default."""
    if ports == "auto":
        return {room: f"127.0.0.1:{port}" for room, port in zip(rooms, free_ports(), strict=False)}
    return {room: user.value(room, "address") or DEFAULT_ADDRESSES[room] for room in rooms}


def choose_http_address(ports: PortChoice, user: UserSettings, taken: Collection[str]) -> str:
    """The gateway's HTTP address, chosen in the same way; none of those `taken` by rooms that do not listen yet."""
    if ports == "auto":
        free = (f"127.0.0.1:{port}" for port in free_ports())
        return next(address for address in free if address not in taken)
    return user.value(HTTP_ROOM, "http_address") or DEFAULT_HTTP_ADDRESS


def reachable(address: str) -> str:
    """The address that a client on this machine calls: the first of several, and no wildcard host."""
    first = address.split(",")[0].strip()
    host, colon, port = first.rpartition(":")
    if first.startswith("unix:") or not colon:
        return first
    return f"{_HOST_TO_CALL.get(host, host)}:{port}"


def free_ports() -> Iterator[int]:
    """Ports on which nothing listens, each once.

    They lie below the range from which the kernel takes ports for outgoing connections: a client that keeps trying to
    reach a room that is down could otherwise be given the room's own port, and the room could not come back.
    """
    candidates = list(range(_LOWEST_FREE_PORT, max(_lowest_outgoing_port(), _LOWEST_FREE_PORT + 2000)))
    random.SystemRandom().shuffle(candidates)
    return (port for port in candidates if _is_free(port))


def _lowest_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32768  # Linux's default; others begin at 49152


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
