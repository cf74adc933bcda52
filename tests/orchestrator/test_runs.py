"""A run from start to end: what happens, in which order, and what is told of it."""


from tests.orchestrator.support import Bench, kinds, states
from tinsmith.orchestrator.v1 import RunState


async def test_a_run_trains_evaluates_and_saves_when_its_configuration_says(orchestra: Bench) -> None:
    run = await orchestra.start()
    events = await orchestra.events(run.run_id)
    assert states(events) == ["PENDING", "RUNNING", "COMPLETED"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    steps = [event.step for event in events if event.HasField("step_completed")]
    evaluations = [event.step for event in events if event.HasField("evaluation_completed")]
    saved = [event.step for event in events if event.HasField("checkpoint_saved")]
    assert (steps, evaluations, saved) == ([1, 2, 3, 4, 5, 6], [0, 3, 6], [2, 4, 6])
    assert "recovered" not in kinds(events)
    run = await orchestra.get(run.run_id)
    assert (run.state, run.step, run.total_steps) == (RunState.RUN_STATE_COMPLETED, 6, 6)
    assert run.checkpoint_uri == f"tinsmith://{run.run_id}/training/000006"
    assert run.sampler_uri == f"tinsmith://{run.run_id}/sampler/000006"
    assert run.last_event_seq == len(events)
    assert run.HasField("end_time")
