"""A circuit breaker: what keeps failing is left alone for a while, then tried by one caller.

Closed, calls pass. After `threshold` failures in a row it opens and refuses calls for `reset_s`. Then it is half open:
one call, the probe, may pass while all others are still refused; its success closes the breaker, its failure opens it
again. An error that says nothing against the other side, such as a 4xx, is no failure, and a call that is cancelled
says nothing at all.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

from prometheus_client import Counter, Gauge

from tinsmith_server.serving.errors import Unavailable

STATE = Gauge("tinsmith_circuit_state", "0 closed, 1 half open, 2 open", ["backend"])
OPENED = Counter("tinsmith_circuit_opened_total", "times a circuit breaker opened", ["backend"])

_PROBE_PAUSE_S = 1.0
"""When to come back while a probe is under way."""


class CircuitState(IntEnum):
    """Whether calls pass; the values are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """The breaker of one backend. Its decisions are atomic, for callers on any thread or event loop."""

    def __init__(
        self,
        backend: str,
        *,
        is_failure: Callable[[Exception], bool],
        threshold: int = 5,
        reset_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`backend` names it in errors and metrics; `is_failure` says which errors speak against it."""
        self._backend, self._is_failure = backend, is_failure
        self._threshold, self._reset_s, self._clock = threshold, reset_s, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._period = 0
        """Grows with each opening and closing: what a call of an earlier period has to say comes too late."""
        self._probing = False
        STATE.labels(backend).set_function(lambda: self.state)

    @property
    def state(self) -> CircuitState:
        """The state now; half open from the end of the rest on, whether a probe has begun or not."""
        with self._lock:
            return self._state()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call to the backend.

        Unavailable with reason CIRCUIT_OPEN and the time to wait when it may not be made.
        """
        period = self._admit()
        try:
            yield
        except Exception as error:
            if self._is_failure(error):
                self._failed(period)
            else:
                self._answered(period)
            raise
        except BaseException:  # the caller went away
            self._abandoned(period)
            raise
        self._answered(period)

    def _state(self) -> CircuitState:
        if self._opened_at is None:
            return CircuitState.CLOSED
        rested = self._clock() - self._opened_at >= self._reset_s
        return CircuitState.HALF_OPEN if rested else CircuitState.OPEN

    def _admit(self) -> int:
        """The period in which the call is made."""
        with self._lock:
            state = self._state()
            if state is CircuitState.OPEN or self._probing:
                raise self._refusal()
            self._probing = state is CircuitState.HALF_OPEN
            return self._period

    def _refusal(self) -> Unavailable:
        rest_s = 0.0 if self._opened_at is None else self._opened_at + self._reset_s - self._clock()
        return Unavailable(
            f"{self._backend} failed {self._threshold} times in a row and is left alone for a while; retry later",
            reason="CIRCUIT_OPEN",
            metadata={"backend": self._backend},
            retry_after_s=max(rest_s, _PROBE_PAUSE_S),
        )

    def _failed(self, period: int) -> None:
        with self._lock:
            if period != self._period:
                return
            self._failures += 1
            if self._probing or self._failures >= self._threshold:
                self._turn(opened_at=self._clock())
                OPENED.labels(self._backend).inc()

    def _answered(self, period: int) -> None:
        with self._lock:
            if period != self._period:
                return
            self._failures = 0
            if self._probing:
                self._turn(opened_at=None)

    def _abandoned(self, period: int) -> None:
        """Leaves the place of a probe to another caller."""
        with self._lock:
            if period == self._period:
                self._probing = False

    def _turn(self, *, opened_at: float | None) -> None:
        self._opened_at = opened_at
        self._failures, self._probing = 0, False
        self._period += 1
