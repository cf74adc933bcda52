"""Generalized advantage estimation (Schulman et al. 2016).

    d_t = r_t + gamma V_{t+1} - V_t
    A_t = d_t + gamma lambda A_{t+1}

With lambda = 1 and V = 0 these are discounted sums of rewards.
"""

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.orchestrator.numerics.backward import summed_backward
from tinsmith_server.orchestrator.numerics.discounted_sums import boundaries
from tinsmith_server.orchestrator.numerics.finite import check_finite, float32
from tinsmith_server.orchestrator.ragged import Ragged


def generalized_advantages(
    rewards: Ragged,
    values: Ragged,
    bootstrap: NDArray[np.float64],
    *,
    discount: float,
    trace: float,
    ends: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Advantages A and returns A + V, float32 [elements] each.

    `rewards` and `values` have the same boundaries; `bootstrap`, [rows], is the value behind each row; `trace` is
    lambda. Behind an element of `ends`, bool [elements], an episode is over: the value there is 0.
    """
    for field, numbers in (("rewards", rewards.flat), ("values", values.flat), ("bootstrap_values", bootstrap)):
        check_finite(field, numbers)
    values_E = values.flat.astype(np.float64)
    errors_E = rewards.flat + discount * _next_values(values_E, rewards.offsets, bootstrap, ends) - values_E
    advantages_E = summed_backward(errors_E, boundaries(rewards.offsets, ends=ends), discount * trace)
    return float32("rewards", advantages_E), float32("rewards", advantages_E + values_E)


def _next_values(
    values_E: NDArray[np.float64],
    offsets: NDArray[np.int64],
    bootstrap: NDArray[np.float64],
    ends: NDArray[np.bool_] | None,
) -> NDArray[np.float64]:
    """V_{t+1} of each element."""
    next_E = np.append(values_E[1:], 0.0)[: len(values_E)]
    filled = np.diff(offsets) > 0
    next_E[offsets[1:][filled] - 1] = bootstrap[filled]
    return next_E if ends is None else np.where(ends, 0.0, next_E)
