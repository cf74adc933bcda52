"""How a call of a run can fail, as its driver sees it."""

from collections.abc import Sequence

import grpc

from tinsmith import TinsmithError
from tinsmith.orchestrator.v1 import RunError
from tinsmith_server.serving.errors import NotFound

_LOST = frozenset(
    {
        "MODEL_NOT_FOUND",
        "MODEL_RELEASED",
        "EPISODE_NOT_FOUND",
        "EPISODE_DONE",
        "CHECKPOINT_NOT_FOUND",
        "SEQUENCE_GAP",
        "SEQUENCE_EXPIRED",
    }
)
"""Reasons that say that a service no longer has what the run built in it."""

_DETERMINISTIC = frozenset({"NON_FINITE_GRADIENT"})
"""Reasons of INTERNAL that come again each time."""

_LOST_CODES = frozenset(
    {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Codes after which nobody knows whether the call took place, or what was stored is damaged."""


class RunCancelled(Exception):
    """Somebody cancelled the run; it ends before its next call."""


class CallFailed(Exception):
    """A call failed in a way that no repetition mends: the run fails."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.error = RunError(reason=reason, message=message)


class StateLost(CallFailed):
    """A service lost what the run had in it: the run goes back to its newest checkpoint."""


def failure_of(service: str, error: TinsmithError) -> CallFailed:
    """What a failed call means for its run."""
    reason = error.reason or error.code.name
    message = f"{service}: {error.message}"
    if reason in _LOST or (error.code in _LOST_CODES and reason not in _DETERMINISTIC):
        return StateLost(reason, message)
    return CallFailed(reason, message)


def check_served(service: str, base_model: str, served: Sequence[str]) -> None:
    """NotFound with reason BASE_MODEL_NOT_FOUND unless the service serves the base model."""
    if base_model not in served:
        raise NotFound(
            f"the {service} has no base model {base_model!r}; it serves {', '.join(served) or 'none'}; "
            "its setting base_models says which",
            reason="BASE_MODEL_NOT_FOUND",
            metadata={"base_model": base_model, "served": ",".join(served)},
        )
