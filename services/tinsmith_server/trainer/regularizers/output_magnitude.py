"""(|x| - t)^2, |x| the Euclidean length of a datum's x."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tinsmith_server.trainer.regularizers.base import Seen, read_as
from tinsmith_server.trainer.regularizers.settings import number, word


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputMagnitude:
    """See the formula above."""

    kind: ClassVar[str] = "output_magnitude"
    over_vocabulary: ClassVar[bool] = True
    of_distributions: ClassVar[bool | None] = None
    compares: ClassVar[bool] = False

    target_norm: float = number(1.0, low=0.0)
    of: str = word("logprobs", "probs")

    def __call__(self, seen: Seen) -> Tensor:
        return (seen.norm(read_as(seen.x, self.of)) - self.target_norm).square()
