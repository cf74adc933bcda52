"""Work of several tenants in a fair order: whoever has had least for its weight is next.

Start-time fair queueing (Goyal, Vin, Cheng 1996). A tenant's tag is the service that it has had, in units of cost
divided by its weight; work of the least tag is taken first, and the queue's virtual time v is the greatest tag taken so
far, or reached when nothing waits any more. A tenant that comes back from idleness starts at max(its tag, v - credit):
the credit lets one that asks for less than its share go ahead of those that always ask for more, and bounds for how
long.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tinsmith_server.serving.tenants import Tenant

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(Generic[T]):
    """An item that waits."""

    arrival: int
    """Its place in the order of arrival."""
    cost: float
    item: T


@dataclass(slots=True, eq=False)
class _Flow(Generic[T]):
    """One tenant's part of the queue."""

    tenant: Tenant
    tag: float
    waiting: deque[_Entry[T]] = field(default_factory=deque)


class FairQueue(Generic[T]):
    """What waits. Each tenant's items keep their order, and with one tenant it is a plain queue.

    Its user sees to it that one thread at a time is in it.
    """

    def __init__(self, *, credit: float = 0.0) -> None:
        """`credit`, in units of cost, is how far a tenant that has asked for little may go ahead of the others."""
        self._credit = credit
        self._flows: dict[str, _Flow[T]] = {}
        self._virtual_time = 0.0
        self._arrivals = itertools.count()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """What waits, in the order in which it would be taken if nothing else came."""
        rests = {name: iter(flow.waiting) for name, flow in self._flows.items()}
        heads: list[tuple[float, int, str, _Entry[T]]] = []

        def show_next(name: str, tag: float) -> None:
            entry = next(rests[name], None)
            if entry is not None:
                heapq.heappush(heads, (tag, entry.arrival, name, entry))

        for name, flow in self._flows.items():
            show_next(name, flow.tag)
        while heads:
            tag, _, name, entry = heapq.heappop(heads)
            yield entry.item
            show_next(name, tag + entry.cost / self._flows[name].tenant.weight)

    def in_any_order(self) -> Iterator[T]:
        """What waits; cheaper than in order."""
        return (entry.item for flow in self._flows.values() for entry in flow.waiting)

    def put(self, item: T, tenant: Tenant, cost: float = 1.0) -> None:
        """Adds work. Its cost, at least 0, is in the unit that the queue's user chooses: tokens, seconds, calls."""
        flow = self._flow_of(tenant)
        if not flow.waiting:
            flow.tag = max(flow.tag, self._entry_tag)
        flow.waiting.append(_Entry(next(self._arrivals), cost, item))
        self._length += 1

    def first(self) -> T:
        """What is next; it stays. IndexError when nothing waits."""
        return self._next_flow().waiting[0].item

    def pop(self) -> T:
        """Takes what is next. IndexError when nothing waits."""
        flow = self._next_flow()
        self._virtual_time = max(self._virtual_time, flow.tag)
        return self._taken(flow, flow.waiting[0])

    def take(self, item: T, tenant: Tenant) -> None:
        """Takes this item, whether or not it is next, for example to be done together with what is. ValueError when it
        does not wait."""
        flow = self._flow_of(tenant)
        entry = next((entry for entry in flow.waiting if entry.item is item), None)
        if entry is None:
            raise ValueError("the item does not wait")
        self._taken(flow, entry)

    def settle(self, tenant: Tenant, difference: float) -> None:
        """Corrects the cost of work that has been taken: what it took more than was said, less than 0 if less."""
        self._flow_of(tenant).tag += difference / tenant.weight

    def discard(self, item: T, tenant: Tenant) -> None:
        """Takes out what no longer wants to be done, at no cost; nothing when it does not wait."""
        flow = self._flow_of(tenant)
        left = deque(entry for entry in flow.waiting if entry.item is not item)
        self._length -= len(flow.waiting) - len(left)
        flow.waiting = left

    @property
    def _entry_tag(self) -> float:
        """The tag of a tenant that has long been away."""
        return self._virtual_time - self._credit

    def _flow_of(self, tenant: Tenant) -> _Flow[T]:
        if tenant.name not in self._flows:
            self._flows[tenant.name] = _Flow(tenant=tenant, tag=self._entry_tag)
        return self._flows[tenant.name]

    def _next_flow(self) -> _Flow[T]:
        waiting = [flow for flow in self._flows.values() if flow.waiting]
        if not waiting:
            raise IndexError("nothing waits")
        return min(waiting, key=lambda flow: (flow.tag, flow.waiting[0].arrival))

    def _taken(self, flow: _Flow[T], entry: _Entry[T]) -> T:
        flow.waiting.remove(entry)
        flow.tag += entry.cost / flow.tenant.weight
        self._length -= 1
        if not self._length:  # the end of a busy period: nobody is owed anything
            self._virtual_time = max(self._virtual_time, *(one.tag for one in self._flows.values()))
        if not flow.waiting:
            self._forget_idle()
        return entry.item

    def _forget_idle(self) -> None:
        """A tenant at or below the entry tag would begin there anyway: nothing of it need be kept."""
        gone = [name for name, flow in self._flows.items() if not flow.waiting and flow.tag <= self._entry_tag]
        for name in gone:
            del self._flows[name]
