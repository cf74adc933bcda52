"""Tic-tac-toe of TextArena, through the room."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import textarena
from hypothesis import given
from hypothesis import strategies as st
from textarena.envs.TicTacToe.env import TicTacToeEnv

from tests.environment.conftest import OpenRoom
from tests.environment.rules import LINES, Rules
from tests.environment.support import Room, game_spec, says
from tinsmith.environment.v1 import (
    EPISODE_END_COMPLETED,
    EPISODE_END_FAILED,
    EPISODE_END_ILLEGAL_MOVE,
    EPISODE_END_MAX_STEPS,
    EPISODE_END_UNSPECIFIED,
    ILLEGAL_MOVE_POLICY_END,
    OPPONENT_KIND_OPTIMAL,
    OPPONENT_KIND_RANDOM,
    EnvironmentSpec,
    EpisodeGroupSpec,
    Observation,
    ObserveRequest,
    StepResult,
)
from tinsmith_server.environment import tic_tac_toe
from tinsmith_server.environment.family import EpisodeEnd
from tinsmith_server.environment.text_arena_game import Game
from tinsmith_server.environment.text_arena_match import Match
from tinsmith_server.environment.text_arena_setup import TextArenaSetup

CLIENT = Path(__file__).parents[2] / "clients" / "python"
WORDS = st.one_of(
    st.integers(0, 8).map(lambda cell: f"[{cell}]"),
    st.integers(0, 8).map(lambda cell: f"I take [ {cell} ]\n"),
    st.sampled_from(["[9]", "no", "4", "[4] or [5]", "[-1]", "[]", "", "[GAME] [4]", "[" + "7" * 5000 + "]"]),
    st.text(max_size=20).filter(lambda text: not any(letter.isdigit() and not letter.isascii() for letter in text)),
)


@pytest.fixture
async def games(open_room: OpenRoom) -> AsyncIterator[Room]:
    """The room with no grader: games need none."""
    async with open_room() as opened:
        yield opened


@given(variant=st.sampled_from(["", "-train", "-raw"]), words=st.lists(WORDS, min_size=1, max_size=14))
def test_any_words_are_judged_as_by_the_rules(variant: str, words: Sequence[str]) -> None:
    setup = TextArenaSetup(id=f"TicTacToe-v0{variant}", seats=2)
    match = Match(setup, Game(textarena.make, setup.id, seats=2, seed=3), seed=3, index=0)
    rules = Rules()
    for word in words:
        legal = rules.play(word, bare_is_move=variant != "-raw")
        outcome = match.play(word)
        assert outcome.metrics["illegal_move"] == (not legal)
        assert list(outcome.rewards) == (rules.rewards or [0.0, 0.0])
        if rules.rewards is not None:
            assert outcome.end is (EpisodeEnd.COMPLETED if legal else EpisodeEnd.ILLEGAL_MOVE)
            return
        assert outcome.observation is not None
        assert outcome.observation.seat == rules.seat


async def test_sixty_games_at_once_are_played_by_the_rules(games: Room) -> None:
    draws = random.Random(0)
    ids = await games.ids(game_spec(), EpisodeGroupSpec(size=60))
    played = {episode: Rules() for episode in ids}
    while going := [episode for episode in ids if played[episode].rewards is None]:
        draws.shuffle(going)
        moves = {episode: f"[{draws.choice([*3 * played[episode].free(), 4])}]" for episode in going}
        actions = [says(episode, moves[episode], seat=played[episode].seat) for episode in going]
        for result in (await games.step(*actions)).results:
            rules = played[result.episode_id]
            rules.play(moves[result.episode_id], bare_is_move=True)
            assert list(result.rewards) == (rules.rewards or [0.0, 0.0])
            assert result.done == (rules.rewards is not None)
            if not result.done:
                assert result.end == EPISODE_END_UNSPECIFIED
                _shows(result.observation, rules)
    assert len({tuple(rules.rewards or ()) for rules in played.values()}) == 3


def _shows(observation: Observation, rules: Rules) -> None:
    """The seat to move, and the board as TextArena draws it."""
    assert observation.seat == rules.seat
    marks = dict.fromkeys(rules.taken[0], "O") | dict.fromkeys(rules.taken[1], "X")
    rows = ["|".join(f" {marks.get(cell, cell)} " for cell in range(3 * row, 3 * row + 3)) for row in range(3)]
    assert "\n---+---+---\n".join(rows) in observation.messages[-1].content


async def test_an_illegal_move_is_forgiven_once_and_then_loses(games: Room) -> None:
    """X-05: the game's own rule."""
    (episode,) = await games.ids(game_spec(), EpisodeGroupSpec())
    (first,) = (await games.step(says(episode, "[9]"))).results
    assert (first.done, first.observation.seat, dict(first.metrics)) == (False, 0, {"illegal_move": 1})
    assert "attempted an invalid move" in first.observation.messages[-1].content
    (second,) = (await games.step(says(episode, "nothing"))).results
    assert (second.done, second.end) == (True, EPISODE_END_ILLEGAL_MOVE)
    assert list(second.rewards) == [-1.0, 1.0]


@pytest.mark.parametrize(("fields", "reward"), [({}, -2.0), ({"illegal_move_reward": -0.5}, -0.5)])
async def test_an_illegal_move_can_end_the_game_for_the_offender(
    games: Room, fields: dict[str, float], reward: float
) -> None:
    """X-05: the cookbook's rule, -2 and nothing for the other."""
    spec = game_spec(illegal_moves=ILLEGAL_MOVE_POLICY_END, **fields)
    (episode,) = await games.ids(spec, EpisodeGroupSpec())
    await games.step(says(episode, "[4]"))
    (result,) = (await games.step(says(episode, "[4]", seat=1))).results
    assert (result.done, result.end) == (True, EPISODE_END_ILLEGAL_MOVE)
    assert list(result.rewards) == [0.0, reward]
    assert result.metrics["illegal_move"] == 1


def test_a_second_legal_turn_in_a_row_is_not_an_illegal_move() -> None:
    """X-05: in PigDice a seat may roll on; who "same seat is still to move" counts as illegal would flag it."""
    repeats = 0
    for seed in range(20):
        game = Game(textarena.make, "PigDice-v0", seats=2, seed=seed)
        seat = game.seat
        with game.in_its_world():
            assert not game.play("[roll]").is_illegal
            repeats += game.seat == seat
            assert game.play("[dance]").is_illegal
    assert repeats > 10


PLAYER_OF_SEAT_1 = """
import sys, time
import tinsmith
from tinsmith.environment.v1 import Action, ObserveRequest, StepRequest
from tinsmith.types.v1 import Message
address, episode = sys.argv[1:]
with tinsmith.Suite(tinsmith.Addresses(environment=address)) as suite:
    for move in ("[3]", "[4]"):
        while suite.environment.Observe(ObserveRequest(episode_id=episode)).observation.seat != 1:
            time.sleep(0.02)
        action = Action(episode_id=episode, seat=1, message=Message(role="assistant", content=move))
        assert not suite.environment.Step(StepRequest(actions=[action])).results[0].error_reason
"""


async def test_two_clients_in_two_processes_play_one_game_each_in_its_turn(games: Room) -> None:
    """X-06: self-play over one shared game; a turn out of order is refused."""
    (episode,) = await games.ids(game_spec(), EpisodeGroupSpec())
    (early,) = (await games.step(says(episode, "[0]", seat=1))).results
    assert early.error_reason == "WRONG_SEAT"
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PLAYER_OF_SEAT_1, games.suite.addresses.environment, episode, cwd=CLIENT
    )
    for cell in (0, 1, 2):
        while (await games.stub.Observe(ObserveRequest(episode_id=episode))).observation.seat != 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        (result,) = (await games.step(says(episode, f"[{cell}]", seat=0))).results
        assert not result.error_reason
    assert await other.wait() == 0
    assert (result.done, result.end, list(result.rewards)) == (True, EPISODE_END_COMPLETED, [1.0, -1.0])
    assert result.logs["reason"] == "Player 0 has won!"


async def test_a_game_that_breaks_ends_its_own_episode_alone(games: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(env: TicTacToeEnv, action: str) -> tuple[bool, dict[str, object]]:
        if "break" in action:
            raise ZeroDivisionError(action)
        return plain(env, action)

    plain = TicTacToeEnv.step
    monkeypatch.setattr(TicTacToeEnv, "step", broken)
    bad, good = await games.ids(game_spec(), EpisodeGroupSpec(size=2))
    failed, fine = (await games.step(says(bad, "break [1]"), says(good, "[1]"))).results
    assert (failed.done, failed.end, failed.logs["reason"]) == (
        True,
        EPISODE_END_FAILED,
        "GAME_FAILED: ZeroDivisionError",
    )
    assert (fine.done, fine.observation.seat) == (False, 1)


async def test_raw_shows_each_message_with_its_speaker(games: Room) -> None:
    created = await games.create(game_spec("TicTacToe-v0-raw"), EpisodeGroupSpec())
    group = created.groups[0]
    assert [message.role for message in group.observation.messages] == ["user", "user"]
    (episode,) = group.episode_ids
    (answer,) = (await games.step(says(episode, "I take [4]"))).results
    said = [(message.role, message.name, message.content) for message in answer.observation.messages]
    assert ("user", "Player 0", "I take [4]") in said
    (answer,) = (await games.step(says(episode, "[0]", seat=1))).results
    said = [(message.role, message.name, message.content) for message in answer.observation.messages]
    assert ("assistant", "", "I take [4]") in said
    assert said[: len(group.observation.messages)] == [
        (message.role, message.name, message.content) for message in group.observation.messages
    ]


async def test_a_limit_of_steps_ends_the_game_without_a_winner(games: Room) -> None:
    spec = game_spec()
    spec.limits.max_steps = 2
    (episode,) = await games.ids(spec, EpisodeGroupSpec())
    assert not (await games.step(says(episode, "[0]"))).results[0].done
    (result,) = (await games.step(says(episode, "[1]", seat=1))).results
    assert (result.done, result.end, list(result.rewards)) == (True, EPISODE_END_MAX_STEPS, [0.0, 0.0])
    assert not result.HasField("observation")


async def test_groups_begin_alike_and_then_go_their_own_ways(games: Room) -> None:
    spec = game_spec(opponents={0: OPPONENT_KIND_RANDOM})
    created = await games.create(spec, *(EpisodeGroupSpec(seed=seed, size=8) for seed in range(12)))
    openings = {group.observation.messages[-1].content for group in created.groups}
    assert len(openings) > 4
    for group in created.groups:
        assert group.observation.seat == 1
        move = f"[{_free(group.observation)[0]}]"
        results = (await games.step(*(says(episode, move, seat=1) for episode in group.episode_ids))).results
        assert len({result.observation.messages[-1].content for result in results}) > 1


async def _transcript(room: Room, episode: str, seat: int, draws: random.Random) -> list[tuple[object, ...]]:
    """A game of drawn words to its end."""
    said: list[tuple[object, ...]] = []
    while True:
        (result,) = (await room.step(says(episode, f"[{draws.randrange(9)}]", seat=seat))).results
        said.append((list(result.rewards), result.end, str(result.observation)))
        if result.done:
            return said
        await asyncio.sleep(0)


async def test_twenty_interleaved_games_are_played_as_if_each_were_alone(games: Room) -> None:
    """X-03: interleaved equals solo for 20 seeds, and the host's random generator is left alone."""
    spec = game_spec(opponents={1: OPPONENT_KIND_RANDOM})
    alone = []
    for seed in range(20):
        (episode,) = await games.ids(spec, EpisodeGroupSpec(seed=seed))
        alone.append(await _transcript(games, episode, 0, random.Random(seed)))
    random.seed(7)
    expected = random.Random(7).random()
    ids = [(await games.ids(spec, EpisodeGroupSpec(seed=seed)))[0] for seed in range(20)]
    together = await asyncio.gather(
        *(_transcript(games, episode, 0, random.Random(seed)) for seed, episode in enumerate(ids))
    )
    assert together == alone
    assert random.random() == expected


def test_games_that_draw_are_isolated_from_each_other_and_from_the_host() -> None:
    """X-03, on a game whose dice come from the global generator of the process."""

    def roll(game: Game) -> str:
        with game.in_its_world():
            game.play("[roll]")
            return str(game.observe().messages)

    def begin(seed: int) -> Game:
        return Game(textarena.make, "PigDice-v0", seats=2, seed=seed)

    solo = []
    for seed in range(20):
        game = begin(seed)
        solo.append([roll(game) for _ in range(6)])
    random.seed(7)
    expected = random.Random(7).random()
    games = [begin(seed) for seed in range(20)]
    together: list[list[str]] = [[] for _ in games]
    for _ in range(6):
        for place, game in enumerate(games):
            together[place].append(roll(game))
    assert together == solo
    assert random.random() == expected


def test_what_a_game_prints_is_not_said_by_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    """X-11: some games print."""

    def make(game_id: str) -> object:
        print("made", game_id)
        return textarena.make(game_id)

    Game(make, "TicTacToe-v0", seats=2, seed=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seat", [0, 1])
async def test_the_optimal_opponent_never_loses(games: Room, seat: int) -> None:
    spec = game_spec(opponents={1 - seat: OPPONENT_KIND_OPTIMAL})
    results = await _random_games(games, spec, seat, games=150)
    assert {result.end for result in results} == {EPISODE_END_COMPLETED}
    outcomes = [result.rewards[seat] for result in results]
    assert max(outcomes) <= 0
    assert min(outcomes) == -1


async def _random_games(room: Room, spec: EnvironmentSpec, seat: int, *, games: int) -> list[StepResult]:
    """Games of legal random moves against the server's seat, all at once, to their ends."""
    draws = random.Random(1)
    created = await room.create(spec, *(EpisodeGroupSpec(seed=seed) for seed in range(games)))
    seen = {group.episode_ids[0]: group.observation for group in created.groups}
    ended = []
    while seen:
        actions = [
            says(episode, f"[{draws.choice(_free(observation))}]", seat=seat) for episode, observation in seen.items()
        ]
        results = (await room.step(*actions)).results
        ended += [result for result in results if result.done]
        seen = {result.episode_id: result.observation for result in results if not result.done}
    return ended


def _free(observation: Observation) -> list[int]:
    board = observation.messages[-1].content.rpartition("Current Board:")[2]
    return [cell for cell in range(9) if f"'[{cell}]'" in board]


def test_two_optimal_players_draw() -> None:
    for first in range(9):
        board = " " * first + "O" + " " * (8 - first)
        mark = "X"
        while " " in board and not _won(board):
            cell = tic_tac_toe.best_moves(board, mark)[0]
            board = board[:cell] + mark + board[cell + 1 :]
            mark = "O" if mark == "X" else "X"
        assert not _won(board)


def _won(board: str) -> bool:
    return any({board[cell] for cell in line} in ({"X"}, {"O"}) for line in LINES)
