"""The waiting line among tenants."""

from contextvars import copy_context

from tinsmith_server.sampler.local.waiting_line import Ticket, WaitingLine
from tinsmith_server.serving import Tenant
from tinsmith_server.serving.tenants import set_current_tenant


def ticket_of(tenant: str) -> Ticket:
    """A request that came in a tenant's call."""
    context = copy_context()
    context.run(set_current_tenant, Tenant(name=tenant))
    return context.run(Ticket)


def served(line: WaitingLine) -> list[Ticket]:
    """All that wait, in the order in which they are taken."""
    found = []
    while (ticket := line.first("engine")) is not None:
        line.take("engine", ticket)
        found.append(ticket)
    return found


def test_tenants_take_turns_and_each_keeps_its_order() -> None:
    """R-02."""
    line, noisy, quiet = WaitingLine(), [ticket_of("noisy") for _ in range(5)], [ticket_of("quiet") for _ in range(2)]
    for ticket in (*noisy, *quiet):
        line.join("engine", ticket)
    assert len(line) == 7
    assert served(line) == [noisy[0], quiet[0], noisy[1], quiet[1], *noisy[2:]]


def test_who_was_first_is_taken_although_another_came_meanwhile() -> None:
    line, first = WaitingLine(), ticket_of("noisy")
    for ticket in (first, ticket_of("noisy")):
        line.join("engine", ticket)
    shown = line.first("engine")
    quiet = ticket_of("quiet")
    line.join("engine", quiet)
    assert shown is first
    line.take("engine", first)
    assert line.first("engine") is quiet


def test_requests_whose_callers_have_gone_are_passed_over() -> None:
    line, tickets = WaitingLine(), [ticket_of("a") for _ in range(4)]
    for ticket in tickets:
        line.join("engine", ticket)
    tickets[0].future.cancel()
    tickets[2].future.cancel()
    assert len(line) == 2
    assert served(line) == [tickets[1], tickets[3]]
    assert line.clear() == []
