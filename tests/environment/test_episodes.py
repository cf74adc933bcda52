"""Episodes of any family: made once, acted in once, refused in place, freed in time."""

import asyncio
import time
from typing import Any

import grpc
import pytest

from tests.environment.conftest import OpenRoom
from tests.environment.support import FakeGrader, Room, game_spec, problem, problem_spec, says
from tinsmith import TinsmithError
from tinsmith.environment.v1 import (
    CloseEpisodesRequest,
    CreateEpisodesRequest,
    EnvironmentSpec,
    EpisodeGroupSpec,
    ListEnvironmentsRequest,
    ObserveRequest,
    Opponent,
    PlayRequest,
    StepRequest,
)
from tinsmith_server.environment import text_arena

GROUP = EpisodeGroupSpec(size=2, problem=problem())


async def test_repeated_creation_makes_no_second_episodes(room: Room) -> None:
    first = await room.create(problem_spec(), GROUP, request_id="create-1")
    assert await room.create(problem_spec(), GROUP, request_id="create-1") == first
    other = await room.create(problem_spec(), GROUP, request_id="create-2")
    assert not set(first.groups[0].episode_ids) & set(other.groups[0].episode_ids)


async def test_repeated_step_acts_once(room: Room, grader: FakeGrader) -> None:
    episode, _ = await room.ids(problem_spec(), GROUP)
    first = await room.step(says(episode, "5"), request_id="step-1")
    assert await room.step(says(episode, "5"), request_id="step-1") == first
    assert len(grader.requests) == 1


async def test_a_repeat_joins_the_step_that_is_still_at_work(room: Room, grader: FakeGrader) -> None:
    episode, _ = await room.ids(problem_spec(), GROUP)
    grader.open.clear()
    calls = [asyncio.ensure_future(room.step(says(episode, "5"), request_id="step-1")) for _ in range(5)]
    await _seen(grader)
    grader.open.set()
    answers = await asyncio.gather(*calls)
    assert all(answer == answers[0] for answer in answers)
    assert list(answers[0].results[0].rewards) == [1.0]
    assert len(grader.requests) == 1


async def test_a_repeat_outlives_the_caller_that_came_first(room: Room, grader: FakeGrader) -> None:
    episode, _ = await room.ids(problem_spec(), GROUP)
    grader.open.clear()
    first = asyncio.ensure_future(room.step(says(episode, "5"), request_id="step-1"))
    await _seen(grader)
    second = asyncio.ensure_future(room.step(says(episode, "5"), request_id="step-1"))
    await asyncio.sleep(0.1)
    first.cancel()
    await asyncio.sleep(0.1)
    grader.open.set()
    assert list((await second).results[0].rewards) == [1.0]
    assert len(grader.requests) == 1


async def test_a_step_whose_caller_has_gone_is_finished_and_its_answer_kept(room: Room) -> None:
    """A batch of games takes several turns of the event loop: it must not stop half-way."""
    ids = await room.ids(game_spec(), EpisodeGroupSpec(size=400))
    actions = [says(episode, "[4]") for episode in ids]
    call = asyncio.ensure_future(room.step(*actions, request_id="step-1"))
    await asyncio.sleep(0.02)
    call.cancel()
    results = (await room.step(*actions, request_id="step-1")).results
    assert {(result.error_reason, result.observation.seat, result.metrics["illegal_move"]) for result in results} == {
        ("", 1, 0.0)
    }


async def test_a_step_that_ran_out_of_time_leaves_its_episode_as_it_was(room: Room, grader: FakeGrader) -> None:
    episode, _ = await room.ids(problem_spec(), GROUP)
    grader.open.clear()
    with pytest.raises(TinsmithError) as late:
        await room.stub.Step(StepRequest(request_id="step-1", actions=[says(episode, "6")]), timeout=0.3)
    assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.sleep(1.0)  # by now the room, which has the caller's deadline, has given up too
    grader.open.set()
    (result,) = (await room.step(says(episode, "5"), request_id="step-2")).results
    assert list(result.rewards) == [1.0]


async def test_two_steps_of_one_episode_are_one_step_and_one_refusal(room: Room, grader: FakeGrader) -> None:
    episode, other = await room.ids(problem_spec(), GROUP)
    grader.open.clear()
    calls = [
        asyncio.ensure_future(room.step(says(episode, "5"), request_id="a")),
        asyncio.ensure_future(room.step(says(other, "5"), says(episode, "5"), request_id="b")),
    ]
    await _seen(grader)
    grader.open.set()
    answers = await asyncio.gather(*calls)
    results = [result for answer in answers for result in answer.results if result.episode_id == episode]
    assert sorted(result.error_reason for result in results) == ["", "EPISODE_DONE"]


async def test_refusals_stand_in_their_place(room: Room) -> None:
    done, fresh = await room.ids(problem_spec(), GROUP)
    await room.step(says(done, "5"))
    actions = [says("nobody", "5"), says(done, "5"), says(fresh, "5", seat=1)]
    results = (await room.step(*actions)).results
    assert [result.error_reason for result in results] == ["EPISODE_NOT_FOUND", "EPISODE_DONE", "WRONG_SEAT"]
    assert all(result.error_message and not result.done and not result.rewards for result in results)
    (result,) = (await room.step(says(fresh, "5"))).results
    assert list(result.rewards) == [1.0]


async def test_an_empty_step_is_an_empty_answer(room: Room) -> None:
    assert not (await room.step()).results


def _without_problem() -> CreateEpisodesRequest:
    return CreateEpisodesRequest(environment=problem_spec(), groups=[GROUP, EpisodeGroupSpec()])


def _game(*args: Any, **fields: Any) -> CreateEpisodesRequest:
    return CreateEpisodesRequest(environment=game_spec(*args, **fields), groups=[EpisodeGroupSpec()])


def _named() -> CreateEpisodesRequest:
    spec = EnvironmentSpec()
    spec.named.name = "nim"
    return CreateEpisodesRequest(environment=spec, groups=[EpisodeGroupSpec()])


def _field(name: str) -> CreateEpisodesRequest:
    spec = EnvironmentSpec()
    getattr(spec, name).SetInParent()
    return CreateEpisodesRequest(environment=spec, groups=[EpisodeGroupSpec()])


def _two_opponents_of_one_seat() -> CreateEpisodesRequest:
    request = _game()
    request.environment.text_arena.opponents.extend([Opponent(seat=0, kind=1), Opponent(seat=0, kind=2)])  # type: ignore[arg-type]  # enum numbers
    return request


@pytest.mark.parametrize(
    ("request_message", "code", "reason"),
    [
        (_without_problem(), "INVALID_ARGUMENT", "BAD_OPTIONS"),
        (CreateEpisodesRequest(groups=[GROUP]), "INVALID_ARGUMENT", "INVALID_REQUEST"),
        (CreateEpisodesRequest(environment=EnvironmentSpec(), groups=[GROUP]), "INVALID_ARGUMENT", "INVALID_REQUEST"),
        (_named(), "NOT_FOUND", "ENVIRONMENT_NOT_FOUND"),
        (_field("guess_number"), "FAILED_PRECONDITION", "ENVIRONMENT_UNAVAILABLE"),
        (_field("twenty_questions"), "FAILED_PRECONDITION", "ENVIRONMENT_UNAVAILABLE"),
        (_field("tools"), "FAILED_PRECONDITION", "ENVIRONMENT_UNAVAILABLE"),
        (_game("Chess-v7"), "NOT_FOUND", "ENVIRONMENT_NOT_FOUND"),
        (_game("PigDice-v0"), "FAILED_PRECONDITION", "ENVIRONMENT_UNAVAILABLE"),
        (_game(seats=3), "INVALID_ARGUMENT", "BAD_SEATS"),
        (_game(seats=1), "INVALID_ARGUMENT", "BAD_SEATS"),
        (_game(opponents={2: 1}), "INVALID_ARGUMENT", "BAD_SEATS"),
        (_game(opponents={0: 1, 1: 1}), "INVALID_ARGUMENT", "BAD_SEATS"),
        (_two_opponents_of_one_seat(), "INVALID_ARGUMENT", "BAD_SEATS"),
        (_game(opponents={0: 0}), "INVALID_ARGUMENT", "BAD_OPTIONS"),
        (_game(opponents={0: 9}), "INVALID_ARGUMENT", "BAD_OPTIONS"),
        (_game(opponents={0: 3}), "FAILED_PRECONDITION", "ENVIRONMENT_UNAVAILABLE"),
        (_game(illegal_moves=9), "INVALID_ARGUMENT", "BAD_OPTIONS"),
        (_game(options_json='{"size": 4}'), "INVALID_ARGUMENT", "BAD_OPTIONS"),
        (_game(options_json="[]"), "INVALID_ARGUMENT", "BAD_OPTIONS"),
        (_game(options_json="{"), "INVALID_ARGUMENT", "BAD_OPTIONS"),
        (_game(options_json="[" * 100_000), "INVALID_ARGUMENT", "BAD_OPTIONS"),
    ],
)
async def test_what_cannot_begin_is_refused_with_its_reason(
    room: Room, request_message: CreateEpisodesRequest, code: str, reason: str
) -> None:
    with pytest.raises(TinsmithError) as refused:
        await room.stub.CreateEpisodes(request_message)
    assert (refused.value.code.name, refused.value.reason) == (code, reason)


async def test_two_actions_for_one_episode_are_refused(room: Room) -> None:
    episode, _ = await room.ids(problem_spec(), GROUP)
    with pytest.raises(TinsmithError) as refused:
        await room.step(says(episode, "5"), says(episode, "6"))
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "DUPLICATE_EPISODE")
    (result,) = (await room.step(says(episode, "5"))).results
    assert list(result.rewards) == [1.0]


async def test_more_episodes_than_fit_are_refused_until_some_are_closed(open_room: OpenRoom) -> None:
    async with open_room(max_episodes=3) as room:
        ids = await room.ids(problem_spec(), GROUP)
        with pytest.raises(TinsmithError) as refused:
            await room.create(problem_spec(), GROUP)
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_EPISODES")
        assert refused.value.retry_after_s is not None
        closed = await room.stub.CloseEpisodes(CloseEpisodesRequest(episode_ids=[*ids, ids[0], "nobody"]))
        assert closed.closed == 2
        await room.create(problem_spec(), GROUP)


async def test_idle_episodes_expire_and_used_ones_do_not(open_room: OpenRoom) -> None:
    async with open_room(idle_timeout_s=1.0) as room:
        idle, used = await room.ids(problem_spec(), GROUP)
        spec = problem_spec()
        spec.limits.idle_timeout.FromSeconds(600)
        (patient,) = await room.ids(spec, EpisodeGroupSpec(problem=problem()))
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            await room.stub.Observe(ObserveRequest(episode_id=used))
            await asyncio.sleep(0.1)
        with pytest.raises(TinsmithError) as refused:
            await room.stub.Observe(ObserveRequest(episode_id=idle))
        assert refused.value.reason == "EPISODE_NOT_FOUND"
        assert (await room.stub.Observe(ObserveRequest(episode_id=patient))).HasField("observation")
        (result,) = (await room.step(says(idle, "5"))).results
        assert result.error_reason == "EPISODE_NOT_FOUND"


async def test_an_episode_that_is_over_is_remembered_for_a_while(room: Room) -> None:
    episode, _ = await room.ids(problem_spec(), GROUP)
    await room.step(says(episode, "5"))
    seen = await room.stub.Observe(ObserveRequest(episode_id=episode))
    assert seen.done
    assert not seen.HasField("observation")


async def test_episodes_that_are_over_make_room_for_others(open_room: OpenRoom) -> None:
    async with open_room(max_episodes=2, done_timeout_s=0.2) as room:
        end_at_once = {"illegal_moves": 2}
        first = await room.ids(game_spec(**end_at_once), EpisodeGroupSpec(size=2))
        await room.step(*(says(episode, "no move") for episode in first))
        await asyncio.sleep(0.4)
        assert len(await room.ids(game_spec(**end_at_once), EpisodeGroupSpec(size=2))) == 2


async def test_a_restarted_room_knows_none_of_the_old_episodes(open_room: OpenRoom) -> None:
    async with open_room() as room:
        old = await room.ids(problem_spec(), GROUP)
    async with open_room() as room:
        new = await room.ids(problem_spec(), GROUP)
        assert not set(old) & set(new)
        results = (await room.step(*(says(episode, "5") for episode in old))).results
        assert {result.error_reason for result in results} == {"EPISODE_NOT_FOUND"}


async def test_a_failed_creation_is_tried_again_when_it_is_repeated(open_room: OpenRoom) -> None:
    async with open_room(max_episodes=2) as room:
        first = await room.ids(problem_spec(), GROUP)
        with pytest.raises(TinsmithError):
            await room.create(problem_spec(), GROUP, request_id="create-1")
        await room.stub.CloseEpisodes(CloseEpisodesRequest(episode_ids=first))
        assert (await room.create(problem_spec(), GROUP, request_id="create-1")).groups


async def test_old_answers_are_forgotten_and_late_ones_are_not(open_room: OpenRoom) -> None:
    async with open_room(remembered_calls=2) as room:
        first, second, third = [
            await room.create(problem_spec(), GROUP, request_id=f"create-{number}") for number in range(3)
        ]
        assert await room.create(problem_spec(), GROUP, request_id="create-2") == third
        assert await room.create(problem_spec(), GROUP, request_id="create-1") == second
        assert await room.create(problem_spec(), GROUP, request_id="create-0") != first


async def test_without_textarena_its_games_say_so_and_problems_work(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X-07: nothing but TextArena's games needs TextArena."""
    monkeypatch.setattr(text_arena, "find_spec", lambda name: None)
    listed = {item.name: item for item in (await room.stub.ListEnvironments(ListEnvironmentsRequest())).environments}
    assert listed["problem"].available
    assert "pip install" in listed["TicTacToe-v0"].unavailable_reason
    with pytest.raises(TinsmithError) as refused:
        await room.create(game_spec(), EpisodeGroupSpec())
    assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "ENVIRONMENT_UNAVAILABLE")
    (episode,) = await room.ids(problem_spec(), EpisodeGroupSpec(problem=problem()))
    assert (await room.step(says(episode, "5"))).results[0].done


async def test_play_answers_each_message_and_closes_its_episodes_at_the_end(room: Room) -> None:
    answers: list[Any] = []
    to_send: asyncio.Queue[PlayRequest | None] = asyncio.Queue()

    async def requests() -> Any:
        while (request := await to_send.get()) is not None:
            yield request

    stream = room.stub.Play(requests())
    await to_send.put(PlayRequest(create=CreateEpisodesRequest(environment=problem_spec(), groups=[GROUP])))
    answers.append(await anext(stream))
    first, second = answers[0].created.groups[0].episode_ids
    await to_send.put(PlayRequest(step=StepRequest(actions=[says(first, "5")])))
    answers.append(await anext(stream))
    assert list(answers[1].stepped.results[0].rewards) == [1.0]
    assert (await room.stub.Observe(ObserveRequest(episode_id=second))).HasField("observation")
    await to_send.put(None)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert await _is_gone(room, first)
    assert await _is_gone(room, second)


async def test_play_closes_its_episodes_when_the_client_dies(room: Room) -> None:
    never = asyncio.Event()

    async def requests() -> Any:
        yield PlayRequest(create=CreateEpisodesRequest(environment=problem_spec(), groups=[GROUP]))
        await never.wait()

    stream = room.stub.Play(requests())
    created = (await anext(stream)).created
    await stream.aclose()
    episode = created.groups[0].episode_ids[0]
    for _ in range(100):
        if await _is_gone(room, episode):
            return
        await asyncio.sleep(0.1)
    pytest.fail("the episode is still there ten seconds after its client went away")


async def test_what_is_served_is_listed_and_what_is_not_says_why(room: Room) -> None:
    """X-01: id, family, seats, status."""
    listed = {item.name: item for item in (await room.stub.ListEnvironments(ListEnvironmentsRequest())).environments}
    available = {name for name, item in listed.items() if item.available}
    assert available == {"problem", "TicTacToe-v0", "TicTacToe-v0-raw", "TicTacToe-v0-train"}
    assert set(listed) - available == {"guess_number", "twenty_questions", "tools"}
    assert all(bool(item.unavailable_reason) != item.available for item in listed.values())
    assert all(listed[name].min_seats == listed[name].max_seats == 2 for name in available - {"problem"})


async def test_lists_come_in_pages_and_by_family(room: Room) -> None:
    games = await room.stub.ListEnvironments(ListEnvironmentsRequest(family="textarena"))
    assert [item.family for item in games.environments] == ["textarena"] * 3
    names: list[str] = []
    token = ""
    while True:
        answer = await room.stub.ListEnvironments(ListEnvironmentsRequest(page_size=2, page_token=token))
        names += [item.name for item in answer.environments]
        assert len(answer.environments) <= 2
        if not (token := answer.next_page_token):
            break
    assert names == sorted(names)
    assert len(names) == 7
    with pytest.raises(TinsmithError) as refused:
        await room.stub.ListEnvironments(ListEnvironmentsRequest(page_token="?"))
    assert refused.value.reason == "BAD_PAGE_TOKEN"


async def _is_gone(room: Room, episode: str) -> bool:
    try:
        await room.stub.Observe(ObserveRequest(episode_id=episode))
    except TinsmithError as error:
        return error.reason == "EPISODE_NOT_FOUND"
    return False


async def _seen(grader: FakeGrader) -> None:
    """Waits until the grader has a call."""
    for _ in range(500):
        if grader.requests:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the grader was not asked")
