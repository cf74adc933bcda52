"""Jensen-Shannon divergence, KL(p|m) / 2 + KL(q|m) / 2 with m = (p + q) / 2 (Lin 1991, "Divergence Measures Based on
the Shannon Entropy"): symmetric, and at most log 2 even where q has zeros."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tinsmith_server.trainer.regularizers.base import Seen
from tinsmith_server.trainer.regularizers.settings import word


@dataclass(frozen=True, kw_only=True, slots=True)
class JS:
    """See the formula above."""

    kind: ClassVar[str] = "js"
    over_vocabulary: ClassVar[bool] = True
    of_distributions: ClassVar[bool | None] = True
    compares: ClassVar[bool] = True

    reduction: str = word("sum", "mean")

    def __call__(self, seen: Seen) -> Tensor:
        logp, logq = seen.distributions(), seen.paired_distributions()
        logm = torch.logaddexp(logp, logq) - math.log(2)
        # Where q is 0 it adds nothing, though its logarithm is infinite.
        from_q = logq.exp() * (logq.masked_fill(logq == -math.inf, 0.0) - logm)
        values_N = (logp.exp() * (logp - logm) + from_q).sum(dim=-1) / 2
        return seen.reduced(values_N, self.reduction)
