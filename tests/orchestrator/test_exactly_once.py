"""Whatever fails, a run ends with the adapter that an undisturbed run ends with."""

import asyncio
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.orchestrator.support import Bench, bench, states
from tinsmith.orchestrator.v1 import CancelRunRequest, ResumeRunRequest, Run, RunState
from tinsmith_server.serving.errors import DataLoss, DeadlineExceeded, Internal

COMPLETED = RunState.RUN_STATE_COMPLETED


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The adapter of a small run that nothing disturbs."""

    async def adapter() -> str:
        async with bench(tmp_path_factory.mktemp("undisturbed")) as orchestra:
            run = await orchestra.finished((await orchestra.start()).run_id)
            assert run.state == COMPLETED
            return orchestra.adapter(run)

    return asyncio.run(adapter())


async def test_two_runs_of_a_seed_end_alike_and_those_of_two_seeds_do_not(orchestra: Bench, undisturbed: str) -> None:
    again = await orchestra.finished((await orchestra.start()).run_id)
    other = await orchestra.finished((await orchestra.start(seed="1")).run_id)
    assert orchestra.adapter(again) == undisturbed
    assert orchestra.adapter(other) != undisturbed


METHODS = (
    "CreateModel",
    "ForwardBackward",
    "OptimStep",
    "SaveForSampler",
    "SaveState",
    "Sample",
    "GetBatch",
    "CreateEpisodes",
    "Step",
)


@pytest.mark.parametrize("fault", ["away", "answer lost", "crash"])
@pytest.mark.parametrize("method", METHODS)
async def test_one_failure_of_any_call_changes_nothing(
    orchestra: Bench, undisturbed: str, method: str, fault: str
) -> None:
    """Retries within an attempt act once; a service that forgets is answered by going back to a checkpoint."""
    orchestra.fakes.faults.planned = {(method, 1 if method == "CreateModel" else 3): fault}
    run = await orchestra.finished((await orchestra.start()).run_id)
    assert run.state == COMPLETED
    assert orchestra.adapter(run) == undisturbed
    assert not orchestra.fakes.faults.planned


plans = st.dictionaries(
    st.tuples(st.sampled_from(METHODS), st.integers(1, 9)),
    st.sampled_from(["away", "answer lost", "crash", "deadline", "internal"]),
    max_size=6,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans)
async def test_no_sequence_of_failures_changes_the_result(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: str, plan: dict[tuple[str, int], str]
) -> None:
    async with bench(tmp_path_factory.mktemp("disturbed"), max_recoveries=20) as orchestra:
        orchestra.fakes.faults.calls = Counter(GetBatch=-2, CreateEpisodes=-1)  # StartRun's probes are not counted
        orchestra.fakes.faults.planned = dict(plan)
        orchestra.fakes.faults.errors = {
            "deadline": DeadlineExceeded("too slow", reason="TOO_SLOW"),
            "internal": Internal("a bug", reason="INTERNAL"),
        }
        run = await orchestra.finished((await orchestra.start()).run_id)
        assert run.state == COMPLETED
        assert orchestra.adapter(run) == undisturbed


async def test_a_recovery_says_why_and_from_where(orchestra: Bench) -> None:
    orchestra.fakes.faults.planned = {("ForwardBackward", 4): "crash"}
    run = await orchestra.start()
    events = await orchestra.events(run.run_id)
    recovered = next(event for event in events if event.HasField("recovered"))
    assert recovered.recovered.cause.reason == "MODEL_NOT_FOUND"
    assert (recovered.recovered.from_step, recovered.step) == (2, 2)
    assert recovered.recovered.checkpoint_uri == f"tinsmith://{run.run_id}/training/000002"
    done = [event.step for event in events if event.HasField("step_completed")]
    assert done == [1, 2, 3, 3, 4, 5, 6] or done == [1, 2, 3, 4, 5, 6]
    assert states(events) == ["PENDING", "RUNNING", "COMPLETED"]


async def test_a_failure_before_the_first_checkpoint_starts_afresh(orchestra: Bench, undisturbed: str) -> None:
    orchestra.fakes.faults.planned = {("OptimStep", 2): "crash"}
    run = await orchestra.start()
    events = await orchestra.events(run.run_id)
    recovered = next(event.recovered for event in events if event.HasField("recovered"))
    assert (recovered.from_step, recovered.checkpoint_uri) == (0, "")
    assert orchestra.adapter(await orchestra.get(run.run_id)) == undisturbed


async def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(
    orchestra: Bench, undisturbed: str
) -> None:
    run = await orchestra.start(steps="5")
    run = await orchestra.finished(run.run_id)
    fakes = orchestra.fakes
    damaged = await _interrupted_after(orchestra, 5)
    fakes.trainer.path_of(damaged.checkpoint_uri).write_text("{")
    fakes.faults.slow = {}
    await orchestra.suite.orchestrator.ResumeRun(ResumeRunRequest(run_id=damaged.run_id))
    events = await orchestra.events(damaged.run_id)
    notices = [event.notice.message for event in events if event.HasField("notice")]
    assert any("step 4 can't be used" in notice and "CHECKPOINT_CORRUPT" in notice for notice in notices)
    assert notices[-1] == "goes on from step 2"
    ended = await orchestra.get(damaged.run_id)
    assert (ended.state, orchestra.adapter(ended)) == (COMPLETED, undisturbed)


@pytest.mark.parametrize("reason", ["WEIGHTS_NOT_FINITE", "CHECKPOINT_CORRUPT"])
async def test_a_checkpoint_that_the_trainer_calls_bad_is_gone_past(
    orchestra: Bench, undisturbed: str, reason: str
) -> None:
    """R-01"""
    faults = orchestra.fakes.faults
    faults.errors = {"bad": DataLoss("it is bad", reason=reason)}
    faults.planned = {("OptimStep", 5): "crash", ("CreateModel", 2): "bad"}
    run = await orchestra.start()
    events = await orchestra.events(run.run_id)
    notices = [event.notice.message for event in events if event.HasField("notice")]
    assert any("step 4 can't be used" in notice and reason in notice for notice in notices)
    recovered = next(event.recovered for event in events if event.HasField("recovered"))
    assert recovered.from_step == 2
    assert orchestra.adapter(await orchestra.get(run.run_id)) == undisturbed


async def _interrupted_after(orchestra: Bench, step: int) -> Run:
    """A run that was cancelled when it had done this many of its steps, or one more."""
    orchestra.fakes.faults.slow = {"Sample": 0.05}
    run = await orchestra.start()
    await orchestra.until_step(run.run_id, step)
    await orchestra.suite.orchestrator.CancelRun(CancelRunRequest(run_id=run.run_id))
    run = await orchestra.finished(run.run_id)
    assert run.state == RunState.RUN_STATE_CANCELLED
    return run


@pytest.mark.parametrize("step", [1, 2, 3])
async def test_a_cancelled_run_that_is_resumed_ends_as_if_nothing_had_been(
    orchestra: Bench, undisturbed: str, step: int
) -> None:
    run = await _interrupted_after(orchestra, step)
    assert orchestra.fakes.trainer.models == {}, "its model is freed"
    await orchestra.suite.orchestrator.ResumeRun(ResumeRunRequest(run_id=run.run_id))
    events = await orchestra.events(run.run_id)
    assert states(events) == ["PENDING", "RUNNING", "CANCELLED", "PENDING", "RUNNING", "COMPLETED"]
    run = await orchestra.get(run.run_id)
    assert (run.state, orchestra.adapter(run)) == (COMPLETED, undisturbed)
