"""A run from start to end: what happens, in which order, and what is told of it."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.orchestrator.support import SMALL, Bench, bench, kinds, states
from tinsmith import TinsmithError
from tinsmith.arrays import rows
from tinsmith.orchestrator.v1 import (
    CancelRunRequest,
    EvaluateRequest,
    EvaluationConfig,
    GetLineageRequest,
    GetRunRequest,
    ListModelsRequest,
    ListRunsRequest,
    ResumeRunRequest,
    RunState,
    StartRunRequest,
    WatchRunRequest,
)
from tinsmith_server.serving.errors import InvalidArgument, ResourceExhausted

COMPLETED, FAILED, CANCELLED = RunState.RUN_STATE_COMPLETED, RunState.RUN_STATE_FAILED, RunState.RUN_STATE_CANCELLED


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
    assert (run.state, run.step, run.total_steps) == (COMPLETED, 6, 6)
    assert run.checkpoint_uri == f"tinsmith://{run.run_id}/training/000006"
    assert run.sampler_uri == f"tinsmith://{run.run_id}/sampler/000006"
    assert run.last_event_seq == len(events)
    assert run.HasField("end_time")
    assert orchestra.fakes.trainer.models == {}, "the model is freed"


async def test_evaluations_are_greedy_and_ask_other_problems(orchestra: Bench) -> None:
    await orchestra.finished((await orchestra.start()).run_id)
    requests = orchestra.fakes.sampler.requests
    kind = [(request.params.temperature, request.num_samples, len(request.seeds)) for request in requests]
    assert kind == [(0, 1, 5), *[(1, 4, 3)] * 3, (0, 1, 5), *[(1, 4, 3)] * 3, (0, 1, 5)]
    splits = [batch.dataset.catalogue.split for batch in orchestra.fakes.data.batches]
    assert splits.count("test") == 3 + 1, "one evaluation batch each, and the check before the start"


@pytest.mark.parametrize(
    ("overrides", "seed"),
    [({"seed": "5"}, "5"), ({}, "0"), ({"seed": "-1"}, str((1 << 63) - 1)), ({"problem_options": "seed=7"}, "7")],
)
async def test_problems_drawn_at_random_are_drawn_by_the_seed_of_the_run(
    orchestra: Bench, overrides: dict[str, str], seed: str
) -> None:
    await orchestra.finished((await orchestra.start(**overrides)).run_id)
    asked = {batch.dataset.catalogue.split: batch.dataset.catalogue.options for batch in orchestra.fakes.data.batches}
    assert asked[""]["seed"] == seed
    assert asked["test"].get("seed") == (seed if "problem_options" in overrides else None), "tests stay the same"


async def test_a_dataset_of_the_callers_own_is_split_by_the_seed(orchestra: Bench) -> None:
    await orchestra.finished((await orchestra.start(**{"dataset.hub.id": "some/problems"})).run_id)
    datasets = [batch.dataset for batch in orchestra.fakes.data.batches]
    asked = {tuple(step.WhichOneof("operation") for step in dataset.operations): dataset for dataset in datasets}
    training, held_out = asked[("shuffle", "skip")], asked[("shuffle", "take")]
    assert training.operations[0].shuffle.seed == held_out.operations[0].shuffle.seed
    assert training.operations[1].skip.count == held_out.operations[1].take.count == 5


async def test_metrics_and_transcripts_are_kept_for_the_report(orchestra: Bench) -> None:
    run = await orchestra.start(logged_groups="2")
    events = await orchestra.events(run.run_id)
    metrics = next(dict(event.step_completed.metrics) for event in events if event.HasField("step_completed"))
    wanted = {
        "env/all/reward/total", "env/all/correct", "env/all/format", "env/all/by_group/frac_mixed", "optim/entropy",
        "optim/grad_norm", "optim/lr", "optim/loss:sum", "optim/kl_sample_train_v1", "time/total", "time/train",
        "progress/batch", "progress/done_frac",
    }  # fmt: skip
    assert wanted <= set(metrics)
    transcripts = next(event.transcripts_logged.transcripts for event in events if event.HasField("transcripts_logged"))
    assert len(transcripts) == 2 * 4
    assert (transcripts[0].prompt, transcripts[4].prompt, transcripts[4].reference) == ("problem 0?", "problem 1?", "1")
    np.testing.assert_allclose(sum(item.advantage for item in transcripts[:4]), 0, atol=1e-9)
    run = await orchestra.get(run.run_id)
    assert run.metrics["progress/done_frac"] == 1
    assert "test/env/all/correct" in run.metrics


async def test_substeps_cut_a_batch_into_updates(orchestra: Bench) -> None:
    run = await orchestra.finished((await orchestra.start(num_substeps="3", loss="ppo", steps="1")).run_id)
    assert orchestra.fakes.faults.calls["ForwardBackward"] == orchestra.fakes.faults.calls["OptimStep"] == 3
    assert run.checkpoint_uri.endswith("/000001"), "named after the run's step, not the optimizer's"


async def test_groups_without_a_difference_are_dropped_and_a_step_without_data_counts(orchestra: Bench) -> None:
    """N-17."""
    orchestra.fakes.environment.constant = True
    run = await orchestra.start(steps="3")
    events = await orchestra.events(run.run_id)
    run = await orchestra.get(run.run_id)
    assert (run.state, run.step, orchestra.fakes.faults.calls["OptimStep"]) == (COMPLETED, 3, 0)
    steps = [event.step_completed.metrics for event in events if event.HasField("step_completed")]
    assert [metrics["optim/constant_groups_dropped"] for metrics in steps] == [3, 3, 3]
    kept = await orchestra.finished((await orchestra.start(steps="1", remove_constant_groups="false")).run_id)
    assert (kept.state, orchestra.fakes.faults.calls["OptimStep"]) == (COMPLETED, 1)


async def test_an_episode_whose_environment_failed_is_left_out(orchestra: Bench) -> None:
    orchestra.fakes.environment.failing = {0, 1, 2}
    run = await orchestra.start(steps="1", eval_every="0", remove_constant_groups="false")
    events = await orchestra.events(run.run_id)
    metrics = next(event.step_completed.metrics for event in events if event.HasField("step_completed"))
    assert metrics["env/all/failed_episodes"] == 3
    assert metrics["optim/data"] == 9


async def test_the_same_request_starts_one_run(orchestra: Bench) -> None:
    request = StartRunRequest(request_id="once", recipe="math_rl", overrides=SMALL, labels={"team": "a"})
    first, second = await asyncio.gather(*(orchestra.suite.orchestrator.StartRun(request) for _ in range(2)))
    assert first.run.run_id == second.run.run_id
    assert first.run.labels == {"team": "a"}
    assert len((await orchestra.suite.orchestrator.ListRuns(ListRunsRequest())).runs) == 1


async def test_a_dry_run_checks_everything_and_changes_nothing(orchestra: Bench) -> None:
    """O-05."""
    request = StartRunRequest(recipe="math_rl", overrides={**SMALL, "seed": "7"}, dry_run=True)
    run = (await orchestra.suite.orchestrator.StartRun(request)).run
    assert (run.run_id, run.config.math_rl.seed, run.total_steps) == ("", 7, 6)
    assert not (await orchestra.suite.orchestrator.ListRuns(ListRunsRequest())).runs
    request.overrides["base_model"] = "nothing"
    with pytest.raises(TinsmithError, match="BASE_MODEL_NOT_FOUND"):
        await orchestra.suite.orchestrator.StartRun(request)


@pytest.mark.parametrize(
    ("overrides", "reason", "words"),
    [
        ({"base_model": "gpt-9"}, "BASE_MODEL_NOT_FOUND", "tinsmith-tiny"),
        ({"problems": "arithmetics"}, "DATASET_NOT_FOUND", "there are arithmetic"),
        ({"renderer": "morse"}, "RENDERER_NOT_FOUND", "morse"),
        ({"load_checkpoint": "tinsmith://x/training/1"}, "CHECKPOINT_NOT_FOUND", "tinsmith://x/training/1"),
        ({"problem_options": "max_operand"}, "BAD_CONFIG", "name=value"),
    ],
)
async def test_names_that_no_service_knows_are_found_before_the_start(
    orchestra: Bench, overrides: dict[str, str], reason: str, words: str
) -> None:
    with pytest.raises(TinsmithError, match=words) as caught:
        await orchestra.start(**overrides)
    assert caught.value.reason == reason
    assert not (await orchestra.suite.orchestrator.ListRuns(ListRunsRequest())).runs


async def test_services_that_are_not_there_are_all_named(tmp_path: Path) -> None:
    """O-02."""
    async with bench(tmp_path, sampler="127.0.0.1:1", grader="127.0.0.1:1") as orchestra:
        with pytest.raises(TinsmithError, match=r"sampler at 127\.0\.0\.1:1 does not answer, grader at") as caught:
            await orchestra.start()
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SERVICE_UNAVAILABLE")
        assert caught.value.metadata["services"] == "sampler,grader"


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument("token 7 is out of vocabulary", reason="TOKEN_OUT_OF_VOCABULARY"),
        ResourceExhausted("no space is left for checkpoints: free some", reason="STORAGE_FULL"),
    ],
)
async def test_what_no_repetition_mends_fails_the_run_with_the_services_words(
    orchestra: Bench, error: InvalidArgument
) -> None:
    orchestra.fakes.faults.planned = {("SaveState", 2): "fatal"}
    orchestra.fakes.faults.errors = {"fatal": error}
    run = await orchestra.start()
    events = await orchestra.events(run.run_id)
    run = await orchestra.get(run.run_id)
    assert (run.state, run.error.reason) == (FAILED, error.reason)
    assert run.error.message == f"trainer: {error.message}"
    assert events[-1].state_changed.error == run.error
    await orchestra.suite.orchestrator.ResumeRun(ResumeRunRequest(run_id=run.run_id))
    assert (await orchestra.finished(run.run_id)).state == COMPLETED


async def test_recoveries_that_bring_no_step_come_to_an_end(tmp_path: Path) -> None:
    async with bench(tmp_path, max_recoveries=2) as orchestra:
        orchestra.fakes.faults.planned = {("ForwardBackward", number): "crash" for number in range(1, 99)}
        run = await orchestra.start()
        events = await orchestra.events(run.run_id)
        run = await orchestra.get(run.run_id)
        assert (run.state, run.error.reason) == (FAILED, "MODEL_NOT_FOUND")
        assert kinds(events).count("recovered") == 2


async def test_a_service_that_stays_away_fails_the_run(tmp_path: Path) -> None:
    async with bench(tmp_path, patience_s=0.3) as orchestra:
        orchestra.fakes.faults.planned = {("Sample", number): "away" for number in range(3, 999)}
        run = await orchestra.finished((await orchestra.start()).run_id)
        assert (run.state, run.error.reason) == (FAILED, "AWAY")
        assert "resume the run" in run.error.message


async def test_a_watch_goes_on_behind_the_last_event_that_was_seen(orchestra: Bench) -> None:
    run = await orchestra.start()
    events = await orchestra.events(run.run_id)
    for seen in (0, 1, len(events) - 1, len(events)):
        assert await orchestra.events(run.run_id, after_seq=seen) == events[seen:]


async def test_a_watch_of_a_silent_run_gives_signs_of_life(orchestra: Bench) -> None:
    orchestra.fakes.faults.slow = {"CreateModel": 1.0}
    run = await orchestra.start()
    silent = 0
    async with asyncio.timeout(30):
        async for answer in orchestra.suite.orchestrator.WatchRun(WatchRunRequest(run_id=run.run_id)):
            silent += not answer.events
            last = answer
    assert silent >= 2
    assert last.run.state == COMPLETED


async def test_a_cancelled_run_ends_soon_and_once(orchestra: Bench) -> None:
    orchestra.fakes.faults.slow = {"Sample": 0.05}
    run = await orchestra.start(steps="1000")
    await orchestra.until_step(run.run_id, 1)
    for _ in range(2):
        await orchestra.suite.orchestrator.CancelRun(CancelRunRequest(run_id=run.run_id))
    events = await orchestra.events(run.run_id)
    assert states(events) == ["PENDING", "RUNNING", "CANCELLED"]
    again = await orchestra.suite.orchestrator.CancelRun(CancelRunRequest(run_id=run.run_id))
    assert again.run.state == CANCELLED
    assert (await orchestra.get(run.run_id)).last_event_seq == len(events)


async def test_only_failed_and_cancelled_runs_are_resumed(orchestra: Bench) -> None:
    run = await orchestra.finished((await orchestra.start(steps="1")).run_id)
    with pytest.raises(TinsmithError, match="COMPLETED") as caught:
        await orchestra.suite.orchestrator.ResumeRun(ResumeRunRequest(run_id=run.run_id))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RUN_NOT_RESUMABLE")


async def test_runs_are_listed_newest_first_in_pages(orchestra: Bench) -> None:
    started = [(await orchestra.start(steps="1", eval_every="0")).run_id for _ in range(5)]
    for run_id in started:
        await orchestra.finished(run_id)
    found, token = [], ""
    while True:
        request = ListRunsRequest(page_size=2, page_token=token, state=COMPLETED, recipe="math_rl")
        answer = await orchestra.suite.orchestrator.ListRuns(request)
        found += [run.run_id for run in answer.runs]
        token = answer.next_page_token
        if not token:
            break
    assert found == started[::-1]
    assert not (await orchestra.suite.orchestrator.ListRuns(ListRunsRequest(state=FAILED))).runs
    with pytest.raises(TinsmithError, match="BAD_PAGE_TOKEN"):
        await orchestra.suite.orchestrator.ListRuns(ListRunsRequest(page_token="x"))


async def test_unknown_runs_and_models_are_not_found(orchestra: Bench) -> None:
    calls = orchestra.suite.orchestrator
    for call in (calls.GetRun, calls.CancelRun, calls.ResumeRun):
        with pytest.raises(TinsmithError, match="RUN_NOT_FOUND"):
            await call(GetRunRequest(run_id="none"))  # type: ignore[arg-type]  # same fields
    with pytest.raises(TinsmithError, match="RUN_NOT_FOUND"):
        async for _ in calls.WatchRun(WatchRunRequest(run_id="none")):
            pass
    with pytest.raises(TinsmithError, match="MODEL_NOT_FOUND"):
        await calls.GetLineage(GetLineageRequest(model_id="none"))
    with pytest.raises(TinsmithError, match="RECIPE_NOT_IMPLEMENTED"):
        await calls.Evaluate(EvaluateRequest(config=EvaluationConfig()))


async def test_a_model_is_registered_with_what_it_came_from(orchestra: Bench) -> None:
    """O-06."""
    first = await orchestra.finished((await orchestra.start(steps="1")).run_id)
    second = await orchestra.finished((await orchestra.start(steps="1", load_checkpoint=first.checkpoint_uri)).run_id)
    listed = (await orchestra.suite.orchestrator.ListModels(ListModelsRequest())).models
    assert [(model.model_id, model.version) for model in listed] == [(second.run_id, 2), (first.run_id, 1)]
    assert listed[0].parents == ["tinsmith-tiny", first.checkpoint_uri]
    assert (len(listed[0].config_sha256), len(listed[0].dataset_fingerprint)) == (64, 64)
    assert listed[0].config_sha256 != listed[1].config_sha256
    assert listed[0].sampler_uri == second.sampler_uri
    lineage = await orchestra.suite.orchestrator.GetLineage(GetLineageRequest(model_id=second.run_id))
    assert [model.model_id for model in lineage.models] == [second.run_id, first.run_id]


async def test_what_is_trained_on_is_what_was_sampled(orchestra: Bench) -> None:
    """The prompts that the sampler saw begin the data that the trainer saw."""
    seen = []
    accumulate = orchestra.fakes.trainer._accumulate
    orchestra.fakes.trainer._accumulate = lambda model, request: (seen.append(request), accumulate(model, request))[1]  # type: ignore[method-assign, assignment, func-returns-value]
    await orchestra.finished((await orchestra.start(steps="1", eval_every="0", remove_constant_groups="false")).run_id)
    prompts = [row.tolist() for row in rows(orchestra.fakes.sampler.requests[0].prompts)]
    data = [row.tolist() for row in rows(seen[0].batch.tokens)]
    assert len(data) == 12
    assert all(datum[: len(prompts[number // 4])] == prompts[number // 4] for number, datum in enumerate(data))
