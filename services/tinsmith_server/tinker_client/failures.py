"""What the SDK raises, as errors of ours. The only file that knows both."""

import re
from collections.abc import Callable, Iterator, Mapping

import tinker
from tinker.lib.retryable_exception import RetryableException
from tinker.types import RequestErrorCategory

from tinsmith_server.serving.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)
from tinsmith_server.tinker_client.patience import GaveUp

Missing = Callable[[str], NotFound]
"""The error of what the service does not find, made of what it says."""

_RETRY_AFTER_S = 5.0
"""When the service does not say."""
_LONGEST_SAID = 300
_SDK_NOISE = re.compile(r"^Request failed: (.*?) for self\.request_id=.*$", re.DOTALL)
_SECRET = re.compile(r"(tml-|eyJ)[\w.+/=-]{4,}")


def failure_of(error: BaseException, *, missing: Missing | None = None) -> ServiceError:
    """The error to answer with; `missing` is for 404."""
    for cause in _causes(error):
        if isinstance(cause, tinker.APIStatusError):
            return _of_status(cause, missing)
        if isinstance(cause, tinker.RequestFailedError):
            return _of_request(cause)
        if isinstance(cause, tinker.APIConnectionError | RetryableException):
            return _unavailable("can't be reached, or has lost the request")
    return Internal(
        "the Tinker service answered what its SDK can't read; check that tinker_base_url is a Tinker service",
        reason="BACKEND_BAD_ANSWER",
    )


def timed_out(after_s: float, last_failure: Exception | None) -> ServiceError:
    """The error of a call that took too long: what its requests met with last, else silence."""
    if last_failure is not None:
        return failure_of(last_failure)
    return DeadlineExceeded(
        f"the Tinker service gave no result within {after_s:g} s (setting tinker_timeout_s)",
        reason="BACKEND_TIMEOUT",
        metadata={"timeout_s": f"{after_s:g}"},
        retry_after_s=_RETRY_AFTER_S,
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from; the wrapper of patience itself says nothing."""
    cause: BaseException | None = error
    while cause is not None:
        if not isinstance(cause, GaveUp):
            yield cause
        cause = cause.__cause__


def _of_status(error: tinker.APIStatusError, missing: Missing | None) -> ServiceError:
    status, said = error.status_code, _said(error)
    if status == 404 and missing is not None:
        return missing(said)
    if status in (401, 403):
        return FailedPrecondition(
            "the Tinker service refuses the API key; set tinker_api_key anew", reason="BACKEND_CREDENTIALS"
        )
    if status == 402:
        return FailedPrecondition(
            f"the Tinker service asks for its bill to be settled: {said}", reason="BACKEND_BILLING"
        )
    if status == 429:
        return ResourceExhausted(
            f"the Tinker service is full: {said}", reason="BACKEND_BUSY", retry_after_s=_retry_after_s(error)
        )
    if status in (408, 409) or status >= 500:
        return _unavailable(f"fails with HTTP status {status}", _retry_after_s(error))
    return _refused(said, {"status": str(status)})


def _of_request(error: tinker.RequestFailedError) -> ServiceError:
    """A failed future: the service began the work and could not end it."""
    match = _SDK_NOISE.match(error.message)
    said = _short(match[1] if match else error.message)
    if error.category == RequestErrorCategory.User:
        return _refused(said, {})
    return _unavailable(f"could not do it: {said}")


def _refused(said: str, metadata: Mapping[str, str]) -> InvalidArgument:
    return InvalidArgument(f"the Tinker service refuses: {said}", reason="BACKEND_REFUSED", metadata=metadata)


def _unavailable(what: str, retry_after_s: float = _RETRY_AFTER_S) -> Unavailable:
    return Unavailable(
        f"the Tinker service {what}; retry later", reason="BACKEND_UNAVAILABLE", retry_after_s=retry_after_s
    )


def _said(error: tinker.APIStatusError) -> str:
    body = error.body
    if isinstance(body, Mapping):
        body = next((body[key] for key in ("detail", "error", "message") if body.get(key)), body)
    return _short(str(body))


def _short(text: str) -> str:
    """What somebody else's server said, as one line without anything like a key."""
    return _SECRET.sub("(key)", " ".join(text.split()))[:_LONGEST_SAID]


def _retry_after_s(error: tinker.APIStatusError) -> float:
    for header, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return max(0.0, float(error.response.headers[header]) / unit)
        except (KeyError, ValueError):
            continue
    return _RETRY_AFTER_S
