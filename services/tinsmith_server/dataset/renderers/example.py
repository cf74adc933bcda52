"""A rendered conversation with a weight for each token."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One sequence to learn from."""

    tokens: NDArray[np.int32]
    """Token ids, int32 [tokens]."""
    weights: NDArray[np.float32]
    """0 or 1 for each token, float32 [tokens]."""
