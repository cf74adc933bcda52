"""The gRPC face of the sampler."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc.aio

from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith.sampler.v1 import sampler_service_pb2_grpc as pb_grpc
from tinsmith_server.sampler import wire
from tinsmith_server.sampler.backend import Backend, Versioned
from tinsmith_server.sampler.request import Usage
from tinsmith_server.serving import charge_tokens, queue_status_message
from tinsmith_server.serving.paging import page

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


_WHEN_FULL = "as many requests wait as this sampler takes"


class SamplerService(pb_grpc.SamplerServiceServicer):
    """See `sampler_service.proto`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def Sample(self, request: pb.SampleRequest, context: "Context") -> pb.SampleResponse:
        wanted = wire.sample_request(request)
        answered = await self._backend.sample(wanted)
        _charge(answered.result.usage)
        return wire.sample_response(wanted, answered)

    async def SampleStream(
        self, request: pb.SampleStreamRequest, context: "Context"
    ) -> AsyncIterator[pb.SampleStreamResponse]:
        async with aclosing(self._backend.stream(wire.stream_request(request))) as items:
            async for item in items:
                if isinstance(item, Versioned):
                    _charge(item.result)
                yield wire.stream_response(item)

    async def ComputeLogprobs(
        self, request: pb.ComputeLogprobsRequest, context: "Context"
    ) -> pb.ComputeLogprobsResponse:
        wanted = wire.logprobs_request(request)
        charge_tokens(len(wanted.sequences.values))
        return wire.logprobs_response(await self._backend.logprobs(wanted))

    async def ListModels(self, request: pb.ListModelsRequest, context: "Context") -> pb.ListModelsResponse:
        models, next_page_token = page(
            self._backend.models(), lambda model: (model.name,), request.page_size, request.page_token
        )
        return pb.ListModelsResponse(models=map(wire.base_model, models), next_page_token=next_page_token)

    async def WatchQueue(
        self, request: pb.WatchQueueRequest, context: "Context"
    ) -> AsyncIterator[pb.WatchQueueResponse]:
        async with aclosing(self._backend.watch()) as statuses:
            async for status in statuses:
                yield pb.WatchQueueResponse(status=queue_status_message(status, when_full=_WHEN_FULL))


def _charge(usage: Usage) -> None:
    """Books what was read and written for the caller."""
    charge_tokens(usage.prompt_tokens - usage.cached_prompt_tokens + usage.completion_tokens)
