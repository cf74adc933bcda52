"""Workers of one judge, shared by all calls."""

import asyncio
import logging
import time

from tinsmith_server.grader.grader import Job, Judge, TimedVerdict
from tinsmith_server.grader.nursery_handle import Nursery
from tinsmith_server.grader.worker_handle import Worker

_log = logging.getLogger(__name__)


class _Place:
    """Room for a worker; there may be none in it yet, or none any more."""

    __slots__ = ("worker",)

    def __init__(self) -> None:
        self.worker: Worker | None = None


class Pool:
    """A fixed number of places, handed out in the order in which they are asked for.

    A worker that was killed, has crashed or has done enough is replaced when its place is needed next.
    """

    def __init__(self, judge: Judge, *, workers: int, worker_items: int, worker_memory_bytes: int) -> None:
        self._judge = judge
        self._worker_items = worker_items
        self._nursery = Nursery(judge, worker_memory_bytes=worker_memory_bytes)
        self._places = [_Place() for _ in range(workers)]
        self._free: asyncio.Queue[_Place] = asyncio.Queue()
        for place in self._places:
            self._free.put_nowait(place)
        self.size = workers

    async def start(self) -> None:
        """Starts all workers. Unavailable when that fails."""
        await asyncio.gather(*map(self._worker_at, self._places))
        hello = (await self._worker_at(self._places[0])).hello
        if hello.without_network:
            _log.info("%s workers run as %s, without network", self._judge.value, hello.user)
        else:
            _log.warning("%s workers run as %s; they could not leave the network", self._judge.value, hello.user)

    async def judge(self, job: Job, timeout_s: float) -> TimedVerdict:
        """The verdict of a free worker; the time counts from when it begins."""
        place = await self._free.get()
        try:
            worker = await self._worker_at(place)
            began = time.perf_counter()
            verdict = await worker.judge(job, timeout_s)
            return TimedVerdict(verdict=verdict, milliseconds=1000 * (time.perf_counter() - began))
        finally:
            self._free.put_nowait(place)

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are alive."""
        return [place.worker.hello.pid for place in self._places if place.worker is not None and place.worker.alive]

    async def stop(self) -> None:
        """Ends all workers."""
        for place in self._places:
            if place.worker is not None:
                place.worker.end()
        await self._nursery.stop()

    async def _worker_at(self, place: _Place) -> Worker:
        worker = place.worker
        if worker is not None and worker.jobs_done >= self._worker_items:
            worker.end()
        if worker is None or not worker.alive:
            worker = place.worker = await self._nursery.spawn()
        return worker
