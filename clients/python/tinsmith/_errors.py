"""Failed calls as one exception."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

_DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """What is wrong with one field of a request."""

    field: str
    """Path of the field, for example `loss.ppo.clip_low`."""
    description: str


class TinsmithError(Exception):
    """A call failed.

    `code` says what kind of failure it is, `reason` says which, as an upper-case code that programs may rely on;
    the message is for people.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata: Mapping[str, str] = metadata or {}
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s
        """Seconds after which a retry may help; None when it would not."""

    def __str__(self) -> str:
        return f"{self.message} [{self.reason or self.code.name}]"

    def __reduce__(self) -> tuple[object, ...]:
        state = (self.message, self.code, self.reason, dict(self.metadata), self.violations, self.retry_after_s)
        return _rebuild, state


def _rebuild(
    message: str,
    code: grpc.StatusCode,
    reason: str,
    metadata: Mapping[str, str],
    violations: Sequence[FieldViolation],
    retry_after_s: float | None,
) -> TinsmithError:
    return TinsmithError(
        message, code=code, reason=reason, metadata=metadata, violations=violations, retry_after_s=retry_after_s
    )


class FailedCall(Protocol):
    """What `grpc.RpcError` is when a call raised it, sync or aio."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> object: ...


def error_of(call: FailedCall) -> TinsmithError:
    """The failure of a gRPC call with the details that its trailing metadata carries."""
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    has_retry = False
    for detail in _status(call).details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
        has_retry = detail.Unpack(retry) or has_retry
    return TinsmithError(
        call.details() or call.code().name,
        code=call.code(),
        reason=info.reason,
        metadata=dict(info.metadata),
        violations=[FieldViolation(item.field, item.description) for item in bad_request.field_violations],
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if has_retry else None,
    )


def _status(call: FailedCall) -> Status:
    metadata = call.trailing_metadata()
    for key, value in metadata or ():  # type: ignore[attr-defined]  # pairs, sync and aio alike
        if key == _DETAILS:
            return Status.FromString(value)
    return Status()
