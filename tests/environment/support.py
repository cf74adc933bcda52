"""A small grader of another hand, the environment room through the public client, and short ways to ask it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from tinsmith.aio import Suite
from tinsmith.environment.v1 import (
    Action,
    CreateEpisodesRequest,
    CreateEpisodesResponse,
    EnvironmentSpec,
    EpisodeGroupSpec,
    StepRequest,
    StepResponse,
)
from tinsmith.grader.v1 import (
    GRADE_OUTCOME_FAILED,
    GRADE_OUTCOME_GRADED,
    GRADE_OUTCOME_UNSCORED,
    GRADE_STAGE_EXACT,
    GRADE_STAGE_EXTRACTION,
    GradeItem,
    GradeRequest,
    GradeResponse,
    GradeResult,
    GraderServiceServicer,
    add_GraderServiceServicer_to_server,
)
from tinsmith.types.v1 import TERMINATION_STOP_SEQUENCE, Message, Problem


class FakeGrader(GraderServiceServicer):
    """The last word of an answer counts. Some answers mean trouble."""

    def __init__(self) -> None:
        self.requests: list[GradeRequest] = []
        self.open = asyncio.Event()
        self.open.set()
        self.refusal: grpc.StatusCode | None = None

    async def Grade(self, request: GradeRequest, context: Any) -> GradeResponse:
        self.requests.append(request)
        await self.open.wait()
        if self.refusal is not None:
            await context.abort(self.refusal, "not now")
        return GradeResponse(results=[self._graded(request, item) for item in request.items])

    def _graded(self, request: GradeRequest, item: GradeItem) -> GradeResult:
        spec = request.other_graders[item.other_grader - 1] if item.other_grader else request.grader
        words = item.answer.split()
        if item.answer == "crash":
            return GradeResult(outcome=GRADE_OUTCOME_FAILED, reason="CRASHED", message="the worker crashed")
        if item.answer == "slow":
            return GradeResult(outcome=GRADE_OUTCOME_FAILED, reason="DEADLINE")
        if item.answer == "unscored":
            return GradeResult(outcome=GRADE_OUTCOME_UNSCORED)
        if item.answer == "nan":
            return GradeResult(outcome=GRADE_OUTCOME_GRADED, score=float("nan"), reason="EQUAL")
        if not words:
            return GradeResult(outcome=GRADE_OUTCOME_GRADED, reason="NO_ANSWER", stage=GRADE_STAGE_EXTRACTION)
        pair = (words[-1], item.reference)
        if spec.exact.ignore_case:
            pair = (pair[0].lower(), pair[1].lower())
        equal = pair[0] == pair[1]
        return GradeResult(
            outcome=GRADE_OUTCOME_GRADED,
            score=float(equal),
            correct=equal,
            stage=GRADE_STAGE_EXACT,
            reason="EQUAL" if equal else "DIFFERENT",
            extracted=words[-1],
        )


@asynccontextmanager
async def serving_grader(grader: FakeGrader, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """The fake grader as a server; yields its address."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_GraderServiceServicer_to_server(grader, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


class Room:
    """The environment room through the public client."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.stub = suite.environment

    async def create(
        self, spec: EnvironmentSpec, *groups: EpisodeGroupSpec, request_id: str = ""
    ) -> CreateEpisodesResponse:
        request = CreateEpisodesRequest(request_id=request_id, environment=spec, groups=groups)
        response: CreateEpisodesResponse = await self.stub.CreateEpisodes(request)
        return response

    async def step(self, *actions: Action, request_id: str = "") -> StepResponse:
        response: StepResponse = await self.stub.Step(StepRequest(request_id=request_id, actions=actions))
        return response

    async def ids(self, spec: EnvironmentSpec, *groups: EpisodeGroupSpec) -> list[str]:
        created = await self.create(spec, *groups)
        return [episode_id for group in created.groups for episode_id in group.episode_ids]


def problem(question: str = "What is 2 + 3?", answer: str = "5") -> Problem:
    return Problem(id="1", messages=[Message(role="user", content=question)], answer=answer)


def problem_spec(**fields: Any) -> EnvironmentSpec:
    spec = EnvironmentSpec()
    spec.problem.grader.exact.SetInParent()
    for name, value in fields.items():
        setattr(spec.problem, name, value)
    return spec


def game_spec(game_id: str = "TicTacToe-v0", **fields: Any) -> EnvironmentSpec:
    spec = EnvironmentSpec()
    spec.text_arena.id = game_id
    for name, value in fields.items():
        if name == "opponents":
            for seat, kind in value.items():
                spec.text_arena.opponents.add(seat=seat, kind=kind)
        else:
            setattr(spec.text_arena, name, value)
    return spec


def says(episode_id: str, text: str, *, seat: int = 0, termination: int = TERMINATION_STOP_SEQUENCE) -> Action:
    return Action(
        episode_id=episode_id,
        seat=seat,
        message=Message(role="assistant", content=text),
        termination=termination,  # type: ignore[arg-type]  # an enum's number
    )
