"""lambda sum |x|."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tinsmith_server.trainer.regularizers.base import Seen, read_as
from tinsmith_server.trainer.regularizers.settings import number, word


@dataclass(frozen=True, kw_only=True, slots=True)
class L1:
    """See the formula above."""

    kind: ClassVar[str] = "l1"
    over_vocabulary: ClassVar[bool] = True
    of_distributions: ClassVar[bool | None] = None
    compares: ClassVar[bool] = False

    lambda_: float = number(1.0, low=0.0)
    reduction: str = word("sum", "mean")
    of: str = word("logprobs", "probs")

    def __call__(self, seen: Seen) -> Tensor:
        return self.lambda_ * seen.reduced(read_as(seen.x, self.of).abs(), self.reduction)
