"""A rate with some patience: an allowance that fills with time and is spent by use."""

import time
from collections.abc import Callable

_ROUNDING = 1e-6
"""What is missing by arithmetic alone after a wait that was long enough."""


class TokenBucket:
    """Fills by `rate` a second up to `burst_s` seconds of it; begins full.

    Spending is allowed while the bucket holds at least 1, or is full. It may take more than there is: a request may be
    larger than the whole bucket, or of a size that is known only afterwards, and the next one waits for it.
    """

    def __init__(self, rate: float, burst_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._capacity = rate * burst_s
        self._clock = clock
        self._level = self._capacity
        self._at = clock()

    def wait_s(self) -> float:
        """Seconds until something may be spent; 0 when it may be now."""
        missing = min(1.0, self._capacity) - self._filled()
        return missing / self._rate if missing > _ROUNDING else 0.0

    def spend(self, amount: float) -> None:
        """Takes the amount, whether it is there or not."""
        self._level = self._filled() - amount

    def _filled(self) -> float:
        now = self._clock()
        self._level = min(self._capacity, self._level + (now - self._at) * self._rate)
        self._at = now
        return self._level
