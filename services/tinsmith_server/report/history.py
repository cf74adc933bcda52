"""A run's events as series: what tables, curves and pages are made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tinsmith.orchestrator.v1 import Run, RunEvent, Transcript

Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """What happened in a run, by step. A step that was done again after a failure counts once, as it came last."""

    run: Run
    steps: Mapping[int, Metrics] = field(default_factory=dict)
    """Step, from 1 -> its metrics."""
    evaluations: Mapping[int, Metrics] = field(default_factory=dict)
    """Number of steps before the evaluation -> its metrics."""
    transcripts: Mapping[int, list[Transcript]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    """Recoveries and words to the user, in order."""
    adapter_sha256: str = ""
    """Checksum of the newest checkpoint's adapter."""
    duration_s: float = 0.0
    """From the first to the last event."""

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of one metric, in order of step; steps without it are left out."""
        found = [(step, metrics[metric]) for step, metrics in sorted(self.steps.items()) if metric in metrics]
        return [step for step, _ in found], [value for _, value in found]

    def mean(self, metric: str, *, last: int) -> float | None:
        """Mean of the metric over the last steps; None when no step has it."""
        values = self.series(metric)[1][-last:]
        return sum(values) / len(values) if values else None


def history_of(run: Run, events: Iterable[RunEvent]) -> History:
    """The history that the events tell."""
    steps: dict[int, Metrics] = {}
    evaluations: dict[int, Metrics] = {}
    transcripts: dict[int, list[Transcript]] = {}
    notices: list[str] = []
    adapter_sha256 = ""
    times: list[float] = []
    for event in events:
        times.append(event.time.seconds + event.time.nanos / 1e9)
        match event.WhichOneof("event"):
            case "step_completed":
                steps[event.step] = dict(event.step_completed.metrics)
            case "evaluation_completed":
                evaluations[event.step] = dict(event.evaluation_completed.metrics)
            case "transcripts_logged":
                transcripts[event.step] = list(event.transcripts_logged.transcripts)
            case "checkpoint_saved":
                adapter_sha256 = event.checkpoint_saved.adapter_sha256
            case "recovered":
                cause = event.recovered.cause
                notices.append(f"went on from step {event.recovered.from_step} after {cause.reason}: {cause.message}")
            case "notice":
                notices.append(event.notice.message)
    return History(
        run=run,
        steps=steps,
        evaluations=evaluations,
        transcripts=transcripts,
        notices=tuple(notices),
        adapter_sha256=adapter_sha256,
        duration_s=max(times) - min(times) if times else 0.0,
    )
