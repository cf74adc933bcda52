"""An episode of a game: the game, and the seats that the server plays in it."""

from collections.abc import Mapping, Sequence
from random import Random

from tinsmith_server.environment.family import EpisodeEnd, Outcome
from tinsmith_server.environment.text_arena_game import Game, Turn
from tinsmith_server.environment.text_arena_setup import SERVED, TextArenaSetup


class Match:
    """One game between seats of the client and seats of the server.

    The server's moves are drawn from (seed of the group, place in the group), its opening moves from the seed alone:
    the episodes of a group begin in the same state and then go their own ways.
    """

    def __init__(self, setup: TextArenaSetup, game: Game, *, seed: int, index: int) -> None:
        self._setup = setup
        self._game = game
        self._opponents = {seat: SERVED[setup.id].players[kind] for seat, kind in setup.opponents}
        self._turns = 0
        with game.in_its_world():
            self._play_opponents(Random(f"{seed} opening"))
            self.opening = game.observe()
            """What the seat to move sees at the beginning."""
        self._draws = Random(f"{seed} {index}")

    def play(self, text: str) -> Outcome:
        """The seat to move says something, and the server's seats answer."""
        with self._game.in_its_world():
            return self._play(text)

    def _play(self, text: str) -> Outcome:
        seat = self._game.seat
        self._turns += 1
        turn = self._game.play(text)
        metrics = {"illegal_move": float(turn.is_illegal)}
        if turn.is_illegal and self._setup.ends_on_illegal_move:
            rewards = [0.0] * self._setup.seats
            rewards[seat] = self._setup.illegal_move_reward
            return self._ended(EpisodeEnd.ILLEGAL_MOVE, rewards, metrics, "illegal move")
        end = EpisodeEnd.ILLEGAL_MOVE if turn.is_illegal else EpisodeEnd.COMPLETED
        if turn.rewards is None:
            turn = self._play_opponents(self._draws) or turn
        if turn.rewards is not None:
            return self._ended(end, turn.rewards, metrics, turn.reason)
        return Outcome(rewards=[0.0] * self._setup.seats, observation=self._game.observe(), metrics=metrics)

    def _play_opponents(self, draws: Random) -> Turn | None:
        """The last of the server's turns until a seat of the client is to move; None when it had none."""
        turn = None
        while (turn is None or turn.rewards is None) and (choose := self._opponents.get(self._game.seat)):
            turn = self._game.play(draws.choice(choose(self._game.game_state, self._game.seat)))
        return turn

    def _ended(self, end: EpisodeEnd, rewards: Sequence[float], metrics: Mapping[str, float], reason: str) -> Outcome:
        return Outcome(
            rewards=rewards, end=end, metrics={**metrics, "turns": float(self._turns)}, logs={"reason": reason}
        )
