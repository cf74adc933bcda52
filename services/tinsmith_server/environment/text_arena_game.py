"""One game of TextArena, which shares nothing with its host or with other games.

TextArena's games seed and draw from Python's global random generator, and some print. So every call of a game swaps
in the game's own generator state and catches its output. That is only sound while nothing else of the process runs,
so games are called on the event loop's thread, for microseconds at a time.
"""

import io
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from tinsmith.types.v1 import Message
from tinsmith_server.environment.family import Observation

# Python refuses to read numbers of more than 4300 digits, and games read what a model writes.
_ENDLESS_NUMBER = re.compile(r"(\d{100})\d+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What came of a move."""

    is_illegal: bool
    rewards: Sequence[float] | None
    """One a seat; None while the game goes on."""
    reason: str = ""
    """Why the game ended, in the game's words."""


class Game:
    """A game that has begun."""

    def __init__(self, make: Callable[[str], Any], game_id: str, *, seats: int, seed: int) -> None:
        self._random: tuple[Any, ...] | None = None
        self._seats = seats
        self._conversations: dict[int, list[Message]] = {seat: [] for seat in range(seats)}
        with self.in_its_world():
            self._env = make(game_id)
            self._env.reset(num_players=seats, seed=seed)

    @property
    def seat(self) -> int:
        """The seat to move."""
        return int(self._env.state.current_player_id)

    @property
    def game_state(self) -> Any:
        """TextArena's own state of the game."""
        return self._env.state.game_state

    def play(self, text: str) -> Turn:
        """The seat to move says something. Inside `in_its_world`."""
        seat, state = self.seat, self._env.state
        done, _ = self._env.step(_ENDLESS_NUMBER.sub(r"\1", text))
        # Not "the same seat is still to move": some games give a seat several legal moves in a row.
        is_illegal = state.error_count > 0 or bool(state.game_info[seat]["invalid_move"])
        if not done:
            return Turn(is_illegal=is_illegal, rewards=None)
        rewards = [float(state.rewards[each]) for each in range(self._seats)]
        return Turn(is_illegal=is_illegal, rewards=rewards, reason=str(state.game_info[seat]["reason"]))

    def observe(self) -> Observation:
        """What the seat to move sees. Once a turn: TextArena shows a message only once. Inside `in_its_world`."""
        seat, seen = self._env.get_observation()
        if isinstance(seen, str):
            return Observation(seat=seat, messages=(Message(role="user", content=seen),), stop_strings=("]\n",))
        conversation = self._conversations[seat]
        conversation += [self._message(seat, sender, text) for sender, text, _ in seen]
        return Observation(seat=seat, messages=tuple(conversation), stop_strings=("]\n",))

    def _message(self, seat: int, sender: int, text: str) -> Message:
        if sender == seat:
            return Message(role="assistant", content=text)
        return Message(role="user", name=str(self._env.state.role_mapping[sender]), content=text)

    @contextmanager
    def in_its_world(self) -> Iterator[None]:
        """The game's random state in place of the host's, and its output caught. Takes 40 microseconds."""
        of_host = random.getstate()
        if self._random is not None:
            random.setstate(self._random)
        try:
            with redirect_stdout(io.StringIO()):
                yield
        finally:
            self._random = random.getstate()
            random.setstate(of_host)
