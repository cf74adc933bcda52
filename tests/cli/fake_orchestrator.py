"""An orchestrator whose runs are over at once, or never end, or fail."""

import threading
from collections.abc import Iterator
from typing import Any

import grpc

from tinsmith.orchestrator.v1 import (
    CancelRunRequest,
    CancelRunResponse,
    DescribeRecipeRequest,
    DescribeRecipeResponse,
    EvaluationCompleted,
    GetRunRequest,
    GetRunResponse,
    ListRecipesRequest,
    ListRecipesResponse,
    ListRunsRequest,
    ListRunsResponse,
    MathRlConfig,
    OrchestratorServiceServicer,
    RecipeConfig,
    RecipeField,
    RecipeInfo,
    ResumeRunRequest,
    ResumeRunResponse,
    Run,
    RunError,
    RunEvent,
    RunState,
    StartRunRequest,
    StartRunResponse,
    StepCompleted,
    WatchRunRequest,
    WatchRunResponse,
)
from tinsmith_server.serving.errors import InvalidArgument, NotFound, ServiceError
from tinsmith_server.serving.status import status_of

MATH_RL = RecipeInfo(name="math_rl", description="Learns to add.", available=True, needs=["trainer", "sampler"])
METRICS = {"env/all/reward/total": 0.25, "env/all/correct": 0.5, "time/total": 0.07}


class Orchestrator(OrchestratorServiceServicer):
    """Its run is called r1; `ending` is how runs end: "completed", "failed" or "never"."""

    def __init__(self) -> None:
        self.ending = "completed"
        self.started: list[StartRunRequest] = []
        self.watched: list[int] = []
        self.watching = threading.Event()

    def run(self) -> Run:
        state = {"completed": RunState.RUN_STATE_COMPLETED, "failed": RunState.RUN_STATE_FAILED}.get(
            self.ending, RunState.RUN_STATE_RUNNING
        )
        run = Run(run_id="r1", recipe="math_rl", state=state, step=2, total_steps=2, metrics=METRICS, last_event_seq=3)
        run.sampler_uri = "tinsmith://r1/sampler/final"
        run.config.CopyFrom(RecipeConfig(math_rl=MathRlConfig(steps=2, base_model="tinsmith-tiny")))
        if self.ending == "failed":
            run.error.CopyFrom(RunError(reason="GRADER_GONE", message="the grader stayed away for a minute"))
        return run

    def StartRun(self, request: StartRunRequest, context: Any) -> StartRunResponse:
        self.started.append(request)
        if request.recipe != "math_rl":
            message = f"no recipe {request.recipe!r}: there are math_rl"
            _refuse(NotFound(message, reason="RECIPE_NOT_FOUND"), context)
        if "lr" in request.overrides:
            violations = [("lr", "no such field; did you mean learning_rate?"), ("steps", "must be above 0")]
            message = "the configuration of math_rl does not do"
            _refuse(InvalidArgument(message, reason="BAD_CONFIG", violations=violations), context)
        return StartRunResponse(run=self.run())

    def WatchRun(self, request: WatchRunRequest, context: Any) -> Iterator[WatchRunResponse]:
        self.watched.append(request.after_seq)
        yield WatchRunResponse(run=self.run())
        for event in self.events()[request.after_seq :]:
            yield WatchRunResponse(events=[event], seen_seq=event.seq)
        self.watching.set()
        if self.ending == "never":
            ended = threading.Event()
            context.add_callback(ended.set)
            ended.wait()

    def events(self) -> list[RunEvent]:
        evaluation = EvaluationCompleted(metrics={"test/env/all/correct": 0.9})
        return [
            RunEvent(seq=1, step=1, step_completed=StepCompleted(metrics=METRICS)),
            RunEvent(seq=2, step=2, step_completed=StepCompleted(metrics={**METRICS, "env/all/correct": 0.75})),
            RunEvent(seq=3, step=2, evaluation_completed=evaluation),
        ]

    def GetRun(self, request: GetRunRequest, context: Any) -> GetRunResponse:
        if request.run_id != "r1":
            _refuse(NotFound(f"no run {request.run_id!r}", reason="RUN_NOT_FOUND"), context)
        return GetRunResponse(run=self.run())

    def ListRuns(self, request: ListRunsRequest, context: Any) -> ListRunsResponse:
        first = int(request.page_token or 0)
        runs = [Run(run_id=f"r{number}") for number in range(first, min(first + request.page_size, 150))]
        token = str(first + len(runs)) if first + len(runs) < 150 else ""
        return ListRunsResponse(runs=runs, next_page_token=token)

    def CancelRun(self, request: CancelRunRequest, context: Any) -> CancelRunResponse:
        return CancelRunResponse(
            run=Run(run_id=request.run_id, state=RunState.RUN_STATE_CANCELLED, step=1, total_steps=2)
        )

    def ResumeRun(self, request: ResumeRunRequest, context: Any) -> ResumeRunResponse:
        return ResumeRunResponse(run=self.run())

    def ListRecipes(self, request: ListRecipesRequest, context: Any) -> ListRecipesResponse:
        return ListRecipesResponse(recipes=[MATH_RL, RecipeInfo(name="dpo", description="Prefers.")])

    def DescribeRecipe(self, request: DescribeRecipeRequest, context: Any) -> DescribeRecipeResponse:
        fields = [
            RecipeField(name="steps", type="int32", default_value="40", description="Batches.", constraint="> 0"),
            RecipeField(name="dataset.hub.id", type="string", description="A hub id."),
        ]
        return DescribeRecipeResponse(recipe=MATH_RL, fields=fields)


def _refuse(error: ServiceError, context: grpc.ServicerContext) -> None:
    status = status_of(error, "/test")
    context.set_trailing_metadata(status.trailing_metadata())
    context.abort(status.code, status.message)
