"""Entropy of each token's distribution, H = -sum_v p_v log p_v with p = softmax(x / temperature)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tinsmith_server.trainer.regularizers.base import Seen
from tinsmith_server.trainer.regularizers.settings import number, word


@dataclass(frozen=True, kw_only=True, slots=True)
class Entropy:
    """-H where it is to grow, H where it is to shrink."""

    kind: ClassVar[str] = "entropy"
    over_vocabulary: ClassVar[bool] = True
    of_distributions: ClassVar[bool | None] = True
    compares: ClassVar[bool] = False

    mode: str = word("maximize", "minimize")
    temperature: float = number(1.0, low=1e-6)
    normalize: float = number(0.0, low=0.0, high=1.0)
    """1 divides by the log of the number of outcomes, which is the largest entropy there is."""
    reduction: str = word("sum", "mean")

    def __call__(self, seen: Seen) -> Tensor:
        logp = torch.log_softmax(seen.x / self.temperature, dim=-1)
        entropy_N = -(logp.exp() * logp).sum(dim=-1)
        # One outcome alone has entropy 0, however it is scaled.
        largest = math.log(max(seen.x.shape[-1], 2)) if self.normalize else 1.0
        sign = -1.0 if self.mode == "maximize" else 1.0
        return sign / largest * seen.reduced(entropy_N, self.reduction)
