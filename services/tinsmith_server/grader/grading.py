"""Many items at once: what can be decided here is, the rest goes to the workers, each distinct comparison once."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tinsmith_server.grader.grade import FAILURES, Grade, Reason
from tinsmith_server.grader.grader import Grader, Job, Judge, Pending, TimedVerdict, Verdict
from tinsmith_server.grader.pool import Pool
from tinsmith_server.serving.errors import ResourceExhausted

_MOST_CHARS_ON_THE_LOOP = 250_000
_REMEMBERED_VERDICTS = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An answer, what it is held against, and how."""

    grader: Grader
    answer: str
    references: tuple[str, ...]


Deliver = Callable[[int, Grade, float], None]
"""Gets (place of the item, its grade, milliseconds), in any order."""


@dataclass(kw_only=True, slots=True)
class _Waiting:
    """An item whose verdicts are not all there yet."""

    place: int
    pending: Pending
    milliseconds: float
    verdicts: dict[Job, TimedVerdict] = field(default_factory=dict)

    def add(self, job: Job, timed: TimedVerdict, deliver: Deliver) -> None:
        self.verdicts[job] = timed
        if len(self.verdicts) == len(set(self.pending.jobs)):
            grade = self.pending.finish([self.verdicts[job].verdict for job in self.pending.jobs])
            took = sum(timed.milliseconds for timed in self.verdicts.values())
            deliver(self.place, grade, self.milliseconds + took)


class Grading:
    """Grades items with the pools of workers."""

    def __init__(self, pools: Mapping[Judge, Pool], *, max_waiting: int) -> None:
        self._pools = pools
        self._max_waiting = max_waiting
        self._waiting = 0
        self._remembered: OrderedDict[Job, Verdict] = OrderedDict()

    async def grade(self, items: Sequence[Item], timeout_s: float, deliver: Deliver) -> None:
        """Grades each item and delivers its grade. ResourceExhausted with reason QUEUE_FULL when as many comparisons
        wait as may."""
        if sum(len(item.answer) for item in items) > _MOST_CHARS_ON_THE_LOOP:
            decided = await asyncio.to_thread(_decide, items)
        else:
            decided = _decide(items)
        waiting: dict[Job, list[_Waiting]] = {}
        for place, (found, milliseconds) in enumerate(decided):
            if isinstance(found, Grade):
                deliver(place, found, milliseconds)
                continue
            waits = _Waiting(place=place, pending=found, milliseconds=milliseconds)
            for job in set(found.jobs):
                waiting.setdefault(job, []).append(waits)
        if waiting:
            await self._judge_all(waiting, timeout_s, deliver)

    async def _judge_all(self, waiting: Mapping[Job, Sequence[_Waiting]], timeout_s: float, deliver: Deliver) -> None:
        if self._waiting + len(waiting) > self._max_waiting:
            raise ResourceExhausted(
                f"{self._waiting} comparisons wait already, of {self._max_waiting} that may; send fewer at a time",
                reason="QUEUE_FULL",
                metadata={"waiting": str(self._waiting), "limit": str(self._max_waiting)},
                retry_after_s=1.0,
            )
        self._waiting += len(waiting)
        try:
            await self._in_lanes(iter(waiting.items()), len(waiting), timeout_s, deliver)
        finally:
            self._waiting -= len(waiting)

    async def _in_lanes(
        self, jobs: Iterator[tuple[Job, Sequence[_Waiting]]], number: int, timeout_s: float, deliver: Deliver
    ) -> None:
        """As many jobs of a call ask for workers at a time as there are workers, so that calls take turns."""

        async def lane() -> None:
            for job, waiters in jobs:
                timed = await self._judge(job, timeout_s)
                for waits in waiters:
                    waits.add(job, timed, deliver)

        lanes = [asyncio.create_task(lane()) for _ in range(min(number, max(p.size for p in self._pools.values())))]
        try:
            await asyncio.gather(*lanes)
        finally:
            for task in lanes:
                task.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _judge(self, job: Job, timeout_s: float) -> TimedVerdict:
        known = self._remembered.get(job)
        if known is not None:
            self._remembered.move_to_end(job)
            return TimedVerdict(verdict=known, milliseconds=0.0)
        timed = await self._pools[job.judge].judge(job, timeout_s)
        if timed.verdict.reason not in FAILURES or timed.verdict.reason is Reason.TOO_COMPLEX:
            self._remember(job, timed.verdict)
        return timed

    def _remember(self, job: Job, verdict: Verdict) -> None:
        self._remembered[job] = verdict
        if len(self._remembered) > _REMEMBERED_VERDICTS:
            self._remembered.popitem(last=False)


def _decide(items: Sequence[Item]) -> list[tuple[Grade | Pending, float]]:
    """What each grader says at once, and the milliseconds that it took."""
    decided = []
    clock = time.perf_counter
    began = clock()
    for item in items:
        found = item.grader.grade(item.answer, item.references)
        ended = clock()
        decided.append((found, 1000 * (ended - began)))
        began = ended
    return decided
