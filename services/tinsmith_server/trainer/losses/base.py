"""What a loss is."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Columns = Mapping[str, Tensor]
"""What a loss reads beside the logprobs, each [tokens] or [tokens, K]."""

TARGETS = "target_tokens"
SEQUENCES = "sequences"
"""Column that the trainer adds for a loss `by_sequence`: the number of each token's sequence in the batch, int64
[tokens], rising. No request can bring it."""


class Loss(Protocol):
    """A sum over tokens of something of each token's logprob, [tokens] or [tokens, K] for K targets a token."""

    name: ClassVar[str]
    columns: ClassVar[Mapping[str, type]]
    """Columns that must be there, with the type of their numbers: int or float."""
    many_targets: ClassVar[bool]
    """Whether a token may have K targets."""

    by_sequence: ClassVar[bool]
    """Whether it reads `SEQUENCES`. A call sees a sequence whole, except for tokens that do not count."""

    def counts(self, columns: Columns) -> Tensor:
        """For each token whether it contributes anything, bool [tokens]. The loss is the same without those that do
        not."""
        ...

    def __call__(self, logprobs: Tensor, columns: Columns) -> Tensor:
        """The loss, a scalar with a gradient."""
        ...

    def metrics(self, logprobs: Tensor, columns: Columns) -> Mapping[str, float]:
        """Other figures of the tokens that count, by name and reduction."""
        ...


_LARGEST_CUT = 80.0
"""exp of it is above any bound that clips, and still finite in float32."""


def log_ratio(logprobs: Tensor, columns: Columns) -> Tensor:
    """p - q of each token, 0 where the advantage is 0: however far apart these are, such a token says nothing, and
    infinity times 0 would."""
    return torch.where(columns["advantages"] != 0, logprobs - columns["logprobs"], 0.0)


def bounded_exp(log_ratios: Tensor, is_clipped_above: Tensor) -> Tensor:
    """exp(p - q). Where it is clipped above in any case it stays finite: the gradient of what overflows is 0 times
    infinity, not 0."""
    return torch.exp(torch.where(is_clipped_above, log_ratios.clamp(max=_LARGEST_CUT), log_ratios))


def policy_metrics(logprobs: Tensor, sampled: Tensor) -> dict[str, float]:
    """How far the model has moved from the sampler that chose the tokens.

    kl_sample_train_v1 is the mean of q - p, v2 that of (q - p)^2 / 2 (Schulman 2020, "Approximating KL divergence").
    """
    if not len(logprobs):
        return {"tokens:sum": 0.0}
    change = sampled.double() - logprobs.double()
    ratio = torch.exp(-change)
    return {
        "tokens:sum": float(len(logprobs)),
        "ratio:mean": float(ratio.mean()),
        "ratio:max": float(ratio.max()),
        "kl_sample_train_v1:mean": float(change.mean()),
        "kl_sample_train_v2:mean": float(change.square().mean() / 2),
        "entropy:mean": float(-sampled.double().mean()),
    }
