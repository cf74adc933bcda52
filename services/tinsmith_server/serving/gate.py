"""Who may call, how often, and in which order: what a call passes before its handler.

Limits refuse with RESOURCE_EXHAUSTED and say when to come again. Calls within their limits wait for a place when the
process answers only so many at once; places go to tenants in fair order.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from tinsmith_server.serving.errors import ResourceExhausted
from tinsmith_server.serving.fair_queue import FairQueue
from tinsmith_server.serving.tenants import ANYONE, Tenant, Tenants, set_current_tenant
from tinsmith_server.serving.token_bucket import TokenBucket

_CREDIT_S = 5.0
"""Seconds of work by which a tenant that has asked for little may go ahead of the others."""
_FIRST_GUESS_S, _WEIGHT_OF_NEWEST = 0.05, 0.05
"""What a call is taken to last before any has ended, and how fast that follows what they do last."""
_CONCURRENCY_PAUSE_S = 0.25
"""After how long a tenant with too many calls at work may try again."""


@dataclass(slots=True)
class _Account:
    """What a tenant has used."""

    tenant: Tenant
    buckets: Mapping[str, TokenBucket]
    """Of each limited thing: "requests", "bytes", "tokens"."""
    at_work: int = 0


_account: ContextVar[_Account | None] = ContextVar("account of the present call's tenant", default=None)


def charge_tokens(tokens: int) -> None:
    """Books tokens that the present call has made its room read or write. They count against the calls after it.

    To be called by the call's own task.
    """
    _charge("tokens", lambda: tokens)


def charge_bytes(size: Callable[[], int]) -> None:
    """Books bytes of the present call's requests; `size` is asked for only where bytes are limited."""
    _charge("bytes", size)


def _charge(what: str, amount: Callable[[], int]) -> None:
    account = _account.get()
    if account is not None and what in account.buckets:
        account.buckets[what].spend(amount())


class Gate:
    """The way into one process. For its event loop."""

    def __init__(
        self, tenants: Tenants | None, *, max_calls: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Without `tenants` every caller is ANYONE; `max_calls` is how many calls may be at work at once, 0 any."""
        self._tenants = tenants
        self._max_calls = max_calls
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._places = _Places(max_calls)

    @asynccontextmanager
    async def passed(self, metadata: Mapping[str, str], *, waits: bool) -> AsyncIterator[None]:
        """Lets the call in and keeps its books until it ends.

        A call that does not wait takes no place: one that goes at its client's pace, or that waits for others itself.
        Unauthenticated as `Tenants.identify`; ResourceExhausted with reason RATE_LIMITED or TENANT_CONCURRENCY.
        """
        tenant = ANYONE if self._tenants is None else self._tenants.identify(metadata)
        set_current_tenant(tenant)
        account = self._account_of(tenant)
        _refuse_beyond_limits(account)
        _account.set(account)
        _charge("requests", lambda: 1)
        account.at_work += 1
        try:
            if self._max_calls and waits:
                async with self._places.taken(tenant):
                    yield
            else:
                yield
        finally:
            account.at_work -= 1

    def _account_of(self, tenant: Tenant) -> _Account:
        if tenant.name not in self._accounts:
            rates = {"requests": tenant.requests_per_s, "bytes": tenant.bytes_per_s, "tokens": tenant.tokens_per_s}
            buckets = {what: TokenBucket(rate, tenant.burst_s, self._clock) for what, rate in rates.items() if rate}
            self._accounts[tenant.name] = _Account(tenant=tenant, buckets=buckets)
        return self._accounts[tenant.name]


def _refuse_beyond_limits(account: _Account) -> None:
    tenant = account.tenant
    if tenant.concurrent is not None and account.at_work >= tenant.concurrent:
        raise ResourceExhausted(
            f"tenant {tenant.name} has {account.at_work} calls at work, as many as it may have at once",
            reason="TENANT_CONCURRENCY",
            metadata={"tenant": tenant.name, "limit": str(tenant.concurrent)},
            retry_after_s=_CONCURRENCY_PAUSE_S,
        )
    for what, bucket in account.buckets.items():
        wait_s = bucket.wait_s()
        if wait_s > 0:
            raise ResourceExhausted(
                f"tenant {tenant.name} has used up its {what} for now: try again in {wait_s:.3f} s",
                reason="RATE_LIMITED",
                metadata={"tenant": tenant.name, "limit": what, "retry_after_s": f"{wait_s:.3f}"},
                retry_after_s=wait_s,
            )


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that waits for a place."""

    turn: asyncio.Event = field(default_factory=asyncio.Event)
    guess_s: float = 0.0
    """What the queue has been told that it lasts."""


class _Places:
    """So many calls at work; the others wait in fair order, by the seconds that their tenants' calls have lasted."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._queue: FairQueue[_Waiting] = FairQueue(credit=_CREDIT_S)
        self._usual_s = _FIRST_GUESS_S

    @asynccontextmanager
    async def taken(self, tenant: Tenant) -> AsyncIterator[None]:
        waiting = _Waiting(guess_s=self._usual_s)
        self._queue.put(waiting, tenant, waiting.guess_s)
        self._next()
        try:
            await waiting.turn.wait()
        except BaseException:
            self._gone(waiting, tenant)
            raise
        began = time.monotonic()
        try:
            yield
        finally:
            lasted_s = time.monotonic() - began
            self._queue.settle(tenant, lasted_s - waiting.guess_s)
            self._usual_s += _WEIGHT_OF_NEWEST * (lasted_s - self._usual_s)
            self._release()

    def _next(self) -> None:
        while self._free and len(self._queue):
            self._queue.pop().turn.set()
            self._free -= 1

    def _release(self) -> None:
        self._free += 1
        self._next()

    def _gone(self, waiting: _Waiting, tenant: Tenant) -> None:
        """A caller has gone away while it waited, perhaps just when its turn came."""
        if waiting.turn.is_set():
            self._queue.settle(tenant, -waiting.guess_s)
            self._release()
        else:
            self._queue.discard(waiting, tenant)
