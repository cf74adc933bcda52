"""Requests on their way to the server: so many at once, so many waiting, the rest refused."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from tinsmith_server.serving import QueueStatus, QueueWatch
from tinsmith_server.serving.errors import ResourceExhausted

_FIRST_GUESS_S = 1.0
_SMOOTHING = 0.2


class Turn:
    """One request of ours; it makes several HTTP requests, each of which waits for a place."""

    def __init__(self, queue: "RequestQueue") -> None:
        self._queue = queue
        self.runs = False
        """Whether the first of its HTTP requests has begun."""

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place for one HTTP request, in the order of asking."""
        async with self._queue.places:
            if not self.runs:
                self.runs = True
                self._queue.watch.changed()
            yield


class RequestQueue:
    """Used on the event loop only."""

    def __init__(self, *, places: int, max_waiting: int) -> None:
        self.places = asyncio.Semaphore(places)
        self._max_waiting = max_waiting
        self._turns: set[Turn] = set()
        self._mean_s = _FIRST_GUESS_S
        self.watch = QueueWatch(self.status)

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Around one request. ResourceExhausted with reason QUEUE_FULL when too many wait."""
        status = self.status()
        if status.full:
            raise ResourceExhausted(
                f"{status.waiting} requests wait already; retry later or add samplers",
                reason="QUEUE_FULL",
                metadata={"waiting": str(status.waiting)},
                retry_after_s=max(_FIRST_GUESS_S, status.estimated_wait_s),
            )
        turn, began = Turn(self), time.monotonic()
        self._turns.add(turn)
        self.watch.changed()
        try:
            yield turn
            self._mean_s += _SMOOTHING * (time.monotonic() - began - self._mean_s)
        finally:
            self._turns.remove(turn)
            self.watch.changed()

    def status(self) -> QueueStatus:
        """The queue now."""
        running = sum(turn.runs for turn in self._turns)
        waiting = len(self._turns) - running
        turns_ahead = (waiting + 1) / max(1, running) if self.places.locked() else 0.0
        return QueueStatus(
            waiting=waiting,
            running=running,
            full=waiting >= self._max_waiting and self.places.locked(),
            estimated_wait_s=self._mean_s * turns_ahead,
        )
