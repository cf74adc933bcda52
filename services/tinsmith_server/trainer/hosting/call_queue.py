"""Calls on models that have been taken in and not yet answered: how many there may be, and what a watcher is told.

A call is refused before it takes its place in its model's order, so that its seq_id is not consumed. Used on the event
loop only.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tinsmith_server.serving import QueueStatus, QueueWatch
from tinsmith_server.serving.errors import ResourceExhausted

_FIRST_GUESS_S = 0.02
_SMOOTHING = 0.1
_SOONEST_RETRY_S = 0.1


class CallQueue:
    """See the file's comment."""

    def __init__(self, *, max_calls: int, behind: Callable[[], int]) -> None:
        """`behind`: how many of the calls that have begun wait inside the backend."""
        self._max_calls, self._behind = max_calls, behind
        self._taken = self._begun = 0
        self._mean_s = _FIRST_GUESS_S
        self._last_answer = 0.0
        self.watch = QueueWatch(self.status)

    def status(self) -> QueueStatus:
        """The queue now."""
        running = max(self._begun - self._behind(), 0)
        return QueueStatus(
            waiting=max(self._taken - running, 0),
            running=running,
            full=self._taken >= self._max_calls,
            estimated_wait_s=self._taken * self._mean_s,
        )

    def count(self, change: int) -> None:
        """Takes note of calls that have come, or are done."""
        self._taken += change
        self.watch.changed()

    def refuse_if_full(self) -> None:
        """ResourceExhausted with reason QUEUE_FULL when there is no place for another call."""
        status = self.status()
        if status.full:
            raise ResourceExhausted(
                f"{self._taken} calls are not yet answered, as many as this trainer takes; send the call again later",
                reason="QUEUE_FULL",
                metadata={"waiting": str(status.waiting)},
                retry_after_s=max(_SOONEST_RETRY_S, status.estimated_wait_s),
            )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around the work of a call whose turn in its model's order has come."""
        began = time.monotonic()
        self._begun += 1
        self.watch.changed()
        try:
            yield
        finally:
            self._begun -= 1
            now = time.monotonic()
            self._mean_s += _SMOOTHING * (now - max(began, self._last_answer) - self._mean_s)
            self._last_answer = now
            self.watch.changed()
