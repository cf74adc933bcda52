"""Calls that may be repeated: a repeat gets the first answer, also while the first is still at work."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class AnswersOnce:
    """Answers by request id. A call that failed is forgotten, so that a repeat tries again."""

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._tasks: OrderedDict[str, asyncio.Task[Any]] = OrderedDict()

    async def answer(self, request_id: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` returns, or returned when the id was first seen. Without an id it is always done.

        Work that has begun goes on when its caller goes away: what half of it has changed could not be taken back,
        and a repeat wants its answer.
        """
        task = self._tasks.get(request_id) or self._begin(request_id, work)
        return await asyncio.shield(task)

    def _begin(self, request_id: str, work: Callable[[], Coroutine[Any, Any, T]]) -> "asyncio.Task[T]":
        task = asyncio.create_task(work())
        if request_id:
            self._tasks[request_id] = task
        task.add_done_callback(lambda task: self._settle(request_id, task))
        return task

    def _settle(self, request_id: str, task: "asyncio.Task[Any]") -> None:
        if task.cancelled() or task.exception() is not None:
            self._tasks.pop(request_id, None)
        while len(self._tasks) > self._remembered:
            oldest = next((key for key, other in self._tasks.items() if other.done()), None)
            if oldest is None:
                return
            del self._tasks[oldest]
