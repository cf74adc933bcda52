"""R-06: a circuit breaker that keeps its promises whatever comes at the same time."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from itertools import count, islice

import pytest
from prometheus_client import REGISTRY

from tinsmith_server.serving.circuit_breaker import CircuitBreaker, CircuitState
from tinsmith_server.serving.errors import InvalidArgument, ServiceError, Unavailable

NAMES = (f"test-{number}" for number in count())


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(next(NAMES), is_failure=lambda error: isinstance(error, Unavailable), clock=clock)


def fail(breaker: CircuitBreaker, error: Exception | None = None) -> None:
    """One call that reaches the backend and fails."""
    with suppress(ServiceError), breaker.call():
        raise error or Unavailable("it is down", reason="DOWN")


def is_refused(breaker: CircuitBreaker) -> bool:
    """Makes a call, which the backend would answer."""
    try:
        with breaker.call():
            return False
    except Unavailable:
        return True


async def test_five_failures_open_it_and_after_30_s_one_of_20_callers_probes(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """R-06: 5 fails -> open -> 30 s -> exactly 1 probe of 20 concurrent callers."""
    for _ in range(4):
        fail(breaker)
    assert breaker.state is CircuitState.CLOSED
    fail(breaker)
    assert breaker.state is CircuitState.OPEN
    clock.now += 29.9
    assert is_refused(breaker)
    clock.now += 0.1
    assert breaker.state is CircuitState.HALF_OPEN

    reached, release = 0, asyncio.Event()

    async def caller() -> str:
        nonlocal reached
        try:
            with breaker.call():
                reached += 1
                await release.wait()
        except Unavailable as error:
            return error.reason
        return "OK"

    callers = [asyncio.create_task(caller()) for _ in range(20)]
    await asyncio.sleep(0)
    assert reached == 1
    release.set()
    assert sorted(await asyncio.gather(*callers)) == ["CIRCUIT_OPEN"] * 19 + ["OK"]
    assert breaker.state is CircuitState.CLOSED
    assert not is_refused(breaker)


def test_of_many_threads_one_probes(breaker: CircuitBreaker, clock: Clock) -> None:
    """R-06: the limit holds without an event loop's help."""
    for _ in range(5):
        fail(breaker)
    clock.now += 30
    barrier, release = threading.Barrier(20), threading.Event()

    def call() -> str:
        barrier.wait()
        try:
            with breaker.call():
                return "OK" if release.wait(10) else "LATE"
        except Unavailable as error:
            return error.reason

    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(call) for _ in range(20)]
        first = [done.result() for done in islice(as_completed(calls, timeout=10), 19)]
        release.set()
    assert first == ["CIRCUIT_OPEN"] * 19
    assert sorted(done.result() for done in calls) == ["CIRCUIT_OPEN"] * 19 + ["OK"]


def test_a_probe_that_fails_opens_it_for_another_30_s(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(5):
        fail(breaker)
    clock.now += 30
    fail(breaker)
    assert breaker.state is CircuitState.OPEN
    clock.now += 29
    assert is_refused(breaker)
    clock.now += 1
    assert not is_refused(breaker)
    assert breaker.state is CircuitState.CLOSED


def test_a_success_starts_the_count_anew(breaker: CircuitBreaker) -> None:
    for _ in range(4):
        fail(breaker)
    assert not is_refused(breaker)
    for _ in range(4):
        fail(breaker)
    assert breaker.state is CircuitState.CLOSED


def test_the_callers_own_mistakes_are_no_failures(breaker: CircuitBreaker, clock: Clock) -> None:
    """R-06: a 4xx does not count; as a probe it shows that the backend answers."""
    for _ in range(50):
        fail(breaker, InvalidArgument("what is that?", reason="REFUSED"))
    assert breaker.state is CircuitState.CLOSED
    for _ in range(5):
        fail(breaker)
    clock.now += 30
    fail(breaker, InvalidArgument("what is that?", reason="REFUSED"))
    assert breaker.state is CircuitState.CLOSED


async def test_a_probe_that_is_cancelled_leaves_its_place_to_another(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(5):
        fail(breaker)
    clock.now += 30

    async def hang() -> None:
        with breaker.call():
            await asyncio.Event().wait()

    probe = asyncio.create_task(hang())
    await asyncio.sleep(0)
    assert is_refused(breaker)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert breaker.state is CircuitState.HALF_OPEN
    assert not is_refused(breaker)


def test_what_began_before_it_opened_comes_too_late_to_matter(breaker: CircuitBreaker, clock: Clock) -> None:
    def late(error: Exception | None) -> Iterator[None]:
        with suppress(ServiceError), breaker.call():
            yield
            if error:
                raise error

    slow_success, slow_failure = late(None), late(Unavailable("down", reason="DOWN"))
    next(slow_success), next(slow_failure)
    for _ in range(5):
        fail(breaker)
    next(slow_success, None)
    assert breaker.state is CircuitState.OPEN
    clock.now += 20
    next(slow_failure, None)
    clock.now += 10
    assert breaker.state is CircuitState.HALF_OPEN, "a late failure must not prolong the rest"


def test_a_refusal_says_when_to_come_back(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(5):
        fail(breaker)
    clock.now += 18
    with pytest.raises(Unavailable) as caught, breaker.call():
        pass
    assert caught.value.retry_after_s == pytest.approx(12)


def test_its_state_is_a_metric(clock: Clock) -> None:
    breaker = CircuitBreaker("metered", is_failure=lambda error: True, clock=clock)

    def metric(name: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"backend": "metered"})

    seen = [metric("tinsmith_circuit_state")]
    for _ in range(5):
        fail(breaker)
    seen.append(metric("tinsmith_circuit_state"))
    clock.now += 30
    seen.append(metric("tinsmith_circuit_state"))
    assert seen == [CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN]
    assert metric("tinsmith_circuit_opened_total") == 1
