"""A grader of this process for all tests of the folder, and what they ask it with."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from tinsmith.aio import Suite
from tinsmith.grader.v1 import grader_service_pb2 as pb
from tinsmith_server.grader import ROOM
from tinsmith_server.grader.room import GraderRoom
from tinsmith_server.serving import RoomServer


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A running grader, and a client of it."""

    suite: Suite
    room: GraderRoom

    async def grade(
        self,
        pairs: Sequence[tuple[str, str]],
        spec: pb.GraderSpec | None = None,
        *,
        item_timeout_s: float | None = None,
    ) -> list[pb.GradeResult]:
        """Grades (answer, reference) pairs, by default as whole answers in the lenient mode."""
        request = pb.GradeRequest(
            grader=spec or whole(),
            items=[pb.GradeItem(id=str(number), answer=a, reference=r) for number, (a, r) in enumerate(pairs)],
            item_timeout=None if item_timeout_s is None else duration(item_timeout_s),
        )
        return list((await self.suite.grader.Grade(request)).results)

    async def reasons(
        self, pairs: Sequence[tuple[str, str]], spec: pb.GraderSpec | None = None, **options: Any
    ) -> list[str]:
        """The reasons only."""
        return [result.reason for result in await self.grade(pairs, spec, **options)]


def whole(mode: "pb.MathMode.ValueType" = pb.MATH_MODE_LENIENT, **options: Any) -> pb.GraderSpec:
    """The math grader on the whole answer."""
    return pb.GraderSpec(math=pb.MathGrader(mode=mode, extraction=pb.EXTRACTION_WHOLE, **options))


def duration(seconds: float) -> Duration:
    """Seconds as protobuf has them."""
    value = Duration()
    value.FromNanoseconds(round(seconds * 1e9))
    return value


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoomServer]:
    """A grader in a thread with its own event loop, as it outlives the loops of the tests."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, RoomServer]) -> RoomServer:
        return asyncio.run_coroutine_threadsafe(work, loop).result(timeout=120)

    async def start() -> RoomServer:
        home = tmp_path_factory.mktemp("grader")
        values = {"address": "127.0.0.1:0", "home": home, "drain_s": 1.0, "workers": 2}
        server = RoomServer(ROOM, ROOM.settings.model_validate(values))
        await server.bind()
        await server.load()
        return server

    async def stop(server: RoomServer) -> RoomServer:
        await server.stop()
        return server

    server = run(start())
    yield server
    run(stop(server))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
async def lab(running: RoomServer) -> AsyncIterator[Lab]:
    """A grader with two workers."""
    async with Suite.connect(grader=running.address) as suite:
        assert isinstance(running.room, GraderRoom)
        yield Lab(suite=suite, room=running.room)


@pytest.fixture(scope="session")
def kit() -> "Kit":
    """The functions above, for test files."""
    return Kit()


class Kit:
    """What test files build with."""

    whole: Callable[..., pb.GraderSpec] = staticmethod(whole)
    duration: Callable[[float], Duration] = staticmethod(duration)
