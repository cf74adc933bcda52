"""The demo's loop: math_rl through seven processes against the same loop in one process without gRPC."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import isclose, nan
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks import model as embedded
from tests.benchmarks.one_process import OneProcess, Step
from tests.benchmarks.report import Row, row_of
from tests.suite import running_suite
from tests.support import write_random_model
from tinsmith import Suite, watch_run
from tinsmith.orchestrator.v1 import GetRunRequest, Run, RunEvent, RunState, StartRunRequest

REWARD = "env/all/reward/total"


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """A run to be timed."""

    figure: str
    overrides: Mapping[str, str]
    directory: Path
    """The base model's."""
    rounds: int
    target: float


def rows() -> list[Row]:
    """Median time of a step that neither evaluates nor saves a checkpoint."""
    with TemporaryDirectory() as folder:
        wide = write_random_model(Path(folder, "wide"), hidden=256, layers=4)
        with _suite(Path(folder, "suite"), embedded.NAME, f"wide={wide}") as suite:
            return [_row(suite, loop) for loop in (_demo(), _wide(wide))]


def _demo() -> Loop:
    return Loop(
        figure="step of the demo: 50 x 8 answers of at most 5 tokens",
        overrides={},
        directory=embedded.embedded_directory(),
        rounds=5,
        target=1.5,
    )


def _wide(directory: Path) -> Loop:
    """Random weights learn nothing here, but all of it is computed: no group is dropped, and the steps are too small
    to change how long the answers are."""
    size = {"base_model": "wide", "groups_per_batch": "16", "group_size": "8", "max_tokens": "64", "steps": "5"}
    return Loop(
        figure="step of hidden size 256: 16 x 8 answers of 64 tokens",
        overrides={**size, "remove_constant_groups": "false", "learning_rate": "1e-6"},
        directory=directory,
        rounds=2,
        target=1.1,
    )


@contextmanager
def _suite(home: Path, *base_models: str) -> Iterator[Suite]:
    with running_suite(home, *base_models) as running, Suite.connect(home=running.home) as suite:
        yield suite


def _row(suite: Suite, loop: Loop) -> Row:
    """The two in turn, after one round of warm-up in which they are compared."""
    run, steps = _run(suite, loop)
    alone = OneProcess(loop.directory, run.config.math_rl)
    _check_same(steps, alone.run())
    pairs = [(_median_ms(_run(suite, loop)[1]), _median_ms(alone.run())) for _ in range(loop.rounds)]
    peer = "the same loop in one process, no gRPC"
    return row_of(loop.figure, "ms", pairs, peer=peer, target=loop.target, lower_is_better=True)


def _run(suite: Suite, loop: Loop) -> tuple[Run, list[Step]]:
    """A run through the public client: how it ended and its steps. A step lasts from the end of the one before, so
    the first has no time."""
    overrides = {"eval_every": "0", "save_every": "0", **loop.overrides}
    run = suite.orchestrator.StartRun(StartRunRequest(recipe="math_rl", overrides=overrides)).run
    events = [event for answer in watch_run(suite, run.run_id) for event in answer.events]
    run = suite.orchestrator.GetRun(GetRunRequest(run_id=run.run_id)).run
    if run.state != RunState.RUN_STATE_COMPLETED:
        raise RuntimeError(f"the run did not complete: {run.error.message}")
    return run, _steps([event for event in events if event.HasField("step_completed")])


def _steps(events: Sequence[RunEvent]) -> list[Step]:
    ends = [event.time.ToNanoseconds() / 1e9 for event in events]
    seconds = [nan, *(end - begin for begin, end in pairwise(ends))]
    rewards = [event.step_completed.metrics[REWARD] for event in events]
    return [Step(seconds=took, reward=reward) for took, reward in zip(seconds, rewards, strict=True)]


def _median_ms(steps: Sequence[Step]) -> float:
    """Without the first step, and without the last one, which saves a checkpoint."""
    return 1000 * statistics.median(step.seconds for step in steps[1:-1])


def _check_same(suite: Sequence[Step], alone: Sequence[Step]) -> None:
    """The two must do the same work: from the same seed they get the same rewards, step by step."""
    for number, (ours, theirs) in enumerate(zip(suite, alone, strict=True), 1):
        if not isclose(ours.reward, theirs.reward, abs_tol=1e-9):
            raise RuntimeError(f"step {number}: reward {ours.reward} through the suite, {theirs.reward} in one process")
