"""Work that is done ahead of its need."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """Makes the items of steps; `start` begins one in the background, `take` waits for it.

    On leaving the context what is still being made is given up.
    """

    def __init__(self, make: Callable[[int], Awaitable[Item]]) -> None:
        self._make = make
        self._begun: dict[int, asyncio.Task[Item]] = {}

    def start(self, step: int) -> None:
        """Begins to make the step's item."""
        self._begun[step] = asyncio.ensure_future(self._make(step))

    async def take(self, step: int) -> Item:
        """The step's item, which is begun now unless it was before. Raises what its making raised."""
        if step not in self._begun:
            self.start(step)
        return await self._begun.pop(step)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._begun.values():
            task.cancel()
        await asyncio.gather(*self._begun.values(), return_exceptions=True)
