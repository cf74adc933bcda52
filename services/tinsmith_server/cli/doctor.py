"""`tinsmith doctor`: what there is on this machine, what is set, and what would stop a suite from starting."""

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console

from tinsmith_server.cli.failures import CommandFailed
from tinsmith_server.cli.folders import model_home
from tinsmith_server.cli.home_lock import is_taken
from tinsmith_server.cli.local_models import built_directory
from tinsmith_server.cli.output import print_json, print_table, say
from tinsmith_server.cli.ports import UserSettings, choose_addresses, choose_http_address, reachable
from tinsmith_server.cli.state import SuiteState, read_state
from tinsmith_server.models import EMBEDDED_MODELS
from tinsmith_server.serving import ROOMS, BadSettings, UnknownRoom, find_room, load_settings

LEAST_FREE_BYTES = 2 * 1024**3
"""Below this much disk space doctor complains."""

_PACKAGES = ("tinsmith-server", "tinsmith", "grpcio", "protobuf", "torch", "transformers", "datasets", "textarena")
_TOOLS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "uv": (("uv", "--version"), "faster set-up; without it make brings its own"),
    "go": (("go", "version"), "only for clients/go"),
    "node": (("node", "--version"), "only for clients/typescript"),
}
"""Tool -> how to ask for its version, and what it is good for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A setting of a room, with where its value came from."""

    room: str
    name: str
    value: str
    origin: str
    description: str


@dataclass(kw_only=True, slots=True)
class Findings:
    """What doctor found."""

    versions: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    home: str = ""
    free_bytes: int = 0
    models: dict[str, str] = field(default_factory=dict)
    """Embedded model -> its directory; empty when it is not built."""
    suite: dict[str, str] = field(default_factory=dict)
    """Room -> its state and address, for a suite that runs in this home."""
    ports: dict[str, str] = field(default_factory=dict)
    """Room -> address that `tinsmith up` would take, and whether it is free; empty while a suite runs here."""
    settings: list[Setting] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What stops a suite from starting, or soon will."""


def doctor(home: Path, config: Path | None, console: Console, *, as_json: bool) -> None:
    """Prints the findings. CommandFailed when there are problems."""
    findings = examine(home, config)
    if as_json:
        print_json(asdict(findings))
    else:
        _print(findings, console)
    if findings.problems:
        count = len(findings.problems)
        raise CommandFailed(f"{count} problem{'s' if count > 1 else ''}: {'; '.join(findings.problems)}")


def examine(home: Path, config: Path | None) -> Findings:
    """Looks at everything."""
    findings = Findings(home=str(home), versions=_versions(), tools=_tools())
    findings.free_bytes = shutil.disk_usage(_existing(home)).free
    if findings.free_bytes < LEAST_FREE_BYTES:
        findings.problems.append(f"only {_gigabytes(findings.free_bytes)} free for {home}")
    for name in EMBEDDED_MODELS:
        findings.models[name] = str(built_directory(name, model_home()) or "")
    _examine_settings(findings, config)
    state = read_state(home)
    if state is not None and is_taken(home):
        findings.suite = _suite(state)
    else:
        _examine_ports(findings, config)
    return findings


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _tools() -> dict[str, str]:
    return {name: _tool_version(command) or f"not found: {use}" for name, (command, use) in _TOOLS.items()}


def _tool_version(command: tuple[str, ...]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _examine_settings(findings: Findings, config: Path | None) -> None:
    for room in ROOMS:
        try:
            findings.settings += _settings_of(room, config)
        except (UnknownRoom, BadSettings) as error:
            findings.problems.append(str(error))


def _settings_of(room: str, config: Path | None) -> Iterator[Setting]:
    definition = find_room(room)
    loaded = load_settings(definition.settings, room, config=config)
    for name, info in definition.settings.model_fields.items():
        value = getattr(loaded.values, name)
        yield Setting(
            room=room,
            name=name,
            value=_as_set(value),
            origin=loaded.origins[name],
            description=info.description or "",
        )


def _as_set(value: object) -> str:
    """As the environment would set it."""
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    return "" if value is None else str(value)


def _suite(state: SuiteState) -> dict[str, str]:
    return {
        name: f"{service.state} at {service.address}, process {service.pid}, {service.restarts} restarts"
        for name, service in state.services.items()
    }


def _examine_ports(findings: Findings, config: Path | None) -> None:
    user = UserSettings.read(config)
    addresses = choose_addresses(ROOMS, "default", user)
    addresses["gateway (HTTP)"] = choose_http_address("default", user, addresses.values())
    for room, address in addresses.items():
        taken = _is_taken(reachable(address))
        findings.ports[room] = f"{address} {'taken' if taken else 'free'}"
        if taken:
            findings.problems.append(f"{address} of {room} is taken: see `ss -ltnp`, or use `tinsmith up --ports auto`")


def _is_taken(address: str) -> bool:
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or not port.isdecimal() or port == "0":
        return False
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host.strip("[]"), int(port))) == 0


def _print(findings: Findings, console: Console) -> None:
    print_table(console, ("package", "version"), findings.versions.items(), title="versions")
    print_table(console, ("tool", "version"), findings.tools.items(), title="tools")
    models = [
        (name, directory or "not built: tinsmith model build " + name) for name, directory in findings.models.items()
    ]
    print_table(console, ("embedded model", "where"), models, title="models")
    if findings.suite:
        print_table(console, ("service", "state"), findings.suite.items(), title=f"suite in {findings.home}")
    else:
        say(console, f"no suite runs in {findings.home}: tinsmith up starts one")
        print_table(console, ("service", "address"), findings.ports.items(), title="addresses")
    rows = [(item.room, item.name, item.value, item.origin, item.description) for item in findings.settings]
    print_table(console, ("service", "setting", "value", "from", "what it is"), rows, title="settings")
    say(console, f"{_gigabytes(findings.free_bytes)} free for {findings.home}; {os.cpu_count()} CPU cores")


def _gigabytes(count: int) -> str:
    return f"{count / 1024**3:.1f} GB"
