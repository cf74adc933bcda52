"""Direct preference optimization (Rafailov et al. 2023).

    m_i = beta ((c_i - c_ref_i) - (r_i - r_ref_i)),   loss = -mean log sigmoid(m_i)

c and r are sums of the logprobs of the chosen and the rejected answer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PreferenceLoss:
    """Loss and rewards of pairs, float64 [pairs]."""

    losses: Floats
    chosen_rewards: Floats
    rejected_rewards: Floats
    chosen_gradient: Floats
    """d (mean of losses) / d c; that of r is its negative."""

    @property
    def loss(self) -> float:
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Fraction of pairs in which the chosen answer has the greater reward."""
        return float((self.chosen_rewards > self.rejected_rewards).mean())

    @property
    def margin(self) -> float:
        """Mean difference of the rewards."""
        return float((self.chosen_rewards - self.rejected_rewards).mean())


def dpo_loss(
    chosen: Floats, rejected: Floats, reference_chosen: Floats, reference_rejected: Floats, beta: float
) -> PreferenceLoss:
    """The loss of at least one pair, from sums of logprobs, [pairs] each."""
    chosen_rewards = beta * (chosen - reference_chosen)
    rejected_rewards = beta * (rejected - reference_rejected)
    margins = chosen_rewards - rejected_rewards
    return PreferenceLoss(
        losses=-log_sigmoid(margins),
        chosen_rewards=chosen_rewards,
        rejected_rewards=rejected_rewards,
        chosen_gradient=-beta * np.exp(log_sigmoid(-margins)) / len(margins),
    )


def log_sigmoid(x: Floats) -> Floats:
    """log(1 / (1 + exp(-x))), which is x where exp(-x) would overflow."""
    result: Floats = -np.logaddexp(0.0, -x)
    return result
