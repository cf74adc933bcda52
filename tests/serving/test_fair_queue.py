"""The fair queue: order, shares, and what a tenant that asks for little may expect."""

import heapq
import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith_server.serving import FairQueue, Tenant

A, B = Tenant(name="a"), Tenant(name="b")


def drained(queue: FairQueue[str]) -> str:
    return "".join(queue.pop() for _ in range(len(queue)))


def test_one_tenant_is_served_in_the_order_of_arrival() -> None:
    queue: FairQueue[str] = FairQueue()
    for item, cost in (("x", 9.0), ("y", 0.0), ("z", 1.0)):
        queue.put(item, A, cost)
    assert drained(queue) == "xyz"
    with pytest.raises(IndexError):
        queue.pop()


def test_two_tenants_take_turns_however_many_items_one_of_them_has() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(6):
        queue.put("a", A)
    for _ in range(3):
        queue.put("b", B)
    assert drained(queue) == "abababaaa"


def test_weights_are_shares() -> None:
    queue: FairQueue[str] = FairQueue()
    heavy = Tenant(name="h", weight=3.0)
    for _ in range(40):
        queue.put("h", heavy)
        queue.put("b", B)
    assert Counter(queue.pop() for _ in range(40)) == {"h": 30, "b": 10}


costs = st.lists(st.floats(0.1, 5), min_size=1, max_size=30)


@given(costs, costs, st.floats(0.2, 5), st.floats(0.2, 5))
def test_while_both_wait_neither_is_ahead_by_more_than_one_item_each(
    costs_a: list[float], costs_b: list[float], weight_a: float, weight_b: float
) -> None:
    """R-02: the bound of start-time fair queueing."""
    queue: FairQueue[tuple[str, float]] = FairQueue()
    weights = {"a": weight_a, "b": weight_b}
    tenants = {name: Tenant(name=name, weight=weight) for name, weight in weights.items()}
    for name, its_costs in (("a", costs_a), ("b", costs_b)):
        for cost in its_costs:
            queue.put((name, cost), tenants[name], cost)
    left, served = {"a": len(costs_a), "b": len(costs_b)}, {"a": 0.0, "b": 0.0}
    bound = max(costs_a) / weight_a + max(costs_b) / weight_b
    while all(left.values()):
        name, cost = queue.pop()
        left[name] -= 1
        served[name] += cost / weights[name]
        assert abs(served["a"] - served["b"]) <= bound + 1e-9


operations = st.lists(st.tuples(st.sampled_from("pd!"), st.sampled_from("abc"), st.floats(0, 3)), max_size=60)


@given(operations, st.floats(0, 10))
def test_what_is_put_in_comes_out_once_and_in_its_tenants_order(
    steps: list[tuple[str, str, float]], credit: float
) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(credit=credit)
    waiting: dict[str, list[tuple[str, int]]] = {"a": [], "b": [], "c": []}
    for number, (step, name, cost) in enumerate(steps):
        if step == "p":
            item = (name, number)
            queue.put(item, Tenant(name=name), cost)
            waiting[name].append(item)
        elif step == "d" and waiting[name]:
            queue.discard(waiting[name].pop(), Tenant(name=name))
        elif step == "!" and any(waiting.values()):
            item = queue.pop()
            assert waiting[item[0]].pop(0) == item
            queue.settle(Tenant(name=item[0]), cost - 1.5)
        assert len(queue) == sum(map(len, waiting.values()))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=30), st.integers(0, 10))
def test_what_waits_is_shown_in_the_order_in_which_it_is_taken(items: list[tuple[str, float]], taken: int) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(credit=2.0)
    for number, (name, cost) in enumerate(items):
        queue.put((name, number), Tenant(name=name, weight=1.0 + ord(name) % 3), cost)
    for _ in range(min(taken, len(queue))):
        assert queue.first() is queue.pop()
    shown = list(queue)
    assert shown == [queue.pop() for _ in range(len(queue))]


def test_what_is_taken_out_of_turn_is_paid_for() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3"):
        queue.put(item, A)
    for item in ("b1", "b2", "b3"):
        queue.put(item, B)
    queue.take("a2", A)
    assert [queue.pop() for _ in range(len(queue))] == ["b1", "a1", "b2", "a3", "b3"]
    with pytest.raises(ValueError, match="does not wait"):
        queue.take("a1", A)


def test_idleness_is_worth_the_credit_and_no_more() -> None:
    def after_idleness(credit: float) -> str:
        queue: FairQueue[str] = FairQueue(credit=credit)
        for _ in range(100):
            queue.put("a", A)
        for _ in range(50):
            queue.pop()
        for _ in range(20):
            queue.put("b", B)
        return "".join(queue.pop() for _ in range(12))

    assert after_idleness(0) == "babababababa"
    assert after_idleness(5) in ("bbbbbb" + "ababab", "bbbbbb" + "bababa")


def test_work_that_took_longer_than_said_is_paid_for() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(8):
        queue.put("a", A)
        queue.put("b", B)
    assert queue.pop() == "a"
    queue.settle(A, 3.0)
    assert "".join(queue.pop() for _ in range(6)) == "bbbbab"


def test_tenants_that_are_gone_leave_nothing_behind() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.put("x", Tenant(name=str(number)), 1.0)
        queue.pop()
    assert len(queue._flows) < 10


def latencies(*, noisy: bool, fair: bool) -> list[float]:
    """Of the quiet tenant's requests, each ten pieces of work, in a simulation of one worker that takes a piece a unit
    of time. Quiet asks every 40 units on average, noisy ten times as often: together 2.75 times what there is."""
    generator = random.Random(0)
    queue: FairQueue[tuple[str, float, int]] = FairQueue(credit=200.0)
    arrivals: list[tuple[float, str]] = []
    for name, gap in (("quiet", 40.0), *((("noisy", 4.0),) if noisy else ())):
        at = 0.0
        while at < 20_000:
            at += generator.expovariate(1 / gap)
            arrivals.append((at, name))
    heapq.heapify(arrivals)
    found: list[float] = []
    now = 0.0
    while arrivals or len(queue):
        while arrivals and arrivals[0][0] <= now:
            at, name = heapq.heappop(arrivals)
            queue.put((name, at, 10), Tenant(name=name if fair else ""))
        if not len(queue):
            now = arrivals[0][0]
            continue
        name, at, pieces = queue.pop()
        now += 1
        if pieces > 1:
            queue.put((name, at, pieces - 1), Tenant(name=name if fair else ""))
        elif name == "quiet":
            found.append(now - at)
        if now > 20_000:
            break
    return sorted(found)


def p95(values: list[float]) -> float:
    return values[int(len(values) * 0.95)]


def test_a_tenant_with_ten_times_the_requests_hardly_delays_a_quiet_one() -> None:
    """R-02: at most half as long again for 95 of 100 requests; without fairness it is a hundred times."""
    idle = p95(latencies(noisy=False, fair=True))
    assert p95(latencies(noisy=True, fair=True)) <= 1.5 * idle
    assert p95(latencies(noisy=True, fair=False)) > 50 * idle


def test_ties_go_to_who_came_first() -> None:
    queue: FairQueue[str] = FairQueue()
    for name in itertools.islice(itertools.cycle("cab"), 3):
        queue.put(name, Tenant(name=name))
    assert drained(queue) == "cab"
