"""KL divergence between the model's p and a reference q.

Of distributions: KL(p|q) = sum_v p_v (log p_v - log q_v) forward, KL(q|p) reverse, their mean symmetric. Log-ratios are
clipped, so that an outcome that q does not have costs a bounded amount.

Of one sampled token each, with d = log p - log q forward (tokens sampled from p), d = log q - log p reverse (tokens
sampled from q): k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d (Schulman 2020, "Approximating KL divergence").
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tinsmith_server.trainer.regularizers.base import Seen
from tinsmith_server.trainer.regularizers.settings import number, word


@dataclass(frozen=True, kw_only=True, slots=True)
class KL:
    """See the formulas above."""

    kind: ClassVar[str] = "kl"
    over_vocabulary: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    direction: str = word("forward", "reverse", "symmetric")
    estimator: str = word("auto", "full", "k1", "k2", "k3")
    """auto: "full" of distributions, "k3" of sampled tokens."""
    clip: float = number(100.0, low=0.0)
    reduction: str = word("sum", "mean")

    @property
    def of_distributions(self) -> bool | None:
        if self.estimator != "auto":
            return self.estimator == "full"
        return True if self.direction == "symmetric" else None

    def __call__(self, seen: Seen) -> Tensor:
        if seen.x.ndim == 1:
            values_N = self._of_tokens(seen.x, seen.paired)
        else:
            values_N = divergence(seen.distributions(), seen.paired_distributions(), self.direction, clip=self.clip)
        return seen.reduced(values_N, self.reduction)

    def _of_tokens(self, x: Tensor, q: Tensor) -> Tensor:
        d = (x - q if self.direction == "forward" else q - x).clamp(-self.clip, self.clip)
        match self.estimator:
            case "k1":
                return d
            case "k2":
                return d.square() / 2
            case _:
                return (-d).expm1() + d


def divergence(logp: Tensor, logq: Tensor, direction: str, *, clip: float) -> Tensor:
    """KL of normalised log-probabilities [N, outcomes] -> [N]; q may have zeros."""
    ratio = (logp - logq).clamp(-clip, clip)
    match direction:
        case "forward":
            return (logp.exp() * ratio).sum(dim=-1)
        case "reverse":
            return -(logq.exp() * ratio).sum(dim=-1)
        case _:
            return ((logp.exp() - logq.exp()) * ratio).sum(dim=-1) / 2
