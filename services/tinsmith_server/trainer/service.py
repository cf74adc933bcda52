"""The gRPC face of training."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import grpc.aio

from tinsmith.trainer.v1 import trainer_service_pb2 as pb
from tinsmith.trainer.v1 import trainer_service_pb2_grpc as pb_grpc
from tinsmith_server.serving import charge_tokens, checks_request, queue_status_message, validate, visible_owner
from tinsmith_server.serving.paging import page
from tinsmith_server.storage import CheckpointUri
from tinsmith_server.trainer import wire
from tinsmith_server.trainer.backend import Backend
from tinsmith_server.trainer.hosting.call_queue import CallQueue
from tinsmith_server.trainer.hosting.hosted_model import HostedModel
from tinsmith_server.trainer.hosting.registry import ModelRegistry
from tinsmith_server.trainer.request import TrainingCall

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]
    OrderedRequest = (
        pb.ForwardRequest
        | pb.ForwardBackwardRequest
        | pb.OptimStepRequest
        | pb.SaveStateRequest
        | pb.LoadStateRequest
        | pb.SaveForSamplerRequest
    )

T = TypeVar("T")
_WHEN_FULL = "as many calls wait as this trainer takes"


class TrainerService(pb_grpc.TrainerServiceServicer):
    """See `trainer_service.proto`.

    The calls that have a seq_id check their requests themselves, in their turn: a refused call consumes its seq_id.
    """

    def __init__(self, registry: ModelRegistry, backend: Backend, calls: CallQueue, *, max_batch_data: int) -> None:
        self._registry, self._backend, self._calls = registry, backend, calls
        self._max_batch_data = max_batch_data

    async def CreateModel(self, request: pb.CreateModelRequest, context: "Context") -> pb.CreateModelResponse:
        async def create() -> pb.CreateModelResponse:
            return wire.create_model_response(await self._registry.create(wire.new_model(request)))

        return await self._registry.order.run(create, request_id=_once("create", request.request_id))

    async def GetModel(self, request: pb.GetModelRequest, context: "Context") -> pb.GetModelResponse:
        return pb.GetModelResponse(model=wire.model(self._registry.get(request.model_id)))

    async def ListModels(self, request: pb.ListModelsRequest, context: "Context") -> pb.ListModelsResponse:
        found, token = page(self._registry.list(), _age, request.page_size, request.page_token)
        return pb.ListModelsResponse(models=map(wire.model, found), next_page_token=token)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: "Context") -> pb.DeleteModelResponse:
        async def delete() -> pb.DeleteModelResponse:
            return pb.DeleteModelResponse(deleted=await self._registry.delete(request.model_id))

        return await self._registry.order.run(delete, request_id=_once("delete", request.request_id))

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: "Context") -> pb.HeartbeatResponse:
        return pb.HeartbeatResponse(unknown_model_ids=self._registry.keep_alive(request.model_ids))

    @checks_request
    async def Forward(self, request: pb.ForwardRequest, context: "Context") -> pb.ForwardResponse:
        async def forward(model: HostedModel) -> pb.ForwardResponse:
            return wire.forward_response(await model.forward(_charged(wire.training_call(request))))

        return await self._in_order(request, forward)

    @checks_request
    async def ForwardBackward(
        self, request: pb.ForwardBackwardRequest, context: "Context"
    ) -> pb.ForwardBackwardResponse:
        async def forward_backward(model: HostedModel) -> pb.ForwardBackwardResponse:
            return wire.forward_backward_response(await model.forward_backward(_charged(wire.training_call(request))))

        return await self._in_order(request, forward_backward)

    @checks_request
    async def OptimStep(self, request: pb.OptimStepRequest, context: "Context") -> pb.OptimStepResponse:
        async def step(model: HostedModel) -> pb.OptimStepResponse:
            return wire.optim_step_response(await model.optim_step(wire.adam_params(request.adam)))

        return await self._in_order(request, step)

    @checks_request
    async def SaveState(self, request: pb.SaveStateRequest, context: "Context") -> pb.SaveStateResponse:
        async def save(model: HostedModel) -> pb.SaveStateResponse:
            return pb.SaveStateResponse(checkpoint=wire.checkpoint(await model.save_state(wire.save_request(request))))

        return await self._in_order(request, save)

    @checks_request
    async def LoadState(self, request: pb.LoadStateRequest, context: "Context") -> pb.LoadStateResponse:
        async def load(model: HostedModel) -> pb.LoadStateResponse:
            uri = CheckpointUri.parse(request.checkpoint_uri)
            found = await model.load_state(uri, with_optimizer=request.load_optimizer)
            return wire.load_state_response(model, found)

        return await self._in_order(request, load)

    @checks_request
    async def SaveForSampler(self, request: pb.SaveForSamplerRequest, context: "Context") -> pb.SaveForSamplerResponse:
        async def save(model: HostedModel) -> pb.SaveForSamplerResponse:
            manifest = await model.save_for_sampler(wire.save_request(request))
            return pb.SaveForSamplerResponse(checkpoint=wire.checkpoint(manifest))

        return await self._in_order(request, save)

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: "Context"
    ) -> pb.GetCapabilitiesResponse:
        return wire.capabilities(self._backend, self._max_batch_data)

    async def WatchQueue(
        self, request: pb.WatchQueueRequest, context: "Context"
    ) -> AsyncIterator[pb.WatchQueueResponse]:
        async with aclosing(self._calls.watch.statuses()) as statuses:
            async for status in statuses:
                yield pb.WatchQueueResponse(status=queue_status_message(status, when_full=_WHEN_FULL))

    async def _in_order(self, request: "OrderedRequest", work: Callable[[HostedModel], Awaitable[T]]) -> T:
        model = self._registry.use(request.model_id)

        async def checked() -> T:
            with self._calls.at_work():
                validate(request)
                return await work(model)

        seq_id, request_id = max(request.seq_id, 0), request.request_id
        if not model.order.knows(seq_id=seq_id, request_id=request_id):
            self._calls.refuse_if_full()
        try:
            return await model.order.run(checked, seq_id=seq_id, request_id=request_id)
        finally:
            model.touch()


def _charged(call: TrainingCall) -> TrainingCall:
    """The call, after its tokens are booked to the caller."""
    charge_tokens(len(call.batch.tokens.values))
    return call


def _once(method: str, request_id: str) -> str:
    """A key under which a repeat finds the first answer, of the same tenant; empty when the caller gave no id."""
    return f"{method} {visible_owner() or ''} {request_id}" if request_id else ""


def _age(model: HostedModel) -> tuple[str]:
    return (f"{model.number:012d}",)
