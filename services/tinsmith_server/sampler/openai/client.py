"""The HTTP side: requests with retries inside a deadline, behind a circuit breaker, streams as they come.

Sampling changes nothing, so a request that failed is simply sent again: after a pause that doubles, with jitter, or
when the server's Retry-After says. Cancelling a call closes its connection, from which a server learns to stop its
work.

With a request goes the trace that it belongs to, but never the key of whoever calls us: the server has one of its own.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from tinsmith_server.sampler.openai import failures
from tinsmith_server.serving import time_left, trace_headers
from tinsmith_server.serving.circuit_breaker import CircuitBreaker
from tinsmith_server.serving.errors import ServiceError

T = TypeVar("T")
_log = logging.getLogger(__name__)

_CONNECT_S = 5.0
_IDLE_S = 2.0
"""Shorter than servers keep idle connections (uvicorn: 5 s), so that none is used that is just being closed."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 8.0
_LONGEST_WAIT_S = 30.0
"""A Retry-After beyond this is left to the caller."""
_DATA, _END = "data:", "[DONE]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Where a server is, and how to ask it."""

    base_url: str
    """As OpenAI's own client takes it, for example "http://127.0.0.1:8000/v1"."""
    api_key: str = field(repr=False)
    """Sent as bearer token; empty: none."""
    timeout_s: float
    """For a whole answer; of a stream, for the longest silence."""
    attempts: int
    connections: int


class Client:
    """Requests to one server. Errors are those of `failures.py`, and CIRCUIT_OPEN of the breaker."""

    def __init__(self, server: Server, breaker: CircuitBreaker) -> None:
        self._server, self._breaker = server, breaker
        self._http = httpx.AsyncClient(
            base_url=server.base_url.rstrip("/") + "/",
            headers={"authorization": f"Bearer {server.api_key}"} if server.api_key else {},
            timeout=httpx.Timeout(server.timeout_s, connect=_CONNECT_S, pool=None),
            limits=httpx.Limits(
                max_connections=server.connections,
                max_keepalive_connections=server.connections,
                keepalive_expiry=_IDLE_S,
            ),
        )

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return self._server.base_url

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def get(self, path: str) -> bytes:
        """What is at `path`, relative to the base URL. One attempt, past the breaker: is the server there?"""
        return await self._whole("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> bytes:
        """The answer to a request that may be repeated."""

        async def attempt() -> bytes:
            with self._breaker.call():
                return await self._whole("POST", path, body)

        return await self._repeated(attempt)

    async def post_once(self, path: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        """Status and content of an answer that the caller judges itself; only a lack of one is an error."""
        try:
            async with asyncio.timeout(self._server.timeout_s):
                response = await self._http.post(path, json=body, headers=dict(trace_headers()))
        except TimeoutError as error:
            raise failures.timed_out(self._server.timeout_s) from error
        except httpx.HTTPError as error:
            raise failures.of_transport(error, self._server.timeout_s) from error
        return response.status_code, response.content

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """The data of server-sent events, up to "[DONE]", which some servers leave out. Sent again only while none has
        come."""

        async def attempt() -> tuple[AsyncGenerator[str, None], str]:
            events = self._events(path, body)
            first = await anext(events, None)
            if first is None:
                raise failures.bad_answer("its stream has no events")
            return events, first

        events, first = await self._repeated(attempt)
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    async def _events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        with self._breaker.call():
            async with self._exchange("POST", path, body) as response:
                async for line in response.aiter_lines():
                    data = line.removeprefix(_DATA).strip() if line.startswith(_DATA) else ""
                    if data == _END:
                        return
                    if data:
                        yield data

    async def _whole(self, method: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        try:
            async with asyncio.timeout(self._server.timeout_s), self._exchange(method, path, body) as response:
                return await response.aread()
        except TimeoutError as error:
            raise failures.timed_out(self._server.timeout_s) from error

    @asynccontextmanager
    async def _exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[httpx.Response]:
        """An answer of status 200 whose content is still to be read."""
        try:
            async with self._http.stream(method, path, json=body, headers=dict(trace_headers())) as response:
                if response.status_code != httpx.codes.OK:
                    raise failures.of_status(response.status_code, response.headers, await response.aread())
                yield response
        except httpx.HTTPError as error:
            raise failures.of_transport(error, self._server.timeout_s) from error

    async def _repeated(self, attempt: Callable[[], Awaitable[T]]) -> T:
        left_s = time_left()
        ends = math.inf if left_s is None else time.monotonic() + left_s
        for number in range(1, self._server.attempts + 1):
            try:
                return await attempt()
            except ServiceError as error:
                if not failures.is_retried(error):
                    raise
                pause_s = error.retry_after_s or _pause_s(number)
                late = pause_s > _LONGEST_WAIT_S or time.monotonic() + pause_s >= ends
                _log.warning("attempt %d of %d: %s", number, self._server.attempts, error.message)
                if late or number == self._server.attempts:
                    error.retry_after_s = pause_s
                    raise
            await asyncio.sleep(pause_s)
        raise AssertionError("a server is asked at least once")


def _pause_s(attempts: int) -> float:
    """Seconds to wait after so many failed attempts: doubled each time, less up to a half at random."""
    longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempts - 1))
    return random.uniform(longest / 2, longest)
