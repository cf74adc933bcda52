"""Requests that wait for their turn, bounded in number. Tenants take turns; the oldest request of each is first."""

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from tinsmith_server.serving import FairQueue, current_tenant

_CREDIT = 8.0
"""Requests by which a tenant that has asked for little may go ahead of the others."""


class Ticket:
    """A request on its way through the torch thread, and its caller."""

    def __init__(self, future: "Future[Any] | None" = None) -> None:
        self.future: Future[Any] = future or Future()
        self.tenant = current_tenant()

    @property
    def abandoned(self) -> bool:
        """Whether the caller has gone."""
        return self.future.cancelled()

    def settle(self, *, result: object = None, error: Exception | None = None) -> None:
        """Answers the caller, who may have gone in the meantime."""
        with suppress(InvalidStateError):
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)


class WaitingLine:
    """Tickets by who will work on them. Used by the event loop and the torch thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[object, FairQueue[Ticket]] = {}

    def __len__(self) -> int:
        """Tickets whose callers still wait."""
        with self._lock:
            return sum(not ticket.abandoned for line in self._lines.values() for ticket in line.in_any_order())

    def join(self, worker: object, ticket: Ticket) -> None:
        """Puts a ticket at the end."""
        with self._lock:
            self._lines.setdefault(worker, FairQueue(credit=_CREDIT)).put(ticket, ticket.tenant)

    def first(self, worker: object) -> Ticket | None:
        """The next ticket of `worker` whose caller still waits; it stays in the line."""
        with self._lock:
            line = self._lines.get(worker)
            while line:
                ticket = line.first()
                if not ticket.abandoned:
                    return ticket
                line.discard(ticket, ticket.tenant)
            return None

    def take(self, worker: object, ticket: Ticket) -> None:
        """Removes a ticket that was the first one: by now one of another tenant may be, or its caller has gone."""
        with self._lock, suppress(ValueError):
            self._lines[worker].take(ticket, ticket.tenant)

    def leave(self, worker: object, ticket: Ticket) -> None:
        """Removes a ticket whose caller has gone; nothing when it does not wait."""
        with self._lock:
            if worker in self._lines:
                self._lines[worker].discard(ticket, ticket.tenant)

    def clear(self) -> list[Ticket]:
        """Removes and returns all tickets."""
        with self._lock:
            tickets = [ticket for line in self._lines.values() for ticket in line]  # in their order
            self._lines.clear()
            return tickets
