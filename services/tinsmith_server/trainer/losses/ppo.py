"""Clipped policy gradient: -sum_t min(r_t A_t, clip(r_t, low, high) A_t) with r = exp(p - q).

Schulman et al. 2017, "Proximal Policy Optimization Algorithms"; the bounds are those of r itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tinsmith_server.trainer.losses.base import TARGETS, Columns, bounded_exp, log_ratio, policy_metrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Ppo:
    """See the formula above."""

    name: ClassVar[str] = "ppo"
    columns: ClassVar[Mapping[str, type]] = {TARGETS: int, "logprobs": float, "advantages": float}
    many_targets: ClassVar[bool] = False
    by_sequence: ClassVar[bool] = False

    clip_low: float = 0.8
    clip_high: float = 1.2

    def counts(self, columns: Columns) -> Tensor:
        return columns["advantages"] != 0

    def __call__(self, logprobs: Tensor, columns: Columns) -> Tensor:
        advantages = columns["advantages"]
        ratio = bounded_exp(log_ratio(logprobs, columns), advantages > 0)
        clipped = ratio.clamp(self.clip_low, self.clip_high)
        return -torch.minimum(ratio * advantages, clipped * advantages).sum()

    def metrics(self, logprobs: Tensor, columns: Columns) -> Mapping[str, float]:
        ratio = torch.exp(logprobs - columns["logprobs"])
        up = (columns["advantages"] > 0) & (ratio > self.clip_high)
        down = (columns["advantages"] < 0) & (ratio < self.clip_low)
        clipped = {"clipped:mean": float((up | down).double().mean())} if len(ratio) else {}
        return {**policy_metrics(logprobs, columns["logprobs"]), **clipped}
