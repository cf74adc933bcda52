"""When a broken stream is worth another try."""

import time

import grpc

from tinsmith._errors import TinsmithError


class Patience:
    """Allows tries for a minute after the last sign of life."""

    pause_s = 0.5

    def __init__(self, limit_s: float = 60.0) -> None:
        self._limit_s = limit_s
        self.renew()

    def renew(self) -> None:
        """There was a sign of life."""
        self._deadline = time.monotonic() + self._limit_s

    def allows(self, error: TinsmithError) -> bool:
        """Whether to try again after this error: the server went away, and not for too long."""
        return error.code is grpc.StatusCode.UNAVAILABLE and time.monotonic() < self._deadline
