"""The rooms of a suite together: started in order, kept alive, stopped in reverse order."""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from tinsmith_server.cli.plan import RoomPlan
from tinsmith_server.cli.room_process import RoomProcess
from tinsmith_server.cli.state import SuiteState, state_file, write_state

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Supervisor:
    """A running suite; it keeps suite.json true."""

    def __init__(self, home: Path, plans: Sequence[RoomPlan], show: Callable[[SuiteState], None]) -> None:
        """`show` is called with the state after every change."""
        self._home = home
        self._show = show
        self._rooms = [RoomProcess(plan, self._changed) for plan in plans]
        self._stopping = asyncio.Event()

    @property
    def state(self) -> SuiteState:
        services = {room.plan.name: room.state for room in self._rooms}
        ready = all(service.state == "ready" for service in services.values())
        return SuiteState(pid=os.getpid(), ready=ready, services=services)

    async def run(self) -> None:
        """Runs until a signal asks to stop; leaves no process and no suite.json. RoomFailed when a room can't start."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        waiting = asyncio.create_task(self._stopping.wait())
        keepers = [asyncio.create_task(room.keep_alive()) for room in self._rooms]
        try:
            await asyncio.wait({waiting, *keepers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._stop()
            waiting.cancel()
            results = await asyncio.gather(*keepers, return_exceptions=True)
            state_file(self._home).unlink(missing_ok=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _stop(self) -> None:
        """Callers before those whom they call, so that calls at work can end well."""
        for room in reversed(self._rooms):
            await room.stop()

    def _on_signal(self) -> None:
        """The first asks; a second one does not wait for what is at work."""
        if self._stopping.is_set():
            for room in self._rooms:
                room.kill()
        self._stopping.set()

    def _changed(self) -> None:
        state = self.state
        write_state(self._home, state)
        self._show(state)
