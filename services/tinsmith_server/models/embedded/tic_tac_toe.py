"""Tic-tac-toe positions as prompts: TextArena's two forms of its TicTacToe-v0, and a shorter one of our own."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
_MARKS = ("O", "X")
"""Of player 0, who begins, and of player 1."""


@dataclass(frozen=True, slots=True)
class Position:
    """What the player to move is shown, and which squares are free."""

    prompt: str
    free: Sequence[int]


def random_game(random: Random, *, most_moves: int) -> tuple[int, ...]:
    """The squares of 0 to `most_moves` random legal moves that leave the game undecided and a square free."""
    while True:
        moves = tuple(random.sample(range(9), random.randint(0, most_moves)))
        if not _decided(moves):
            return moves


def compact_prompt(moves: Sequence[int]) -> Position:
    """The board by rows, a free square as its number, and whose move it is."""
    squares = _squares(moves)
    rows = "\n".join(" ".join(squares[start : start + 3]) for start in (0, 3, 6))
    return Position(f"Tic-tac-toe\n{rows}\nYou are {_MARKS[len(moves) % 2]}.", _free(moves))


def last_board_prompt(moves: Sequence[int]) -> Position:
    """TicTacToe-v0-train: the rules, the moves in words, the last board."""
    told = "\n".join(_told(number, square) for number, square in enumerate(moves))
    return Position(f"{_rules(len(moves) % 2)}\n\n{told}\n\n{_board(moves)}", _free(moves))


def history_prompt(moves: Sequence[int]) -> Position:
    """TicTacToe-v0: the rules, then every board and every move, as they came."""
    lines = [f"\n[GAME] {_rules(len(moves) % 2)}", f"[GAME] {_board(())}"]
    for number, square in enumerate(moves):
        lines.append(f"[Player {number % 2}] [{square}]")
        lines.append(f"[GAME] {_told(number, square)}")
        lines.append(f"[GAME] {_board(moves[: number + 1])}")
    return Position("\n".join(lines), _free(moves))


def _decided(moves: Sequence[int]) -> bool:
    own = set(moves[0::2]), set(moves[1::2])
    return any(squares.issuperset(line) for squares in own for line in _LINES)


def _squares(moves: Sequence[int]) -> list[str]:
    marks = {square: _MARKS[number % 2] for number, square in enumerate(moves)}
    return [marks.get(square, str(square)) for square in range(9)]


def _free(moves: Sequence[int]) -> list[int]:
    return [square for square in range(9) if square not in moves]


def _rules(player: int) -> str:
    return (
        f"You are Player {player} in Tic Tac Toe.\n"
        "Your goal is to win three in a row (horizontally, vertically, or diagonally) on the board.\n"
        "On your turn, you should select the square number (0-8) you want to put your mark in next.\n"
        "For example, '[4]' places your mark in the center cell of the board.\n\n"
        f"As Player {player}, you will be '{_MARKS[player]}', while your opponent is '{_MARKS[1 - player]}'.\n"
    )


def _told(number: int, square: int) -> str:
    return f"Player {number % 2} placed their symbol ({_MARKS[number % 2]}) in cell {square}."


def _board(moves: Sequence[int]) -> str:
    squares = _squares(moves)
    rows = "\n---+---+---\n".join("|".join(f" {mark} " for mark in squares[start : start + 3]) for start in (0, 3, 6))
    free = ", ".join(f"'[{square}]'" for square in _free(moves))
    return f"Current Board:\n\n{rows}\n\nAvailable Moves: {free}"
