"""The room's messages and its domain, one into the other. The only file that knows both."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from google.protobuf.duration_pb2 import Duration

from tinsmith.environment.v1 import environment_service_pb2 as pb
from tinsmith.types.v1 import message_pb2
from tinsmith_server.environment.episodes import Limits
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
from tinsmith_server.environment.grading import Rule
from tinsmith_server.environment.problem import DEFAULT_FORMAT_COEFFICIENT, ProblemSetup
from tinsmith_server.environment.stepping import Refusal
from tinsmith_server.environment.text_arena_setup import DEFAULT_ILLEGAL_MOVE_REWARD, OpponentKind, TextArenaSetup
from tinsmith_server.serving.errors import InvalidArgument

_TERMINATIONS = {
    message_pb2.TERMINATION_STOP_SEQUENCE: Termination.STOP_SEQUENCE,
    message_pb2.TERMINATION_EOS: Termination.EOS,
    message_pb2.TERMINATION_MALFORMED: Termination.MALFORMED,
}
_ENDS = {
    None: pb.EPISODE_END_UNSPECIFIED,
    EpisodeEnd.COMPLETED: pb.EPISODE_END_COMPLETED,
    EpisodeEnd.MAX_STEPS: pb.EPISODE_END_MAX_STEPS,
    EpisodeEnd.ILLEGAL_MOVE: pb.EPISODE_END_ILLEGAL_MOVE,
    EpisodeEnd.TIMEOUT: pb.EPISODE_END_TIMEOUT,
    EpisodeEnd.FAILED: pb.EPISODE_END_FAILED,
}
_OPPONENTS = {
    pb.OPPONENT_KIND_RANDOM: OpponentKind.RANDOM,
    pb.OPPONENT_KIND_OPTIMAL: OpponentKind.OPTIMAL,
    pb.OPPONENT_KIND_MODEL: OpponentKind.MODEL,
}
_ENDS_ON_ILLEGAL_MOVE = {
    pb.ILLEGAL_MOVE_POLICY_UNSPECIFIED: False,
    pb.ILLEGAL_MOVE_POLICY_RETRY: False,
    pb.ILLEGAL_MOVE_POLICY_END: True,
}


def setup(spec: pb.EnvironmentSpec) -> tuple[str, Any]:
    """The field of the spec that is set, and the setup that its family reads; None where no family reads it."""
    field = spec.WhichOneof("environment")
    assert field is not None, "the contract requires one, and requests are validated before"
    read = _SETUPS.get(field)
    return field, read(spec) if read else None


def limits(message: pb.EpisodeLimits) -> Limits:
    """Limits on an episode, but for the time of a step, which is the family's to keep."""
    return Limits(max_steps=message.max_steps, idle_timeout_s=_seconds(message, "idle_timeout"))


def groups(messages: Iterable[pb.EpisodeGroupSpec]) -> list[Group]:
    """Groups that are asked for."""
    return [
        Group(
            seed=message.seed,
            size=message.size or 1,
            problem=message.problem if message.HasField("problem") else None,
        )
        for message in messages
    ]


def actions(messages: Iterable[pb.Action]) -> list[Action]:
    """What seats say; of a message the text counts, not its thinking and not its media."""
    return [
        Action(
            episode_id=message.episode_id,
            seat=message.seat,
            text=_text(message.message),
            termination=_TERMINATIONS.get(message.termination, Termination.UNKNOWN),
        )
        for message in messages
    ]


def create_response(starts: Sequence[Start], episode_ids: Sequence[Sequence[str]]) -> pb.CreateEpisodesResponse:
    """Groups that have begun."""
    return pb.CreateEpisodesResponse(
        groups=[
            pb.EpisodeGroup(episode_ids=ids, observation=observation(start.observation))
            for start, ids in zip(starts, episode_ids, strict=True)
        ]
    )


def step_response(actions: Sequence[Action], results: Sequence[Outcome | Refusal]) -> pb.StepResponse:
    """What came of the actions. An outcome that many share is written once and copied, which takes a quarter."""
    response = pb.StepResponse()
    written: dict[int, pb.StepResult] = {}
    for action, result in zip(actions, results, strict=True):
        if id(result) not in written:
            written[id(result)] = _result(result)
        message = response.results.add()
        message.CopyFrom(written[id(result)])
        message.episode_id = action.episode_id
    return response


def observation(seen: Observation) -> pb.Observation:
    """What a seat sees."""
    return pb.Observation(seat=seen.seat, messages=seen.messages, stop_strings=seen.stop_strings)


def environment_info(summary: EnvironmentSummary) -> pb.EnvironmentInfo:
    """An environment as it is listed."""
    return pb.EnvironmentInfo(
        name=summary.name,
        family=summary.family,
        description=summary.description,
        min_seats=summary.min_seats,
        max_seats=summary.max_seats,
        available=not summary.unavailable_reason,
        unavailable_reason=summary.unavailable_reason,
    )


def _result(result: Outcome | Refusal) -> pb.StepResult:
    """All but the episode's id."""
    if isinstance(result, Refusal):
        return pb.StepResult(error_reason=result.reason, error_message=result.message)
    message = pb.StepResult(
        rewards=result.rewards,
        done=result.end is not None,
        end=_ENDS[result.end],
        observation=None if result.observation is None else observation(result.observation),
    )
    # Entry by entry: a whole map costs three times as much, and there are hundreds of results in a step.
    metrics, logs = message.metrics, message.logs
    for name, value in result.metrics.items():
        metrics[name] = value
    for name, text in result.logs.items():
        logs[name] = text
    return message


def _text(message: message_pb2.Message) -> str:
    return message.content or "".join(part.text for part in message.parts)


def _problem_setup(spec: pb.EnvironmentSpec) -> ProblemSetup:
    message = spec.problem
    given = message.HasField("format_coefficient")
    return ProblemSetup(
        rule=Rule.of(message.grader, _seconds(spec.limits, "step_timeout")),
        format_coefficient=message.format_coefficient if given else DEFAULT_FORMAT_COEFFICIENT,
        accept_eos=message.accept_eos,
    )


def _text_arena_setup(spec: pb.EnvironmentSpec) -> TextArenaSetup:
    message = spec.text_arena
    if message.illegal_moves not in _ENDS_ON_ILLEGAL_MOVE:
        raise _bad_options("environment.text_arena.illegal_moves", "must be RETRY or END")
    given = message.HasField("illegal_move_reward")
    return TextArenaSetup(
        id=message.id,
        seats=message.seats,
        ends_on_illegal_move=_ENDS_ON_ILLEGAL_MOVE[message.illegal_moves],
        illegal_move_reward=message.illegal_move_reward if given else DEFAULT_ILLEGAL_MOVE_REWARD,
        opponents=[(opponent.seat, _opponent_kind(opponent)) for opponent in message.opponents],
        options=_options("environment.text_arena.options_json", message.options_json),
    )


def _opponent_kind(message: pb.Opponent) -> OpponentKind:
    if message.kind not in _OPPONENTS:
        raise _bad_options("environment.text_arena.opponents", "kind must be RANDOM, OPTIMAL or MODEL")
    return _OPPONENTS[message.kind]


def _seconds(message: pb.EpisodeLimits, field: Literal["step_timeout", "idle_timeout"]) -> float | None:
    """0 and absent mean the same: no limit of its own."""
    duration: Duration = getattr(message, field)
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds < 0:
        raise _bad_options(f"environment.limits.{field}", "must not be negative")
    return seconds or None


def _options(field: str, text: str) -> Mapping[str, object]:
    try:
        options = json.loads(text or "{}")
    except (ValueError, RecursionError):
        raise _bad_options(field, "must be a JSON object") from None
    if not isinstance(options, dict):
        raise _bad_options(field, "must be a JSON object")
    return options


def _bad_options(field: str, text: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {text}", reason="BAD_OPTIONS", violations=[(field, text)])


_SETUPS: Mapping[str, Callable[[pb.EnvironmentSpec], Any]] = {
    "problem": _problem_setup,
    "text_arena": _text_arena_setup,
}
"""Field of EnvironmentSpec -> how its family's setup is read."""
