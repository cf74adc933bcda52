"""Answers graded by the grader service: one call for all that a step has to grade. Knows the grader's messages."""

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import grpc
from google.protobuf.duration_pb2 import Duration

from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.grader.v1 import (
    GRADE_OUTCOME_GRADED,
    GRADE_OUTCOME_UNSCORED,
    GRADE_STAGE_EXTRACTION,
    GradeItem,
    GradeRequest,
    GradeResult,
    GraderSpec,
)
from tinsmith.types.v1 import Message
from tinsmith_server.serving import time_left
from tinsmith_server.serving.errors import Internal, Unavailable

_NO_ANSWER = "NO_ANSWER"
_DEADLINE = "DEADLINE"
_JUDGES = frozenset({"judge", "rubric", "pairwise", "external"})
_DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """How answers are graded."""

    spec: GraderSpec
    key: bytes
    """The same for equal specs."""
    reads_conversation: bool
    """Whether the grader looks at more than the answer and its reference."""
    timeout_s: float | None
    """Wall-clock limit of one answer; None leaves it to the grader."""

    @classmethod
    def of(cls, spec: GraderSpec, timeout_s: float | None) -> "Rule":
        key = spec.SerializeToString(deterministic=True)
        return cls(spec=spec, key=key, reads_conversation=_reads_conversation(spec), timeout_s=timeout_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What an answer is judged by."""

    rule: Rule
    reference: str
    conversation: Sequence[Message]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """What the grader says of an answer."""

    score: float | None
    """None when it could not be graded; `reason` says why."""
    has_answer: bool
    """Whether an answer could be extracted."""
    reason: str
    message: str
    extracted: str
    is_late: bool = False
    """Whether it could not be graded in its time."""


class Grader:
    """The grader service."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite

    async def grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        """One grade an answer: one call for all answers that have the same time, most often for all there are.

        Unavailable with reason GRADER_UNAVAILABLE when the grader is away.
        """
        places: dict[float | None, list[int]] = {}
        for place, question in enumerate(questions):
            places.setdefault(question.rule.timeout_s, []).append(place)
        if len(places) == 1:
            return await self._grade(questions, answers)
        batches = (([questions[at] for at in chosen], [answers[at] for at in chosen]) for chosen in places.values())
        graded = await asyncio.gather(*(self._grade(*batch) for batch in batches))
        by_place = dict(zip(chain(*places.values()), chain(*graded), strict=True))
        return [by_place[place] for place in range(len(answers))]

    async def _grade(self, questions: Sequence[Question], answers: Sequence[str]) -> list[Grade]:
        """Equal answers to equal questions, of which a group has many, are graded once and share their grade."""
        places, index = _distinct(questions, answers)
        request = _request([questions[place] for place in places], [answers[place] for place in places])
        remaining_s = time_left()
        try:
            response = await self._suite.grader.Grade(
                request, timeout=_DEFAULT_TIMEOUT_S if remaining_s is None else remaining_s
            )
        except TinsmithError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            raise Unavailable(
                "the grader can't be reached; no episode has moved, so the same call can be repeated",
                reason="GRADER_UNAVAILABLE",
                retry_after_s=1.0,
            ) from error
        if len(response.results) != len(places):
            raise Internal(
                f"the grader gave {len(response.results)} results for {len(places)} answers",
                reason="BAD_GRADER_ANSWER",
                metadata={"results": str(len(response.results)), "answers": str(len(places))},
            )
        grades = [_grade(result) for result in response.results]
        return [grades[number] for number in index]


def _distinct(questions: Sequence[Question], answers: Sequence[str]) -> tuple[list[int], list[int]]:
    """The places of answers of which no two are alike, and for each answer which of them it is like.

    A judge may think otherwise the next time, so what one judges is like nothing else.
    """
    places: list[int] = []
    index: list[int] = []
    numbers: dict[tuple[object, ...], int] = {}
    for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        rule = question.rule
        own = place if rule.reads_conversation else None
        number = numbers.setdefault((rule.key, question.reference, answer, own), len(places))
        if number == len(places):
            places.append(place)
        index.append(number)
    return places, index


def _request(questions: Sequence[Question], answers: Sequence[str]) -> GradeRequest:
    rules = {question.rule.key: question.rule for question in questions}
    places = {key: place for place, key in enumerate(rules)}
    first, *others = (rule.spec for rule in rules.values())
    items = [
        GradeItem(
            answer=answer,
            reference=question.reference,
            conversation=question.conversation if question.rule.reads_conversation else None,
            other_grader=places[question.rule.key],
        )
        for question, answer in zip(questions, answers, strict=True)
    ]
    timeout = _duration(questions[0].rule.timeout_s)
    return GradeRequest(grader=first, items=items, other_graders=others, item_timeout=timeout)


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def _grade(result: GradeResult) -> Grade:
    is_scored = result.outcome == GRADE_OUTCOME_GRADED and math.isfinite(result.score)
    return Grade(
        score=result.score if is_scored else None,
        has_answer=result.reason != _NO_ANSWER and result.stage != GRADE_STAGE_EXTRACTION,
        reason=result.reason if is_scored else _failure(result),
        message=result.message,
        extracted=result.extracted,
        is_late=not is_scored and result.reason == _DEADLINE,
    )


def _failure(result: GradeResult) -> str:
    if result.outcome == GRADE_OUTCOME_GRADED:
        return "SCORE_NOT_FINITE"
    return result.reason or ("UNSCORED" if result.outcome == GRADE_OUTCOME_UNSCORED else "FAILED")


def _reads_conversation(spec: GraderSpec) -> bool:
    kind = spec.WhichOneof("grader")
    return kind in _JUDGES or (kind == "composite" and _any_reads(part.grader for part in spec.composite.parts))


def _any_reads(specs: Iterable[GraderSpec]) -> bool:
    return any(_reads_conversation(spec) for spec in specs)
