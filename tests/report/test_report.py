"""The report tells what the events tell, and nothing of a model's text is taken as HTML."""

from html.parser import HTMLParser
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from tinsmith.orchestrator.v1 import (
    CheckpointSaved,
    EvaluationCompleted,
    MathRlConfig,
    RecipeConfig,
    Recovered,
    Run,
    RunError,
    RunEvent,
    RunState,
    StepCompleted,
    Transcript,
    TranscriptsLogged,
)
from tinsmith_server.report import history_of, write_report

HOSTILE = '<script>alert(1)</script> & "quotes" </pre></table>'


def a_run() -> tuple[Run, list[RunEvent]]:
    config = RecipeConfig(math_rl=MathRlConfig(steps=3, learning_rate=2e-3))
    run = Run(
        run_id="run-1", recipe="math_rl", state=RunState.RUN_STATE_COMPLETED, step=3, total_steps=3, config=config
    )
    events = [RunEvent(step=0, evaluation_completed=EvaluationCompleted(metrics={"test/env/all/correct": 0.25}))]
    for step, reward in ((1, 0.1), (2, 0.2), (2, 0.5), (3, 0.9)):  # step 2 was done again after a failure
        metrics = {"env/all/reward/total": reward, "env/all/correct": reward}
        events.append(RunEvent(step=step, step_completed=StepCompleted(metrics=metrics)))
    events.append(
        RunEvent(step=2, recovered=Recovered(cause=RunError(reason="UNAVAILABLE", message="trainer died"), from_step=1))
    )
    transcript = Transcript(prompt="What is 1 + 1?", response=HOSTILE, reference="2", reward=-0.1, advantage=-0.4)
    events.append(RunEvent(step=3, transcripts_logged=TranscriptsLogged(transcripts=[transcript])))
    events.append(RunEvent(step=3, checkpoint_saved=CheckpointSaved(adapter_sha256="ab" * 32)))
    for number, event in enumerate(events, 1):
        event.seq = number
        event.time.CopyFrom(Timestamp(seconds=1_700_000_000 + number))
    return run, events


def test_a_repeated_step_counts_once_as_it_came_last() -> None:
    history = history_of(*a_run())
    assert history.series("env/all/reward/total") == ([1, 2, 3], [0.1, 0.5, 0.9])
    assert history.mean("env/all/reward/total", last=2) == 0.7
    assert history.mean("absent", last=2) is None
    assert history.evaluations == {0: {"test/env/all/correct": 0.25}}
    assert history.notices == ("went on from step 1 after UNAVAILABLE: trainer died",)
    assert (history.adapter_sha256, history.duration_s) == ("ab" * 32, 7.0)


class Tags(HTMLParser):
    """Collects the names of tags and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_escapes_what_models_say(tmp_path: Path) -> None:
    files = write_report(history_of(*a_run()), tmp_path / "deep/folder")
    parser = Tags()
    parser.feed(files.page.read_text())
    assert "script" not in parser.tags
    assert HOSTILE in parser.text
    assert {"svg", "table"} <= parser.tags
    assert files.curve.read_bytes().startswith(b"\x89PNG")


def test_a_run_that_did_nothing_has_a_report_too(tmp_path: Path) -> None:
    files = write_report(history_of(Run(run_id="empty", recipe="math_rl"), []), tmp_path)
    assert "None were kept" in files.page.read_text()
