"""Games of TextArena, played by the client's seats among themselves or against seats that the server plays."""

import asyncio
import logging
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from tinsmith_server.environment.family import Action, EnvironmentSummary, EpisodeEnd, Group, Outcome, Start
from tinsmith_server.environment.text_arena_game import Game
from tinsmith_server.environment.text_arena_match import Match
from tinsmith_server.environment.text_arena_setup import SERVED, TextArenaSetup, checked, unavailable

_log = logging.getLogger(__name__)

_GAMES_AT_A_TIME = 16  # one or two milliseconds of the event loop; then other calls have their turn
_NOT_INSTALLED = "textarena is not installed: pip install 'tinsmith-server[environment]'"


class TextArenaFamily:
    """TextArena's games. The library takes seconds to load, so it is loaded when a game is first asked for."""

    asks_others = False

    def __init__(self) -> None:
        self._library: asyncio.Task[Any] | None = None

    def summaries(self) -> list[EnvironmentSummary]:
        reason = "" if find_spec("textarena") else _NOT_INSTALLED
        return [
            EnvironmentSummary(
                name=game_id,
                family="textarena",
                description=game.description,
                min_seats=game.min_seats,
                max_seats=game.max_seats,
                unavailable_reason=reason,
            )
            for game_id, game in SERVED.items()
        ]

    async def begin(self, setup: TextArenaSetup, groups: Sequence[Group]) -> list[Start]:
        """Fails as `text_arena_setup.checked` does."""
        library = await self._loaded()
        setup = checked(setup, library.envs.registration.ENV_REGISTRY)
        return [await _start(library, setup, group) for group in groups]

    async def act(self, states: Sequence[Match], actions: Sequence[Action]) -> list[Outcome]:
        outcomes = []
        for place, (match, action) in enumerate(zip(states, actions, strict=True)):
            await _let_others_in(place)
            outcomes.append(_play(match, action.text))
        return outcomes

    async def _loaded(self) -> Any:
        if not find_spec("textarena"):
            raise unavailable("TextArena", _NOT_INSTALLED)
        if self._library is None:
            self._library = asyncio.create_task(asyncio.to_thread(import_module, "textarena"))
        return await asyncio.shield(self._library)


async def _start(library: Any, setup: TextArenaSetup, group: Group) -> Start:
    matches = []
    for index in range(group.size):
        await _let_others_in(index)
        game = Game(library.make, setup.id, seats=setup.seats, seed=group.seed)
        matches.append(Match(setup, game, seed=group.seed, index=index))
    return Start(observation=matches[0].opening, states=matches)


def _play(match: Match, text: str) -> Outcome:
    try:
        return match.play(text)
    except Exception as error:
        # A game is a stranger's code reading a model's text: when it breaks, it ends its own episode and no other.
        _log.warning("a game failed", exc_info=error)
        return Outcome(rewards=(), end=EpisodeEnd.FAILED, logs={"reason": f"GAME_FAILED: {type(error).__name__}"})


async def _let_others_in(place: int) -> None:
    if place % _GAMES_AT_A_TIME == 0:
        await asyncio.sleep(0)
