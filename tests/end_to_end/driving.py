"""Runs of math_rl against a real suite."""

from dataclasses import dataclass

from tests.suite import RunningSuite
from tinsmith import Suite, watch_run
from tinsmith.orchestrator.v1 import GetRunRequest, Run, RunEvent, RunState, StartRunRequest

CORRECT = "env/all/correct"
REWARD = "env/all/reward/total"

SMALL = {"groups_per_batch": "8", "group_size": "4", "save_every": "3", "eval_every": "0", "eval_problems": "10"}
"""Overrides of a run whose steps are as short as they get."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A run that has ended, and all its events."""

    run: Run
    events: list[RunEvent]

    @property
    def adapter_sha256(self) -> str:
        """Of the last checkpoint."""
        return [event.checkpoint_saved.adapter_sha256 for event in self.events if event.HasField("checkpoint_saved")][
            -1
        ]

    def series(self, metric: str) -> list[float]:
        """The metric of each step; a step that was done again counts as it came last."""
        steps = {e.step: e.step_completed.metrics[metric] for e in self.events if e.HasField("step_completed")}
        return [steps[step] for step in sorted(steps)]

    def count(self, kind: str) -> int:
        """How many events of this kind there are."""
        return sum(event.HasField(kind) for event in self.events)  # type: ignore[arg-type]  # a field of the oneof


def connect(suite: RunningSuite) -> Suite:
    return Suite.connect(home=suite.home)


def start(client: Suite, **overrides: object) -> str:
    """Starts math_rl; returns the run's id."""
    texts = {name: str(value) for name, value in overrides.items()}
    return client.orchestrator.StartRun(StartRunRequest(recipe="math_rl", overrides=texts)).run.run_id


def run_to_end(suite: RunningSuite, **overrides: object) -> Ended:
    """Starts math_rl and watches it; it must complete."""
    with connect(suite) as client:
        return watch_to_end(client, start(client, **overrides))


def watch_to_end(client: Suite, run_id: str) -> Ended:
    """Watches a run to its end; it must complete."""
    events = [event for answer in watch_run(client, run_id) for event in answer.events]
    run = client.orchestrator.GetRun(GetRunRequest(run_id=run_id)).run
    assert run.state == RunState.RUN_STATE_COMPLETED, f"{RunState.Name(run.state)}: {run.error}"
    return Ended(run=run, events=events)


def wait_for_step(client: Suite, run_id: str, step: int) -> None:
    """Returns as soon as the step is done."""
    for answer in watch_run(client, run_id):
        for event in answer.events:
            if event.HasField("step_completed") and event.step >= step:
                return
    raise AssertionError(f"the run ended before step {step}")
