"""The main job: a language model learns arithmetic through seven processes."""

import statistics

import pytest

from tests.end_to_end.driving import CORRECT, REWARD, run_to_end
from tests.suite import RunningSuite


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_the_demo_meets_the_bar(suite: RunningSuite, seed: int) -> None:
    """At most .35 right at the start; the last five of 40 steps give at least .95, in reward and in right answers."""
    ended = run_to_end(suite, seed=seed)
    correct, reward = ended.series(CORRECT), ended.series(REWARD)
    assert len(correct) == 40
    assert correct[0] <= 0.35
    assert statistics.mean(correct[-5:]) >= 0.95
    assert statistics.mean(reward[-5:]) >= 0.95
    [last] = [
        e.evaluation_completed.metrics for e in ended.events if e.HasField("evaluation_completed") and e.step == 40
    ]
    assert last["test/env/all/correct"] >= 0.95


def test_ppo_with_substeps_learns_too(suite: RunningSuite) -> None:
    ended = run_to_end(suite, loss="ppo", num_substeps=2, steps=12, eval_every=0)
    correct = ended.series(CORRECT)
    assert statistics.mean(correct[-3:]) >= correct[0] + 0.3


def test_metrics_and_transcripts_of_a_step_are_there(suite: RunningSuite) -> None:
    """The names are those of the cookbook where it has them."""
    ended = run_to_end(suite, steps=2, eval_every=1, logged_groups=2)
    [first, _] = [event.step_completed.metrics for event in ended.events if event.HasField("step_completed")]
    for name in (CORRECT, REWARD, "env/all/format", "optim/lr", "optim/entropy", "optim/grad_norm", "time/total"):
        assert name in first, name
    transcripts = [
        t for e in ended.events if e.HasField("transcripts_logged") for t in e.transcripts_logged.transcripts
    ]
    assert len(transcripts) == 2 * 2 * 8
    assert all("What is" in transcript.prompt and transcript.reference for transcript in transcripts)
    assert abs(sum(transcript.advantage for transcript in transcripts[:8])) < 1e-5
    assert [event.step for event in ended.events if event.HasField("evaluation_completed")] == [0, 1, 2]
