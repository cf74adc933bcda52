"""Exceptions as gRPC statuses with google.rpc details."""

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from tinsmith import TinsmithError
from tinsmith_server.serving.errors import ServiceError

DOMAIN = "tinsmith"
DETAILS_KEY = "grpc-status-details-bin"

_log = logging.getLogger(__name__)

_LONGEST_MESSAGE, _LONGEST_VALUE, _MOST_VIOLATIONS = 1000, 400, 8
"""A status travels in trailers, of which clients take 8 kB: a caller's own long text in it must not break them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallStatus:
    """How a call failed, as it goes over the wire."""

    code: grpc.StatusCode
    message: str
    details: Sequence[Message]

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The details, packed as gRPC clients expect them."""
        status = Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = Any()
            packed.Pack(detail)
            status.details.append(packed)
        return ((DETAILS_KEY, status.SerializeToString()),)


def status_of(error: Exception, method: str) -> CallStatus:
    """What a caller may know of an exception: all of a ServiceError, of a failed call of another service what that
    service said, of anything else only an id under which the log has the rest."""
    if isinstance(error, ServiceError):
        violations = error.violations
        details = _details(error.reason, dict(error.metadata), violations, error.retry_after_s)
        return CallStatus(code=error.code, message=_cut(error.message, _LONGEST_MESSAGE), details=details)
    if isinstance(error, TinsmithError):
        violations = tuple((item.field, item.description) for item in error.violations)
        details = _details(error.reason or error.code.name, dict(error.metadata), violations, error.retry_after_s)
        return CallStatus(code=error.code, message=_cut(error.message, _LONGEST_MESSAGE), details=details)
    if isinstance(error, NotImplementedError):  # what generated servicers raise for a method that has no code
        message = f"{method.rpartition('/')[2]} is not implemented yet; the README's status table says what is"
        details = _details("NOT_IMPLEMENTED", {"method": method}, (), None)
        return CallStatus(code=grpc.StatusCode.UNIMPLEMENTED, message=message, details=details)
    number = secrets.token_hex(6)
    _log.error("%s failed, error id %s", method, number, exc_info=error)
    message = f"internal error {number}: the server's log has the details under this id"
    return CallStatus(
        code=grpc.StatusCode.INTERNAL, message=message, details=_details("INTERNAL", {"error_id": number}, (), None)
    )


def _details(
    reason: str, metadata: dict[str, str], violations: Sequence[tuple[str, str]], retry_after_s: float | None
) -> list[Message]:
    short = {name: _cut(value, _LONGEST_VALUE) for name, value in metadata.items()}
    details: list[Message] = [ErrorInfo(reason=reason, domain=DOMAIN, metadata=short)]
    if violations:
        items = [
            BadRequest.FieldViolation(field=_cut(field, _LONGEST_VALUE), description=_cut(text, _LONGEST_VALUE))
            for field, text in violations[:_MOST_VIOLATIONS]
        ]
        details.append(BadRequest(field_violations=items))
    if retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(retry_after_s * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    return details


def _cut(text: str, most_bytes: int) -> str:
    """A text that is at most so long in UTF-8, never ending in half a character."""
    encoded = text.encode(errors="replace")  # half of a character, which JSON can hold, becomes a question mark
    return encoded.decode() if len(encoded) <= most_bytes else encoded[: most_bytes - 3].decode(errors="ignore") + "…"
