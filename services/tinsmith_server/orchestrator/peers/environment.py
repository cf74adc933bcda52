"""The environment: episodes that reward what the model says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith.aio import Suite
from tinsmith.environment.v1 import (
    CreateEpisodesRequest,
    EnvironmentSpec,
    EpisodeEnd,
    EpisodeGroupSpec,
    StepRequest,
    StepResult,
)
from tinsmith.types.v1 import Conversation, Problem
from tinsmith_server.orchestrator.peers.caller import Caller
from tinsmith_server.orchestrator.peers.failures import CallFailed, StateLost
from tinsmith_server.orchestrator.peers.renderer import Said

_LOST = frozenset({"EPISODE_NOT_FOUND", "EPISODE_DONE"})


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeGroups:
    """Episodes that have begun: groups of `group_size`, each over one problem."""

    problems: Sequence[Problem]
    group_size: int
    episode_ids: Sequence[str]
    """Group by group."""
    conversations: Sequence[Conversation]
    """What the model is to answer, one a group."""
    stop_strings: Sequence[str]
    """What ends an answer in any of them, besides the renderer's own."""

    def question(self, group: int) -> str:
        """What is asked in a group, as text."""
        return self.conversations[group].messages[-1].content


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """What came of answers, in their order."""

    rewards: NDArray[np.float64]
    """Total reward of each; NaN where the environment failed."""
    metrics: Mapping[str, NDArray[np.float64]]
    """What the environment measured of each; NaN where it did not."""
    said: Said


class Environment:
    """Begins episodes and acts in them."""

    def __init__(self, suite: Suite, call: Caller, request_id: Callable[[str], str]) -> None:
        self._suite = suite
        self._call = call
        self._request_id = request_id

    async def begin(
        self, spec: EnvironmentSpec, problems: Sequence[Problem], group_size: int, seeds: Sequence[int], *, call: str
    ) -> EpisodeGroups:
        """A group of episodes for each problem, with a seed for each group."""
        groups = [
            EpisodeGroupSpec(seed=seed, size=group_size, problem=problem)
            for seed, problem in zip(seeds, problems, strict=True)
        ]
        request = CreateEpisodesRequest(
            request_id=self._request_id(f"{call}/CreateEpisodes"), environment=spec, groups=groups
        )
        answer = await self._call("environment", self._suite.environment.CreateEpisodes, request)
        return EpisodeGroups(
            problems=problems,
            group_size=group_size,
            episode_ids=[episode_id for group in answer.groups for episode_id in group.episode_ids],
            conversations=[Conversation(messages=group.observation.messages) for group in answer.groups],
            stop_strings=sorted({text for group in answer.groups for text in group.observation.stop_strings}),
        )

    async def act(self, episodes: EpisodeGroups, said: Said, *, call: str) -> Outcomes:
        """Says one message in each episode. StateLost when the environment no longer has an episode."""
        request = StepRequest(request_id=self._request_id(f"{call}/Step"))
        for episode_id, response in zip(episodes.episode_ids, said.responses, strict=True):
            # Filled in place: a list of made messages would be copied into the request, which is half of the work.
            action = request.actions.add()
            action.episode_id = episode_id
            action.message.CopyFrom(response.message)
            action.termination = response.termination
        answer = await self._call("environment", self._suite.environment.Step, request)
        return _outcomes(answer.results, said)


def _outcomes(results: Sequence[StepResult], said: Said) -> Outcomes:
    rewards = np.full(len(results), np.nan)
    columns: dict[str, NDArray[np.float64]] = {}
    for place, result in enumerate(results):
        if result.error_reason:
            kind = StateLost if result.error_reason in _LOST else CallFailed
            raise kind(result.error_reason, f"environment: {result.error_message}")
        if result.end == EpisodeEnd.EPISODE_END_FAILED:
            continue
        rewards[place] = sum(result.rewards)
        metrics = result.metrics
        for name in metrics:  # a map's `items` and `dict` of it take three times as long
            if name not in columns:
                columns[name] = np.full(len(results), np.nan)
            columns[name][place] = metrics[name]
    return Outcomes(rewards=rewards, metrics=columns, said=said)
