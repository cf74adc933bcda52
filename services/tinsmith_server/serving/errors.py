"""Failures that a service means to report. Domain code raises them; one interceptor turns them into a gRPC status."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from grpc import StatusCode


class ServiceError(Exception):
    """A call can't be answered, for a reason that the caller should know.

    The message is one line for people: what, where, how to mend it. `reason` is an UPPER_SNAKE code for programs, and
    every value that the message names belongs in `metadata` too (AIP-193). No path and no secret may be in either.
    """

    code: ClassVar[StatusCode] = StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[tuple[str, str]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata: Mapping[str, str] = metadata or {}
        self.violations = tuple(violations)
        """(path of a field, what is wrong with it), for INVALID_ARGUMENT."""
        self.retry_after_s = retry_after_s
        """Seconds after which a retry may help; None when it would not."""

    def again(self) -> Self:
        """The same error for another caller, without the frames that this one has come through."""
        other = type(self).__new__(type(self), *self.args)
        other.__dict__.update(self.__dict__)
        return other


class InvalidArgument(ServiceError):
    """The request is wrong whatever the state of the service."""

    code = StatusCode.INVALID_ARGUMENT


class NotFound(ServiceError):
    """What the request names is not there."""

    code = StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    """What the request would make is there already."""

    code = StatusCode.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    """The request does not fit the state of the service; a retry does not help before that has changed."""

    code = StatusCode.FAILED_PRECONDITION


class ResourceExhausted(ServiceError):
    """A quota, a queue or a disk is full."""

    code = StatusCode.RESOURCE_EXHAUSTED


class Aborted(ServiceError):
    """The call lost against another one, or came out of order."""

    code = StatusCode.ABORTED


class OutOfRange(ServiceError):
    """The request goes past the end of something."""

    code = StatusCode.OUT_OF_RANGE


class Unavailable(ServiceError):
    """The service, or one behind it, can't be reached now; a retry may help."""

    code = StatusCode.UNAVAILABLE


class DeadlineExceeded(ServiceError):
    """There was not enough time."""

    code = StatusCode.DEADLINE_EXCEEDED


class Unauthenticated(ServiceError):
    """Credentials are missing or wrong."""

    code = StatusCode.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    """The caller may not do this."""

    code = StatusCode.PERMISSION_DENIED


class DataLoss(ServiceError):
    """Stored data are damaged."""

    code = StatusCode.DATA_LOSS


class Unimplemented(ServiceError):
    """The contract has it, this server has not."""

    code = StatusCode.UNIMPLEMENTED


class Internal(ServiceError):
    """An invariant is broken, in a way that the caller may be told about."""

    code = StatusCode.INTERNAL
