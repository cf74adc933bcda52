"""The error of weights that answer NaN."""

from tinsmith_server.serving.errors import FailedPrecondition


def diverged() -> FailedPrecondition:
    """For the requests that meet such weights."""
    return FailedPrecondition(
        "the model's logits are not finite; the checkpoint's weights have diverged, use an earlier one",
        reason="WEIGHTS_NOT_FINITE",
    )
