"""The episodes that live here: made, found, claimed by the call that acts in them, and freed."""

import asyncio
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tinsmith_server.environment.family import Family, Observation, Start
from tinsmith_server.serving import visible_owner
from tinsmith_server.serving.errors import NotFound, ResourceExhausted


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits on an episode."""

    max_steps: int = 0
    """0: none."""
    idle_timeout_s: float | None = None
    """None: the room's setting."""


@dataclass(kw_only=True, slots=True)
class Episode:
    """One episode. It is over when it has no observation."""

    id: str
    family: Family
    state: Any
    observation: Observation | None
    max_steps: int
    idle_timeout_s: float
    last_used: float
    owner: str = ""
    """The tenant whose it is; empty where no API keys are asked for."""
    steps: int = 0
    acting: "asyncio.Future[None] | None" = None
    """Set while a call acts in it; done when that call lets it go."""


class Episodes:
    """The table of episodes, by id. Those of other tenants are not there for the present caller."""

    def __init__(self, *, max_episodes: int, idle_timeout_s: float, done_timeout_s: float) -> None:
        self._max_episodes = max_episodes
        self._idle_timeout_s = idle_timeout_s
        self._done_timeout_s = done_timeout_s
        self._by_id: dict[str, Episode] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def make_room(self, wanted: int) -> None:
        """ResourceExhausted with reason TOO_MANY_EPISODES when so many more do not fit."""
        if len(self._by_id) + wanted > self._max_episodes:
            self.expire()
        free = self._max_episodes - len(self._by_id)
        if wanted > free:
            raise ResourceExhausted(
                f"{wanted} episodes are asked for and {free} of {self._max_episodes} are free; close episodes with "
                "CloseEpisodes, ask for fewer, or raise the setting max_episodes",
                reason="TOO_MANY_EPISODES",
                metadata={"wanted": str(wanted), "free": str(free), "max_episodes": str(self._max_episodes)},
                retry_after_s=1.0 if wanted <= self._max_episodes else None,
            )

    def add(self, family: Family, starts: Sequence[Start], limits: Limits) -> list[list[str]]:
        """Adds the episodes of the groups; their ids, group by group."""
        # Ids of a process that has ended must never name an episode of the next one.
        prefix, now, number = secrets.token_hex(8), time.monotonic(), 0
        idle_timeout_s = self._idle_timeout_s if limits.idle_timeout_s is None else limits.idle_timeout_s
        owner = visible_owner() or ""
        groups = []
        for start in starts:
            ids = [f"{prefix}-{number + place}" for place in range(len(start.states))]
            for episode_id, state in zip(ids, start.states, strict=True):
                self._by_id[episode_id] = Episode(
                    id=episode_id,
                    family=family,
                    state=state,
                    observation=start.observation,
                    max_steps=limits.max_steps,
                    idle_timeout_s=idle_timeout_s,
                    last_used=now,
                    owner=owner,
                )
            number += len(ids)
            groups.append(ids)
        return groups

    def get(self, episode_id: str) -> Episode | None:
        """The episode, unless it was closed or nobody has touched it for too long."""
        episode = self._by_id.get(episode_id)
        if episode is not None and self._is_old(episode, time.monotonic()):
            del self._by_id[episode_id]
            return None
        return episode if episode is not None and visible_owner() in (None, episode.owner) else None

    def observe(self, episode_id: str) -> Observation | None:
        """What the seat to move sees; None when the episode is over. NotFound with reason EPISODE_NOT_FOUND."""
        episode = self.get(episode_id)
        if episode is None:
            raise NotFound(
                not_found_message(episode_id), reason="EPISODE_NOT_FOUND", metadata={"episode_id": episode_id}
            )
        episode.last_used = time.monotonic()
        return episode.observation

    async def at_rest(self, episode_ids: Iterable[str]) -> None:
        """Waits until no call acts in any of the episodes. The caller may claim them if it does not await before."""
        while busy := {episode.acting for episode in self._known(episode_ids) if episode.acting is not None}:
            await asyncio.wait(busy)

    @contextmanager
    def claimed(self, episodes: Sequence[Episode]) -> Iterator[None]:
        """Keeps other calls from acting in the episodes, and the episodes from expiring."""
        acting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for episode in episodes:
            episode.acting = acting
        try:
            yield
        finally:
            now = time.monotonic()
            for episode in episodes:
                episode.acting, episode.last_used = None, now
            acting.set_result(None)

    def close(self, episode_ids: Iterable[str]) -> int:
        """Frees episodes; how many of them were not over."""
        freed = list(self._known(set(episode_ids)))
        for episode in freed:
            del self._by_id[episode.id]
        return sum(episode.observation is not None for episode in freed)

    def expire(self) -> None:
        """Frees episodes that nobody has touched for too long."""
        now = time.monotonic()
        old = [episode.id for episode in self._by_id.values() if self._is_old(episode, now)]
        for episode_id in old:
            del self._by_id[episode_id]

    def _is_old(self, episode: Episode, now: float) -> bool:
        if episode.acting is not None:
            return False
        limit_s = episode.idle_timeout_s
        if episode.observation is None:
            limit_s = min(limit_s, self._done_timeout_s)
        return now - episode.last_used > limit_s

    def _known(self, episode_ids: Iterable[str]) -> Iterator[Episode]:
        viewer = visible_owner()
        found = (self._by_id[episode_id] for episode_id in episode_ids if episode_id in self._by_id)
        return (episode for episode in found if viewer in (None, episode.owner))


def not_found_message(episode_id: str) -> str:
    return f"there is no episode {episode_id!r}: it was closed, was idle for too long, or its process has restarted"
