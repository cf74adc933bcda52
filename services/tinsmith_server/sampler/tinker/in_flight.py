"""Requests that are at the service now: counted, bounded, watched."""

from collections.abc import Iterator
from contextlib import contextmanager

from tinsmith_server.serving import QueueStatus, QueueWatch
from tinsmith_server.serving.errors import ResourceExhausted

_RETRY_AFTER_S = 1.0


class InFlight:
    """Used on the event loop only. What waits, waits at the service, so here all that was sent is running."""

    def __init__(self, most: int) -> None:
        self._most, self._running = most, 0
        self.watch = QueueWatch(self.status)

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

    def _change(self, by: int) -> None:
        self._running += by
        self.watch.changed()
