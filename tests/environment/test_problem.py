"""Problem environments: rewards, and what happens when grading fails."""

import asyncio

import grpc
import pytest

from tests.environment.support import FakeGrader, Room, problem, problem_spec, says, serving_grader
from tinsmith import TinsmithError
from tinsmith.environment.v1 import (
    EPISODE_END_COMPLETED,
    EPISODE_END_FAILED,
    EPISODE_END_TIMEOUT,
    EpisodeGroupSpec,
)
from tinsmith.types.v1 import (
    TERMINATION_EOS,
    TERMINATION_MALFORMED,
    TERMINATION_STOP_SEQUENCE,
    TERMINATION_UNSPECIFIED,
    ContentPart,
    Message,
    Problem,
)

STOP, EOS, CUT, UNSET = (
    TERMINATION_STOP_SEQUENCE,
    TERMINATION_EOS,
    TERMINATION_MALFORMED,
    TERMINATION_UNSPECIFIED,
)


# reward = correct + coefficient * (format - 1), recipes 1.2; written out by hand.
@pytest.mark.parametrize(
    ("answer", "ended", "fields", "reward", "correct", "well_formed"),
    [
        ("5", STOP, {}, 1.0, 1, 1),
        ("it is 5", STOP, {}, 1.0, 1, 1),
        ("6", STOP, {}, 0.0, 0, 1),
        ("", STOP, {}, -0.1, 0, 0),
        ("5", EOS, {}, 0.9, 1, 0),
        ("5", EOS, {"accept_eos": True}, 1.0, 1, 1),
        ("5", STOP, {"accept_eos": True}, 1.0, 1, 1),
        ("6", EOS, {"accept_eos": True}, 0.0, 0, 1),
        ("", EOS, {"accept_eos": True}, -0.1, 0, 0),
        ("5", CUT, {"accept_eos": True}, 0.9, 1, 0),
        ("6", CUT, {}, -0.1, 0, 0),
        ("5", UNSET, {}, 0.9, 1, 0),
        ("5", CUT, {"format_coefficient": 0.5}, 0.5, 1, 0),
        ("6", CUT, {"format_coefficient": 0.0}, 0.0, 0, 0),
        ("", STOP, {"format_coefficient": 2.0}, -2.0, 0, 0),
    ],
)
async def test_reward_is_correctness_less_the_price_of_bad_format(
    room: Room, answer: str, ended: int, fields: dict[str, object], reward: float, correct: int, well_formed: int
) -> None:
    (episode,) = await room.ids(problem_spec(**fields), EpisodeGroupSpec(problem=problem()))
    (result,) = (await room.step(says(episode, answer, termination=ended))).results
    assert list(result.rewards) == pytest.approx([reward])
    assert dict(result.metrics) == {"correct": correct, "format": well_formed}
    assert result.done
    assert result.end == EPISODE_END_COMPLETED
    assert not result.HasField("observation")
    assert not result.error_reason


async def test_a_group_sees_its_problem_and_each_episode_is_its_own(room: Room) -> None:
    question = Problem(
        messages=[
            Message(role="user", content="What is 4 + 5?"),
            Message(role="assistant", content="9", name="shot"),
            Message(role="user", parts=[ContentPart(text="What is 2 + 3?")]),
        ],
        answer="5",
    )
    created = await room.create(
        problem_spec(), EpisodeGroupSpec(size=3, problem=question), EpisodeGroupSpec(problem=problem(answer="7"))
    )
    assert [len(group.episode_ids) for group in created.groups] == [3, 1]
    assert list(created.groups[0].observation.messages) == list(question.messages)
    ids = [episode for group in created.groups for episode in group.episode_ids]
    assert len(set(ids)) == 4
    results = (await room.step(*(says(ids[place], "5") for place in (3, 1, 0, 2)))).results
    assert [result.episode_id for result in results] == [ids[place] for place in (3, 1, 0, 2)]
    assert [list(result.rewards) for result in results] == [[0.0], [1.0], [1.0], [1.0]]


async def test_text_of_parts_is_the_answer_and_thinking_is_not(room: Room) -> None:
    (episode,) = await room.ids(problem_spec(), EpisodeGroupSpec(problem=problem()))
    action = says(episode, "")
    action.message.parts.add(thinking="or is it 6")
    action.message.parts.add(text="it is ")
    action.message.parts.add(text="5")
    (result,) = (await room.step(action)).results
    assert list(result.rewards) == [1.0]
    assert result.logs["extracted"] == "5"


async def test_a_step_is_graded_in_one_call_whatever_graders_its_episodes_have(room: Room, grader: FakeGrader) -> None:
    plain, lenient = problem_spec(), problem_spec()
    lenient.problem.grader.exact.ignore_case = True
    group = EpisodeGroupSpec(size=2, problem=problem(answer="FIVE"))
    episodes = [*await room.ids(plain, group), *await room.ids(lenient, group), *await room.ids(plain, group)]
    results = (await room.step(*(says(episode, "five") for episode in episodes))).results
    assert [result.rewards[0] for result in results] == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    (request,) = grader.requests
    assert len(request.other_graders) == 1
    assert not any(item.conversation for item in request.items)


async def test_judges_see_the_conversation(room: Room, grader: FakeGrader) -> None:
    spec = problem_spec()
    part = spec.problem.grader.composite.parts.add(name="judged", weight=1.0)
    part.grader.judge.model = "judge"
    (episode,) = await room.ids(spec, EpisodeGroupSpec(problem=problem("Why?")))
    await room.step(says(episode, "5"))
    assert [message.content for message in grader.requests[0].items[0].conversation] == ["Why?"]


@pytest.mark.parametrize(
    ("answer", "reason"), [("crash", "CRASHED"), ("unscored", "UNSCORED"), ("nan", "SCORE_NOT_FINITE")]
)
async def test_an_answer_that_cannot_be_graded_ends_its_episode_alone(room: Room, answer: str, reason: str) -> None:
    bad, good = await room.ids(problem_spec(), EpisodeGroupSpec(size=2, problem=problem()))
    failed, graded = (await room.step(says(bad, answer), says(good, "5"))).results
    assert (failed.done, failed.end, failed.logs["grade_reason"]) == (True, EPISODE_END_FAILED, reason)
    assert not failed.metrics
    assert (graded.end, list(graded.rewards)) == (EPISODE_END_COMPLETED, [1.0])
    (again,) = (await room.step(says(bad, "5"))).results
    assert again.error_reason == "EPISODE_DONE"


async def test_a_step_timeout_bounds_grading_and_says_so(room: Room, grader: FakeGrader) -> None:
    spec = problem_spec()
    spec.limits.step_timeout.FromMilliseconds(1500)
    (limited,) = await room.ids(spec, EpisodeGroupSpec(problem=problem()))
    (free,) = await room.ids(problem_spec(), EpisodeGroupSpec(problem=problem()))
    results = (await room.step(says(limited, "slow"), says(free, "slow"))).results
    assert [result.end for result in results] == [EPISODE_END_TIMEOUT, EPISODE_END_FAILED]
    timeouts = {request.HasField("item_timeout"): request.item_timeout.ToMilliseconds() for request in grader.requests}
    assert timeouts == {True: 1500, False: 0}


async def test_while_the_grader_is_away_no_episode_moves_and_the_same_call_works_later(
    open_room: object, grader: FakeGrader
) -> None:
    async with serving_grader(FakeGrader()) as address:
        pass  # an address at which nobody listens any more
    async with open_room(grader=address) as room:  # type: ignore[operator]  # a fixture
        (episode,) = await room.ids(problem_spec(), EpisodeGroupSpec(problem=problem()))
        with pytest.raises(TinsmithError) as refused:
            await room.step(says(episode, "5"), request_id="step-1")
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.UNAVAILABLE, "GRADER_UNAVAILABLE")
        assert refused.value.retry_after_s is not None
        async with serving_grader(grader, address):
            await asyncio.sleep(1.2)  # the longest pause between two tries to connect
            (result,) = (await room.step(says(episode, "5"), request_id="step-1")).results
            assert list(result.rewards) == [1.0]


async def test_a_grader_that_refuses_is_passed_on_and_no_episode_moves(room: Room, grader: FakeGrader) -> None:
    (episode,) = await room.ids(problem_spec(), EpisodeGroupSpec(problem=problem()))
    grader.refusal = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(TinsmithError) as refused:
        await room.step(says(episode, "5"), request_id="step-1")
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    grader.refusal = None
    (result,) = (await room.step(says(episode, "5"), request_id="step-1")).results
    assert list(result.rewards) == [1.0]
