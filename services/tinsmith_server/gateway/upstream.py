"""The services behind the gateway: their methods, from the descriptors, and the channels to them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tinsmith import Addresses
from tinsmith._channel import channel_options
from tinsmith._services import SERVICES

PROCESS_OF: Mapping[str, str] = {service.full_name: service.process for service in SERVICES.values()}
"""Full name of each service -> the process that serves it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A method of a service, from its descriptor."""

    service: str
    name: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool
    is_read: bool
    """Marked NO_SIDE_EFFECTS: may be served as HTTP GET."""

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"

    @property
    def kind(self) -> str:
        """The name of the channel method that calls it, for example `unary_stream`."""
        return "_".join("stream" if streams else "unary" for streams in (self.client_streaming, self.server_streaming))


def methods() -> Iterator[Method]:
    """Every method of every service."""
    for service in PROCESS_OF:
        for descriptor in Default().FindServiceByName(service).methods:
            yield _method(service, descriptor)


def _method(service: str, descriptor: MethodDescriptor) -> Method:
    options = descriptor.GetOptions()
    return Method(
        service=service,
        name=descriptor.name,
        request=GetMessageClass(descriptor.input_type),
        response=GetMessageClass(descriptor.output_type),
        client_streaming=descriptor.client_streaming,
        server_streaming=descriptor.server_streaming,
        is_read=options.idempotency_level == options.NO_SIDE_EFFECTS,
    )


class Upstreams:
    """A channel to each process."""

    def __init__(self, addresses: Addresses) -> None:
        self._channels = {
            process: grpc.aio.insecure_channel(getattr(addresses, process), options=channel_options())
            for process in sorted(set(PROCESS_OF.values()))
        }

    def channel(self, process: str) -> grpc.aio.Channel:
        return self._channels[process]

    @property
    def processes(self) -> list[str]:
        return list(self._channels)

    def caller(self, method: Method) -> Any:
        """Calls the method with messages: the multi-callable of its kind."""
        make = getattr(self.channel(PROCESS_OF[method.service]), method.kind)
        return make(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    def byte_caller(self, method: Method) -> Any:
        """Calls the method with messages as bytes: nothing is parsed on the way."""
        return getattr(self.channel(PROCESS_OF[method.service]), method.kind)(method.path)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
