"""Which of TextArena's games are served, and what a client may ask of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from tinsmith_server.environment import tic_tac_toe
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument, NotFound

DEFAULT_ILLEGAL_MOVE_REWARD = -2.0


class OpponentKind(Enum):
    """How the server plays a seat."""

    RANDOM = auto()
    OPTIMAL = auto()
    MODEL = auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class TextArenaSetup:
    """A game and who plays it."""

    id: str
    seats: int = 0
    """0: the fewest that the game takes."""
    ends_on_illegal_move: bool = False
    """Else the game's own rule decides."""
    illegal_move_reward: float = DEFAULT_ILLEGAL_MOVE_REWARD
    opponents: Sequence[tuple[int, OpponentKind]] = ()
    """(seat, how the server plays it)."""
    options: Mapping[str, object] = field(default_factory=dict)


Choose = Callable[[Any, int], Sequence[str]]
"""(TextArena's game state, the seat to move) -> the moves of which one is drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedGame:
    """A game that this room serves."""

    description: str
    min_seats: int
    max_seats: int
    players: Mapping[OpponentKind, Choose]


def _any_cell(game_state: Any, seat: int) -> list[str]:
    return [f"[{cell}]" for cell in tic_tac_toe.legal_moves(tic_tac_toe.board_of(game_state))]


def _best_cell(game_state: Any, seat: int) -> list[str]:
    mark = "X" if seat == 1 else "O"
    return [f"[{cell}]" for cell in tic_tac_toe.best_moves(tic_tac_toe.board_of(game_state), mark)]


def _tic_tac_toe(shown: str) -> ServedGame:
    return ServedGame(
        description=f"tic-tac-toe; a seat sees {shown}",
        min_seats=2,
        max_seats=2,
        players={OpponentKind.RANDOM: _any_cell, OpponentKind.OPTIMAL: _best_cell},
    )


SERVED: Mapping[str, ServedGame] = {
    "TicTacToe-v0": _tic_tac_toe("the whole history as one message"),
    "TicTacToe-v0-raw": _tic_tac_toe("every message of the game and of both seats by itself"),
    "TicTacToe-v0-train": _tic_tac_toe("the rules, what happened and the board as one message"),
}
"""By TextArena's id. The others of its games come when what they need is there: a watchdog above all."""


def checked(setup: TextArenaSetup, known: Mapping[str, object]) -> TextArenaSetup:
    """The setup with its seats counted, if it can be played here; `known` are the ids that TextArena has.

    NotFound with reason ENVIRONMENT_NOT_FOUND; FailedPrecondition with reason ENVIRONMENT_UNAVAILABLE;
    InvalidArgument with reason BAD_SEATS or BAD_OPTIONS.
    """
    if setup.id not in known:
        raise NotFound(
            f"TextArena has no game {setup.id!r}; ListEnvironments with family textarena lists those served",
            reason="ENVIRONMENT_NOT_FOUND",
            metadata={"environment": setup.id},
        )
    game = SERVED.get(setup.id)
    if game is None:
        raise unavailable(setup.id, f"of TextArena's games this release serves {', '.join(SERVED)}")
    if setup.options:
        raise _bad("BAD_OPTIONS", "options_json", f"{setup.id} takes no options, and got {', '.join(setup.options)}")
    setup = replace(setup, seats=setup.seats or game.min_seats)
    if not game.min_seats <= setup.seats <= game.max_seats:
        raise _bad("BAD_SEATS", "seats", f"{setup.id} takes {game.min_seats} to {game.max_seats}, not {setup.seats}")
    _check_opponents(setup, game)
    return setup


def unavailable(environment: str, why: str) -> FailedPrecondition:
    """The environment exists and can't run here."""
    return FailedPrecondition(
        f"{environment} can't run here: {why}",
        reason="ENVIRONMENT_UNAVAILABLE",
        metadata={"environment": environment},
    )


def _check_opponents(setup: TextArenaSetup, game: ServedGame) -> None:
    seats = [seat for seat, _ in setup.opponents]
    beyond = [seat for seat in seats if seat >= setup.seats]
    if beyond:
        raise _bad("BAD_SEATS", "opponents", f"there is no seat {beyond[0]}; seats are 0 to {setup.seats - 1}")
    if len(set(seats)) < len(seats):
        raise _bad("BAD_SEATS", "opponents", "a seat has two of them")
    if len(seats) == setup.seats:
        raise _bad("BAD_SEATS", "opponents", "they take every seat; one must be left for the client")
    for _, kind in setup.opponents:
        if kind not in game.players:
            known = ", ".join(known.name for known in game.players)
            raise unavailable(setup.id, f"this release has no {kind.name} opponent, only {known}")


def _bad(reason: str, field_name: str, text: str) -> InvalidArgument:
    path = f"environment.text_arena.{field_name}"
    return InvalidArgument(f"{path}: {text}", reason=reason, violations=[(path, text)])
