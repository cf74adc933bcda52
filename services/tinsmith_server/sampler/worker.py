"""The one thread that runs torch: jobs take turns on it, step by step.

A job is a generator. Every turn is one `next`, so a long answer never holds up a short one, and a job whose caller has
gone is closed before its next turn. The queue is bounded: a full one refuses at once and says when to come back.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from tinsmith_server.serving.errors import ResourceExhausted, Unavailable

T = TypeVar("T")
_log = logging.getLogger(__name__)
_FIRST_GUESS_S = 0.1
_SMOOTHING = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStatus:
    """The queue at one moment."""

    waiting: int
    running: int
    full: bool
    estimated_wait_s: float
    """Until a request that arrives now is answered, by the mean cost of the last ones."""


@dataclass(kw_only=True, slots=True)
class _Job:
    work: Generator[None, None, Any]
    future: "Future[Any]"
    busy_s: float = 0.0


class TorchWorker:
    """One thread, many jobs."""

    def __init__(self, *, max_running: int, max_waiting: int, torch_threads: int) -> None:
        self._torch_threads = torch_threads
        self._max_running, self._max_waiting = max_running, max_waiting
        self._urgent: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._waiting: deque[_Job] = deque()
        self._running: deque[_Job] = deque()
        self._mean_s = _FIRST_GUESS_S
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="torch", daemon=True)
        self.on_change: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its current step; what waits or runs is answered with Unavailable."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    async def call(self, work: Callable[[], T]) -> T:
        """Runs `work` between two steps, ahead of the queue: for short things such as laying out an adapter."""
        future: Future[T] = Future()
        self._put(lambda: self._urgent.append((work, future)))
        return await asyncio.wrap_future(future)

    async def run(self, work: Generator[None, None, T]) -> T:
        """Runs a job to its end. Cancelling the caller ends it before its next step.

        Raises ResourceExhausted with reason QUEUE_FULL when too many jobs wait.
        """
        job = _Job(work=work, future=Future())
        self._put(lambda: self._enqueue(job))
        self.on_change()
        try:
            result: T = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self._forget(job)
            raise
        return result

    def status(self) -> QueueStatus:
        """The queue now."""
        waiting, running = len(self._waiting), len(self._running)
        return QueueStatus(
            waiting=waiting,
            running=running,
            full=waiting + running >= self._max_waiting + self._max_running,
            estimated_wait_s=(waiting + running) * self._mean_s,
        )

    def _put(self, action: Callable[[], None]) -> None:
        with self._changed:
            if self._stopping:
                raise Unavailable("the sampler is shutting down; retry on another replica", reason="SHUTTING_DOWN")
            action()
            self._changed.notify()

    def _enqueue(self, job: _Job) -> None:
        status = self.status()
        if status.full:
            raise ResourceExhausted(
                f"{status.waiting} requests wait already; retry later or add samplers",
                reason="QUEUE_FULL",
                metadata={"waiting": str(status.waiting)},
                retry_after_s=max(_FIRST_GUESS_S, status.estimated_wait_s),
            )
        self._waiting.append(job)

    def _forget(self, job: _Job) -> None:
        """Takes a job whose caller has gone out of the queue; one that runs ends at its next turn."""
        with self._changed:
            self._waiting = deque(waiting for waiting in self._waiting if waiting is not job)
        self.on_change()

    def _main(self) -> None:
        torch.set_num_threads(self._torch_threads)
        with torch.inference_mode():
            while self._wait_for_work():
                self._run_urgent()
                for _ in range(len(self._running)):
                    self._take_turn()
                    self._run_urgent()
        self._abandon()

    def _wait_for_work(self) -> bool:
        """Takes waiting jobs in; sleeps while there is nothing to do. False when the thread shall end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._urgent or self._waiting or self._running)
            while self._waiting and len(self._running) < self._max_running:
                self._running.append(self._waiting.popleft())
                self.on_change()
            return not self._stopping

    def _run_urgent(self) -> None:
        while self._urgent:
            work, future = self._urgent.popleft()
            try:
                result = work()
            except Exception as error:
                _settle(future, error=error)
            else:
                _settle(future, result=result)

    def _take_turn(self) -> None:
        """Gives the first job one turn; it goes to the back of the line unless it has ended."""
        job = self._running[0]
        began = time.perf_counter()
        ended = _advance(job)
        job.busy_s += time.perf_counter() - began
        if not ended:
            self._running.rotate(-1)
            return
        self._running.popleft()
        self._mean_s += _SMOOTHING * (job.busy_s - self._mean_s)
        self.on_change()

    def _abandon(self) -> None:
        gone = Unavailable("the sampler is shutting down; retry on another replica", reason="SHUTTING_DOWN")
        for job in (*self._running, *self._waiting):
            job.work.close()
            _settle(job.future, error=gone)
        for _, future in self._urgent:
            _settle(future, error=gone)


def _advance(job: _Job) -> bool:
    """One step of a job; True when it was the last."""
    if job.future.cancelled():
        job.work.close()
        return True
    try:
        next(job.work)
    except StopIteration as end:
        _settle(job.future, result=end.value)
    except Exception as error:
        _settle(job.future, error=error)
    else:
        return False
    return True


def _settle(future: "Future[Any]", *, result: object = None, error: Exception | None = None) -> None:
    """Answers the caller, who may have gone in the meantime."""
    with suppress(InvalidStateError):
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
