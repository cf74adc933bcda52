"""The state of a room's queue, for those who watch it: `WatchQueue` of the contract."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from tinsmith.types.v1 import queue_pb2


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStatus:
    """A queue at one moment."""

    waiting: int
    running: int
    full: bool
    """Whether one more request would be refused."""
    estimated_wait_s: float
    """Of a request that arrives now, at the pace of the last ones."""
    lacking: str = ""
    """What the oldest waiting request waits for, in words; empty when none waits, or nobody knows."""


class QueueWatch:
    """Whoever watches a queue. Used on the event loop only."""

    def __init__(self, status: Callable[[], QueueStatus]) -> None:
        self._status = status
        self._watchers: set[asyncio.Event] = set()

    async def statuses(self) -> AsyncGenerator[QueueStatus, None]:
        """The queue at once, and whenever it has changed; changes that come faster than they are read are one."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            while True:
                changed.clear()
                yield self._status()
                await changed.wait()
        finally:
            self._watchers.discard(changed)

    def changed(self) -> None:
        """Wakes the watchers."""
        for watcher in self._watchers:
            watcher.set()


def queue_status_message(status: QueueStatus, *, when_full: str) -> queue_pb2.QueueStatus:
    """The status as a message; `when_full` is what it says of a queue that takes no more."""
    wait = Duration()
    wait.FromMilliseconds(round(1000 * status.estimated_wait_s))
    reason = when_full if status.full else status.lacking
    return queue_pb2.QueueStatus(
        state=queue_pb2.QUEUE_STATE_PAUSED_CAPACITY if reason else queue_pb2.QUEUE_STATE_ACTIVE,
        reason=reason,
        waiting=status.waiting,
        running=status.running,
        estimated_wait=wait,
    )
