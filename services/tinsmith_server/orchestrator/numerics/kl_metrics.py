"""How far the logprobs of two models are apart on the same tokens.

    v1 = mean(q - p),   v2 = mean((q - p)^2) / 2,   entropy = mean(-q)

q are the logprobs of the model that sampled the tokens (Schulman 2020, "Approximating KL Divergence").
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class KlMetrics:
    """Means over tokens."""

    v1: float
    v2: float


def kl_metrics(sampler_logprobs: NDArray[Any], trainer_logprobs: NDArray[Any]) -> KlMetrics | None:
    """q and p of the tokens that count, [tokens] each; None without tokens."""
    if not len(sampler_logprobs):
        return None
    differences = sampler_logprobs.astype(np.float64) - trainer_logprobs
    return KlMetrics(v1=float(differences.mean()), v2=float((differences**2).mean() / 2))


def entropy(sampler_logprobs: NDArray[Any]) -> float | None:
    """mean(-q) over the tokens that count, [tokens]; None without tokens."""
    return -float(sampler_logprobs.mean(dtype=np.float64)) if len(sampler_logprobs) else None
