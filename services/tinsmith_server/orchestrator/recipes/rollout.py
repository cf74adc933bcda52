"""A rollout: problems are asked, the model answers, the environment rewards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.orchestrator.peers import Answers, EpisodeGroups, Outcomes, Peers, Prompts, Weights
from tinsmith_server.orchestrator.ragged import Ragged
from tinsmith_server.orchestrator.recipes.stopwatch import Stopwatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Problems, ready to be answered: P groups of G episodes that have begun."""

    episodes: EpisodeGroups
    prompts: Prompts
    """One a group."""

    def __len__(self) -> int:
        """How many groups there are."""
        return len(self.prompts.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """What came of them. Rows are answers, group by group: P * G."""

    asked: Asked
    answers: Answers
    outcomes: Outcomes

    @property
    def prompts_P(self) -> Ragged:
        """Token ids of the prompts, int32, one row a group."""
        return self.asked.prompts.tokens

    @property
    def group_size(self) -> int:
        return self.asked.episodes.group_size

    @property
    def rewards_PG(self) -> NDArray[np.float64]:
        """Total rewards, float64 [groups, group size]; NaN where the environment failed."""
        return self.outcomes.rewards.reshape(-1, self.group_size)

    @property
    def metrics_N(self) -> Mapping[str, NDArray[np.float64]]:
        """What the environment measured of each answer, float64 [answers]; NaN where it did not."""
        return self.outcomes.metrics


async def answer(
    peers: Peers,
    asked: Asked,
    weights: Weights,
    seeds_P: Sequence[int],
    max_tokens: int,
    temperature: float,
    *,
    call: str,
    watch: Stopwatch,
) -> Rollout:
    """Samples an answer for each episode, reads it as a message and hands it in.

    `call` names the place in the run, so that a repeated call acts only once.
    """
    with watch.span("sample/generate"):
        answers = await peers.sampler.answer(
            weights.sampler_uri,
            asked.prompts,
            num_samples=asked.episodes.group_size,
            seeds=seeds_P,
            max_tokens=max_tokens,
            temperature=temperature,
        )
    with watch.span("sample/parse"):
        said = await peers.renderer.parse(answers.tokens, asked.prompts.format)
    with watch.span("sample/grade"):
        outcomes = await peers.environment.act(asked.episodes, said, call=call)
    return Rollout(asked=asked, answers=answers, outcomes=outcomes)
