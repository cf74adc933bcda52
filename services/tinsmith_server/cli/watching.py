"""A run before your eyes: a bar and a table of metrics on a terminal, one line for each event otherwise."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tinsmith import Suite, watch_run
from tinsmith.orchestrator.v1 import GetRunRequest, Run, RunEvent, RunState
from tinsmith_server.cli.failures import CommandFailed
from tinsmith_server.cli.output import print_table, say

HEADLINES: Mapping[str, str] = {
    "env/all/reward/total": "reward",
    "env/all/correct": "correct",
    "test/env/all/correct": "correct on test problems, greedy",
    "optim/entropy": "entropy",
    "time/total": "seconds",
}
"""Metrics that are worth a place on one line, and what they are called there."""

_SHOWN_WITHOUT_HEADLINES = 4

Show = Callable[[Run, RunEvent], None]


def follow(suite: Suite, run: Run, console: Console, *, after_seq: int = 0) -> tuple[Run, list[RunEvent]]:
    """Shows the run until it has ended; returns it as it ended, and its events."""
    events: list[RunEvent] = []
    with _display(console) as show:
        for answer in watch_run(suite, run.run_id, after_seq=after_seq):
            run = answer.run if answer.HasField("run") else run
            for event in answer.events:
                events.append(event)
                show(run, event)
    return suite.orchestrator.GetRun(GetRunRequest(run_id=run.run_id)).run, events


def check_completed(run: Run) -> None:
    """CommandFailed, with the reason, when the run has not come to its end."""
    if run.state == RunState.RUN_STATE_COMPLETED:
        return
    how = state_name(run.state)
    reason = f": {run.error.message} [{run.error.reason}]" if run.error.reason else ""
    raise CommandFailed(
        f"run {run.run_id} {how} at step {run.step} of {run.total_steps}{reason}; "
        f"go on from its last checkpoint with `tinsmith runs resume {run.run_id}`"
    )


def state_name(state: "RunState.ValueType") -> str:
    """For example "completed"."""
    return RunState.Name(state).removeprefix("RUN_STATE_").lower()


def print_metrics(run: Run, console: Console) -> None:
    """The latest value of every metric."""
    rows = [(name, f"{value:.6g}") for name, value in sorted(run.metrics.items())]
    print_table(console, ("metric", "last value"), rows, title=f"run {run.run_id}")


@contextmanager
def _display(console: Console) -> Iterator[Show]:
    if not console.is_terminal:
        yield lambda run, event: _say_event(console, run, event)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    progress = Progress(*columns, console=console)
    task = progress.add_task("training", total=None)
    with Live(progress, console=console, refresh_per_second=8) as live:

        def show(run: Run, event: RunEvent) -> None:
            if event.HasField("step_completed"):
                progress.update(task, completed=event.step, total=run.total_steps)
                live.update(Group(progress, _table_of(event.step_completed.metrics)))
            elif words := words_of(event):
                say(live.console, f"step {event.step}: {words}")

        yield show


def _say_event(console: Console, run: Run, event: RunEvent) -> None:
    if words := words_of(event):
        width = len(str(run.total_steps))
        say(console, f"step {event.step:{width}d}/{run.total_steps}  {words}")


def words_of(event: RunEvent) -> str:
    """What happened, on one line; empty for what nobody waits for."""
    match event.WhichOneof("event"):
        case "step_completed":
            return _headline(event.step_completed.metrics)
        case "evaluation_completed":
            return f"evaluation: {_headline(event.evaluation_completed.metrics)}"
        case "checkpoint_saved":
            return f"saved {event.checkpoint_saved.checkpoint_uri}"
        case "recovered":
            cause = event.recovered.cause
            return f"went on from step {event.recovered.from_step} after {cause.reason}: {cause.message}"
        case "notice":
            return event.notice.message
    return ""


def _headline(metrics: Mapping[str, float]) -> str:
    named = [f"{words} {metrics[name]:.3f}" for name, words in HEADLINES.items() if name in metrics]
    others = [f"{name} {value:.4g}" for name, value in sorted(metrics.items())[:_SHOWN_WITHOUT_HEADLINES]]
    return "  ".join(named or others)


def _table_of(metrics: Mapping[str, float]) -> Table:
    grid = Table(show_header=False, box=None)
    for name, value in sorted(metrics.items()):
        grid.add_row(name, f"{value:.4g}")
    return grid
