"""lambda (a sum |x| + (1 - a) sum x^2) (Zou and Hastie 2005, "Regularization and Variable Selection via the Elastic
Net")."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tinsmith_server.trainer.regularizers.base import Seen, read_as
from tinsmith_server.trainer.regularizers.settings import number, word


@dataclass(frozen=True, kw_only=True, slots=True)
class ElasticNet:
    """See the formula above; a is `l1_ratio`."""

    kind: ClassVar[str] = "elastic_net"
    over_vocabulary: ClassVar[bool] = True
    of_distributions: ClassVar[bool | None] = None
    compares: ClassVar[bool] = False

    lambda_: float = number(1.0, low=0.0)
    l1_ratio: float = number(0.5, low=0.0, high=1.0)
    reduction: str = word("sum", "mean")
    of: str = word("logprobs", "probs")

    def __call__(self, seen: Seen) -> Tensor:
        x = read_as(seen.x, self.of)
        penalty = self.l1_ratio * x.abs() + (1 - self.l1_ratio) * x.square()
        return self.lambda_ * seen.reduced(penalty, self.reduction)
