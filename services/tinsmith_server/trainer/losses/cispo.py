"""Policy gradient with a clipped, detached importance weight: -sum_t sg(clip(r_t, low, high)) p_t A_t with
r = exp(p - q) and sg the stop-gradient.

MiniMax 2025, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention". Unlike PPO's, a token whose
r is clipped keeps its gradient, with the bound as its weight. The sum is over tokens, where the paper takes a mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tinsmith_server.trainer.losses.base import TARGETS, Columns, log_ratio, policy_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Cispo:
    """See the formula above; the bounds are those of r itself."""

    name: ClassVar[str] = "cispo"
    columns: ClassVar[Mapping[str, type]] = {TARGETS: int, "logprobs": float, "advantages": float}
    many_targets: ClassVar[bool] = False
    by_sequence: ClassVar[bool] = False

    clip_low: float = 0.0
    clip_high: float = 4.0

    def counts(self, columns: Columns) -> Tensor:
        return columns["advantages"] != 0

    def __call__(self, logprobs: Tensor, columns: Columns) -> Tensor:
        ratio = torch.exp(log_ratio(logprobs.detach(), columns))
        return -(ratio.clamp(self.clip_low, self.clip_high) * columns["advantages"] * logprobs).sum()

    def metrics(self, logprobs: Tensor, columns: Columns) -> Mapping[str, float]:
        ratio = torch.exp(logprobs - columns["logprobs"])
        outside = (ratio < self.clip_low) | (ratio > self.clip_high)
        clipped = {"clipped:mean": float(outside.double().mean())} if len(ratio) else {}
        return {**policy_metrics(logprobs, columns["logprobs"]), **clipped}
