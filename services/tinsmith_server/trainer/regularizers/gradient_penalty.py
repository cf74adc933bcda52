"""(|g| - t)^2, where g is the gradient of a function f of a datum's target logprobs by them, at x or at a point between
x and a reference (Gulrajani et al. 2017, "Improved Training of Wasserstein GANs")."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tinsmith_server.trainer.regularizers.base import Seen
from tinsmith_server.trainer.regularizers.settings import number, word


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientPenalty:
    """f is the call's loss or the sum of x. The penalty's own gradient is that of g: a linear f has a constant g, and a
    penalty without gradient."""

    kind: ClassVar[str] = "gradient_penalty"
    over_vocabulary: ClassVar[bool] = False
    of_distributions: ClassVar[bool | None] = None

    function: str = word("loss", "sum")
    at: str = word("output", "interpolated")
    target_norm: float = number(1.0, low=0.0)
    seed: float = number(0.0, low=0.0, high=2.0**53)

    @property
    def compares(self) -> bool:
        return self.at == "interpolated"

    def __call__(self, seen: Seen) -> Tensor:
        point = seen.x if self.at == "output" else self._between(seen)
        gradient = torch.ones_like(point) if self.function == "sum" else seen.loss_gradient(point)
        return (seen.norm(gradient) - self.target_norm).square()

    def _between(self, seen: Seen) -> Tensor:
        """e x + (1 - e) q with an e in [0, 1) a datum, which depends on the seed and the datum's place in the call."""
        draws = np.random.default_rng(int(self.seed)).random(int(seen.numbers_S.max()) + 1)
        drawn = torch.from_numpy(draws).to(seen.x)[seen.numbers_S]
        share = seen.spread(drawn)
        return share * seen.x + (1 - share) * seen.paired
