"""`tinsmith run` and `tinsmith runs`: start, list, show, watch, cancel, resume."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from tinsmith import Suite, TinsmithError
from tinsmith.orchestrator.v1 import (
    CancelRunRequest,
    GetRunRequest,
    ListRunsRequest,
    ResumeRunRequest,
    Run,
    StartRunRequest,
)
from tinsmith_server.cli.connect import connected
from tinsmith_server.cli.failures import INTERRUPTED, CommandFailed
from tinsmith_server.cli.output import print_json, print_table, say
from tinsmith_server.cli.watching import check_completed, follow, print_metrics, state_name

_PAGE = 100


def start(
    home: Path | None, recipe: str, overrides: Mapping[str, str], name: str, console: Console, *, detach: bool
) -> None:
    """Starts a run and, unless detached, shows it to its end. CommandFailed when it fails."""
    with connected(home) as suite:
        request = StartRunRequest(recipe=recipe, overrides=overrides, display_name=name)
        run = suite.orchestrator.StartRun(request).run
        say(console, f"run {run.run_id} of {run.recipe}, {run.total_steps} steps")
        if detach:
            say(console, _what_next(run))
            return
        _watch(suite, run, console)


def dry_run(home: Path | None, recipe: str, overrides: Mapping[str, str], console: Console) -> None:
    """Checks a run without starting it and shows the configuration that it would have."""
    with connected(home) as suite:
        request = StartRunRequest(recipe=recipe, overrides=overrides, dry_run=True)
        run = suite.orchestrator.StartRun(request).run
    print_table(console, ("field", "value"), _configuration(run), title=f"{run.recipe}, as it would run")
    say(console, f"nothing was started; {run.total_steps} steps")


def watch(home: Path | None, run_id: str, console: Console) -> None:
    """Shows a run from its beginning to its end."""
    with connected(home) as suite:
        _watch(suite, suite.orchestrator.GetRun(GetRunRequest(run_id=run_id)).run, console)


def list_runs(home: Path | None, limit: int, console: Console, *, as_json: bool) -> None:
    """The newest runs."""
    with connected(home) as suite:
        runs = _newest(suite, limit)
    if as_json:
        print_json(runs)
        return
    rows = [
        (
            run.run_id,
            run.recipe,
            state_name(run.state),
            f"{run.step}/{run.total_steps}",
            _when(run.create_time),
            run.display_name,
        )
        for run in runs
    ]
    print_table(console, ("run", "recipe", "state", "steps", "started", "name"), rows)


def show(home: Path | None, run_id: str, console: Console, *, as_json: bool) -> None:
    """All that is known of a run."""
    with connected(home) as suite:
        run = suite.orchestrator.GetRun(GetRunRequest(run_id=run_id)).run
    if as_json:
        print_json(run)
        return
    facts = [
        ("recipe", run.recipe),
        ("state", state_name(run.state)),
        ("steps", f"{run.step} of {run.total_steps}"),
        ("started", _when(run.create_time)),
        ("ended", _when(run.end_time) if run.HasField("end_time") else ""),
        ("error", f"{run.error.message} [{run.error.reason}]" if run.HasField("error") else ""),
        ("checkpoint", run.checkpoint_uri),
        ("sampler weights", run.sampler_uri),
    ]
    print_table(console, ("", ""), [fact for fact in facts if fact[1]], title=run.display_name or run.run_id)
    print_table(console, ("field", "value"), _configuration(run), title="configuration")
    print_metrics(run, console)


def cancel(home: Path | None, run_id: str, console: Console) -> None:
    """Ends a run after the call that it is in."""
    with connected(home) as suite:
        run = suite.orchestrator.CancelRun(CancelRunRequest(run_id=run_id)).run
    say(console, f"run {run.run_id}: {state_name(run.state)} at step {run.step} of {run.total_steps}")


def resume(home: Path | None, run_id: str, console: Console, *, detach: bool) -> None:
    """Goes on with a run from its newest checkpoint and shows what is new."""
    with connected(home) as suite:
        before = suite.orchestrator.GetRun(GetRunRequest(run_id=run_id)).run.last_event_seq
        run = suite.orchestrator.ResumeRun(ResumeRunRequest(run_id=run_id)).run
        say(console, f"run {run.run_id} goes on at step {run.step} of {run.total_steps}")
        if detach:
            say(console, _what_next(run))
            return
        _watch(suite, run, console, after_seq=before)


def _watch(suite: Suite, run: Run, console: Console, *, after_seq: int = 0) -> None:
    with _interrupt_closing(suite) as interrupted:
        try:
            ended, _ = follow(suite, run, console, after_seq=after_seq)
        except (TinsmithError, ValueError):  # gRPC has a ValueError for calls on a closed channel
            if not interrupted.is_set():
                raise
            raise CommandFailed(f"the run goes on: {_what_next(run)}", exit_code=INTERRUPTED) from None
    check_completed(ended)
    print_metrics(ended, console)
    say(console, f"run {ended.run_id} completed; weights {ended.sampler_uri}")


@contextmanager
def _interrupt_closing(suite: Suite) -> Iterator[threading.Event]:
    """Ctrl-C closes the suite, and with it the call that is waited for. An exception in its place could come up inside
    gRPC while that holds a lock, and the program would never end. A second Ctrl-C is as ever."""
    interrupted = threading.Event()

    def close(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, before)
        threading.Thread(target=suite.close, daemon=True).start()

    before = signal.signal(signal.SIGINT, close)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _what_next(run: Run) -> str:
    return f"`tinsmith runs watch {run.run_id}` shows it, `tinsmith runs cancel {run.run_id}` ends it"


def _newest(suite: Suite, limit: int) -> list[Run]:
    runs: list[Run] = []
    token = ""
    while len(runs) < limit:
        request = ListRunsRequest(page_size=min(limit - len(runs), _PAGE), page_token=token)
        answer = suite.orchestrator.ListRuns(request)
        runs += answer.runs
        token = answer.next_page_token
        if not token:
            break
    return runs


def _configuration(run: Run) -> list[tuple[str, str]]:
    chosen = run.config.WhichOneof("recipe")
    if chosen is None:
        return []
    values = MessageToDict(getattr(run.config, chosen), preserving_proto_field_name=True)
    return [(name, str(value)) for name, value in values.items()]


def _when(time: Timestamp) -> str:
    moment = datetime.fromtimestamp(time.seconds, UTC).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}" if time.seconds else ""
