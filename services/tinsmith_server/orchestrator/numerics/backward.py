"""The recurrence y_t = x_t + g y_{t+1}, from the end of each piece of a buffer to its beginning."""

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.orchestrator.ragged import by_length

Floats = NDArray[np.float64]


def summed_backward(values: Floats, boundaries: NDArray[np.int64], factor: float) -> Floats:
    """y of every element of `values`, float64 [elements, ...]; y is 0 behind the end of each piece.

    Piece i is `values[boundaries[i] : boundaries[i + 1]]`. Pieces of the same length go through the filter together.
    """
    sums = np.empty_like(values)
    for length, pieces in by_length(boundaries):
        starts = boundaries[pieces]
        first, last = int(starts[0]), int(starts[-1]) + length
        if last - first == len(starts) * length:  # they lie end to end: no need to gather them
            together = values[first:last].reshape(len(starts), length, *values.shape[1:])
            sums[first:last] = _filtered(together, factor).reshape(-1, *values.shape[1:])
        else:
            places = starts[:, None] + np.arange(length)
            sums[places] = _filtered(values[places], factor)
    return sums


def _filtered(pieces: Floats, factor: float) -> Floats:
    """[pieces, length, ...], each from its end."""
    from scipy.signal import lfilter  # takes a second to import, which only those who sum should wait for

    with np.errstate(over="ignore", invalid="ignore"):
        backward: Floats = lfilter([1.0], [1.0, -factor], pieces[:, ::-1], axis=1)
    return backward[:, ::-1]
