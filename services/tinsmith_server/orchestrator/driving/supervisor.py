"""Finds runs that nobody drives, drives them, and keeps their leases."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from tinsmith_server.orchestrator.driving.driver import Driver
from tinsmith_server.orchestrator.store import LeaseLost, Leases

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Driven:
    """A run that this process drives."""

    task: asyncio.Task[None]
    cancelled: asyncio.Event


class Supervisor:
    """Looks around every `poll_s`, and at once when nudged."""

    def __init__(self, driver: Driver, leases: Leases, *, max_running: int, poll_s: float) -> None:
        self._driver = driver
        self._leases = leases
        self._max_running = max_running
        self._poll_s = poll_s
        self._driven: dict[str, _Driven] = {}
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._look_around())

    async def stop(self) -> None:
        """Gives up driving; the runs stay as they are and whoever comes next takes them up."""
        tasks = [driven.task for driven in self._driven.values()]
        if self._loop is not None:
            tasks.append(self._loop)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def nudge(self) -> None:
        """There is a new run."""
        self._wake.set()

    def cancel(self, run_id: str) -> None:
        """Ends the run before its next call, if this process drives it."""
        if run_id in self._driven:
            self._driven[run_id].cancelled.set()

    async def _look_around(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._turn()
            except SQLAlchemyError:
                _log.exception("the database can't be used; trying again")
            with suppress(TimeoutError):
                # Not wait_for, which in Python 3.11 loses a cancellation that comes together with the event.
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()

    async def _turn(self) -> None:
        await self._leases.claim(self._max_running - len(self._driven))
        held = await self._leases.renew()
        for run_id, cancel in held.items():
            if run_id not in self._driven:
                self._begin(run_id)
            if cancel:
                self._driven[run_id].cancelled.set()
        for run_id in self._driven.keys() - held.keys():
            self._driven[run_id].task.cancel()

    def _begin(self, run_id: str) -> None:
        cancelled = asyncio.Event()
        task = asyncio.create_task(self._drive(run_id, cancelled))
        self._driven[run_id] = _Driven(task=task, cancelled=cancelled)

    async def _drive(self, run_id: str, cancelled: asyncio.Event) -> None:
        try:
            await self._driver.drive(run_id, cancelled)
        except LeaseLost:
            _log.warning("another orchestrator drives run %s now", run_id)
        except SQLAlchemyError:
            _log.exception("can't keep a record of run %s; it is left where it is", run_id)
        finally:
            del self._driven[run_id]
            await self._leases.release(run_id)
            self._wake.set()
