"""The one thread that runs torch. What it works on are engines and jobs; each has its turn, a bounded piece of work.

So a long answer never holds up a short one, and work whose caller has gone ends before its next turn. The number of
requests is bounded: one too many is refused at once and told when to come back.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import torch

from tinsmith_server.sampler.local.waiting_line import Ticket, WaitingLine
from tinsmith_server.serving import QueueStatus
from tinsmith_server.serving.errors import ResourceExhausted, Unavailable

T = TypeVar("T")
_log = logging.getLogger(__name__)
_FIRST_GUESS_S = 0.1
_SMOOTHING = 0.2


class Workload(Protocol):
    """What shares the thread. Requests reach it through the waiting line."""

    @property
    def running(self) -> int:
        """Requests at work. Any thread."""
        ...

    @property
    def spare(self) -> int:
        """Requests that it would take in beside those at work, as far as it knows. Any thread."""
        ...

    @property
    def lacking(self) -> str:
        """Why the first waiting request can't start, in words; empty when none waits. Any thread."""
        ...

    def admit(self, line: WaitingLine) -> None:
        """Takes requests in, and forgets those whose callers have gone."""
        ...

    def turn(self) -> None:
        """A bounded piece of work."""
        ...

    def abandon(self, error: Exception) -> None:
        """Answers the callers of all requests at work with `error`, and is as new."""
        ...


class Job(Ticket):
    """Work as a generator: every turn is one `next`."""

    def __init__(self, work: Generator[None, None, Any]) -> None:
        super().__init__()
        self.work = work


class TakingTurns:
    """Jobs that go on in turn, a few at a time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: deque[Job] = deque()
        self.lacking = ""

    @property
    def running(self) -> int:
        return len(self._jobs)

    @property
    def spare(self) -> int:
        return self._most - len(self._jobs)

    def admit(self, line: WaitingLine) -> None:
        for gone in [job for job in self._jobs if job.abandoned]:
            gone.work.close()
            self._jobs.remove(gone)
        while (job := line.first(self)) is not None:
            assert isinstance(job, Job)
            if len(self._jobs) >= self._most:
                self.lacking = "as many requests take turns as this sampler allows"
                return
            line.take(self, job)
            self._jobs.append(job)
        self.lacking = ""

    def turn(self) -> None:
        if not self._jobs:
            return
        if _advance(self._jobs[0]):
            self._jobs.rotate(-1)
        else:
            self._jobs.popleft()

    def abandon(self, error: Exception) -> None:
        while self._jobs:
            job = self._jobs.popleft()
            job.work.close()
            job.settle(error=error)


class TorchWorker:
    """One thread, many workloads."""

    def __init__(self, *, max_running: int, max_waiting: int, torch_threads: int) -> None:
        """`max_running` jobs take turns; requests of all kinds beyond `max_waiting` are refused."""
        self._torch_threads, self._max_waiting = torch_threads, max_waiting
        self._jobs = TakingTurns(max_running)
        self._workloads: Sequence[Workload] = (self._jobs,)
        self._line = WaitingLine()
        self._urgent: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._pace = _Pace()
        self._told: object = None
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="torch", daemon=True)
        self.on_change: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its current turn; what waits or runs is answered with Unavailable."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def add(self, workload: Workload) -> None:
        """One more workload."""
        self._workloads = (*self._workloads, workload)

    async def call(self, work: Callable[[], T]) -> T:
        """Runs `work` between two turns, ahead of the queue: for short things such as laying out an adapter."""
        future: Future[T] = Future()
        with self._changed:
            self._refuse_when_stopping()
            self._urgent.append((work, future))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    async def run(self, work: Generator[None, None, T]) -> T:
        """Runs a job to its end; see `submit`."""
        result: T = await self.submit(self._jobs, Job(work))
        return result

    async def submit(self, workload: Workload, ticket: Ticket) -> Any:
        """Waits in the line, then for the result. Cancelling the caller ends the work before its next turn.

        Raises ResourceExhausted with reason QUEUE_FULL when too many requests wait.
        """
        with self._changed:
            self._refuse_when_stopping()
            self._refuse_when_full(workload)
            self._line.join(workload, ticket)
            self._changed.notify()
        self.on_change()
        try:
            return await asyncio.wrap_future(ticket.future)
        except asyncio.CancelledError:
            self._line.leave(workload, ticket)
            with self._changed:
                self._changed.notify()
            self.on_change()
            raise

    def status(self) -> QueueStatus:
        """The queue now."""
        waiting = len(self._line)
        lacking = [workload.lacking for workload in self._workloads if workload.lacking] if waiting else []
        full = any(waiting >= self._max_waiting + workload.spare for workload in self._workloads)
        return QueueStatus(
            waiting=waiting,
            running=sum(workload.running for workload in self._workloads),
            full=full,
            estimated_wait_s=(waiting + 1) * self._pace.gap_s if lacking or full else 0.0,
            lacking="".join(lacking[:1]),
        )

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise Unavailable("the sampler is shutting down; retry on another replica", reason="SHUTTING_DOWN")

    def _refuse_when_full(self, workload: Workload) -> None:
        status = self.status()
        if status.waiting >= self._max_waiting + workload.spare:
            raise ResourceExhausted(
                f"{status.waiting} requests wait already; retry later or add samplers",
                reason="QUEUE_FULL",
                metadata={"waiting": str(status.waiting)},
                retry_after_s=max(_FIRST_GUESS_S, status.estimated_wait_s),
            )

    def _main(self) -> None:
        torch.set_num_threads(self._torch_threads)
        with torch.inference_mode():
            while self._wait_for_work():
                self._run_urgent()
                for workload in self._workloads:
                    self._take_turn(workload)
                    self._run_urgent()
        self._abandon()

    def _wait_for_work(self) -> bool:
        """Sleeps while there is nothing to do. False when the thread shall end."""
        with self._changed:
            if not self._has_work():
                self._changed.wait_for(self._has_work)
                self._pace.begin()
            return not self._stopping

    def _has_work(self) -> bool:
        running = any(workload.running for workload in self._workloads)
        return bool(self._stopping or self._urgent or running or len(self._line))

    def _take_turn(self, workload: Workload) -> None:
        """A turn that fails ends the requests of its workload, not the thread."""
        try:
            self._turn(workload)
        except Exception as error:
            _log.exception("a turn of the sampler's torch thread failed")
            workload.abandon(error)
            self._tell()

    def _turn(self, workload: Workload) -> None:
        running = workload.running
        workload.admit(self._line)
        if workload.running != running or workload.lacking:
            self._tell()
        at_work = workload.running
        workload.turn()
        self._pace.ended(at_work - workload.running)
        if workload.running != at_work:
            self._tell()

    def _tell(self) -> None:
        """Reports the queue's state where it has changed."""
        status = self.status()
        seen = (status.waiting, status.running, status.full, status.lacking)
        if seen != self._told:
            self._told = seen
            self.on_change()

    def _run_urgent(self) -> None:
        while self._urgent:
            work, future = self._urgent.popleft()
            ticket = Ticket(future)
            try:
                result = work()
            except Exception as error:
                ticket.settle(error=error)
            else:
                ticket.settle(result=result)

    def _abandon(self) -> None:
        gone = Unavailable("the sampler is shutting down; retry on another replica", reason="SHUTTING_DOWN")
        for workload in self._workloads:
            workload.abandon(gone)
        for ticket in self._line.clear():
            ticket.settle(error=gone)
        for _, future in self._urgent:
            Ticket(future).settle(error=gone)


class _Pace:
    """How long it takes, lately, until one more request has ended."""

    def __init__(self) -> None:
        self.gap_s = _FIRST_GUESS_S
        self._last = time.monotonic()

    def begin(self) -> None:
        """Takes note that work comes after idleness, which is nobody's pace."""
        self._last = time.monotonic()

    def ended(self, requests: int) -> None:
        """Takes note of requests that have just ended."""
        if requests <= 0:
            return
        now = time.monotonic()
        self.gap_s += _SMOOTHING * ((now - self._last) / requests - self.gap_s)
        self._last = now


def _advance(job: Job) -> bool:
    """One step of a job; False when it was the last."""
    try:
        next(job.work)
    except StopIteration as end:
        job.settle(result=end.value)
    except Exception as error:
        job.settle(error=error)
    else:
        return True
    return False
