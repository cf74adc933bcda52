"""What a regularizer is, and what it sees of the data."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from tinsmith_server.trainer.losses.segments import segment_sum, spread


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """The tokens that a regularizer reads, those of a datum one after the other."""

    x: Tensor
    """Logprobs, floating [N], or [N, outcomes] of K targets or of the vocabulary."""
    reference: Tensor | None
    """Of x's shape; no gradient."""
    lengths_S: Tensor
    """Tokens of each datum, int64, at least 1."""
    numbers_S: Tensor
    """Each datum's place in the call, int64."""
    loss_gradient: Callable[[Tensor], Tensor]
    """Target logprobs of these tokens -> gradient of the call's loss by them, both of x's shape."""

    @property
    def paired(self) -> Tensor:
        """The reference of a regularizer that compares."""
        assert self.reference is not None, "a term is made with the reference that its regularizer needs"
        return self.reference

    def distributions(self) -> Tensor:
        """x as normalised log-probabilities, [N, outcomes]."""
        return torch.log_softmax(self.x, dim=-1)

    def paired_distributions(self) -> Tensor:
        """The reference likewise."""
        return torch.log_softmax(self.paired, dim=-1)

    def sum(self, values: Tensor) -> Tensor:
        """[N, ...] -> sums over each datum, [S]."""
        return segment_sum(values.reshape(len(values), -1).sum(dim=1), self.lengths_S)

    def mean(self, values: Tensor) -> Tensor:
        """[N, ...] -> means over each datum, [S]."""
        return self.sum(values) / (self.lengths_S * math.prod(values.shape[1:]))

    def reduced(self, values: Tensor, reduction: str) -> Tensor:
        """[N, ...] -> "sum" or "mean" over each datum, [S]."""
        return self.sum(values) if reduction == "sum" else self.mean(values)

    def norm(self, values: Tensor) -> Tensor:
        """[N, ...] -> length of each datum's values as one vector, [S]. Its gradient at length 0 is 0."""
        squares_S = self.sum(values.square())
        is_zero = squares_S == 0
        return torch.where(is_zero, torch.ones_like(squares_S), squares_S).sqrt().masked_fill(is_zero, 0.0)

    def spread(self, values_S: Tensor) -> Tensor:
        """Each datum's value beside each of its x, in a shape that broadcasts with it."""
        return spread(values_S, self.lengths_S).reshape(-1, *(1 for _ in self.x.shape[1:]))


class Regularizer(Protocol):
    """A penalty on the logprobs of one datum, summed over data."""

    kind: ClassVar[str]
    over_vocabulary: ClassVar[bool]
    """Whether it can read the distribution over the vocabulary."""

    @property
    def of_distributions(self) -> bool | None:
        """Whether x must be K targets or the vocabulary; None where both will do."""
        ...

    @property
    def compares(self) -> bool:
        """Whether it needs a reference."""
        ...

    def __call__(self, seen: Seen) -> Tensor:
        """The penalty of each datum, [S]."""
        ...


def read_as(x: Tensor, what: str) -> Tensor:
    """ "logprobs" as they are, or as "probs"."""
    return x if what == "logprobs" else x.exp()
