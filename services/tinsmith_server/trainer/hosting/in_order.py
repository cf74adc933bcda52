"""Calls of one model: in the order of their seq_id, each exactly once.

A call's work runs in a task of its own, so it is finished whether or not its caller still waits, and a repeat finds
its answer. Used on the event loop only.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tinsmith_server.serving.errors import Aborted, ServiceError

T = TypeVar("T")
_Key = int | str
"""A seq_id, or the request_id of a call without one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Early:
    """A call that came before its turn."""

    seq_id: int
    turn: "asyncio.Future[None]"
    """Resolved when it may begin."""
    begun: "asyncio.Future[None]"
    """Resolved when it has begun, or given up."""


class CallOrder:
    """The calls of one model, or of one kind, which run one after the other."""

    def __init__(
        self, *, gap_wait_s: float, kept_answers: int, count: Callable[[int], None] = lambda change: None
    ) -> None:
        """`count` is told how many calls more, or fewer, are not yet done."""
        self._count = count
        self.last_seq_id = 0
        """Highest seq_id whose call has begun."""
        self._gap_wait_s = gap_wait_s
        self._kept_answers = kept_answers
        self._answers: OrderedDict[_Key, asyncio.Task[Any]] = OrderedDict()
        self._early: list[_Early] = []
        self._newest: asyncio.Task[Any] | None = None
        self._closed: ServiceError | None = None

    @property
    def is_working(self) -> bool:
        """Whether a call is at work."""
        return self._newest is not None and not self._newest.done()

    @property
    def is_closed(self) -> bool:
        return self._closed is not None

    @property
    def is_busy(self) -> bool:
        """Whether a call is at work or waits."""
        return bool(self._early) or self.is_working

    async def run(self, work: Callable[[], Awaitable[T]], *, seq_id: int = 0, request_id: str = "") -> T:
        """The answer of `work`, or of the call that came first with this seq_id, or this request_id without seq_id.

        Calls with a seq_id begin in its order; those without begin after all that has arrived. What `work` raises is
        an answer too: the seq_id is consumed. Cancelling the caller does not cancel work that has begun.

        Raises Aborted with reason SEQUENCE_GAP when calls before this one stay away for `gap_wait_s`, with reason
        SEQUENCE_EXPIRED when this one was answered so long ago that the answer is not kept.
        """
        key: _Key = seq_id or request_id
        self._count(1)
        try:
            if seq_id > self.last_seq_id + 1:
                async with self._turn_of(seq_id):
                    task = self._begin_or_find(work, key)
            else:
                if not seq_id and not self._has(key):
                    await self._wait_for_early_calls()
                task = self._begin_or_find(work, key)
        finally:
            self._count(-1)
        try:
            return await asyncio.shield(task)
        except ServiceError as error:
            _forget_frames(error)
            raise error.again() from None

    def knows(self, *, seq_id: int, request_id: str) -> bool:
        """Whether such a call has begun or been answered, so that a repeat is no more work."""
        return self._has(seq_id or request_id)

    def close(self, error: ServiceError, *, last: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
        """Refuses with `error` what waits and what comes; what has begun is finished, then `last`: the task of it."""
        farewell = self._begin(last, "")
        self._closed = error
        for early in self._early:
            _resolve(early.turn)
        return farewell

    def _has(self, key: _Key) -> bool:
        return bool(key) and key in self._answers

    def _begin_or_find(self, work: Callable[[], Awaitable[T]], key: _Key) -> "asyncio.Task[T]":
        if self._closed is not None:
            raise self._closed.again()
        return self._answers[key] if self._has(key) else self._begin(work, key)

    def _begin(self, work: Callable[[], Awaitable[T]], key: _Key) -> "asyncio.Task[T]":
        if isinstance(key, int) and key:
            if key <= self.last_seq_id:
                raise Aborted(
                    f"seq_id {key} was answered long ago and its answer is not kept; the last was {self.last_seq_id}",
                    reason="SEQUENCE_EXPIRED",
                    metadata={"seq_id": str(key), "last_seq_id": str(self.last_seq_id)},
                )
            self.last_seq_id = key
        task = asyncio.create_task(_after(self._newest, work))
        task.add_done_callback(_look)
        self._count(1)
        task.add_done_callback(lambda done: self._count(-1))
        self._newest = task
        if key:
            self._answers[key] = task
            while len(self._answers) > self._kept_answers and next(iter(self._answers.values())).done():
                self._answers.popitem(last=False)
        for early in self._early:
            if early.seq_id <= self.last_seq_id + 1:
                _resolve(early.turn)
        return task

    @asynccontextmanager
    async def _turn_of(self, seq_id: int) -> AsyncIterator[None]:
        """Waits until the calls before this one have begun, for a bounded time."""
        loop = asyncio.get_running_loop()
        early = _Early(seq_id=seq_id, turn=loop.create_future(), begun=loop.create_future())
        self._early.append(early)
        try:
            await asyncio.wait([early.turn], timeout=self._gap_wait_s)
            if not early.turn.done():
                raise self._gap(seq_id)
            yield
        finally:
            self._early.remove(early)
            _resolve(early.begun)

    async def _wait_for_early_calls(self) -> None:
        """Until the calls that have arrived before their turn have begun, or given up."""
        if self._early:
            await asyncio.wait([early.begun for early in self._early])

    def _gap(self, seq_id: int) -> Aborted:
        missing = self.last_seq_id + 1
        return Aborted(
            f"seq_id {seq_id} came, but {missing} is missing; send it, or count on from {missing}",
            reason="SEQUENCE_GAP",
            metadata={"seq_id": str(seq_id), "expected_seq_id": str(missing)},
        )


async def _after(before: "asyncio.Task[Any] | None", work: Callable[[], Awaitable[T]]) -> T:
    if before is not None and not before.done():
        await asyncio.wait([before])
    return await work()


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _look(task: "asyncio.Task[Any]") -> None:
    """Takes note of a failure, so that nobody is told of it when no caller is left."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, ServiceError):
        _forget_frames(error)


def _forget_frames(error: ServiceError) -> None:
    """An answer that is kept must not keep the request, which the frames hold that refused it."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
