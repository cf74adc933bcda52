"""Direct reward optimization: -sum_t (p_t A_t - beta / 2 (p_t - q_t)^2).

Richemond et al. 2024, "Offline Regularised Reinforcement Learning for Large Language Models Alignment", whose objective
is a policy gradient that a squared log-ratio keeps near the sampler; here token by token.

The square does not vanish with the advantage, so a sampled token without advantage counts too. A token whose advantage
and q are both 0 was not sampled (the prompt): it does not count, or its p would be drawn to 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tinsmith_server.trainer.losses.base import TARGETS, Columns, policy_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Dro:
    """See the formula above."""

    name: ClassVar[str] = "dro"
    columns: ClassVar[Mapping[str, type]] = {TARGETS: int, "logprobs": float, "advantages": float}
    many_targets: ClassVar[bool] = False
    by_sequence: ClassVar[bool] = False

    beta: float = 0.05

    def counts(self, columns: Columns) -> Tensor:
        return (columns["advantages"] != 0) | (columns["logprobs"] != 0)

    def __call__(self, logprobs: Tensor, columns: Columns) -> Tensor:
        square = (logprobs - columns["logprobs"]).square() * self.counts(columns)
        return -(logprobs * columns["advantages"] - self.beta / 2 * square).sum()

    def metrics(self, logprobs: Tensor, columns: Columns) -> Mapping[str, float]:
        return policy_metrics(logprobs, columns["logprobs"])
