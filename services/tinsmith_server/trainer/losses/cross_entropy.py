"""Weighted negative log-likelihood: -sum_t w_t p_t; with K targets a token -sum_t sum_k w_tk p_tk."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tinsmith_server.trainer.losses.base import TARGETS, Columns


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """See the formula above; p is the logprob of a target, w its weight."""

    name: ClassVar[str] = "cross_entropy"
    columns: ClassVar[Mapping[str, type]] = {TARGETS: int, "weights": float}
    many_targets: ClassVar[bool] = True
    by_sequence: ClassVar[bool] = False

    def counts(self, columns: Columns) -> Tensor:
        weighted = columns["weights"] != 0
        return weighted.any(dim=1) if weighted.ndim == 2 else weighted

    def __call__(self, logprobs: Tensor, columns: Columns) -> Tensor:
        return -(columns["weights"] * logprobs).sum()

    def metrics(self, logprobs: Tensor, columns: Columns) -> Mapping[str, float]:
        return {"tokens:sum": float(len(logprobs)), "weights:sum": float(columns["weights"].double().sum())}
