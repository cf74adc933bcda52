"""One question, one answer.

reward = correct + format_coefficient * (format - 1)

`correct` is the grader's score. `format` is 1 when the answer was ended by a stop sequence (or, where that is accepted,
by the model's end-of-sequence token) and the grader could extract an answer from it, else 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tinsmith_server.environment.family import (
    Action,
    EnvironmentSummary,
    EpisodeEnd,
    Group,
    Observation,
    Outcome,
    Start,
    Termination,
)
from tinsmith_server.environment.grading import Grade, Grader, Question, Rule
from tinsmith_server.serving.errors import InvalidArgument

DEFAULT_FORMAT_COEFFICIENT = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemSetup:
    """How answers are judged."""

    rule: Rule
    format_coefficient: float = DEFAULT_FORMAT_COEFFICIENT
    accept_eos: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """An episode: it has no other state than what it began with."""

    setup: ProblemSetup
    question: Question


class ProblemFamily:
    """Problems of a dataset, judged by the grader."""

    asks_others = True

    def __init__(self, grader: Grader) -> None:
        self._grader = grader

    def summaries(self) -> Sequence[EnvironmentSummary]:
        return [
            EnvironmentSummary(
                name="problem", family="problem", description="one question, one answer, judged by a grader"
            )
        ]

    async def begin(self, setup: ProblemSetup, groups: Sequence[Group]) -> list[Start]:
        """InvalidArgument with reason BAD_OPTIONS when a group has no problem or a problem no question."""
        return [_start(setup, group, f"groups[{place}].problem") for place, group in enumerate(groups)]

    async def act(self, states: Sequence[_Asked], actions: Sequence[Action]) -> list[Outcome]:
        grades = await self._grader.grade([state.question for state in states], [action.text for action in actions])
        outcomes: dict[tuple[int, Termination, int], Outcome] = {}  # equal ones are made once, which tells by hundreds
        keys = [
            (id(state.setup), action.termination, id(grade))
            for state, action, grade in zip(states, actions, grades, strict=True)
        ]
        for key, state, action, grade in zip(keys, states, actions, grades, strict=True):
            if key not in outcomes:
                outcomes[key] = _outcome(state.setup, action.termination, grade)
        return [outcomes[key] for key in keys]


def _start(setup: ProblemSetup, group: Group, field: str) -> Start:
    if group.problem is None or not group.problem.messages:
        missing = "is missing" if group.problem is None else "has no messages"
        raise InvalidArgument(
            f"{field}: {missing}; a problem environment needs a question",
            reason="BAD_OPTIONS",
            violations=[(field, missing)],
        )
    conversation = group.problem.messages
    question = Question(rule=setup.rule, reference=group.problem.answer, conversation=conversation)
    asked = _Asked(setup=setup, question=question)
    return Start(observation=Observation(seat=0, messages=conversation), states=[asked] * group.size)


def _outcome(setup: ProblemSetup, termination: Termination, grade: Grade) -> Outcome:
    if grade.score is None:
        is_timeout = grade.is_late and setup.rule.timeout_s is not None
        end = EpisodeEnd.TIMEOUT if is_timeout else EpisodeEnd.FAILED
        return Outcome(rewards=(0.0,), end=end, logs={"grade_reason": grade.reason, "grade_message": grade.message})
    is_ended = termination is Termination.STOP_SEQUENCE or (setup.accept_eos and termination is Termination.EOS)
    well_formed = float(is_ended and grade.has_answer)
    return Outcome(
        rewards=(grade.score + setup.format_coefficient * (well_formed - 1),),
        end=EpisodeEnd.COMPLETED,
        metrics={"correct": grade.score, "format": well_formed},
        logs={"grade_reason": grade.reason, "extracted": grade.extracted},
    )
