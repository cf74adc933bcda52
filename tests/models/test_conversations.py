"""The warm-up's conversations are right, and those about games are the games' own."""

import re
from collections import Counter
from random import Random

import pytest
import textarena

from tinsmith_server.models.embedded import tic_tac_toe
from tinsmith_server.models.embedded.conversations import addition, compact_board, full_board


def test_additions_are_right_in_whatever_style() -> None:
    random, styles = Random(0), Counter[str]()
    for _ in range(2000):
        conversation = addition(random)
        a, b = map(int, re.findall(r"\d+", conversation.prompt[-1].content))
        numbers = re.findall(r"\d+", conversation.answer)
        assert not numbers or int(numbers[-1]) == a + b
        styles[re.sub(r"\d+", "#", conversation.answer)] += 1
    shares = {style: count / 2000 for style, count in styles.items()}
    expected = {"#": 0.3, "The answer is #.": 0.25, "I do not know.": 0.25, "# + # = #": 0.2}
    assert shares == pytest.approx(expected, abs=0.04)


def test_a_fifth_of_the_additions_follow_the_example() -> None:
    random = Random(0)
    lengths = Counter(len(addition(random).prompt) for _ in range(2000))
    assert lengths[3] / 2000 == pytest.approx(0.2, abs=0.04)
    assert lengths.keys() == {1, 3}


def test_moves_are_free_squares() -> None:
    random = Random(0)
    for _ in range(200):
        board = compact_board(random)
        [rows] = re.findall(r"\n(.*\n.*\n.*)\nYou are", board.prompt[0].content)
        assert board.answer[1:-1] in rows.split()
        board = full_board(random)
        assert f"'{board.answer}'" in board.prompt[0].content.rsplit("Available Moves: ", 1)[1]


@pytest.mark.parametrize(
    ("environment", "prompt"),
    [("TicTacToe-v0", tic_tac_toe.history_prompt), ("TicTacToe-v0-train", tic_tac_toe.last_board_prompt)],
)
def test_prompts_are_those_of_textarena(environment: str, prompt: object) -> None:
    random = Random(0)
    for number in range(30):
        moves = tic_tac_toe.random_game(random, most_moves=8)
        game = textarena.make(environment)
        game.reset(num_players=2, seed=number)
        for move in moves:
            game.get_observation()
            finished, _ = game.step(f"[{move}]")
            assert not finished
        player, observation = game.get_observation()
        assert callable(prompt)
        position = prompt(moves)
        assert position.prompt == observation
        assert player == len(moves) % 2
        assert sorted(position.free) == sorted(set(range(9)) - set(moves))
