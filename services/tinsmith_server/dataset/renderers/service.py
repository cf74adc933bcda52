"""The gRPC face of the renderer."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc.aio

from tinsmith.renderer.v1 import renderer_service_pb2 as pb
from tinsmith.renderer.v1 import renderer_service_pb2_grpc as pb_grpc
from tinsmith.types.v1 import message_pb2
from tinsmith_server.dataset.renderers import wire
from tinsmith_server.dataset.renderers.examples import render_examples
from tinsmith_server.dataset.renderers.renderer import RENDERERS
from tinsmith_server.dataset.renderers.shelf import Shelf
from tinsmith_server.dataset.renderers.weight_runs import weight_runs

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class RendererService(pb_grpc.RendererServiceServicer):
    """See `renderer_service.proto`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def ListRenderers(self, request: pb.ListRenderersRequest, context: "Context") -> pb.ListRenderersResponse:
        infos = [pb.RendererInfo(name=name, description=kind.description) for name, kind in RENDERERS.items()]
        if request.model:
            desk = self._shelf.desk(request.model)
            for info in infos:
                properties = await desk.render(
                    info.name, lambda renderer: (renderer.has_extension_property, renderer.supports_tools), size=0
                )
                info.has_extension_property, info.supports_tools = properties
        return pb.ListRenderersResponse(renderers=infos)

    async def RenderPrompts(self, request: pb.RenderPromptsRequest, context: "Context") -> pb.RenderPromptsResponse:
        conversations = wire.conversations("conversations", request.conversations)
        tools = wire.tools(request.tools)
        tokens, stop = await self._shelf.desk(request.model).render(
            request.renderer,
            lambda renderer: (renderer.prompts(conversations, tools, request.prefill), renderer.stop),
            size=_size(request.conversations),
        )
        return pb.RenderPromptsResponse(tokens=wire.ragged_tokens(tokens), stop=wire.stop_condition(stop))

    async def RenderTraining(self, request: pb.RenderTrainingRequest, context: "Context") -> pb.RenderTrainingResponse:
        groups = await render_examples(
            self._shelf.desk(request.model),
            request.renderer,
            wire.conversations("conversations", request.conversations),
            wire.tools(request.tools),
            wire.train_on_what(request.train_on_what),
        )
        return wire.training_response(groups)

    async def ParseResponses(self, request: pb.ParseResponsesRequest, context: "Context") -> pb.ParseResponsesResponse:
        desk = self._shelf.desk(request.model)
        answers = wire.token_rows("tokens", request.tokens, desk.tokenizer.vocabulary)
        keys = [tuple(answer) for answer in answers]
        distinct = list(dict.fromkeys(keys))
        parsed = await desk.render(
            request.renderer, lambda renderer: renderer.parse(distinct), size=len(request.tokens.data) // 4
        )
        written = dict(zip(distinct, map(wire.parsed_response, parsed), strict=True))
        return pb.ParseResponsesResponse(responses=[written[key] for key in keys])

    async def Tokenize(self, request: pb.TokenizeRequest, context: "Context") -> pb.TokenizeResponse:
        tokens = await self._shelf.desk(request.model).tokenizer.run(
            lambda tokenizer: tokenizer.encode(request.texts, add_special_tokens=request.add_special_tokens),
            size=sum(map(len, request.texts)),
        )
        return pb.TokenizeResponse(tokens=wire.ragged_tokens(tokens))

    async def Detokenize(self, request: pb.DetokenizeRequest, context: "Context") -> pb.DetokenizeResponse:
        tokenizer = self._shelf.desk(request.model).tokenizer
        rows = wire.token_rows("tokens", request.tokens, tokenizer.vocabulary)
        texts = await tokenizer.run(
            lambda inner: inner.decode(rows, skip_special_tokens=request.skip_special_tokens),
            size=len(request.tokens.data) // 4,
        )
        return pb.DetokenizeResponse(texts=texts)

    async def DescribeWeights(
        self, request: pb.DescribeWeightsRequest, context: "Context"
    ) -> pb.DescribeWeightsResponse:
        shared = self._shelf.desk(request.model).tokenizer
        tokens = wire.token_rows("tokens", request.tokens, shared.vocabulary)
        weights = wire.weight_rows("weights", request.weights, tokens)
        examples = await shared.run(
            lambda tokenizer: [
                weight_runs(tokenizer, row, of_row) for row, of_row in zip(tokens, weights, strict=True)
            ],
            size=len(request.tokens.data),
        )
        return pb.DescribeWeightsResponse(examples=map(wire.weighted_runs, examples))


def _size(conversations: Iterable[message_pb2.Conversation]) -> int:
    """About how many characters a request holds: what its conversations take on the wire."""
    return sum(conversation.ByteSize() for conversation in conversations)
