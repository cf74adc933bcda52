"""Tic-tac-toe, solved: what may be played on a board, and what is best.

A board is nine cells in reading order, each "X", "O" or " ". Moves are cells, 0 to 8.
"""

from functools import cache
from typing import Any

_LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


def board_of(game_state: Any) -> str:
    """The board of TextArena's game state."""
    return "".join(cell or " " for row in game_state["board"] for cell in row)


def legal_moves(board: str) -> list[int]:
    """The empty cells."""
    return [cell for cell, mark in enumerate(board) if mark == " "]


def best_moves(board: str, mark: str) -> list[int]:
    """The moves of `mark` after which perfect play ends best for it (minimax)."""
    values = {cell: -_value(_placed(board, cell, mark), _other(mark)) for cell in legal_moves(board)}
    best = max(values.values())
    return [cell for cell, value in values.items() if value == best]


@cache
def _value(board: str, mark: str) -> int:
    """How perfect play ends for `mark`, who is to move: 1 won, 0 drawn, -1 lost."""
    if any(all(board[cell] == _other(mark) for cell in line) for line in _LINES):
        return -1
    return max((-_value(_placed(board, cell, mark), _other(mark)) for cell in legal_moves(board)), default=0)


def _placed(board: str, cell: int, mark: str) -> str:
    return board[:cell] + mark + board[cell + 1 :]


def _other(mark: str) -> str:
    return "O" if mark == "X" else "X"
