"""Calls that may be repeated: a repeat gets the first answer, also while the first is still at work."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class _Work:
    task: "asyncio.Task[Any]"
    waiting: int = 0


class AnswersOnce:
    """Answers by request id. A call that failed is forgotten, so that a repeat tries again."""

    def __init__(self, remembered: int) -> None:
        self._remembered = remembered
        self._works: OrderedDict[str, _Work] = OrderedDict()

    async def answer(self, request_id: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` returns, or returned when the id was first seen. Without an id it is always done.

        When every caller has gone away before it was done, the work is cancelled.
        """
        if not request_id:
            return await work()
        begun = self._works.get(request_id) or self._begin(request_id, work)
        begun.waiting += 1
        try:
            return await asyncio.shield(begun.task)
        finally:
            begun.waiting -= 1
            if not (begun.waiting or begun.task.done()):
                self._works.pop(request_id, None)
                begun.task.cancel()

    def _begin(self, request_id: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> _Work:
        begun = self._works[request_id] = _Work(task=asyncio.create_task(work()))
        begun.task.add_done_callback(lambda task: self._settle(request_id, task))
        return begun

    def _settle(self, request_id: str, task: "asyncio.Task[Any]") -> None:
        begun = self._works.get(request_id)
        if begun is not None and begun.task is task and (task.cancelled() or task.exception() is not None):
            del self._works[request_id]
        while len(self._works) > self._remembered:
            oldest = next((key for key, item in self._works.items() if item.task.done()), None)
            if oldest is None:
                return
            del self._works[oldest]
