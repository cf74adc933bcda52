"""Policy gradient with importance weights: -sum_t r_t A_t with r = exp(p - q).

p is the model's logprob of the sampled token, q the sampler's, A the advantage.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tinsmith_server.trainer.losses.base import TARGETS, Columns, log_ratio, policy_metrics


@dataclass(frozen=True, slots=True)
class ImportanceSampling:
    """See the formula above."""

    name: ClassVar[str] = "importance_sampling"
    columns: ClassVar[Mapping[str, type]] = {TARGETS: int, "logprobs": float, "advantages": float}
    many_targets: ClassVar[bool] = False
    by_sequence: ClassVar[bool] = False

    def counts(self, columns: Columns) -> Tensor:
        return columns["advantages"] != 0

    def __call__(self, logprobs: Tensor, columns: Columns) -> Tensor:
        return -(torch.exp(log_ratio(logprobs, columns)) * columns["advantages"]).sum()

    def metrics(self, logprobs: Tensor, columns: Columns) -> Mapping[str, float]:
        return policy_metrics(logprobs, columns["logprobs"])
