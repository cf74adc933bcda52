"""A trainer that can be killed again and again, and comes back within a fraction of a second.

`python killable.py SETTINGS` imports everything once, then forks a trainer; when that is killed it forks another one.
It prints the process id of each.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any


class Killable:
    """A trainer at an address that stays."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self.address = address
        self.pid = 0
        self.kills = 0

    async def started(self) -> None:
        """Waits for the next trainer."""
        assert self._process.stdout is not None
        self.pid = int(await self._process.stdout.readline())

    async def kill(self) -> None:
        """Ends the trainer with SIGKILL, and waits until the next one is on its way."""
        os.kill(self.pid, signal.SIGKILL)
        self.kills += 1
        await self.started()


@asynccontextmanager
async def killable_trainer(home: Path, **settings: Any) -> AsyncIterator[Killable]:
    """A trainer in a process of its own."""
    values = {"address": f"unix:{home}/trainer", "home": str(home), "log_level": "error", **settings}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, json.dumps(values), stdout=asyncio.subprocess.PIPE, env=environment
    )
    trainer = Killable(process, values["address"])
    try:
        await trainer.started()
        yield trainer
    finally:
        process.kill()
        with suppress(ProcessLookupError):
            os.kill(trainer.pid, signal.SIGKILL)
        await process.wait()


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    return _status(pid, "VmHWM")


def resident_bytes(pid: int) -> int:
    """The memory that a process has."""
    return _status(pid, "VmRSS")


def _status(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


def _serve(settings: dict[str, Any]) -> None:
    from tinsmith_server.serving import die_with_parent, run_room
    from tinsmith_server.trainer import ROOM

    values = ROOM.settings.model_validate(settings)
    while True:
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # what the room announces is known already
            os._exit(run_room(ROOM, values))
        print(pid, flush=True)
        os.waitpid(pid, 0)
        time.sleep(0.02)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
