"""Requests that are at the service now: counted, bounded, watched."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from tinsmith_server.sampler.local.worker import QueueStatus
from tinsmith_server.serving.errors import ResourceExhausted

_RETRY_AFTER_S = 1.0


class InFlight:
    """Used on the event loop only. What waits, waits at the service, so here all that was sent is running."""

    def __init__(self, most: int) -> None:
        self._most, self._running = most, 0
        self._watchers: set[asyncio.Event] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """One request. ResourceExhausted with reason QUEUE_FULL when there are too many."""
        if self._running >= self._most:
            raise ResourceExhausted(
                f"{self._running} requests are at the Tinker service already; retry later",
                reason="QUEUE_FULL",
                metadata={"running": str(self._running)},
                retry_after_s=_RETRY_AFTER_S,
            )
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def status(self) -> QueueStatus:
        """The queue now."""
        full = self._running >= self._most
        return QueueStatus(waiting=0, running=self._running, full=full, estimated_wait_s=_RETRY_AFTER_S * full)

    async def watch(self) -> AsyncGenerator[QueueStatus, None]:
        """The queue now, and again at each change."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            while True:
                changed.clear()
                yield self.status()
                await changed.wait()
        finally:
            self._watchers.discard(changed)

    def _change(self, by: int) -> None:
        self._running += by
        for watcher in self._watchers:
            watcher.set()
