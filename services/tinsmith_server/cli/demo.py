"""`tinsmith demo`: the whole suite on this machine, and a model that learns arithmetic before your eyes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tinsmith import Suite
from tinsmith.orchestrator.v1 import StartRunRequest
from tinsmith_server.cli.board import address_of
from tinsmith_server.cli.failures import INTERRUPTED, CommandFailed
from tinsmith_server.cli.folders import make_folder, model_home
from tinsmith_server.cli.local_models import built_directory, local_entries
from tinsmith_server.cli.output import print_table, say
from tinsmith_server.cli.plan import PROGRAM
from tinsmith_server.cli.state import SuiteState, read_state
from tinsmith_server.cli.supervised import supervised
from tinsmith_server.cli.watching import check_completed, follow
from tinsmith_server.report import History, ReportFiles, history_of, write_report

RECIPE = "math_rl"
MODEL = "tinsmith-tiny"
REWARD = "env/all/reward/total"
CORRECT = "env/all/correct"
HELD_OUT = "test/env/all/correct"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0


def demo(home: Path, overrides: Mapping[str, str], console: Console) -> None:
    """Starts a suite in `home`, trains, writes a report there, stops the suite. CommandFailed says what went wrong."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _demo(home, overrides, console)
    except KeyboardInterrupt:
        raise CommandFailed("the demo was stopped, and its suite with it", exit_code=INTERRUPTED) from None


def _demo(home: Path, overrides: Mapping[str, str], console: Console) -> None:
    started = time.monotonic()
    make_folder(home)
    _say_what_comes(console)
    local_entries((MODEL,), model_home(), console)
    with running_suite(home, console) as suite:
        history = train(suite, overrides, console)
    files = write_report(history, home / "report")
    print_summary(history, console)
    _tell_what_next(console, home, history, files)
    say(console, last_line(history, time.monotonic() - started))


def _interrupt(number: int, _: object) -> None:
    """Ends the demo as Ctrl-C does, by way of every `finally`."""
    raise KeyboardInterrupt(f"signal {number}")


def _say_what_comes(console: Console) -> None:
    is_built = built_directory(MODEL, model_home()) is not None
    how_long = (
        "under a minute" if is_built else "about three minutes, one of them to build a small language model, once"
    )
    say(
        console,
        "This starts seven services on this machine and teaches a small language model to add, by reinforcement "
        f"learning; it takes {how_long}. Ctrl-C stops everything.",
    )


@contextmanager
def running_suite(home: Path, console: Console) -> Iterator[Suite]:
    """A suite in `home` on free ports, stopped at the end however it comes."""
    log = home / "suite.log"
    command = [*PROGRAM, "up", "--home", str(home), "--ports", "auto", "--base-model", MODEL]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=supervised(os.environ),
            # Ctrl-C is for the demo, which then stops the suite.
            start_new_session=True,
        )
    try:
        say(console, f"starting seven services; what they say is in {home / 'logs'}")
        with console.status("waiting until every service is ready"):
            state = _wait_until_ready(process, home, log)
        _print_processes(state, console)
        with Suite.connect(home=home) as suite:
            yield suite
    finally:
        _stop(process)


def _wait_until_ready(process: "subprocess.Popen[bytes]", home: Path, log: Path) -> SuiteState:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        state = read_state(home)
        if state is not None and state.pid == process.pid and state.ready:
            return state
        if process.poll() is not None:
            raise CommandFailed(f"the suite did not start: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise CommandFailed(f"the suite was not ready after {START_TIMEOUT_S:.0f} s: see {log}")
        time.sleep(0.05)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()  # its rooms end with it
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended without a word; see {log}"


def _print_processes(state: SuiteState, console: Console) -> None:
    rows = [(name, address_of(service), str(service.pid)) for name, service in state.services.items()]
    print_table(console, ("service", "address", "process"), rows, title="services")


def train(suite: Suite, overrides: Mapping[str, str], console: Console) -> History:
    """Runs the recipe and shows each step. CommandFailed when the run does not complete."""
    request = StartRunRequest(recipe=RECIPE, overrides=overrides, display_name="addition by reinforcement")
    run, events = follow(suite, suite.orchestrator.StartRun(request).run, console)
    check_completed(run)
    return history_of(run, events)


def print_summary(history: History, console: Console) -> None:
    """The first step beside the last ones, and the evaluations before and after."""
    evaluations = [metrics[HELD_OUT] for _, metrics in sorted(history.evaluations.items()) if HELD_OUT in metrics]
    rewards, corrects = history.series(REWARD)[1], history.series(CORRECT)[1]
    rows = [
        (when, _mean(rewards[part]), _percent(corrects[part]), _percent(evaluations[end]))
        for when, part, end in (
            ("at the start", slice(0, 1), slice(0, 1)),
            ("at the end (five steps)", slice(-5, None), slice(-1, None)),
        )
    ]
    headings = ("", "reward", "correct", "correct on test problems, greedy")
    print_table(console, headings, rows, title="what it learned")


def last_line(history: History, elapsed_s: float) -> str:
    """The line for whoever reads only one. CommandFailed when the run has no rewards."""
    rewards = history.series(REWARD)[1]
    if not rewards:
        raise CommandFailed("the run has no step with a reward")
    last = rewards[-5:]
    return f"demo: reward {rewards[0]:.2f} -> {sum(last) / len(last):.2f} in {len(rewards)} steps, {elapsed_s:.0f} s"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "–"


def _percent(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.1%}" if values else "–"


def _tell_what_next(console: Console, home: Path, history: History, files: ReportFiles) -> None:
    program = _program()
    next_steps = [
        (f"{program} up", "start the suite and keep it"),
        (f"{program} run math_rl learning_rate=1e-3", "another run, in a second terminal"),
        (f"{program} recipes show math_rl", "everything that can be set"),
        ("README.md", "the first ten minutes in Python, Go and TypeScript"),
    ]
    width = max(len(command) for command, _ in next_steps)
    lines = [
        f"report   {files.page}",
        f"curve    {files.curve}",
        f"weights  {history.run.sampler_uri} (in {home})",
        f"model    {built_directory(MODEL, model_home())}: kept for the next time",
        "try next:",
        *(f"  {command:<{width}}  {what}" for command, what in next_steps),
    ]
    for line in lines:
        say(console, line)


def _program() -> str:
    """How to call this command line: by its name when that is found, else by its path."""
    beside = Path(sys.executable).with_name("tinsmith")
    on_path = any((Path(folder) / "tinsmith").exists() for folder in os.environ.get("PATH", "").split(os.pathsep))
    return "tinsmith" if on_path or not beside.exists() else os.path.relpath(beside)
