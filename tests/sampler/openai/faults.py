"""A server that goes wrong on demand: what stands in its script happens to the next requests, then it answers well."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.sampler.openai.server import ModelServer, http_server

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

PLAUSIBLE: dict[str, Any] = {
    "index": 0,
    "text": "!",
    "finish_reason": "length",
    "token_ids": [5],
    "logprobs": {"tokens": ["token_id:5"], "token_logprobs": [-1.0], "top_logprobs": None},
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request to /completions."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    cut: bool = False
    """The connection is closed before the end of the body."""
    hang: bool = False
    """Nothing more comes after the body; the caller has to give up."""


def answering(choice: Mapping[str, Any] | None = None, **changes: Any) -> Fault:
    """A plausible answer with something changed."""
    changed = PLAUSIBLE | (choice or {})
    return Fault(body=json.dumps({"choices": [changed]} | changes))


def event(**choice: Any) -> str:
    """One event of a stream."""
    return f"data: {json.dumps({'choices': [PLAUSIBLE | {'finish_reason': None} | choice]})}\n\n"


@dataclass(kw_only=True)
class FaultyServer:
    """An ASGI app in front of a good one."""

    app: Any
    script: list[Fault] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When requests to /completions came."""
    came: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each of them."""
    given_up: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    """An item for each caller that closed the connection while it hung."""
    url: str = ""

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if not scope["path"].endswith("/completions"):
            await self.app(scope, receive, send)
            return
        self.times.append(asyncio.get_running_loop().time())
        self.came.set()
        if not self.script:
            await self.app(scope, receive, send)
            return
        await self._act(self.script.pop(0), receive, send)

    async def _act(self, fault: Fault, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(name.encode(), value.encode()) for name, value in fault.headers.items()]
        await send({"type": "http.response.start", "status": fault.status, "headers": headers})
        await send({"type": "http.response.body", "body": fault.body.encode(), "more_body": fault.cut or fault.hang})
        if fault.cut:
            raise ConnectionResetError("as the script says")
        if fault.hang:
            assert (await receive())["type"] == "http.disconnect"
            self.given_up.put_nowait(None)


@asynccontextmanager
async def faulty(server: ModelServer) -> AsyncIterator[FaultyServer]:
    """A running FaultyServer in front of `server`."""
    front = FaultyServer(app=server.app())
    async with http_server(front) as front.url:
        yield front
