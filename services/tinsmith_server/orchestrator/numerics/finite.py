"""Values that numbers can be made of."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.serving.errors import InvalidArgument


def check_finite(field: str, values: NDArray[Any]) -> None:
    """InvalidArgument with reason NOT_FINITE when one of the values is NaN or infinite."""
    bad = ~np.isfinite(values)
    if bad.any():
        description = f"{int(bad.sum())} of {bad.size} values are NaN, infinite or too large for float32"
        raise InvalidArgument(
            f"{field}: {description}",
            reason="NOT_FINITE",
            metadata={"field": field},
            violations=[(field, description)],
        )


def float32(field: str, values: NDArray[np.float64], *, allow_nonfinite: bool = False) -> NDArray[np.float32]:
    """The values as the wire has them. InvalidArgument with reason NOT_FINITE when one does not fit."""
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    if not allow_nonfinite:
        check_finite(field, narrow)
    return narrow
