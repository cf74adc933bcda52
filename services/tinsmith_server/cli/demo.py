"""`tinsmith demo`: the whole suite on this machine, and a model that learns arithmetic before your eyes."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tinsmith import Suite, watch_run
from tinsmith.orchestrator.v1 import Run, RunEvent, RunState, StartRunRequest
from tinsmith_server.report import History, ReportFiles, history_of, write_report

REWARD = "env/all/reward/total"
CORRECT = "env/all/correct"
START_TIMEOUT_S = 240.0
"""Long enough for a first start, which builds the embedded model."""


class DemoFailed(Exception):
    """The demo could not go on; the message says why and what to do."""


def demo(home: Path, overrides: dict[str, str], console: Console) -> None:
    """Starts a suite in `home`, trains, writes a report there, stops the suite. DemoFailed says what went wrong."""
    started = time.monotonic()
    with running_suite(home, console) as suite:
        console.print(_processes(home))
        history = train(suite, overrides, console)
    files = write_report(history, home / "report")
    console.print(summary(history))
    _tell_what_next(console, home, history, files)
    first = history.series(REWARD)[1][0]
    last = history.mean(REWARD, last=5) or 0.0
    elapsed = time.monotonic() - started
    console.print(f"demo: reward {first:.2f} -> {last:.2f} in {len(history.steps)} steps, {elapsed:.0f} s", highlight=False)


@contextmanager
def running_suite(home: Path, console: Console) -> Iterator[Suite]:
    """A suite in `home` on free ports, stopped at the end however it comes."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "suite.log"
    command = [sys.executable, "-m", "tinsmith_server.cli", "up", "--home", str(home), "--ports", "auto"]
    with log.open("w") as output, console.status("starting seven processes"):
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        with console.status("starting the suite; the first start builds the embedded model (about a minute)"):
            _wait_until_ready(process, home, log)
        with Suite.connect(home=home) as suite:
            yield suite
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", home: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _is_ready(home, process.pid):
        if process.poll() is not None:
            raise DemoFailed(f"the suite ended at once: {_last_line(log)} (all of it: {log})")
        if time.monotonic() > deadline:
            raise DemoFailed(f"the suite was not ready after {START_TIMEOUT_S:.0f} s: see {log}")
        time.sleep(0.1)


def _is_ready(home: Path, pid: int) -> bool:
    try:
        state = json.loads((home / "suite.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return state.get("pid") == pid and bool(state.get("ready"))


def _last_line(log: Path) -> str:
    lines = log.read_text().strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _processes(home: Path) -> Table:
    table = Table(title="processes", title_justify="left")
    for heading in ("service", "address", "pid"):
        table.add_column(heading)
    for name, service in json.loads((home / "suite.json").read_text())["services"].items():
        table.add_row(name, service["address"], str(service["pid"]))
    return table


def train(suite: Suite, overrides: dict[str, str], console: Console) -> History:
    """Runs math_rl and shows each step. DemoFailed when the run does."""
    request = StartRunRequest(recipe="math_rl", overrides=overrides, display_name="addition by reinforcement")
    run = suite.orchestrator.StartRun(request).run
    events: list[RunEvent] = []
    columns = ("[bold]training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[news]}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=run.total_steps, news="")
        for answer in watch_run(suite, run.run_id):
            events += answer.events
            run = answer.run if answer.HasField("run") else run
            for event in answer.events:
                news = _news(event)
                if news:
                    progress.update(task, completed=event.step, news=news)
                    if not console.is_terminal:
                        console.print(f"step {event.step:3d}  {news}", highlight=False)
    return history_of(_finished(suite, run), events)


def _finished(suite: Suite, run: Run) -> Run:
    from tinsmith.orchestrator.v1 import GetRunRequest

    run = suite.orchestrator.GetRun(GetRunRequest(run_id=run.run_id)).run
    if run.state != RunState.RUN_STATE_COMPLETED:
        raise DemoFailed(f"the run ended as {RunState.Name(run.state)}: {run.error.message or 'no reason given'}")
    return run


def _news(event: RunEvent) -> str:
    if not event.HasField("step_completed"):
        return ""
    metrics = event.step_completed.metrics
    return f"reward {metrics[REWARD]:5.2f}  correct {metrics[CORRECT]:5.1%}"


def summary(history: History) -> Table:
    """The first steps beside the last ones, and the evaluations between."""
    table = Table(title="what it learned", title_justify="left")
    for heading in ("", "reward", "correct", "correct on held-out problems"):
        table.add_column(heading, justify="right" if heading else "left")
    evaluations = [(step, metrics.get("test/env/all/correct")) for step, metrics in sorted(history.evaluations.items())]
    rewards, corrects = history.series(REWARD)[1], history.series(CORRECT)[1]
    held_out = [f"{value:.1%} after step {step}" for step, value in evaluations if value is not None]
    table.add_row("first step", _share(rewards[:1]), _share(corrects[:1], percent=True), held_out[0] if held_out else "–")
    table.add_row("last five", _share(rewards[-5:]), _share(corrects[-5:], percent=True), held_out[-1] if held_out else "–")
    return table


def _share(values: Sequence[float], *, percent: bool = False) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.1%}" if percent else f"{mean:.2f}"


def _tell_what_next(console: Console, home: Path, history: History, files: ReportFiles) -> None:
    lines = [
        f"report   {files.page}",
        f"curve    {files.curve}",
        f"weights  {history.run.sampler_uri}",
        "",
        "next: tinsmith up                                  the suite, until you stop it",
        "      tinsmith run math_rl learning_rate=1e-3       another run of it",
        "      tinsmith recipes show math_rl                 everything that can be set",
        "      README.md                                     the first ten minutes in Python, Go and TypeScript",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
