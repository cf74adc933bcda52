"""How the state of a suite is shown: a live table on a terminal, one line for each change otherwise."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tinsmith_server.cli.state import ServiceState, SuiteState

Show = Callable[[SuiteState], None]

_COLOURS = {"ready": "green", "starting": "yellow", "restarting": "red", "stopped": "dim"}


@contextmanager
def board(console: Console) -> Iterator[Show]:
    """Shows every state that it is given."""
    if not console.is_terminal:
        yield PlainBoard(console).show
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda state: live.update(table_of(state), refresh=True)


def table_of(state: SuiteState) -> Table:
    """The rooms of a suite."""
    table = Table(title=f"suite, process {state.pid}: {_in_words(state)}", title_justify="left")
    for heading in ("service", "address", "pid", "state", "restarts"):
        table.add_column(heading)
    for name, service in state.services.items():
        table.add_row(
            name,
            address_of(service),
            str(service.pid or "–"),
            f"[{_COLOURS[service.state]}]{service.state}",
            str(service.restarts or ""),
        )
    return table


def _in_words(state: SuiteState) -> str:
    if state.ready:
        return "ready; Ctrl-C stops it"
    stopping = any(service.state == "stopped" for service in state.services.values())
    return "stopping" if stopping else "not ready yet"


def address_of(service: ServiceState) -> str:
    """Where it listens; the gateway's page too."""
    return f"{service.address}  http://{service.http_address}" if service.http_address else service.address


class PlainBoard:
    """One line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: dict[str, ServiceState] = {}
        self._was_ready = False

    def show(self, state: SuiteState) -> None:
        for name, service in state.services.items():
            if service != self._seen.get(name):
                self._print(f"{name:<12} {service.state:<10} {address_of(service)}  pid {service.pid or '–'}")
        self._seen = dict(state.services)
        if state.ready and not self._was_ready:
            self._print(f"ready: {len(state.services)} services; stop with Ctrl-C or `kill {state.pid}`")
        self._was_ready = state.ready

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
