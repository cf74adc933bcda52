"""`tinsmith up`: a whole suite on this machine."""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from tinsmith_server.cli.board import board
from tinsmith_server.cli.failures import CommandFailed
from tinsmith_server.cli.folders import make_folder, model_home
from tinsmith_server.cli.home_lock import taken
from tinsmith_server.cli.local_models import local_entries
from tinsmith_server.cli.plan import SuitePlan
from tinsmith_server.cli.ports import PortChoice, UserSettings
from tinsmith_server.cli.room_process import RoomFailed, wait_until_gone
from tinsmith_server.cli.state import process_exists, read_state
from tinsmith_server.cli.supervised import end_with_supervisor
from tinsmith_server.cli.supervisor import Supervisor

DEFAULT_BASE_MODELS = ("tinsmith-tiny",)
_ORPHAN_TIMEOUT_S = 15.0


def up(home: Path, ports: PortChoice, base_models: Sequence[str], config: Path | None, console: Console) -> None:
    """Runs a suite in `home` until it is told to stop. CommandFailed when it can't be started."""
    end_with_supervisor()
    user = UserSettings.read(config)
    make_folder(home)
    entries = base_models or _named_by(user)
    with only_suite(home, console):
        models = local_entries(entries, model_home(), console)
        run_suite(SuitePlan(home=home, ports=ports, config=config, base_models=models, user=user), console)


def run_suite(plan: SuitePlan, console: Console) -> None:
    """Starts the rooms of the plan and keeps them alive until a signal says to stop. The home must be ours."""
    make_folder(plan.home / "logs")
    rooms = plan.rooms_to_start()
    for room in rooms:
        room.log.write_bytes(b"")
    with board(console) as show:
        try:
            asyncio.run(Supervisor(plan.home, rooms, show).run())
        except RoomFailed as error:
            raise CommandFailed(str(error)) from None
    console.print("stopped", highlight=False)


@contextmanager
def only_suite(home: Path, console: Console) -> Iterator[None]:
    """Holds the home for this process. CommandFailed when another suite has it.

    What a suite that was killed has left behind is cleared away first.
    """
    with taken(home) as is_ours:
        if not is_ours:
            state = read_state(home)
            pid = f" (process {state.pid}; stop it with `kill {state.pid}`)" if state else ""
            raise CommandFailed(
                f"a suite runs in {home} already{pid}; a second one needs a home of its own: --home DIR --ports auto"
            )
        _clear_away(home, console)
        yield


def _clear_away(home: Path, console: Console) -> None:
    """Ends the processes of a suite that was killed: they hold ports and files until they are gone."""
    state = read_state(home)
    if state is None:
        return
    left = [service.pid for service in state.services.values() if service.pid and _is_room(service.pid)]
    message = f"the suite of process {state.pid} did not end well; taking over its home"
    console.print(message, highlight=False, soft_wrap=True)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    for pid in left:
        if not wait_until_gone(partial(_is_room, pid), _ORPHAN_TIMEOUT_S):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is_room(pid: int) -> bool:
    return process_exists(pid, "serve")


def _named_by(user: UserSettings) -> Sequence[str]:
    """The base models that the user has set for all rooms, else the embedded one."""
    named = user.environment.get("TINSMITH_BASE_MODELS") or user.file.get("base_models") or DEFAULT_BASE_MODELS
    return [entry.strip() for entry in named.split(",")] if isinstance(named, str) else list(named)
