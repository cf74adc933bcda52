"""Sequence-level clipped policy gradient: -sum_t min(s A_t, clip(s, low, high) A_t), where s = exp(mean_t (p_t - q_t))
is the geometric mean of r = exp(p - q) over the token's sequence.

Zheng et al. 2025, "Group Sequence Policy Optimization"; the gradient goes through s, so every token of a sequence has
the same. The sum is over tokens, where the paper takes a mean over sequences of terms that are one a sequence.

A sequence is a datum, and of it those tokens count, in the mean as in the sum, whose advantage is not 0: neither the
prompt nor what an environment said between two turns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tinsmith_server.trainer.losses.base import SEQUENCES, TARGETS, Columns, bounded_exp, log_ratio, policy_metrics
from tinsmith_server.trainer.losses.segments import segment_sum


@dataclass(frozen=True, kw_only=True, slots=True)
class Gspo:
    """See the formula above; the bounds are those of s itself."""

    name: ClassVar[str] = "gspo"
    columns: ClassVar[Mapping[str, type]] = {TARGETS: int, "logprobs": float, "advantages": float}
    many_targets: ClassVar[bool] = False
    by_sequence: ClassVar[bool] = True

    clip_low: float = 0.9997
    clip_high: float = 1.0004

    def counts(self, columns: Columns) -> Tensor:
        return columns["advantages"] != 0

    def __call__(self, logprobs: Tensor, columns: Columns) -> Tensor:
        changes_S, lengths_S = self._mean_changes(logprobs, columns)
        # s is positive, so the smaller of s A and clip(s) A is A times the smaller where A > 0, the larger where A < 0.
        gains_S = segment_sum(columns["advantages"].clamp(min=0), lengths_S)
        costs_S = segment_sum(columns["advantages"].clamp(max=0), lengths_S)
        upper_S = bounded_exp(changes_S, torch.ones_like(changes_S, dtype=torch.bool)).clamp(max=self.clip_high)
        lower_S = bounded_exp(changes_S, costs_S == 0).clamp(min=self.clip_low)
        return -(upper_S * gains_S + lower_S * costs_S).sum()

    def metrics(self, logprobs: Tensor, columns: Columns) -> Mapping[str, float]:
        changes_S, lengths_S = self._mean_changes(logprobs, columns)
        ratio = changes_S.exp().repeat_interleave(lengths_S)
        up = (columns["advantages"] > 0) & (ratio > self.clip_high)
        down = (columns["advantages"] < 0) & (ratio < self.clip_low)
        clipped = {"clipped:mean": float((up | down).double().mean())} if len(ratio) else {}
        return {**policy_metrics(logprobs, columns["logprobs"]), **clipped}

    def _mean_changes(self, logprobs: Tensor, columns: Columns) -> tuple[Tensor, Tensor]:
        """The logarithm of each sequence's s, 0 where no token counts, and how many tokens of it are here, both
        [sequences]."""
        counted = self.counts(columns).to(logprobs.dtype)
        lengths_S = torch.bincount(columns[SEQUENCES])
        changes_S = segment_sum(log_ratio(logprobs, columns), lengths_S)
        return changes_S / segment_sum(counted, lengths_S).clamp(min=1), lengths_S
