"""Group-relative advantages: a reward is judged against its own group.

A_i = R_i - mean(R of the group). No division by the standard deviation and no length term (Liu et al. 2025,
"Understanding R1-Zero-Like Training", argue that both bias the gradient).
"""

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.orchestrator.ragged import Ragged, by_length


def group_advantages(rewards_PG: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rewards, float64 [problems, group] -> advantages of the same shape; each group's sum to zero.

    NaN is an answer without a reward, because its environment failed: it counts in no mean and its advantage is 0.
    """
    rewarded_PG = ~np.isnan(rewards_PG)
    sums_P = np.where(rewarded_PG, rewards_PG, 0.0).sum(axis=1)
    means_P = sums_P / np.maximum(rewarded_PG.sum(axis=1), 1)
    return np.where(rewarded_PG, rewards_PG - means_P[:, None], 0.0)


def is_constant(rewards_PG: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which groups have one reward in all of their answers, or none, bool [problems]: nothing can be learnt of them."""
    least_P = np.where(np.isnan(rewards_PG), np.inf, rewards_PG).min(axis=1)
    most_P = np.where(np.isnan(rewards_PG), -np.inf, rewards_PG).max(axis=1)
    return np.asarray(least_P >= most_P)


def of_uneven_groups(rewards: Ragged) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The same for groups of any sizes, one a row: advantages [answers], and which groups are constant [groups]."""
    advantages_N = np.zeros(len(rewards.flat))
    constant_P = np.ones(len(rewards), np.bool_)
    for size, groups in by_length(rewards.offsets):
        places_PG = rewards.offsets[groups][:, None] + np.arange(size)
        rewards_PG = rewards.flat[places_PG].astype(np.float64)
        advantages_N[places_PG] = group_advantages(rewards_PG)
        constant_P[groups] = is_constant(rewards_PG)
    return advantages_N, constant_P
