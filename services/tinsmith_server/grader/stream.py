"""A stream of items: graded as they come, and no further read while too many are at work."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from tinsmith.grader.v1 import grader_service_pb2 as pb
from tinsmith_server.grader import wire
from tinsmith_server.grader.grade import Grade
from tinsmith_server.grader.grader import Grader
from tinsmith_server.grader.grading import Grading
from tinsmith_server.grader.request import Batch, RequestReader


class GradeStream:
    """One call of GradeStream."""

    def __init__(self, grading: Grading, reader: RequestReader, *, window: int) -> None:
        self._grading = grading
        self._reader = reader
        self._window = window
        self._main: Grader | None = None
        self._others: list[Grader] = []
        self._timeout_s: float | None = None
        self._at_work = 0
        self._ready: list[pb.GradeResult] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def run(self, requests: AsyncIterator[pb.GradeStreamRequest]) -> AsyncGenerator[list[pb.GradeResult], None]:
        """Results in groups, as soon as there are any. Raises what reading or grading raises."""
        self._track(asyncio.create_task(self._read(requests)))
        try:
            while self._tasks or self._ready:
                await self._news.wait()
                self._news.clear()
                if self._ready:
                    results, self._ready = self._ready, []
                    yield results
                if self._failure is not None:
                    raise self._failure
        finally:
            for task in self._tasks:
                task.cancel()

    async def _read(self, requests: AsyncIterator[pb.GradeStreamRequest]) -> None:
        async for request in requests:
            batch = self._understand(request)
            self._at_work += len(batch.items)
            self._track(asyncio.create_task(self._grade(batch)))
            while self._at_work >= self._window:
                self._room.clear()
                await self._room.wait()

    def _understand(self, request: pb.GradeStreamRequest) -> Batch:
        """The items of a message, with what this and former messages say of graders and limits."""
        if request.HasField("grader"):
            self._main = self._reader.grader(request.grader, "grader")
        if request.other_graders:
            self._others = self._reader.graders(request.other_graders)
        if request.HasField("item_timeout"):
            self._timeout_s = self._reader.timeout_s(request.item_timeout)
        return self._reader.items(request.items, (self._main, *self._others), self._timeout_s)

    async def _grade(self, batch: Batch) -> None:
        def deliver(place: int, grade: Grade, milliseconds: float) -> None:
            self._ready.append(wire.grade_result(batch.ids[place], grade, milliseconds))
            self._at_work -= 1
            self._news.set()
            self._room.set()

        await self._grading.grade(batch.items, batch.timeout_s, deliver)

    def _track(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        self._news.set()
