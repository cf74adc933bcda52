"""Discounted sums of what is still to come: y_t = x_t + gamma y_{t+1}.

Each row is a sequence of its own, each episode of a row too, and so is each stretch of elements that count.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.orchestrator.numerics.backward import summed_backward
from tinsmith_server.orchestrator.numerics.finite import check_finite, float32
from tinsmith_server.orchestrator.ragged import Ragged


def discounted_sums(
    values: Ragged,
    discount: float,
    *,
    counts: NDArray[np.bool_] | None = None,
    ends: NDArray[np.bool_] | None = None,
    allow_nonfinite: bool = False,
) -> NDArray[np.float32]:
    """Rows of [elements, ...] -> float32 of the same shape.

    `counts` and `ends`, bool [elements], say which elements count and which are the last of an episode. What does not
    count is 0, and no sum reaches across it.
    """
    flat: NDArray[Any] = values.flat.astype(np.float64)
    if counts is not None:
        flat[~counts] = 0.0
    if not allow_nonfinite:
        check_finite("values", flat)
    sums = summed_backward(flat, boundaries(values.offsets, counts, ends), discount)
    return float32("values", sums, allow_nonfinite=allow_nonfinite)


def boundaries(
    offsets: NDArray[np.int64], counts: NDArray[np.bool_] | None = None, ends: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Where no sum goes on: the rows' own boundaries, those behind ends, and where counting begins or stops."""
    behind = [offsets]
    if counts is not None:
        behind.append(np.flatnonzero(counts[1:] != counts[:-1]) + 1)
    if ends is not None:
        behind.append(np.flatnonzero(ends) + 1)
    return np.unique(np.concatenate(behind))
