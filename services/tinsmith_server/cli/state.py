"""suite.json: what runs in a home, for clients and for other commands."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceState:
    """One room of a suite."""

    address: str
    """gRPC address that clients call."""
    pid: int | None
    """None while there is no process."""
    state: str
    """"starting", "ready", "restarting" or "stopped"."""
    restarts: int
    log: str
    """Path of its log file."""
    http_address: str = ""
    """Of the gateway."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteState:
    """A suite that `tinsmith up` has started."""

    pid: int
    ready: bool
    """Every room is ready."""
    services: Mapping[str, ServiceState]


def state_file(home: Path) -> Path:
    return home / "suite.json"


def read_state(home: Path) -> SuiteState | None:
    """The state kept in `home`; None when there is none or it is not readable as one."""
    try:
        values = json.loads(state_file(home).read_text())
        services = {name: ServiceState(**service) for name, service in values["services"].items()}
        return SuiteState(pid=values["pid"], ready=values["ready"], services=services)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_state(home: Path, state: SuiteState) -> None:
    """Replaces the state at once: a reader sees the old or the new one, never half of it."""
    partial = state_file(home).with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(asdict(state), indent=2) + "\n")
    partial.rename(state_file(home))


def process_exists(pid: int, word: str) -> bool:
    """Whether there is such a process and its command line has the word: a pid may have gone to another program."""
    try:
        return word in Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return _answers_to_signals(pid) if not Path("/proc/self").exists() else False


def _answers_to_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
