"""Connect, gRPC-Web and JSON for every service, made from the descriptors: a new method is there at once."""

import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

import grpc
import grpc.aio
from connectrpc.code import Code
from connectrpc.codec import Codec
from connectrpc.compat import google_protobuf_binary_codec
from connectrpc.errors import ConnectError, ErrorDetail
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.request import RequestContext
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf.json_format import MessageToJson, Parse, ParseError
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from protobuf.wkt import Any as AnyMessage

from tinsmith._errors import error_of
from tinsmith_server.gateway.upstream import Method, Upstreams, methods

DEFAULT_TIMEOUT_S = 600.0
"""Deadline of a unary call whose client names none."""

PASSED_ON = ("authorization", "x-api-key", "traceparent", "tracestate", "baggage")
"""Headers that a service gets to see."""


def applications(upstreams: Upstreams, max_message_bytes: int) -> Mapping[str, ConnectASGIApplication[None]]:
    """Path of each service -> the application that answers below it."""
    by_service: dict[str, dict[str, Any]] = {}
    for method in methods():
        by_service.setdefault(method.service, {})[method.path] = _endpoint(method, upstreams)
    return {
        f"/{service}": _ServiceApplication(service, endpoints, max_message_bytes)
        for service, endpoints in by_service.items()
    }


class _ServiceApplication(ConnectASGIApplication[None]):
    """The endpoints of one service."""

    def __init__(self, service: str, endpoints: Mapping[str, Any], max_message_bytes: int) -> None:
        super().__init__(
            service=None,
            endpoints=lambda _: endpoints,
            read_max_bytes=max_message_bytes,
            codecs=[google_protobuf_binary_codec(), JsonCodec()],
        )
        self._path = f"/{service}"

    @property
    def path(self) -> str:
        return self._path


class JsonCodec(Codec[Message, Any]):
    """The protobuf JSON mapping with every field printed, so that `{"step": 0}` is not `{}`."""

    def name(self) -> str:
        return "json"

    def encode(self, message: Message) -> bytes:
        return MessageToJson(message, always_print_fields_with_no_presence=True, indent=None).encode()

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> Any:
        try:
            return Parse(bytes(data) or b"{}", message_class())
        except ParseError as error:
            raise ConnectError(
                Code.INVALID_ARGUMENT, f"the JSON is no {message_class.DESCRIPTOR.name}: {error}"
            ) from None


def _endpoint(method: Method, upstreams: Upstreams) -> Any:
    info = MethodInfo(
        name=method.name,
        service_name=method.service,
        input=method.request,
        output=method.response,
        idempotency_level=IdempotencyLevel.NO_SIDE_EFFECTS if method.is_read else IdempotencyLevel.UNKNOWN,
        stream_type=_STREAM_TYPES[method.client_streaming, method.server_streaming],
    )
    call = upstreams.caller(method)

    async def answer(request: Any, context: RequestContext[Any, Any]) -> Any:
        try:
            return await call(request, timeout=_timeout_s(context, DEFAULT_TIMEOUT_S), metadata=_metadata(context))
        except grpc.aio.AioRpcError as error:
            _say_when_to_retry(error, context)
            raise_as_connect(error)

    async def answers(request: Any, context: RequestContext[Any, Any]) -> AsyncIterator[Any]:
        upstream = call(request, timeout=_timeout_s(context, None), metadata=_metadata(context))
        try:
            async for response in upstream:
                yield response
        except grpc.aio.AioRpcError as error:
            _say_when_to_retry(error, context)
            raise_as_connect(error)
        finally:
            upstream.cancel()

    make = getattr(Endpoint, info.stream_type.name.lower())
    return make(info, answers if method.server_streaming else answer)


_STREAM_TYPES = {
    (False, False): StreamType.UNARY,
    (True, False): StreamType.CLIENT_STREAM,
    (False, True): StreamType.SERVER_STREAM,
    (True, True): StreamType.BIDI_STREAM,
}


def _timeout_s(context: RequestContext[Any, Any], default_s: float | None) -> float | None:
    milliseconds = context.timeout_ms
    return default_s if milliseconds is None else max(milliseconds, 0.0) / 1000


def _metadata(context: RequestContext[Any, Any]) -> tuple[tuple[str, str], ...]:
    headers = context.request_headers
    found = ((name, headers[name]) for name in PASSED_ON if name in headers)
    # gRPC can't send other values, and no key or trace of ours has any.
    return tuple((name, value) for name, value in found if value.isascii() and value.isprintable())


def _say_when_to_retry(error: grpc.aio.AioRpcError, context: RequestContext[Any, Any]) -> None:
    """Puts what RetryInfo says into the header that HTTP clients know, in whole seconds."""
    retry_after_s = error_of(error).retry_after_s
    if retry_after_s is not None:
        context.response_headers["retry-after"] = str(math.ceil(retry_after_s))


def raise_as_connect(error: grpc.aio.AioRpcError) -> NoReturn:
    """The same failure for an HTTP client: code, message and details."""
    trailing = dict(error.trailing_metadata() or ())
    packed = trailing.get("grpc-status-details-bin")
    details = Status.FromString(packed).details if isinstance(packed, bytes) else []
    raise ConnectError(
        Code(error.code().name.lower().replace("cancelled", "canceled")),
        error.details() or "",
        [ErrorDetail(AnyMessage(type_url=detail.type_url, value=detail.value)) for detail in details],
    ) from None
