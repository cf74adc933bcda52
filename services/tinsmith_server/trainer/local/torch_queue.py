"""The one thread that runs torch, and what waits for it.

Short work (optimizer steps, checkpoints) goes first. Training calls come in the order of their arrival, and before that
in the order of how little their tenants have had of the thread; those behind the first that can be computed with it, in
one pass and within the token budget, are. Nothing is waited for: a call that comes alone begins at once. As a model's
calls come one after the other, none can push another model's back by more than one pass.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import torch

from tinsmith_server.serving import FairQueue, Tenant, current_tenant
from tinsmith_server.serving.errors import Unavailable
from tinsmith_server.trainer.local.together import Work, run_together
from tinsmith_server.trainer.request import ForwardResult

T = TypeVar("T")

_CREDIT_S = 2.0
"""Seconds of the thread by which a tenant that has asked for little may go ahead of the others."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Task(Generic[T]):
    """Work that is done alone."""

    work: Callable[[], T]
    future: "Future[T]"
    tenant: Tenant = field(default_factory=current_tenant)


@dataclass(kw_only=True, slots=True, eq=False)
class _Call:
    """A training call, which may be computed with others."""

    prepare: Callable[[], Work]
    future: "Future[ForwardResult]"
    work: Work | None = None
    """Once it has been prepared."""
    tenant: Tenant = field(default_factory=current_tenant)


class TorchQueue:
    """See the file's comment."""

    def __init__(self, *, torch_threads: int, max_nodes: int) -> None:
        """`max_nodes`: most nodes of one pass of several calls."""
        self._torch_threads, self._max_nodes = torch_threads, max_nodes
        self._short: deque[_Task[Any]] = deque()
        self._long: FairQueue[_Task[Any] | _Call] = FairQueue(credit=_CREDIT_S)
        """What work costs is booked in seconds when it is done."""
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called on the torch thread when it takes work."""

    @property
    def waiting(self) -> int:
        """What has not begun."""
        return len(self._short) + len(self._long)

    async def run(self, work: Callable[[], T]) -> T:
        """Runs short work before the next pass. Unavailable with reason SHUTTING_DOWN when the thread ends first."""
        task = _Task(work=work, future=Future())
        self._put(lambda: self._short.append(task))
        return await asyncio.wrap_future(task.future)

    async def run_long(self, work: Callable[[], T]) -> T:
        """Runs work alone, when its turn among the training calls has come. Errors as `run`."""
        task = _Task(work=work, future=Future())
        self._put(lambda: self._long.put(task, task.tenant, cost=0.0))
        return await asyncio.wrap_future(task.future)

    async def compute(self, prepare: Callable[[], Work]) -> ForwardResult:
        """Computes what `prepare` has laid out, if need be with other models' calls. Errors as `run`, and those of
        `prepare` and of the call itself."""
        call = _Call(prepare=prepare, future=Future())
        self._put(lambda: self._long.put(call, call.tenant, cost=0.0))
        return await asyncio.wrap_future(call.future)

    async def stop(self) -> None:
        """Ends the thread after its current work; what waits is answered with Unavailable."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        for each in (*self._short, *self._long):
            _settle(each.future, _shutting_down())

    def _put(self, put: Callable[[], None]) -> None:
        with self._changed:
            if self._stopping:
                raise _shutting_down()
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="torch", daemon=True)
                self._thread.start()
            put()
            self._changed.notify()

    def _main(self) -> None:
        torch.set_num_threads(self._torch_threads)
        while (each := self._next()) is not None:
            began = time.monotonic()
            if isinstance(each, _Task):
                self.on_change()
                _settle(each.future, _outcome(each.work))
                self._book([each], time.monotonic() - began)
            else:
                self._book(self._compute(each), time.monotonic() - began)

    def _next(self) -> _Task[Any] | _Call | None:
        """What is done next; None when the thread shall end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._short or self._long)
            if self._stopping:
                return None
            return self._short.popleft() if self._short else self._long.pop()

    def _book(self, done: Sequence[_Task[Any] | _Call], seconds: float) -> None:
        """Charges work to its tenants."""
        with self._changed:
            for each in done:
                self._long.settle(each.tenant, seconds / len(done))

    def _compute(self, first: _Call) -> Sequence[_Call]:
        """Computes a call, and with it what waits and fits; returns these calls."""
        work = _prepared(first)
        if work is None:
            return [first]
        joined = [(first, work), *self._companions(work)]
        self.on_change()
        results = _outcome(lambda: run_together([work for _, work in joined]))
        if not isinstance(results, Exception):
            for (call, _), result in zip(joined, results, strict=True):
                _settle(call.future, result)
        elif len(joined) == 1:
            _settle(first.future, results)
        else:
            # Whichever broke the pass of all is found, and answered, by passes of their own.
            for call, _ in joined:
                _settle(call.future, _outcome(partial(_alone, call)))
        return [call for call, _ in joined]

    def _companions(self, first: Work) -> list[tuple[_Call, Work]]:
        """Calls of other models, in the queue's order, that can be computed in one pass with the first; they leave the
        queue."""
        found: list[tuple[_Call, Work]] = []
        if not first.can_join:
            return found
        adapters, nodes = {first.adapter}, first.pieces.nodes
        with self._changed:
            waiting = [each for each in self._long if isinstance(each, _Call)]
        for call in waiting:
            work = _prepared(call)
            if work is None:
                self._take(call)
            elif (
                work.can_join
                and work.base is first.base
                and work.adapter not in adapters
                and nodes + work.pieces.nodes <= self._max_nodes
            ):
                self._take(call)
                found.append((call, work))
                adapters.add(work.adapter)
                nodes += work.pieces.nodes
        return found

    def _take(self, call: _Call) -> None:
        with self._changed:
            self._long.take(call, call.tenant)


def _prepared(call: _Call) -> Work | None:
    """The call's work; None, with the call answered, when it is refused."""
    if call.work is None:
        work = _outcome(call.prepare)
        if isinstance(work, Exception):
            _settle(call.future, work)
        else:
            call.work = work
    return call.work


def _alone(call: _Call) -> ForwardResult | Exception:
    (result,) = run_together([call.prepare()])
    return result


def _outcome(work: Callable[[], T]) -> T | Exception:
    """What the work gives, or raises."""
    try:
        return work()
    except Exception as error:
        return error


def _settle(future: "Future[Any]", outcome: object) -> None:
    """Answers the caller, who may have gone in the meantime."""
    with suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def _shutting_down() -> Unavailable:
    return Unavailable("the trainer is shutting down; retry when it is back", reason="SHUTTING_DOWN")
