"""Every service behind one gRPC address: calls are passed on as bytes, metadata and deadlines with them."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio

from tinsmith_server.gateway.upstream import Method, Upstreams, methods


class Proxy(grpc.GenericRpcHandler):
    """Passes calls of every method on to its process."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._handlers = {method.path: _handler(method, upstreams.byte_caller(method)) for method in methods()}

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        return self._handlers.get(details.method)


def _handler(method: Method, call: Any) -> "grpc.RpcMethodHandler[Any, Any]":
    async def answer(request: Any, context: Any) -> Any:
        upstream = call(request, **_passed_on(context))
        try:
            response = await upstream
        except grpc.aio.AioRpcError as error:
            await _abort(context, error)
        return response

    async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
        upstream = call(request, **_passed_on(context))
        try:
            async for response in upstream:
                yield response
        except grpc.aio.AioRpcError as error:
            await _abort(context, error)
        finally:
            upstream.cancel()

    make = getattr(grpc, f"{method.kind}_rpc_method_handler")
    handler: grpc.RpcMethodHandler[Any, Any] = make(answers if method.server_streaming else answer)
    return handler


def _passed_on(context: Any) -> Mapping[str, Any]:
    """Deadline and metadata of the call, without what belongs to its own connection."""
    metadata = [
        (key, value) for key, value in context.invocation_metadata() if not key.startswith(("grpc-", "user-agent"))
    ]
    return {"timeout": context.time_remaining(), "metadata": tuple(metadata)}


async def _abort(context: Any, error: grpc.aio.AioRpcError) -> None:
    await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
