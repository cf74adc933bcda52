"""What an answer had when it was put back to make room for others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupted:
    """Enough to go on as if nothing had happened, once its tokens have been read again."""

    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    told: int
    """Tokens that the job knows of."""
