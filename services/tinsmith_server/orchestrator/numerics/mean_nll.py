"""Weighted mean negative log-likelihood: -sum(l w) / sum(w)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.orchestrator.numerics.finite import check_finite


def mean_nll(logprobs: NDArray[Any], weights: NDArray[Any]) -> tuple[float | None, float]:
    """The mean, None when the weights sum to 0, and that sum. Both arrays are [tokens].

    A token of weight 0 does not count, whatever its logprob is: 0 times minus infinity would be NaN.
    """
    check_finite("weights", weights)
    counted = weights != 0
    logprobs, weights = logprobs[counted].astype(np.float64), weights[counted].astype(np.float64)
    check_finite("logprobs", logprobs)
    total = float(weights.sum())
    return (-float(logprobs @ weights) / total if total else None), total
