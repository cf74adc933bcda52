"""Ways in which a server fails, on request."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


class Fault(Protocol):
    """What happens in the place of an answer."""

    async def __call__(self, app: App, scope: dict[str, Any], receive: Receive, send: Send) -> None: ...


@dataclass(frozen=True, slots=True)
class Status:
    """An HTTP error."""

    code: int
    body: bytes = b'{"detail": "as asked for"}'
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, app: App, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json")]
        headers += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


GARBAGE = Status(200, b"<html>this is a proxy's own page</html>", {"content-type": "text/html"})
"""A page that is no answer."""


async def hang(app: App, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """No answer at all, until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def cut(app: App, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """The connection ends in the middle of the answer."""
    await _begin_and_stop(send)


async def cut_when_done(app: App, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """The request is done, and the connection ends before its answer is through."""

    async def swallow(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)

    await app(scope, receive, swallow)
    await _begin_and_stop(send)


class Faults:
    """An application in front of another, which fails where it is told to."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._waiting: dict[str, list[Fault]] = {}
        self._lasting: dict[str, Fault] = {}
        self.asked: list[str] = []
        """Endpoints in the order of their requests."""

    def once(self, endpoint: str, *faults: Fault) -> None:
        """The next requests for `endpoint` fail like this, one after the other."""
        self._waiting.setdefault(endpoint, []).extend(faults)

    def always(self, endpoint: str, fault: Fault) -> None:
        """All requests for `endpoint` fail like this from now on."""
        self._lasting[endpoint] = fault

    def clear(self) -> None:
        """No more faults, and nothing asked."""
        self.asked.clear()
        self._waiting.clear()
        self._lasting.clear()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        endpoint = scope["path"].removeprefix("/api/v1/")
        self.asked.append(endpoint)
        waiting = self._waiting.get(endpoint)
        fault = waiting.pop(0) if waiting else self._lasting.get(endpoint)
        if fault is None:
            await self._app(scope, receive, send)
        else:
            await fault(self._app, scope, receive, send)


async def _begin_and_stop(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"request_id": "', "more_body": True})
    # Returning without the rest makes the server close the connection.
