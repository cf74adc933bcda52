"""Distance between x and a paired column: mean (x - q)^2, mean |x - q|, 1 - cos(x, q), or the symmetric KL of their
distributions."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tinsmith_server.trainer.regularizers.base import Seen
from tinsmith_server.trainer.regularizers.kl import divergence
from tinsmith_server.trainer.regularizers.settings import word

_CLIP = 100.0
"""Largest log-ratio, as that of the KL regularizer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Consistency:
    """See the formulas above. The means and the vectors are a datum's; a vector without length has cos 0, and no
    gradient."""

    kind: ClassVar[str] = "consistency"
    over_vocabulary: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    metric: str = word("mse", "l1", "cosine", "kl")

    @property
    def of_distributions(self) -> bool | None:
        return True if self.metric == "kl" else None

    def __call__(self, seen: Seen) -> Tensor:
        match self.metric:
            case "mse":
                return seen.mean((seen.x - seen.paired).square())
            case "l1":
                return seen.mean((seen.x - seen.paired).abs())
            case "cosine":
                lengths_S = seen.norm(seen.x) * seen.norm(seen.paired)
                products_S, is_zero = seen.sum(seen.x * seen.paired), lengths_S == 0
                return 1 - torch.where(is_zero, 0.0, products_S) / torch.where(is_zero, 1.0, lengths_S)
            case _:
                logp, logq = seen.distributions(), seen.paired_distributions()
                return seen.mean(divergence(logp, logq, "symmetric", clip=_CLIP))
