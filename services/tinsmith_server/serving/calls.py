"""What happens around every call: trace, validation, errors, the request log, metrics. One wrapper does it all."""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

import grpc
import grpc.aio

from tinsmith_server.serving import credentials, telemetry
from tinsmith_server.serving.errors import Unavailable
from tinsmith_server.serving.gate import Gate, charge_bytes
from tinsmith_server.serving.status import status_of
from tinsmith_server.serving.validation import validate

_log = logging.getLogger("tinsmith.calls")
_ends_at: ContextVar[float | None] = ContextVar("deadline of the present call", default=None)

_OPEN = nullcontext()
"""The way in where nobody is asked who he is."""

_START_PAUSE_S = 0.5
"""After how long a caller may look again whether a room that is starting is ready."""

H = TypeVar("H", bound=Callable[..., Any])
Handler = Any  # grpc.RpcMethodHandler, of which grpc has no usable type


def time_left() -> float | None:
    """Seconds until the deadline of the call that is being answered; None without one. For the calls that it makes."""
    ends_at = _ends_at.get()
    return None if ends_at is None else max(ends_at - time.monotonic(), 0.0)


def checks_request(handler: H) -> H:
    """Marks a servicer's method that calls `validate` itself, because a refusal changes its state."""
    handler.checks_request = True  # type: ignore[attr-defined]  # read by the interceptor
    return handler


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of all services but gRPC's own (health, reflection)."""

    def __init__(
        self,
        *,
        slow_call_s: float,
        with_metrics: bool,
        gate: Gate | None = None,
        own_credentials: credentials.Metadata = (),
    ) -> None:
        """`own_credentials` go with the calls that a call without any makes."""
        self._slow_call_s = slow_call_s
        self._with_metrics = with_metrics
        self._gate = gate
        self.own_credentials = own_credentials
        self._wrapped: dict[str, Handler] = {}
        self.ready = False
        """Whether the room has loaded what its answers need. Calls before that are refused with UNAVAILABLE."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        method: str = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith("/grpc."):
            return handler
        self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        kind = "_".join("stream" if s else "unary" for s in (handler.request_streaming, handler.response_streaming))
        wrap = self._streaming if inspect.isasyncgenfunction(inner) else self._single
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        waits = not (handler.request_streaming or handler.response_streaming)
        behaviour = wrap(method, inner, self._reader_of(handler, inner), waits)
        return make(
            behaviour,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _single(
        self, method: str, inner: Callable[..., Any], check: Callable[[Any], Any], waits: bool
    ) -> Callable[..., Any]:
        async def answer(request: Any, context: Any) -> Any:
            call = _Call(self, method, context)
            with telemetry.server_span(method, call.metadata):
                try:
                    self._refuse_when_not_ready()
                    async with self._let_in(call.metadata, waits):
                        return await inner(check(request), context)
                except BaseException as error:
                    await call.failed(error)
                    raise
                finally:
                    call.ended()

        return answer

    def _streaming(
        self, method: str, inner: Callable[..., Any], check: Callable[[Any], Any], waits: bool
    ) -> Callable[..., Any]:
        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            call = _Call(self, method, context)
            with telemetry.server_span(method, call.metadata):
                try:
                    self._refuse_when_not_ready()
                    let_in = self._let_in(call.metadata, waits)
                    async with let_in, aclosing(inner(check(request), context)) as responses:
                        async for response in responses:
                            yield response
                except BaseException as error:
                    await call.failed(error)
                    raise
                finally:
                    call.ended()

        return answers

    def _refuse_when_not_ready(self) -> None:
        if not self.ready:
            message = "the service is starting: try again soon"
            raise Unavailable(message, reason="NOT_READY", retry_after_s=_START_PAUSE_S)

    def _let_in(self, metadata: Mapping[str, str], waits: bool) -> AbstractAsyncContextManager[None]:
        return _OPEN if self._gate is None else self._gate.passed(metadata, waits=waits)

    def _reader_of(self, handler: Handler, inner: Callable[..., Any]) -> Callable[[Any], Any]:
        """What looks at the requests of a handler, and counts their bytes if that matters."""
        check = _check_of(handler, inner)
        if self._gate is None:
            return check
        return _counted_stream(check) if handler.request_streaming else _counted(check)

    def report(self, method: str, code: str, seconds: float) -> None:
        """One line for a call, and its metrics."""
        if self._with_metrics:
            telemetry.CALLS.labels(method, code).inc()
            telemetry.SECONDS.labels(method).observe(seconds)
            telemetry.RUNNING.labels(method).dec()
        level = logging.DEBUG if code == "OK" and seconds < self._slow_call_s else logging.INFO
        if _log.isEnabledFor(level):
            fields = {"method": method, "code": code, "ms": round(seconds * 1000, 2), "trace": telemetry.trace_id()}
            _log.log(level, "%s %s %.2f ms", method, code, seconds * 1000, extra={"fields": fields})

    def begun(self, method: str) -> None:
        if self._with_metrics:
            telemetry.RUNNING.labels(method).inc()


class _Call:
    """One call from begin to end."""

    __slots__ = ("_began", "_code", "_context", "_interceptor", "_method", "metadata")

    def __init__(self, interceptor: CallInterceptor, method: str, context: Any) -> None:
        self._interceptor = interceptor
        self._method = method
        self._context = context
        self._code = "OK"
        self._began = time.monotonic()
        self.metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        remaining = context.time_remaining()
        _ends_at.set(None if remaining is None else self._began + remaining)
        credentials.carry(credentials.credentials_in(self.metadata) or interceptor.own_credentials)
        interceptor.begun(method)

    async def failed(self, error: BaseException) -> None:
        """Ends the call with the status of its error; lets pass what gRPC raises itself."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._code = "CANCELLED"
            return
        if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            self._code = "ABORTED_BY_HANDLER"
            return
        status = status_of(error, self._method)
        self._code = status.code.name
        await self._context.abort(status.code, status.message, status.trailing_metadata())

    def ended(self) -> None:
        self._interceptor.report(self._method, self._code, time.monotonic() - self._began)


def _check_of(handler: Handler, inner: Callable[..., Any]) -> Callable[[Any], Any]:
    """What looks at the requests of a handler. A proxy's bytes go by: the service behind it looks at them."""
    if handler.request_deserializer is None or getattr(inner, "checks_request", False):
        return lambda request: request
    return _checked if handler.request_streaming else _check


def _check(request: Any) -> Any:
    validate(request)
    return request


async def _checked(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        validate(request)
        yield request


def _counted(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def counted(request: Any) -> Any:
        charge_bytes(lambda: _size(request))
        return check(request)

    return counted


def _counted_stream(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def counted(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            charge_bytes(lambda: _size(request))  # noqa: B023  # asked for at once
            yield request

    return lambda requests: check(counted(requests))


def _size(request: Any) -> int:
    """Bytes of a request: a message, or the bytes of one that goes through a proxy."""
    return len(request) if isinstance(request, bytes) else int(request.ByteSize())
