"""Norms of the gradients by the adapter's parameters, of an objective's loss and of each regularizer apart.

The parts are computed one after the other, each with passes of its own, so that asking for the norms changes no bit of
the gradients that are accumulated.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tinsmith_server.trainer.local.evaluation import LOSS
from tinsmith_server.trainer.objective import Objective
from tinsmith_server.trainer.request import ForwardResult


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterNorms:
    """Euclidean norms; those of regularizers before weighting, None where one has no gradient."""

    base: float
    total: float
    terms: tuple[float | None, ...]

    def added_to(self, result: ForwardResult) -> ForwardResult:
        """The result with these norms in it."""
        norms = {"parameter_grad_norm_base:mean": self.base, "parameter_grad_norm_total:mean": self.total}
        reports = tuple(
            replace(report, parameter_grad_norm=norm)
            for report, norm in zip(result.regularizers, self.terms, strict=True)
        )
        return replace(result, metrics={**result.metrics, **norms}, regularizers=reports)


def parameter_norms(objective: Objective, gradients: Tensor, run: Callable[[int], bool]) -> ParameterNorms:
    """`run` adds the gradients of one part, with the weight 1, to `gradients` [size], and says whether it has any;
    `gradients` is as before when this returns."""
    before = gradients.clone()
    try:
        gradients.zero_()
        run(LOSS)
        total, base = gradients.clone(), _norm(gradients)
        terms: list[float | None] = []
        for part, term in enumerate(objective.terms, start=LOSS + 1):
            gradients.zero_()
            has_gradient = run(part)
            terms.append(_norm(gradients) if has_gradient else None)
            total.add_(gradients, alpha=term.weight)
    finally:
        gradients.copy_(before)
    return ParameterNorms(base=base, total=_norm(total), terms=tuple(terms))


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))
