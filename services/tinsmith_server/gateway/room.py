"""The gateway as a process: an HTTP server and a gRPC server over the same upstreams."""

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext

import grpc.aio
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from tinsmith import Addresses
from tinsmith_server.gateway.connect import applications
from tinsmith_server.gateway.pages import Pages
from tinsmith_server.gateway.proxy import Proxy
from tinsmith_server.gateway.settings import GatewaySettings
from tinsmith_server.gateway.upstream import PROCESS_OF, Upstreams
from tinsmith_server.serving import RoomDefinition, refuse_exposure
from tinsmith_server.serving.errors import Unavailable


def application(upstreams: Upstreams, max_message_bytes: int) -> Starlette:
    """The HTTP side: pages, and Connect below the name of each service."""
    pages = Pages(upstreams)
    routes = [
        Route("/", pages.front),
        Route("/healthz", pages.alive),
        Route("/readyz", pages.ready),
        *(Mount(path, app) for path, app in applications(upstreams, max_message_bytes).items()),
    ]
    return Starlette(routes=routes)


class _HttpServer(uvicorn.Server):
    """Leaves signals to the process that it lives in."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # uvicorn yields None too
        return nullcontext()


class GatewayRoom:
    """Translates HTTP to gRPC, and passes gRPC on. It keeps no state."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        names = sorted(set(PROCESS_OF.values()))
        self._upstreams = Upstreams(Addresses(**{name: getattr(settings, name) for name in names}))
        self._http: _HttpServer | None = None
        self._serving: asyncio.Task[None] | None = None

    def register(self, server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers((Proxy(self._upstreams),))

    async def start(self) -> None:
        """Binds the HTTP address. Unavailable with reason ADDRESS_IN_USE when another program has it; CannotServe when
        other machines reach it while there are no API keys."""
        refuse_exposure("gateway", self._settings.http_address, self._settings)
        listener = _listen(self._settings.http_address)
        config = uvicorn.Config(
            application(self._upstreams, self._settings.max_message_bytes),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(self._settings.drain_s) or None,
        )
        self._http = _HttpServer(config)
        self._serving = asyncio.create_task(self._http.serve([listener]))
        while not (self._http.started or self._serving.done()):  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        if self._http is not None and self._serving is not None:
            self._http.should_exit = True
            await self._serving
        await self._upstreams.close()


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        raise Unavailable(
            f"can't listen for HTTP on {address}: {error.strerror}; choose another with TINSMITH_GATEWAY_HTTP_ADDRESS",
            reason="ADDRESS_IN_USE",
        ) from None
    return listener


ROOM = RoomDefinition(
    name="gateway",
    default_port=50057,
    settings=GatewaySettings,
    services=tuple(PROCESS_OF),
    open=GatewayRoom,
)
