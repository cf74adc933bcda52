"""lambda sum clip(x - c)^2, where c is a value or the mean of the datum's x."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tinsmith_server.trainer.regularizers.base import Seen, read_as
from tinsmith_server.trainer.regularizers.settings import number, word


@dataclass(frozen=True, kw_only=True, slots=True)
class L2:
    """See the formula above. The gradient goes through the mean too."""

    kind: ClassVar[str] = "l2"
    over_vocabulary: ClassVar[bool] = True
    of_distributions: ClassVar[bool | None] = None
    compares: ClassVar[bool] = False

    lambda_: float = number(1.0, low=0.0)
    clip: float | None = number(None, low=0.0)
    """Largest |x - c|; what is beyond has no gradient."""
    center: float = number(0.0)
    around: str = word("value", "mean")
    reduction: str = word("sum", "mean")
    of: str = word("logprobs", "probs")

    def __call__(self, seen: Seen) -> Tensor:
        x = read_as(seen.x, self.of)
        away = x - (self.center if self.around == "value" else seen.spread(seen.mean(x)))
        if self.clip is not None:
            away = away.clamp(-self.clip, self.clip)
        return self.lambda_ * seen.reduced(away.square(), self.reduction)
