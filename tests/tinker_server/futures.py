"""Slow answers: a request is acknowledged at once and asked for again until it is done."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.aio import TinsmithError

PROTOBUF = "application/x-protobuf"
_HOLD_S = 5.0
_USER_ERRORS = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE"}


@dataclass(frozen=True, slots=True)
class Protobuf:
    """An answer in the SDK's own messages."""

    content: bytes


Answer = dict[str, Any] | Protobuf


class Futures:
    """Answers by request id, each made once however often its request comes."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Answer]] = {}

    def submit(self, request_id: str, work: Callable[[], Awaitable[Answer]]) -> None:
        """Begins `work`, unless a request of this id has."""
        if request_id not in self._tasks:
            self._tasks[request_id] = asyncio.create_task(_run(work))

    async def retrieve(self, request: Request) -> Response:
        """The answer, or 408 when it takes longer than a request may be held."""
        request_id = (await request.json())["request_id"]
        if request_id not in self._tasks:
            return JSONResponse({"detail": f"no request {request_id}"}, 410)
        task = self._tasks[request_id]
        await asyncio.wait([task], timeout=_HOLD_S)
        if not task.done():
            again = {"type": "try_again", "request_id": request_id, "queue_state": "active"}
            return JSONResponse(again, 408)
        return _response(task)

    async def cancel(self, request: Request) -> Response:
        """Ends the work of a request."""
        task = self._tasks.get((await request.json())["request_id"])
        if task is not None:
            task.cancel()
        return Response(status_code=204)

    def close(self) -> None:
        """Ends all work."""
        for task in self._tasks.values():
            task.cancel()


async def _run(work: Callable[[], Awaitable[Answer]]) -> Answer:
    try:
        return await work()
    except TinsmithError as error:
        return {"error": error.message, "category": "user" if error.code.name in _USER_ERRORS else "server"}


def _response(task: "asyncio.Task[Answer]") -> Response:
    answer = {"error": "cancelled", "category": "user"} if task.cancelled() else task.result()
    if isinstance(answer, Protobuf):
        return Response(answer.content, media_type=PROTOBUF)
    return JSONResponse(answer)
