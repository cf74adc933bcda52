"""What went wrong between us and the server, as errors of the contract.

A server's own words go on to the caller only where it refused the request itself, and without anything that looks like
a path; the rest is for the log.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

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

_RETRIED = frozenset({"BACKEND_UNAVAILABLE", "BACKEND_BUSY"})
_AGAINST_SERVER = frozenset({"BACKEND_UNAVAILABLE", "BACKEND_TIMEOUT", "BACKEND_BAD_ANSWER"})
_PAUSE_AFTER_SILENCE_S = 1.0

_TOO_LONG = re.compile(r"context.length|longer than the (maximum )?model", re.IGNORECASE)
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][\w.@+~-]+){2,}[/\\]?")
_LONGEST_WORDS = 300
_LONGEST_PAUSE_S = 24 * 3600.0
_MESSAGE = ("message", "error_message", "detail")
"""Where servers put it: OpenAI, SGLang, FastAPI."""


class ModelGone(NotFound):
    """The server does not have the model that was asked for: it was restarted, or given other models."""


def is_retried(error: ServiceError) -> bool:
    """Whether the same request may succeed a moment later."""
    return error.reason in _RETRIED


def speaks_against_server(error: Exception) -> bool:
    """Whether an error is a failure of the server; a 4xx is none."""
    return isinstance(error, ServiceError) and error.reason in _AGAINST_SERVER


def unavailable(why: str, *, retry_after_s: float | None = None) -> Unavailable:
    """The server can't answer now; `retry_after_s` is what it said itself."""
    return Unavailable(
        f"the model server {why}; retry later", reason="BACKEND_UNAVAILABLE", retry_after_s=retry_after_s
    )


def timed_out(seconds: float) -> DeadlineExceeded:
    """The server was silent for too long."""
    return DeadlineExceeded(
        f"the model server was silent for {seconds:g} s; retry with less in a call, or raise setting openai_timeout_s",
        reason="BACKEND_TIMEOUT",
        metadata={"timeout_s": f"{seconds:g}"},
        retry_after_s=_PAUSE_AFTER_SILENCE_S,
    )


def bad_answer(why: str) -> Internal:
    """The server answered what makes no sense."""
    return Internal(f"the model server's answer can't be used: {why}", reason="BACKEND_BAD_ANSWER")


def unsupported(what: str, remedy: str) -> FailedPrecondition:
    """The server has no way to do what a request asks for; `what` is a field of the request."""
    return FailedPrecondition(
        f"{what}: the model server behind this sampler can't do it; {remedy}",
        reason="BACKEND_UNSUPPORTED",
        metadata={"parameter": what},
    )


def of_transport(error: httpx.HTTPError, timeout_s: float) -> ServiceError:
    """A request that got no answer."""
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
        return timed_out(timeout_s)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return unavailable("can't be reached")
    if isinstance(error, httpx.TransportError):
        return unavailable("broke off the connection")
    return bad_answer("it does not speak HTTP as it should")


def of_status(status: int, headers: Mapping[str, str], content: bytes) -> ServiceError:
    """An answer whose status is not 200."""
    told = _told(content)
    pause_s = retry_after_s(headers.get("retry-after"), now=datetime.now(UTC))
    if status == 402 or told.get("code") == "insufficient_quota":
        return FailedPrecondition(
            "the model server's account has no credit left; the operator of this sampler has to add some",
            reason="BACKEND_BILLING",
        )
    if status == 429:
        return ResourceExhausted(
            "the model server takes no more requests now; retry later",
            reason="BACKEND_BUSY",
            retry_after_s=pause_s,
        )
    if status >= 500 or status == 408:
        return unavailable(f"failed with HTTP status {status}", retry_after_s=pause_s)
    if status in (401, 403):
        return FailedPrecondition(
            "the model server does not accept this sampler's key; its operator sets openai_api_key",
            reason="BACKEND_CREDENTIALS",
        )
    if 400 <= status < 500:
        return _refused(status, told)
    return bad_answer(f"its HTTP status is {status}")


def retry_after_s(header: str | None, *, now: datetime) -> float | None:
    """Seconds to wait as a Retry-After header says it: a number of them, or a date. None where it says nothing, and no
    more than a day."""
    if header is None:
        return None
    try:
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", header):
            return min(float(header), _LONGEST_PAUSE_S)
        date = parsedate_to_datetime(header)
        wait_s = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
        return min(max(0.0, wait_s), _LONGEST_PAUSE_S)
    except (ValueError, OverflowError):
        return None


def words_of(content: bytes) -> str:
    """What a server says of an error, fit to be shown: one line, no path."""
    return _shown(str(_told(content).get("message") or ""))


def _refused(status: int, told: Mapping[str, Any]) -> ServiceError:
    words = _shown(str(told.get("message") or ""))
    if status == 404:
        if told.get("param") == "model" or "model_not_found" in (told.get("code"), told.get("type")):
            return ModelGone("the model server does not have this model any more", reason="BASE_MODEL_NOT_FOUND")
        return FailedPrecondition(
            "the model server does not have the method that this call needs",
            reason="BACKEND_UNSUPPORTED",
            metadata={"parameter": "model"},
        )
    if _TOO_LONG.search(f"{told.get('code')} {words}"):
        return InvalidArgument(f"a prompt is too long for the model server: {words}", reason="PROMPT_TOO_LONG")
    return InvalidArgument(
        f"the model server refused the request: {words or f'HTTP status {status}'}",
        reason="BACKEND_REFUSED",
        metadata={"status": str(status)},
    )


def _told(content: bytes) -> Mapping[str, Any]:
    """The error object of an answer, however the server wraps it; empty when there is none."""
    try:
        answer = json.loads(content)
    except ValueError:
        return {}
    error = answer.get("error", answer) if isinstance(answer, dict) else {}
    if isinstance(error, str):
        return {"message": error}
    if not isinstance(error, dict):
        return {}
    return {**error, "message": next((error[key] for key in _MESSAGE if error.get(key)), "")}


def _shown(text: str) -> str:
    line = " ".join(_PATH.sub("(path)", text).split())
    return line if len(line) <= _LONGEST_WORDS else line[:_LONGEST_WORDS] + "…"
