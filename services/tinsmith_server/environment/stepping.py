"""A batch of actions: each refused in its place, or taken by its family together with the family's others."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tinsmith_server.environment.episodes import Episode, Episodes, not_found_message
from tinsmith_server.environment.family import Action, EpisodeEnd, Family, Outcome
from tinsmith_server.serving.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why an action was not taken."""

    reason: str
    message: str


async def step(episodes: Episodes, actions: Sequence[Action]) -> list[Outcome | Refusal]:
    """Acts; one result an action, in order.

    When a service that a family asks is away, the error of that call is raised and no episode has moved.
    InvalidArgument with reason DUPLICATE_EPISODE when two actions are for one episode.
    """
    _refuse_duplicates(actions)
    await episodes.at_rest(action.episode_id for action in actions)
    found = [_find(episodes, action) for action in actions]
    taken = [episode for episode in found if isinstance(episode, Episode)]
    with episodes.claimed(taken):
        outcomes = await _act(found, actions)
        for episode, outcome in zip(found, outcomes, strict=True):
            if isinstance(episode, Episode) and isinstance(outcome, Outcome):
                episode.steps += 1
                episode.observation = outcome.observation
    return outcomes


def _refuse_duplicates(actions: Sequence[Action]) -> None:
    counts = Counter(action.episode_id for action in actions)
    if len(counts) == len(actions):
        return
    twice = next(episode_id for episode_id, count in counts.items() if count > 1)
    raise InvalidArgument(
        f"episode {twice!r} has {counts[twice]} actions; a call takes at most one for an episode",
        reason="DUPLICATE_EPISODE",
        metadata={"episode_id": twice},
        violations=[("actions", f"more than one for episode {twice!r}")],
    )


def _find(episodes: Episodes, action: Action) -> Episode | Refusal:
    episode = episodes.get(action.episode_id)
    if episode is None:
        return Refusal(reason="EPISODE_NOT_FOUND", message=not_found_message(action.episode_id))
    if episode.observation is None:
        return Refusal(reason="EPISODE_DONE", message=f"episode {action.episode_id!r} is over; begin another")
    if action.seat != episode.observation.seat:
        return Refusal(
            reason="WRONG_SEAT",
            message=f"seat {action.seat} acted and it is the turn of seat {episode.observation.seat}",
        )
    return episode


async def _act(found: Sequence[Episode | Refusal], actions: Sequence[Action]) -> list[Outcome | Refusal]:
    # An outcome takes the place of its episode; refusals are in theirs already.
    results: list[Episode | Outcome | Refusal] = list(found)
    for family, places in _by_family(found):
        states = [episode.state for _, episode in places]
        outcomes = await family.act(states, [actions[place] for place, _ in places])
        for (place, episode), outcome in zip(places, outcomes, strict=True):
            results[place] = _limited(episode, outcome)
    return [result for result in results if not isinstance(result, Episode)]


def _by_family(found: Sequence[Episode | Refusal]) -> Iterator[tuple[Family, list[tuple[int, Episode]]]]:
    """Those first that may fail as a whole: what fails before anything has moved can be repeated."""
    places: dict[int, list[tuple[int, Episode]]] = {}
    for place, episode in enumerate(found):
        if isinstance(episode, Episode):
            places.setdefault(id(episode.family), []).append((place, episode))
    families = [(members[0][1].family, members) for members in places.values()]
    return iter(sorted(families, key=lambda item: not item[0].asks_others))


def _limited(episode: Episode, outcome: Outcome) -> Outcome:
    if outcome.end is None and 0 < episode.max_steps <= episode.steps + 1:
        return replace(outcome, end=EpisodeEnd.MAX_STEPS, observation=None)
    return outcome
