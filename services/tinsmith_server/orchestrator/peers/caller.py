"""Calls of a run: patient with services that are away, deaf after a cancellation."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from tinsmith import TinsmithError
from tinsmith_server.orchestrator.peers.failures import CallFailed, RunCancelled, failure_of

Answer = TypeVar("Answer")

_PAUSE_S = 0.2


class Caller:
    """Makes the calls of one run.

    A call that finds its service away or full is repeated until `patience_s` have passed; every call of a run may be
    repeated, since it carries a request_id or seq_id or changes nothing. RunCancelled before the next call after a
    cancellation; StateLost and CallFailed as `failures.py` says.
    """

    def __init__(self, *, patience_s: float, timeout_s: float, cancelled: asyncio.Event) -> None:
        self._patience_s = patience_s
        self._timeout_s = timeout_s
        self._cancelled = cancelled

    async def __call__(self, service: str, method: Callable[..., Awaitable[Answer]], request: Any) -> Answer:
        """Calls a method of the service named for people, for example "trainer"."""
        began = time.monotonic()
        while True:
            if self._cancelled.is_set():
                raise RunCancelled
            try:
                return await method(request, timeout=self._timeout_s)
            except TinsmithError as error:
                pause_s = _pause_before_another_try(error)
                if pause_s is None:
                    raise failure_of(service, error) from error
                if time.monotonic() - began > self._patience_s:
                    raise self._away(service, error) from error
            await asyncio.sleep(pause_s)

    def _away(self, service: str, error: TinsmithError) -> CallFailed:
        return CallFailed(
            error.reason or "SERVICE_UNAVAILABLE",
            f"{service} did not take a call for {self._patience_s:.0f} s ({error.message}); "
            "when it is there again, resume the run",
        )


def _pause_before_another_try(error: TinsmithError) -> float | None:
    """Seconds to wait; None when the same call would fail again."""
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return error.retry_after_s or _PAUSE_S
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return error.retry_after_s
    return None
