"""A room as a process: bind, health, reflection, ready, drain, stop."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextvars import copy_context
from ipaddress import ip_address

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tinsmith_server.serving import credentials, telemetry
from tinsmith_server.serving.calls import CallInterceptor
from tinsmith_server.serving.errors import ServiceError
from tinsmith_server.serving.gate import Gate
from tinsmith_server.serving.room import Room, RoomDefinition
from tinsmith_server.serving.settings import RoomSettings
from tinsmith_server.serving.tenants import BadTenants, load_tenants

_log = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LIVENESS = "liveness"
"""Health name that is SERVING from the first moment: the process works, whether it is ready or not."""


class CannotServe(Exception):
    """The process can't do its work; the message says why and how to mend it."""

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RoomServer:
    """The gRPC server of a room."""

    def __init__(self, definition: RoomDefinition, settings: RoomSettings) -> None:
        self._definition = definition
        self._settings = settings
        self.room: Room = definition.open(settings)
        self._health = health.aio.HealthServicer()
        self._calls = CallInterceptor(
            slow_call_s=settings.slow_call_s,
            with_metrics=bool(settings.metrics_port),
            gate=_gate(definition.name, settings),
            own_credentials=credentials.service_credentials(settings.service_key.get_secret_value()),
        )
        self._server = grpc.aio.server(
            interceptors=[self._calls],
            options=_options(settings.max_message_bytes),
        )
        self.address = ""
        """Where it listens, with the real port; several by commas."""

    async def bind(self) -> None:
        """Listens; alive but not ready. CannotServe with exit code 2 when an address is taken, or is one that other
        machines reach while there are no API keys."""
        self.room.register(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        await self._set_health(NOT_SERVING)
        await self._health.set(LIVENESS, SERVING)
        if self._settings.reflection:
            names = (*self._definition.services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        wanted = self._settings.address or self._definition.default_address
        self.address = ",".join(self._listen(address.strip()) for address in wanted.split(","))
        await self._server.start()

    def _listen(self, address: str) -> str:
        name = self._definition.name
        if not _is_address(address):
            raise CannotServe(
                f"{name}: {address!r} is no address: write host:port with a port from 0 to 65535, or unix:path",
                exit_code=2,
            )
        refuse_exposure(name, address, self._settings)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise CannotServe(
                f"{name}: can't listen on {address}: it is taken by another program or not an address of this machine; "
                f"see `ss -ltnp`, or choose another with --address or TINSMITH_{name.upper()}_ADDRESS",
                exit_code=2,
            ) from None
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    async def load(self) -> None:
        """Starts the room and says that it is ready. CannotServe with exit code 1 when the room can't start."""
        context = copy_context()
        context.run(credentials.carry, self._calls.own_credentials)  # for the tasks that the room starts now
        try:
            await asyncio.create_task(self.room.start(), context=context)
        except ServiceError as error:
            raise CannotServe(f"{self._definition.name}: {error.message} [{error.reason}]", exit_code=1) from error
        self._calls.ready = True
        await self._set_health(SERVING)

    async def stop(self) -> None:
        """Not ready at once; calls at work may go on for `drain_s`; then the room stops."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._settings.drain_s)
        await self.room.stop()

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus.ValueType") -> None:
        for name in ("", *self._definition.services):
            await self._health.set(name, status)


def refuse_exposure(name: str, address: str, settings: RoomSettings) -> None:
    """CannotServe when other machines reach this address, no keys are asked for, and nobody has said that it may be."""
    if settings.api_keys is not None or settings.insecure or _is_local(address):
        return
    raise CannotServe(
        f"{name}: other machines reach {address}, and without API keys anyone there could use it: name a file of "
        "tenants with TINSMITH_API_KEYS, or allow it with TINSMITH_INSECURE=true",
        exit_code=2,
    )


def _is_local(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name, which may mean anything
        return False


def _gate(name: str, settings: RoomSettings) -> Gate | None:
    """What calls have to pass; None when there is nothing to ask."""
    if settings.api_keys is None:
        return Gate(None, max_calls=settings.max_calls) if settings.max_calls else None
    try:
        tenants = load_tenants(settings.api_keys, settings.service_key.get_secret_value())
    except BadTenants as error:
        raise CannotServe(f"{name}: {error}", exit_code=2) from None
    return Gate(tenants, max_calls=settings.max_calls)


def _is_address(text: str) -> bool:
    """gRPC itself would take port 443 where there is none, and the remainder of a port that is too large."""
    host, _, port = text.rpartition(":")
    return text.startswith("unix:") or (bool(host) and port.isdecimal() and int(port) <= 65535)


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        # A second server on the same port would share its traffic in silence.
        ("grpc.so_reuseport", 0),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Clients send keepalive pings every 30 s; the default would close their connections for it.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


async def serve_until_stopped(
    definition: RoomDefinition, settings: RoomSettings, announce: Callable[[str], None]
) -> None:
    """Serves until SIGTERM or SIGINT. `announce` gets one JSON line as soon as the address is bound."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = RoomServer(definition, settings)
    await server.bind()
    announce(json.dumps({"room": definition.name, "address": server.address, "pid": os.getpid()}))
    loading = asyncio.create_task(server.load())
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({loading, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            _log.info("%s is ready on %s", definition.name, server.address)
            await waiting
    finally:
        loading.cancel()
        waiting.cancel()
        await server.stop()


def _prepare(definition: RoomDefinition, settings: RoomSettings) -> None:
    try:
        telemetry.configure(definition.name, log_level=settings.log_level, metrics_port=settings.metrics_port)
    except OSError as error:
        raise CannotServe(
            f"{definition.name}: can't serve metrics on port {settings.metrics_port}: {error.strerror}; choose another "
            "with metrics_port",
            exit_code=2,
        ) from None
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotServe(
            f"{definition.name}: can't use {settings.home} as its folder: {error.strerror}; choose another with --home "
            "or TINSMITH_HOME",
            exit_code=1,
        ) from None


def run_room(definition: RoomDefinition, settings: RoomSettings) -> int:
    """The life of the process; returns its exit code."""
    try:
        _prepare(definition, settings)
        asyncio.run(serve_until_stopped(definition, settings, lambda line: print(line, flush=True)))
    except CannotServe as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
