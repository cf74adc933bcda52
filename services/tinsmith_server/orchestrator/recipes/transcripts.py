"""Answers kept to be read."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.orchestrator.active_run import KeptAnswer
from tinsmith_server.orchestrator.recipes.rollout import Rollout


def transcripts(rollout: Rollout, advantages_PG: NDArray[np.float64], groups: int) -> Sequence[KeptAnswer]:
    """The answers of the first groups."""
    episodes, size = rollout.asked.episodes, rollout.group_size
    return [
        KeptAnswer(
            prompt=episodes.question(group),
            response=rollout.outcomes.said.text(group * size + member),
            reference=episodes.problems[group].answer,
            reward=float(rollout.rewards_PG[group, member]),
            advantage=float(advantages_PG[group, member]),
        )
        for group in range(min(groups, len(rollout.prompts_P)))
        for member in range(size)
    ]
